"""The arguments and flags that `run` alone has, so that its command names them one a line."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.flags import COUNT, option
from localllm.cli.request import Overflow, Truncate


class Switch(enum.StrEnum):
    on = "on"
    off = "off"


Name = Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")]
Prompt = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PROMPT]...", help="What to ask; {} is where stdin goes, - is it."),
]
System = Annotated[
    str | None, option("-s", "--system", help="The system message of the conversation.")
]
Files = Annotated[list[str] | None, option("-f", "--file", help="A text to put behind the prompt.")]
MaxTokens = Annotated[
    int | None, option("-n", "--max-tokens", help="End the answer after N tokens.", **COUNT)
]
Stop = Annotated[
    list[str] | None, option("--stop", help="End the answer before this text; repeatable.")
]
Raw = Annotated[bool, option("--raw", help="Leave out the model's chat template.")]
Think = Annotated[Switch | None, option("--think", help="Let the model reason first, or not.")]
TruncatePart = Annotated[
    Truncate | None, option("--truncate", help="Leave out this part of a text that is too long.")
]
OnOverflow = Annotated[
    Overflow,
    option("--overflow", help="Of a conversation too long: shift leaves out its oldest turns."),
]
Strict = Annotated[bool, option("--strict", help="Exit with 8 when --max-tokens cut the answer.")]
Deadline = Annotated[
    float | None, option("--deadline", help="Stop after this many seconds, with exit 124.")
]
Snapshot = Annotated[
    Path | None,
    option("--snapshot", help="Go on from a file of `snapshot` or /save.", metavar="FILE"),
]
NoPrefixCache = Annotated[
    bool, option("--no-prefix-cache", help="Keep no prompt on the disk, and take none.")
]
NoStdin = Annotated[bool, option("--no-stdin", help="Do not read stdin.")]
NoPull = Annotated[bool, option("--no-pull", help="Do not fetch a missing model.")]
Verbose = Annotated[bool, option("-v", "--verbose", help="Tell the timings.")]
Stats = Annotated[bool, option("--stats", help="Tell timings and memory, predicted and measured.")]
