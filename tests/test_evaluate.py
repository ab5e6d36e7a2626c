"""Perplexity, divergence and tasks: against sums in float64 over logits fed in another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pytest
from golden.tiny_models import TINY_MODELS, write_gguf
from numpy.typing import NDArray

from localllm import _native, engines
from localllm.cli.app import main
from localllm.errors import IntegrityError, UsageError
from localllm.evaluate import divergence, perplexity, reference_file, tasks, texts

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile

TEXT = "".join(
    f"Year {n}: the harvest of field {n * 7 % 31} gave {n * n} sacks. " for n in range(60)
)
N_CTX = 96


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and another whose matrices are a little off."""
    import gguf

    folder = tmp_path_factory.mktemp("evaluate")
    row = next(tiny for tiny in TINY_MODELS if tiny.name.startswith("llama"))
    exact, off = folder / "exact.gguf", folder / "off.gguf"
    write_gguf(row, exact)
    write_gguf(row, off)
    reader = gguf.GGUFReader(off, "r+")
    rng = np.random.default_rng(2)
    for tensor in reader.tensors:
        if len(tensor.shape) == 2:
            tensor.data[:] *= 1 + 0.08 * rng.standard_normal(tensor.data.shape)
    reader.data.flush()
    return exact, off


def scored(path: Path, chunks: list[list[int]]) -> tuple[NDArray[np.float64], list[int]]:
    """Log-probabilities of the scored positions, each chunk fed whole, and the ids that come."""
    model = _native.Model(str(path))
    rows, following = [], []
    for chunk in chunks:
        engine = _native.Engine(model, n_ctx=N_CTX, n_batch=N_CTX, n_logits=N_CTX)
        engine.step([(engine.session(), chunk, N_CTX)])
        x = np.array(engine.logits(), dtype=np.float64)[N_CTX // 2 : N_CTX - 1]
        rows.append(x - np.logaddexp.reduce(x, axis=1, keepdims=True))
        following += chunk[N_CTX // 2 + 1 :]
    return np.concatenate(rows), following


def chunks_of(path: Path) -> list[list[int]]:
    return texts.cut(engines.open_model(path), TEXT, N_CTX, 6)


def test_chunks_are_whole_and_begin_as_the_model_begins(paths: tuple[Path, Path]) -> None:
    file = engines.open_model(paths[0])
    ids = file.tokenize(TEXT, add_special=True)
    chunks = texts.cut(file, TEXT, N_CTX)
    assert len(chunks) == len(ids) // N_CTX
    assert chunks[1][1:] == ids[N_CTX + 1 : 2 * N_CTX]
    assert chunks[1][0] == ids[N_CTX]  # this model begins with nothing


class BeginningFile:
    """A model file that begins every text with token 1."""

    info: ClassVar = {"n_ctx_train": 100}

    def tokenize(self, text: str, control: bool = False, add_special: bool = False) -> list[int]:
        return [1] * add_special + [9] * len(text)


def test_every_chunk_begins_with_bos_in_place_of_its_first_token() -> None:
    file = cast("ModelFile", BeginningFile())
    assert texts.cut(file, "abcdefg", 3) == [[1, 9, 9], [1, 9, 9]]
    assert texts.cut(file, "abcdefg", 3, 1) == [[1, 9, 9]]
    with pytest.raises(UsageError, match="the model's context has 100"):
        texts.cut(file, "abcdefg", 101)


def test_perplexity_is_the_sum_over_second_halves(paths: tuple[Path, Path]) -> None:
    chunks = chunks_of(paths[0])
    log_p, following = scored(paths[0], chunks)
    losses = -log_p[np.arange(len(following)), following]
    file = engines.open_model(paths[0])
    found = perplexity.measure(texts.open_engine(file, N_CTX), chunks)
    assert found.n_tokens == len(losses) == len(chunks) * (N_CTX - N_CTX // 2 - 1)
    assert found.value == pytest.approx(np.exp(losses.mean()), rel=1e-9)
    expected = found.value * losses.std(ddof=1) / np.sqrt(len(losses))
    assert found.error == pytest.approx(expected, rel=1e-9)


def measured(paths: tuple[Path, Path], reference: divergence.Reference) -> divergence.Divergence:
    engine = texts.open_engine(engines.open_model(paths[1]), N_CTX)
    return divergence.measure(engine, chunks_of(paths[0]), reference)


def test_divergence_is_the_sum_over_the_vocabulary(paths: tuple[Path, Path]) -> None:
    chunks = chunks_of(paths[0])
    (log_p, following), (log_q, _) = scored(paths[0], chunks), scored(paths[1], chunks)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    beside = texts.open_engine(engines.open_model(paths[0]), N_CTX)
    found = measured(paths, divergence.ModelReference(beside, chunks))
    assert found.mean == pytest.approx(kl.mean(), rel=1e-9)
    assert found.most == pytest.approx(kl.max(), rel=1e-9)
    assert found.p99 == pytest.approx(np.percentile(kl, 99), rel=1e-9)
    p_top, q_top = log_p.argmax(axis=1), log_q.argmax(axis=1)
    assert found.agreement == np.mean(p_top == q_top)
    assert found.flips == np.mean((p_top == following) != (q_top == following))


def test_a_stored_reference_says_the_same(paths: tuple[Path, Path], tmp_path: Path) -> None:
    chunks, file = chunks_of(paths[0]), engines.open_model(paths[0])
    beside = texts.open_engine(file, N_CTX)
    exact = measured(paths, divergence.ModelReference(beside, chunks))
    path = tmp_path / "reference"
    n_bytes = reference_file.write(
        path, texts.open_engine(file, N_CTX), chunks, file.info["n_vocab"]
    )
    assert n_bytes == path.stat().st_size and [p.name for p in tmp_path.iterdir()] == ["reference"]
    stored = reference_file.StoredReference(path)
    assert stored.chunks == chunks
    found = measured(paths, stored)
    assert found.mean == pytest.approx(exact.mean, rel=0.02)
    assert (found.agreement, found.flips) == (exact.agreement, exact.flips)


def test_a_small_sketch_of_a_large_vocabulary_has_no_bias() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, 4000)) * 2.5
    y = x + 0.15 * rng.standard_normal(x.shape)
    log_p, log_q = (z - np.logaddexp.reduce(z, axis=1, keepdims=True) for z in (x, y))
    exact = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    records = reference_file.sketch(log_p, rng, top=40, tail=40)
    found = reference_file.SketchedRows(records, 40).divergence(log_q)
    assert found.mean() == pytest.approx(exact.mean(), rel=0.02)


def test_a_stored_reference_that_is_broken_is_refused(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    chunks, file = chunks_of(paths[0])[:1], engines.open_model(paths[0])
    path = tmp_path / "reference"
    reference_file.write(path, texts.open_engine(file, N_CTX), chunks, file.info["n_vocab"])
    whole = path.read_bytes()
    broken = tmp_path / "broken"
    for n in (0, 7, 20, 28, 100, len(whole) - 1):
        broken.write_bytes(whole[:n])
        with pytest.raises(IntegrityError, match="no stored reference"):
            reference_file.StoredReference(broken)
    rng = np.random.default_rng(6)
    for _ in range(300):
        data = bytearray(whole)
        data[int(rng.integers(0, 28))] = int(rng.integers(0, 256))
        broken.write_bytes(data)
        try:
            reference_file.StoredReference(broken).take(4)
        except IntegrityError:
            continue


def test_tasks_take_the_likeliest_choice(paths: tuple[Path, Path]) -> None:
    file = engines.open_model(paths[0])
    engine = texts.open_engine(file, 128)
    task = tasks.Task("The field gave", ["a", "many sacks of rye", "no"], 1)
    scores = tasks.score(file, engine, task)
    model = _native.Model(str(paths[0]))
    for choice, score in zip(task.choices, scores, strict=True):
        question, ids = file.tokenize(task.question, add_special=True), file.tokenize(" " + choice)
        whole = _native.Engine(model, n_ctx=128, n_logits=100)
        whole.step([(whole.session(), [*question, *ids], len(ids) + 1)])
        x = np.array(whole.logits(), dtype=np.float64)[:-1]
        log_p = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
        assert score == pytest.approx(log_p[np.arange(len(ids)), ids].sum(), rel=1e-9)
    right = tasks.Task(task.question, task.choices, int(scores.argmax()))
    wrong = tasks.Task(task.question, task.choices, int(scores.argmin()))
    assert tasks.measure(file, engine, [right, wrong]).summed == 0.5


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"question": "a"}', '{"question": "a", "choices": ["b", "c"], "answer": 2}'],
)
def test_tasks_that_are_none_name_their_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "t").write_text('{"question":"a","choices":["b","c"],"answer":0}\n' + line)
    with pytest.raises(UsageError, match="line 2"):
        tasks.read(tmp_path / "t")


def test_the_command(
    paths: tuple[Path, Path], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    exact, off = map(str, paths)
    text = tmp_path / "text"
    text.write_text(TEXT)
    flags = ["--text", str(text), "--ctx", str(N_CTX)]
    stored = tmp_path / "reference"
    assert main(["eval", "ppl", exact, off, *flags, "--json"]) == 0
    report = json.loads(capfdbinary.readouterr().out)
    assert report["schema_version"] == 1
    assert [row["model"] for row in report["models"]] == [exact, off]
    assert main(["eval", "kl", exact, *flags, "--save-reference", str(stored)]) == 0
    assert capfdbinary.readouterr().out == f"{stored}\n".encode()
    assert main(["eval", "kl", off, exact, "--reference", str(stored), "--json"]) == 0
    rows = json.loads(capfdbinary.readouterr().out)["models"]
    assert rows[0]["mean"] > 100 * rows[1]["mean"] and rows[1]["agreement"] == 1
    picture = tmp_path / "p.png"
    assert main(["eval", "kl", off, *flags, "--reference", exact, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"SAME TOP" in capfdbinary.readouterr().out
    (tmp_path / "t").write_text('{"question":"a","choices":["b","c"],"answer":0}')
    assert main(["eval", "tasks", exact, "--text", str(tmp_path / "t")]) == 0
    assert b"ACCURACY" in capfdbinary.readouterr().out


def test_types_of_keys_and_values_are_held_against_f16(
    paths: tuple[Path, Path], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The reference keeps F16, and the memory is that of the types."""
    text = tmp_path / "text"
    text.write_text(TEXT)
    exact = str(paths[0])
    kl = ["eval", "kl", exact, "--reference", exact, "--text", str(text), "--ctx", str(N_CTX)]
    rows = []
    for kind in ("f16", "q8_0", "q4_0"):
        assert main([*kl, "--cache-type-k", kind, "--cache-type-v", kind, "--json"]) == 0
        rows += json.loads(capfdbinary.readouterr().out)["models"]
    losses = [row["mean"] for row in rows]
    assert losses[0] < 1e-12 < losses[1] < losses[2] / 10
    memory = [row["memory_bytes"] for row in rows]
    assert memory[0] > memory[1] > memory[2]
    assert main([*kl, "--cache-type-k", "q9"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["ppl", "--reference", "x"],
        ["kl"],
        ["tasks"],
        ["ppl", "--ctx", "2"],
        ["speed"],
        ["ppl", "--plot", "x.png"],
    ],
)
def test_what_does_not_go_together_is_refused(
    paths: tuple[Path, Path], arguments: list[str]
) -> None:
    assert main(["eval", arguments[0], str(paths[0]), *arguments[1:]]) == 2
