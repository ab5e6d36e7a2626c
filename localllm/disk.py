"""How fast a file comes from its disk, measured on a few megabytes of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

PIECE_BYTES = 1 << 20
N_PIECES = 8
CACHE_RATE = 20e9  # bytes per second: faster than this it was not a disk that answered


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
    for piece in range(N_PIECES):
        start = find_data(fd, n_bytes * piece // N_PIECES, n_bytes)
        if start is None:
            continue
        forget(fd, start)
        began = time.perf_counter()
        n_read += len(os.pread(fd, PIECE_BYTES, start))
        seconds += time.perf_counter() - began
    rate = n_read / seconds if seconds > 0 else 0.0
    return rate if 0 < rate < CACHE_RATE else None


def find_data(fd: int, start: int, n_bytes: int) -> int | None:
    """Where the piece from here on begins that is no hole; None: it lies in one."""
    try:
        found = os.lseek(fd, start, os.SEEK_DATA)
    except (OSError, AttributeError):  # nothing but a hole, or a system that does not know holes
        return start if not hasattr(os, "SEEK_DATA") else None
    return found if found < min(start + n_bytes // N_PIECES, n_bytes) else None


def forget(fd: int, start: int) -> None:
    """Asks the system to drop a piece from memory, so that it is read from the disk again."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, PIECE_BYTES, os.POSIX_FADV_DONTNEED)
