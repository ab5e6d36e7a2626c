"""An engine that does what every engine must and no more: it answers, and tools say what lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import localllm
from localllm import engines
from localllm.answer import prefixes
from localllm.cli import app
from localllm.engines.base import ModelFile, Plan
from localllm.engines.options import EngineOptions
from localllm.errors import UsageError

ANSWER = "It has neither."
QUESTION = [{"role": "user", "content": "What has it? " * 22}]


class PlainSession:
    """Ids, as a foreign library would hold them."""

    def __init__(self) -> None:
        self.held: list[int] = []

    @property
    def n_tokens(self) -> int:
        return len(self.held)

    def ids(self, start: int = 0) -> list[int]:
        return self.held[start:]

    def reuse(self, ids: Sequence[int]) -> int:
        pairs = zip(self.held, ids, strict=False)
        n_held = next((i for i, (own, other) in enumerate(pairs) if own != other), None)
        return self.truncate(min(len(self.held), len(ids)) if n_held is None else n_held)

    def truncate(self, n_tokens: int) -> int:
        del self.held[n_tokens:]
        return len(self.held)

    def close(self) -> None:
        self.held.clear()


class PlainEngine:
    """Answers whatever it is asked with the same tokens."""

    name = "plain"
    n_threads = 1
    n_batch = 16
    blocks = None
    measures = None

    def __init__(self, file: ModelFile, n_ctx: int) -> None:
        self.n_ctx = n_ctx
        self.n_vocab = int(file.info["n_vocab"])
        self.answer = [*file.tokenize(ANSWER), int(file.info["eos"])]
        self.n_drawn = 0
        self.n_kept = 0

    def session(self) -> PlainSession:
        return PlainSession()

    def step(self, rows: Any) -> int:
        for session, ids, _ in rows:
            session.held.extend(ids)
        self.n_kept = sum(n_logits for _, _, n_logits in rows)
        return self.n_kept

    def logits(self) -> memoryview:
        return memoryview(np.zeros((self.n_kept, self.n_vocab), dtype=np.float32))

    def sample(self, draws: Any) -> list[int]:
        self.n_drawn += 1
        return [self.answer[(self.n_drawn - 1) % len(self.answer)] for _ in draws]

    def cancel(self) -> None: ...
    def close(self) -> None: ...


class PlainFile:
    """The native reader of files, with the plan and the engine of another."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def plan(self, options: EngineOptions) -> Plan:
        n_ctx = options.n_ctx or int(self.file.info["n_ctx_train"])
        return Plan(int(self.file.info["weight_bytes"]), n_ctx * 1024, n_ctx, n_threads=1)

    def open_engine(self, options: EngineOptions) -> PlainEngine:
        return PlainEngine(self.file, options.n_ctx)


@pytest.fixture
def plain(scripts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model file, which opens with the plain engine."""
    open_native = engines.open_model
    monkeypatch.setattr(engines, "open_model", lambda path: PlainFile(open_native(path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return scripts["paris"]


def test_answers_come_and_no_prefix_is_saved(plain: Path) -> None:
    with localllm.load(plain, prefixes=True) as model:
        assert model.engine.name == "plain"
        first = model.chat(QUESTION)
        assert "".join(first) == ANSWER
        assert first.result.n_prompt > prefixes.LEAST_TOKENS
        second = model.chat(QUESTION)
        assert "".join(second) == ANSWER and second.result.n_reused > 0
    assert not prefixes.cache_folder().exists()


def test_what_an_engine_does_not_tell_is_none(plain: Path) -> None:
    with localllm.load(plain, ctx=512) as model:
        info = model.info
        assert (info["n_ctx"], info["n_threads"]) == (512, 1)
        assert info["kernels"] is info["kv_k"] is info["kv_v"] is None


@pytest.mark.parametrize("flags", [[], ["--stats"], ["--verbose"]])
def test_run_answers(plain: Path, flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["run", str(plain), "--no-stdin", *flags, "What has it?"]) == 0
    captured = capfd.readouterr()
    assert captured.out == ANSWER + "\n"
    assert captured.err.count("\n") > 0 if flags else captured.err == ""


def test_run_reports(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["run", str(plain), "--no-stdin", "--json", "What has it?"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["text"], document["kernels"], document["kv_k"]) == (ANSWER, None, None)
    assert all(part["measured_bytes"] is None for part in document["memory"]["components"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["bench", "MODEL", "--profile", "--prompt", "4", "--gen", "0"], "bench"),
        (["imatrix", "MODEL", "-o", "OUT", "-c", "16", "--chunks", "1"], "an importance matrix"),
    ],
)
def test_tools_that_look_inside_say_so(
    arguments: list[str],
    what: str,
    plain: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {"MODEL": str(plain), "OUT": str(tmp_path / "out.gguf")}
    assert app.main([places.get(a, a) for a in arguments]) == 2
    captured = capfd.readouterr()
    expected = f"{what} needs measurements inside the engine, and engine 'plain' makes none"
    assert captured.out == "" and expected in captured.err
    assert not (tmp_path / "out.gguf").exists()


def test_a_conversation_is_saved_without_its_kv_alone(plain: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.kv"
    with localllm.load(plain) as model:
        "".join(model.chat(QUESTION))
        with pytest.raises(UsageError, match="needs KV that leaves the engine, and engine 'plain'"):
            model.save(saved, QUESTION)
        assert not saved.exists()
        saved.write_text(json.dumps({"messages": QUESTION}))
        assert model.restore(saved) == QUESTION
        assert "".join(model.chat(QUESTION)) == ANSWER
