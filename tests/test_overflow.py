"""Conversations that are longer than the context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from localllm.answer.overflow import leave_out, window
from localllm.answer.template import Message
from localllm.cli import app


def talk(n_turns: int, system: bool = True) -> list[Message]:
    """Each message takes ten tokens; the last one is a question."""
    turns: list[Message] = [{"role": "system", "content": "s"}] if system else []
    for i in range(n_turns):
        turns += [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]
    return turns[:-1]


def count(messages: Sequence[Message]) -> int:
    return 10 * len(messages)


@pytest.mark.parametrize("system", [True, False])
def test_what_fits_stays_whole(system: bool) -> None:
    messages = talk(5, system)
    n = leave_out(messages, 0, count, count(messages) + 7, 7)
    assert n == 0 and window(messages, n) == messages


@pytest.mark.parametrize("system", [True, False])
def test_the_oldest_turns_go_until_a_quarter_is_free(system: bool) -> None:
    messages = talk(50, system)
    n = leave_out(messages, 0, count, 400, 20)
    kept = window(messages, n)
    assert count(kept) <= 300 and count(kept) > 300 - 20
    assert kept[-1]["content"] == "q49"
    assert kept[int(system)]["role"] == "user", "it begins with a question"
    assert not system or kept[0]["role"] == "system"


def test_the_next_turns_begin_alike() -> None:
    """What was left out stays so until the context is full again."""
    n_left_out, starts = 0, []
    for n_turns in range(1, 60):
        n_left_out = leave_out(talk(n_turns), n_left_out, count, 400, 20)
        kept = window(talk(n_turns), n_left_out)
        assert count(kept) + 20 <= 400
        starts.append(kept[1]["content"])
    changes = sum(a != b for a, b in pairwise(starts))
    assert 5 <= changes <= 12, "one in five turns or fewer computes anew"


def test_a_long_answer_takes_more_room() -> None:
    messages = talk(50)
    assert count(window(messages, leave_out(messages, 0, count, 400, 250))) <= 150


def test_the_last_question_always_stays() -> None:
    messages = talk(3)
    kept = window(messages, leave_out(messages, 0, count, 25, 20))
    assert [m["content"] for m in kept] == ["s", "q2"]
    alone = talk(1)
    assert window(alone, leave_out(alone, 0, count, 5, 1)) == alone


def answered(
    scripts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], *flags: str
) -> tuple[int, str, str]:
    messages = [
        {"role": role, "content": f"{role} {i} says some words"}
        for i in range(12)
        for role in ("user", "assistant")
    ]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"messages": messages}))
    command = ["run", str(scripts["paris"]), "--snapshot", str(path), "--no-stdin", "-c", "300"]
    code = app.main([*command, "--temp", "0", *flags, "Where?"])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_a_run_says_what_it_leaves_out(
    scripts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = answered(scripts, tmp_path, capfd)
    assert code == 8 and out == "" and "but the context holds 300" in err
    code, out, err = answered(scripts, tmp_path, capfd, "--overflow", "shift")
    assert code == 0 and out == "The capital is Paris\u00e9.\n"
    assert err.startswith("(the context is full: the ") and "oldest messages are left out)" in err
    assert answered(scripts, tmp_path, capfd, "--overflow", "shift", "-q") == (0, out, "")
    assert answered(scripts, tmp_path, capfd, "--overflow", "slide")[0] == 2
