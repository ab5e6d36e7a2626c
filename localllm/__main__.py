"""The process: `localllm` and `python -m localllm` both begin here.

`--version` is answered before anything else is imported; everything else goes to cli/app.py, whose
return value is the exit code.
"""

from __future__ import annotations

import sys

from localllm import __version__


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"localllm {__version__}")
        return 0
    from localllm.cli import app

    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
