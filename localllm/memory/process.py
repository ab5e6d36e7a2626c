"""What this process has in memory, as the kernel counts it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localllm.memory.proc_files import parse_number, read_fields, read_text


@dataclass(frozen=True)
class Usage:
    """Bytes that are resident: anonymous ones, pages of files, and the most there were at once."""

    anonymous_bytes: int
    file_bytes: int
    peak_bytes: int


# Of a process that is about to open a model, on x86-64 Linux: for systems that do not say.
TYPICAL = Usage(anonymous_bytes=12 << 20, file_bytes=8 << 20, peak_bytes=20 << 20)


def measure(root: Path = Path("/")) -> Usage | None:
    """None where the system does not tell."""
    fields = read_fields(root / "proc/self/status")
    if not {"RssAnon", "RssFile", "VmHWM"} <= fields.keys():
        return None
    in_files = fields["RssFile"] + fields.get("RssShmem", 0)  # a model may lie on a tmpfs
    return Usage(fields["RssAnon"] * 1024, in_files * 1024, fields["VmHWM"] * 1024)


def mapped_bytes(files: Iterable[Path], root: Path = Path("/")) -> int | None:
    """The resident bytes of these files' mappings, None where the system does not tell."""
    wanted = {os.path.realpath(file) for file in files}
    text = read_text(root / "proc/self/smaps")
    total, is_wanted = 0, False
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # addresses, rights, offset, device, inode, path
            path = rest.split(maxsplit=4)[4:]
            is_wanted = bool(path) and path[0] in wanted
        elif is_wanted and first == "Rss:":
            total += (parse_number(rest.split()[0]) or 0) * 1024
    return total if text else None
