"""From ids to text: what may be shown when, what a timeline keeps, and the Python API."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_models

import localllm
from localllm.answer.generate import (
    ReasoningSplitter,
    StopStrings,
    Timeline,
    Utf8Joiner,
    longest_tail,
)
from localllm.errors import ContextFullError, ModelNotFoundError, UsageError
from localllm.sampling import Sampling, seeded, settled

QUESTION = [{"role": "user", "content": "q"}]


# ---- text that is certain ---------------------------------------------------------------------


def cuts(data: Any) -> Iterator[list[Any]]:
    """A text in every way of cutting it in three."""
    for a in range(len(data) + 1):
        for b in range(a, len(data) + 1):
            yield [data[:a], data[a:b], data[b:]]


@pytest.mark.parametrize(
    "data", ["aé東🙂".encode(), b"a\xffb", b"\xc3", b"\xe6\x9d", b"\xf0\x9f\x99\x82\x82", b""]
)
def test_joined_bytes_equal_the_whole(data: bytes) -> None:
    for pieces in cuts(data):
        joiner = Utf8Joiner()
        shown = [joiner.push(piece) for piece in pieces]
        assert "".join(shown) + joiner.finish() == data.decode("utf-8", "replace")


def test_no_character_is_cut() -> None:
    joiner = Utf8Joiner()
    assert [joiner.push(bytes([byte])) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]


@pytest.mark.parametrize(
    ("text", "stops", "shown", "hit"),
    [
        ("abcdef", ["cd"], "ab", True),
        ("abcdef", ["x"], "abcdef", False),
        ("aab", ["ab"], "a", True),
        ("abab", ["abc"], "abab", False),
        ("one\nUser: two", ["\nUser:", "two"], "one", True),
        ("abc", ["bc", "abc"], "", True),
        ("abc", [], "abc", False),
        ("東京", ["京"], "東", True),
    ],
)
def test_stop_strings(text: str, stops: list[str], shown: str, hit: bool) -> None:
    for pieces in cuts(text):
        filter = StopStrings(stops)
        result = "".join(map(filter.push, pieces))
        assert (result + ("" if filter.hit else filter.finish()), filter.hit) == (shown, hit)


def test_a_stop_string_is_held_no_longer_than_it_may_come() -> None:
    filter = StopStrings(["END"])
    assert [filter.push(text) for text in ("a", "E", "N", "x")] == ["a", "", "", "ENx"]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError):
        StopStrings([""])


@pytest.mark.parametrize(("text", "n"), [("xab", 2), ("xabc", 0), ("a", 1), ("", 0), ("ba", 1)])
def test_longest_tail(text: str, n: int) -> None:
    assert longest_tail(text, ["abc"]) == n


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "inside"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm\n", "yes", False),
        ("hm</think>yes", "hm", "yes", True),
        ("yes <think>no</think>", "", "yes <think>no</think>", False),
        ("\n<think>a</think>b</think>", "a", "b</think>", False),
        ("<thin", "", "<thin", False),
        ("<think>never ends", "never ends", "", False),
        ("", "", "", False),
    ],
)
def test_reasoning_is_split_off(text: str, reasoning: str, answer: str, inside: bool) -> None:
    for pieces in cuts(text):
        splitter = ReasoningSplitter(starts_inside=inside)
        parts = [part for piece in pieces for part in splitter.push(piece)]
        parts += splitter.finish()
        assert "".join(p.text for p in parts if not p.is_reasoning) == answer
        assert "".join(p.text for p in parts if p.is_reasoning).lstrip("\n") == reasoning


# ---- settings --------------------------------------------------------------------------------


def test_settings_come_from_the_caller_then_the_model_then_the_defaults() -> None:
    keys = {"general.sampling.temp": 0.2, "general.sampling.top_k": 40}
    settings = settled({"top_k": 5, "top_p": None}, keys.get)
    assert (settings.temperature, settings.top_k, settings.top_p) == (0.2, 5, 0.95)
    assert settled({}, lambda key: None) == Sampling()


@pytest.mark.parametrize("value", ["hot", float("nan"), -1.0, [0.5], None])
def test_a_nonsense_key_of_a_model_is_left_out(value: Any) -> None:
    assert settled({}, {"general.sampling.temp": value}.get).temperature == 0.7


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": -0.1},
        {"repeat_penalty": 0},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting)).replace("_", "-")):
        Sampling(**setting)


def test_a_random_seed_differs_and_a_given_one_stays() -> None:
    assert seeded(Sampling(seed=7)).seed == 7
    assert len({seeded(Sampling()).seed for _ in range(8)}) > 1


# ---- the timeline ----------------------------------------------------------------------------


class CountingEngine:
    """An engine that only counts what it is fed."""

    def __init__(self, n_ctx: int = 100, n_batch: int = 4) -> None:
        self.n_ctx, self.n_batch = n_ctx, n_batch
        self.steps: list[tuple[list[int], int]] = []
        self.fails_at: int | None = None
        self.keeps = 0
        self.held: list[int] = []

    def session(self) -> Any:
        return self

    def reuse(self, ids: Sequence[int]) -> int:
        n_held = 0
        while ids[n_held : n_held + 1] == self.held[n_held : n_held + 1] != []:
            n_held += 1
        del self.held[n_held - n_held % self.keeps if self.keeps else n_held :]
        return len(self.held)

    def ids(self) -> list[int]:
        return self.held

    def step(self, rows: Any) -> int:
        ((_, ids, n_logits),) = rows
        if self.fails_at is not None and len(self.steps) == self.fails_at:
            raise KeyboardInterrupt
        self.steps.append((list(ids), n_logits))
        self.held += ids
        return n_logits


def feed(engine: CountingEngine, *prompts: list[int]) -> tuple[Timeline, int]:
    timeline = Timeline(engine)  # type: ignore[arg-type]
    n_reused = 0
    for prompt in prompts:
        engine.steps.clear()
        n_reused = timeline.feed(prompt)
        assert timeline.ids == prompt
    return timeline, n_reused


def test_a_prompt_is_fed_in_batches_with_logits_for_the_last_token_only() -> None:
    engine = CountingEngine()
    feed(engine, list(range(9)))
    assert engine.steps == [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0), ([8], 1)]


@pytest.mark.parametrize(
    ("first", "second", "n_reused"),
    [
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 2, 9], 2),
        ([1, 2, 3], [1, 2, 3], 2),
        ([1, 2, 3], [1], 0),
        ([1, 2, 3], [7, 8], 0),
    ],
)
def test_what_two_prompts_share_is_fed_once(
    first: list[int], second: list[int], n_reused: int
) -> None:
    engine = CountingEngine()
    _, reused = feed(engine, first, second)
    assert reused == n_reused
    assert [id for ids, _ in engine.steps for id in ids] == second[n_reused:]


def test_a_session_may_give_back_more_than_asked() -> None:
    engine = CountingEngine()
    engine.keeps = 2
    _, reused = feed(engine, [1, 2, 3, 4], [1, 2, 3, 9])
    assert reused == 2


def test_an_interrupted_prompt_keeps_what_was_fed() -> None:
    engine = CountingEngine()
    engine.fails_at = 1
    timeline = Timeline(engine)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        timeline.feed(list(range(9)))
    assert timeline.ids == [0, 1, 2, 3]


def test_a_step_that_ended_just_before_a_signal_is_taken_back() -> None:
    engine = CountingEngine()
    timeline, _ = feed(engine, [1, 2, 3])
    engine.step([(engine, [4], 1)])
    timeline.feed([1, 2, 3, 5])
    assert timeline.ids == [1, 2, 3, 5]


def test_progress_ends_with_both_counts_equal() -> None:
    calls: list[tuple[int, int]] = []
    timeline = Timeline(CountingEngine())  # type: ignore[arg-type]
    timeline.feed(list(range(10)), lambda done, total: calls.append((done, total)))
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts() -> None:
    with pytest.raises(ContextFullError, match=r"11 .*10"):
        feed(CountingEngine(n_ctx=10), list(range(11)))


# ---- the Python API --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paris(scripts: dict[str, Path]) -> Iterator[localllm.Model]:
    with localllm.load(scripts["paris"], threads=1) as model:
        yield model


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, localllm; heavy = {'numpy', 'jinja2', 'rich', 'typer', 'localllm.model',"
        "'localllm._native'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(localllm.__all__) <= set(dir(localllm))


def test_chat(paris: localllm.Model) -> None:
    answer = paris.chat(QUESTION)
    assert "".join(answer) == scripted_models.ANSWER + "\n\n"
    assert (answer.result.finish, answer.result.n_generated) == ("stop", 8)


def test_a_second_turn_feeds_only_what_is_new(paris: localllm.Model) -> None:
    first = paris.chat(QUESTION)
    text = "".join(first)
    answer = paris.chat([*QUESTION, {"role": "assistant", "content": text}, *QUESTION])
    assert "".join(answer) == text
    assert answer.result.n_reused >= first.result.n_prompt


@pytest.mark.parametrize(
    ("settings", "text", "finish"),
    [
        ({"max_tokens": 2}, "The capital", "length"),
        ({"stop": " is"}, "The capital", "stop"),
        ({"stop": ["Paris", "zzz"]}, "The capital is ", "stop"),
        ({"stop": ["\n"]}, scripted_models.ANSWER, "stop"),
        ({"max_tokens": 5}, "The capital is Paris\ufffd", "length"),
    ],
)
def test_how_an_answer_ends(
    paris: localllm.Model, settings: dict[str, Any], text: str, finish: str
) -> None:
    answer = paris.chat(QUESTION, **settings)
    assert "".join(answer) == text
    assert answer.result.finish == finish


def test_pieces_are_whole_characters(paris: localllm.Model) -> None:
    assert "é" in list(paris.chat(QUESTION))


def test_generate_continues_text_without_the_template(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["bare"]) as model:
        assert "".join(model.generate("really?")) == " Yes."
        assert "".join(model.generate(model.tokenize("sure?"))) == " Yes."
        with pytest.raises(UsageError, match="no chat template"):
            model.chat(QUESTION)


def test_reasoning_is_kept_apart(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["thinker"]) as model:
        answer = model.chat(QUESTION)
        assert "".join(answer) == "Yes"
        assert answer.reasoning == "Hm, well"
        assert "".join(model.chat(QUESTION, think=False)) == " No"


def test_same_seed_same_text(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["endless"], ctx=256) as model:

        def draw(seed: int) -> str:
            return "".join(model.chat(QUESTION, Sampling(seed=seed), max_tokens=40))

        assert draw(1) == draw(1)
        assert len({draw(seed) for seed in range(5)}) > 1


def test_an_answer_ends_where_the_context_does(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["short"]) as model:
        answer = model.chat(QUESTION)
        "".join(answer)
        assert answer.result.finish == "context"
        assert answer.result.n_prompt + answer.result.n_generated == 64 + 1


def test_tokenize_and_detokenize(paris: localllm.Model) -> None:
    text = "a test: 東京 <|im_end|>"
    ids = paris.tokenize(text)
    assert paris.detokenize(ids) == text
    assert paris.detokenize(paris.tokenize(text, special=True)) == "a test: 東京 "


def test_logits_have_one_row_per_token(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["paris"]) as model:
        ids = model.tokenize("\n" * 71)
        logits = model.logits(ids)
        assert logits.shape == (71, model.info["n_vocab"])
        assert logits.dtype == np.float32
        following = np.argmax(logits, axis=1)
        assert model.detokenize([int(following[0])]) == "The"
        np.testing.assert_array_equal(logits[:65], model.logits(ids[:65]))
        assert model.logits([]).shape == (0, model.info["n_vocab"])


def test_info_tells_how_it_runs(scripts: dict[str, Path]) -> None:
    with localllm.load(scripts["paris"], ctx=128, threads=1, kernels="scalar") as model:
        info = model.info
        assert (info["n_ctx"], info["n_threads"], info["kernels"]) == (128, 1, "scalar")
        assert info["path"] == str(scripts["paris"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ctx": 0}, UsageError),
        ({"ctx": 2**31}, UsageError),
        ({"threads": -1}, UsageError),
        ({"kernels": "mmx"}, UsageError),
    ],
)
def test_settings_that_do_not_exist(
    scripts: dict[str, Path], settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        localllm.load(scripts["paris"], **settings)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        localllm.load(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFoundError):
        localllm.load(tmp_path)
