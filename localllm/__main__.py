"""The process: `localllm` and `python -m localllm` both begin here.

`--version` is answered before any command is imported; everything else goes to cli/app.py, whose
return value is the exit code. Where memory is so short that not even an error can be told, it is
told here.
A command line lives for one command: what it imports and makes stays until the end. So the search
for unreachable cycles is put off while it starts, and left out when it ends; what must be tidied
up is closed by whoever opened it, and reference counts do the rest.
"""

from __future__ import annotations

import gc
import os
import sys

from localllm import __version__
from localllm.errors import says_no_memory

# New objects before a search: more than starting makes, few enough for a long conversation.
OBJECTS_PER_SEARCH = 100_000
RESERVE_BYTES = 256 * 1024  # never touched


def tell_unraisable(found: sys.UnraisableHookArgs) -> None:
    """As Python does, but for want of memory: whoever asked for it tells that."""
    if found.exc_type is not MemoryError:
        sys.__unraisablehook__(found)


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"localllm {__version__}")
        return 0
    gc.set_threshold(OBJECTS_PER_SEARCH)
    sys.unraisablehook = tell_unraisable
    reserve: list[bytes] = []  # given back to tell that there is no more
    try:
        reserve.append(bytes(RESERVE_BYTES))
        from localllm.cli import app

        return app.main(arguments)
    except Exception as error:
        # A limit so low that neither the modules nor a report of it find room; a MemoryError that
        # finds none itself arrives as a SystemError.
        reserve.clear()
        if not (isinstance(error, (MemoryError, SystemError)) or says_no_memory(error)):
            raise
        os.write(2, b"error: the process has no memory for its own modules\n")
        return 7
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
