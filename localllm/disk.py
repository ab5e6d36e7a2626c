"""What a disk has room for, and how fast a file comes from it, measured on a few megabytes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from localllm.errors import DoesNotFitError
from localllm.units import format_bytes

# What a disk should keep free for everybody else.
SPARE_BYTES = 16 << 20
PIECE_BYTES = 1 << 20
N_PIECES = 8


def require_space(folder: Path, n_bytes: int) -> None:
    """Refuses before the first byte where the disk cannot hold them all."""
    needed = max(n_bytes, 0) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DoesNotFitError(
            f"{format_bytes(needed)} of disk are needed and {format_bytes(free)} are free "
            f"in {str(folder)!r}",
            "localllm list, then localllm rm a model you can spare",
        )


def read_rate(path: Path) -> float | None:
    """Bytes per second of reading pieces from all over a file that no cache holds.

    None where nothing can be measured: the file has holes only, cannot be read, or the system
    keeps its pages in memory.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return measure(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def measure(fd: int, n_bytes: int) -> float | None:
    n_read, seconds = 0, 0.0
    for middle in range(1, 2 * N_PIECES, 2):
        start = n_bytes * middle // (2 * N_PIECES)
        if is_hole(fd, start):
            continue
        forget(fd, start)
        if is_cached(fd, start):  # another process has it mapped
            continue
        began = time.perf_counter()
        n_read += len(os.pread(fd, PIECE_BYTES, start))
        seconds += time.perf_counter() - began
    return n_read / seconds if n_read else None


def is_hole(fd: int, start: int) -> bool:
    """Whether the piece from here on begins with a hole, which no disk is asked for."""
    if not hasattr(os, "SEEK_DATA"):
        return False
    try:
        return os.lseek(fd, start, os.SEEK_DATA) > start
    except OSError:  # nothing but a hole from here on
        return True


def forget(fd: int, start: int) -> None:
    """Asks the system to drop a piece from memory, so that it is read from the disk again."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, PIECE_BYTES, os.POSIX_FADV_DONTNEED)


def is_cached(fd: int, start: int) -> bool:
    """Whether a piece's first page is in memory, where the system tells without reading it."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(fd, [bytearray(1)], start, os.RWF_NOWAIT) > 0
    except OSError:
        return False
