"""Layer groups: what a token sees of them, and how layers are told apart."""

from __future__ import annotations

import ctypes

import pytest
from native_structs import Error, LayerGroup, Plan

FULL, WINDOWED, MAX_GROUPS = 0, 1, 8


def take(internals: ctypes.CDLL, plan: Plan, group: LayerGroup) -> int | str:
    """The group's number, or what refused it."""
    found, error = ctypes.c_uint32(), Error()
    call = internals.plan_take_group
    call.restype = ctypes.c_bool
    taken = call(*map(ctypes.byref, (plan, group, found, error)))
    return found.value if taken else error.message.decode()


def test_layers_of_one_shape_and_sight_share_a_group(internals: ctypes.CDLL) -> None:
    plan = Plan()
    first = LayerGroup(FULL, 0, 2, 64, 64)
    others = [
        LayerGroup(WINDOWED, 16, 2, 64, 64),
        LayerGroup(WINDOWED, 17, 2, 64, 64),
        LayerGroup(FULL, 0, 1, 64, 64),
        LayerGroup(FULL, 0, 2, 72, 64),
        LayerGroup(FULL, 0, 2, 64, 72),
    ]
    for i, group in enumerate([first, *others, first, others[2], first]):
        assert take(internals, plan, group) == {6: 0, 7: 3, 8: 0}.get(i, i)
    assert [group.n_layers for group in plan.groups[: plan.n_groups]] == [3, 1, 1, 2, 1, 1]


def test_more_groups_than_there_is_room_for_are_refused(internals: ctypes.CDLL) -> None:
    plan = Plan()
    for i in range(MAX_GROUPS):
        assert take(internals, plan, LayerGroup(FULL, 0, 1 + i, 64, 64)) == i
    refused = take(internals, plan, LayerGroup(FULL, 0, 99, 64, 64))
    assert refused == "keys and values of more than 8 shapes and windows"
    assert plan.n_groups == MAX_GROUPS
    assert take(internals, plan, LayerGroup(FULL, 0, 3, 64, 64)) == 2


@pytest.mark.parametrize("window", [1, 16, 64, 1000])
def test_what_a_token_sees_of_a_window(internals: ctypes.CDLL, window: int) -> None:
    first_seen, most_seen = internals.group_first_seen, internals.group_most_seen
    first_seen.restype = most_seen.restype = ctypes.c_uint32
    full, windowed = LayerGroup(FULL, 0, 1, 8, 8), LayerGroup(WINDOWED, window, 1, 8, 8)
    for position in (0, 1, window - 1, window, window + 1, 1 << 24):
        seen = range(max(0, position + 1 - window), position + 1)
        assert first_seen(ctypes.byref(windowed), position) == seen[0]
        assert first_seen(ctypes.byref(full), position) == 0
    for n_tokens, n_ctx in ((1, 4096), (512, 4096), (7, 12)):
        far = range(5000, 5000 + n_tokens)
        seen = {p for at in far for p in range(at + 1 - window, at + 1)}
        assert most_seen(ctypes.byref(windowed), n_tokens, n_ctx) == min(len(seen), n_ctx)
        assert most_seen(ctypes.byref(full), n_tokens, n_ctx) == n_ctx
