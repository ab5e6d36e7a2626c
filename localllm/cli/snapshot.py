"""`localllm snapshot`: a system message computed once; stdout is the file's path, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli import console
from localllm.cli.flags import Budget, Ctx, Json, Offline, Quiet, Threads, option
from localllm.errors import UsageError
from localllm.models.resolve import resolve


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    system: Annotated[
        Path,
        option(
            "-s",
            "--system",
            variable="SYSTEM_FILE",
            metavar="FILE",
            help="The system message; - is stdin.",
        ),
    ],
    out: Annotated[
        Path, option("-o", "--out", metavar="OUT.kv", help="For run --snapshot and /load.")
    ],
    ctx: Ctx = None,
    threads: Threads = None,
    budget: Budget = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute what conversations with a system message begin with, and keep it in a file."""
    from localllm.answer.model import open_path

    text = read_system(system)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(out.parent)!r}")
    path = resolve(name, offline=offline, progress=console.progress(quiet))
    with open_path(path, ctx=ctx, threads=threads, budget=budget) as model:
        n_fed = model.feed_system(text)
        n_kept = model.save(out, [{"role": "system", "content": text}])
    if json:
        console.out_json({"path": str(out), "tokens": n_fed, "kept": n_kept})
        return
    if not quiet:
        console.note(f"{n_kept} of {n_fed} tokens are kept")
    console.out(str(out))


def read_system(path: Path) -> str:
    raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        text = raw.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise UsageError(f"{str(path)!r} holds no text")
    return text
