"""One table: what went wrong, and the exit code scripts see.

Every error a user can cause is a class of localllm/errors.py with its own sentence and hint. An
OSError speaks for itself (what, which file). Anything else is a defect of ours: one sentence, and
how to see the traceback.
"""

from __future__ import annotations

import errno
import mmap
import os
import traceback

from localllm import errors
from localllm.cli import console
from localllm.errors import says_no_memory

# The most derived class that is in the table decides.
EXIT_CODES: dict[type[BaseException], int] = {
    errors.LocalLLMError: 1,
    errors.EngineError: 1,
    errors.TemplateError: 1,
    errors.UsageError: 2,
    errors.ModelNotFoundError: 3,
    errors.AccessError: 4,
    errors.NetworkError: 5,
    errors.IntegrityError: 6,
    errors.DoesNotFitError: 7,
    MemoryError: 7,
    errors.ContextFullError: 8,
    errors.DeadlineError: 124,
    errors.InterruptedByUserError: 130,
    KeyboardInterrupt: 130,
    BrokenPipeError: 141,
    OSError: 1,
    Exception: 1,
}

# The reader left, or the user stopped it: both know already.
SILENT = (BrokenPipeError, KeyboardInterrupt, errors.InterruptedByUserError)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
PROBE_BYTES = 16 << 20  # with less than this left, what nobody expected is for want of memory


def exit_code(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return EXIT_CODES[errors.DoesNotFitError]
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def find_cause(error: Exception) -> Exception:
    """The error itself, or that memory ran out, which libraries report as all sorts of things."""
    if exit_code(error) != EXIT_CODES[Exception] or isinstance(error, errors.LocalLLMError):
        return error
    return MemoryError() if is_for_want_of_memory(error) else error


def is_for_want_of_memory(error: Exception) -> bool:
    if says_no_memory(error):
        return True
    try:
        mmap.mmap(-1, PROBE_BYTES).close()
    except OSError:
        return True
    if not isinstance(error, SystemError):
        return False
    # Where an allocation inside of it fails, the interpreter may lose its own MemoryError.
    from localllm.memory.limits import read_rlimits

    return any(read_rlimits())


def describe(error: BaseException) -> tuple[str, str | None]:
    """The sentence and the hint that are printed for an error."""
    if isinstance(error, errors.LocalLLMError):
        return str(error), error.hint
    if isinstance(error, MemoryError):
        return "the machine has no memory left for this", None
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)!r}: " if error.filename is not None else ""
        return f"{where}{error.strerror}", None
    return (
        f"an unexpected {type(error).__name__}: {error}",
        "set LOCALLLM_TRACEBACK=1 and run it again to see where",
    )


def report(error: BaseException) -> int:
    """Prints the sentence and the hint, and returns the exit code."""
    code = exit_code(error)
    if isinstance(error, BrokenPipeError):
        console.abandon_stdout()
    if os.environ.get("LOCALLLM_TRACEBACK") == "1":
        console.note("".join(traceback.format_exception(error)).rstrip("\n"))
    if not isinstance(error, SILENT):
        console.error(*describe(error))
    return code
