"""Needs, limits and verdicts as JSON and as lines, for every command that speaks of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.memory.limits import Limit
    from localllm.memory.need import Component, Need
    from localllm.memory.verdict import Verdict


def component_json(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "kind": component.kind.value,
        "reserved_bytes": component.reserved_bytes,
        "touched_bytes": component.touched_bytes,
    }


def limit_json(limit: Limit, need: Need) -> dict[str, Any]:
    return {
        "name": limit.name,
        "left_bytes": limit.left_bytes,
        "need_bytes": limit.need(need),
        "pinned_bytes": limit.pinned(need),
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    limit = verdict.limit
    return {
        "verdict": verdict.fit.value,
        "limit": None if limit is None else limit_json(limit, verdict.need),
        "n_ctx": verdict.need.n_ctx,
        "n_threads": verdict.need.n_threads,
        "touched_bytes": verdict.need.touched(),
        "components": [component_json(part) for part in verdict.need.components],
    }
