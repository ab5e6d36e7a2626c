"""`tokenize`: the ids of a text, as the model sees it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localllm import engines, store
from localllm.cli import console
from localllm.cli.flags import Json, Offline
from localllm.cli.prompting import read_stdin, stdin_is_terminal
from localllm.errors import UsageError


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    text: Annotated[str | None, typer.Argument(help="The text; without it, stdin.")] = None,
    count: Annotated[
        bool, typer.Option("--count", envvar="LOCALLLM_COUNT", help="Print how many, not which.")
    ] = False,
    special: Annotated[
        bool,
        typer.Option(
            "--special", envvar="LOCALLLM_SPECIAL", help="Let the text become control tokens."
        ),
    ] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Prints the token ids of a text, separated by spaces. No BOS is added."""
    if text is None and stdin_is_terminal():
        raise UsageError("there is no text, neither as an argument nor on stdin")
    path = store.resolve(name, offline=offline)
    file = engines.open_model(path)
    ids = file.tokenize(read_stdin(quiet=False) if text is None else text, control=special)
    if json:
        tokens = None if count else [describe(file.token_bytes(id, True), id) for id in ids]
        console.out_json({"model": name, "n_tokens": len(ids)} | ({"tokens": tokens} if tokens is not None else {}))
    elif count:
        console.out(str(len(ids)))
    else:
        console.out(" ".join(map(str, ids)))


def describe(data: bytes, id: int) -> dict[str, Any]:
    """A token as JSON can hold it: half a character has U+FFFD in its text, and its true bytes."""
    return {"id": id, "text": data.decode("utf-8", "replace"), "bytes": data.hex()}
