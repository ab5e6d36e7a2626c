"""The tables of `fit`: every quant with every context and every pair of KV types, as text and JSON.

The text shows a part of what the JSON holds; both are read back and held against each other, for a
file that is here, for a repository and for a name of the catalog.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hollow_models import Hollow, write_hollow
from local_server import Server

from localllm import engines
from localllm.cli import app, fit_tables
from localllm.engines.options import EngineOptions
from localllm.memory import fit, process
from localllm.memory.kv_types import KEYS_LIKE, PAIRS, PLAIN, VALUES_LIKE, KvPair
from localllm.memory.limits import Counts, Limit
from localllm.memory.need import Need
from localllm.memory.verdict import Fit, Verdict
from localllm.models import catalog, catalog_file, quants
from localllm.models.sources import Silent

MIB = 1 << 20

MODEL = Hollow(n_layers=4, dim=512, n_kv_heads=8, n_vocab=4096, n_ctx=16384, quant="F16")
KV_PER_TOKEN = {PLAIN: 8192, KvPair("q8_0", "q8_0"): 4352, KvPair("q8_0", "q4_0"): 3328}
QUANTS = ("F16", "Q8_0", "Q4_K_M")


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_hollow(tmp_path / "model-F16.gguf", MODEL)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Hub with three quants of the model: the headers are real, the rest is holes."""
    kinds = dict(zip(QUANTS, ("F16", "Q8_0", "Q4_K"), strict=True))
    files = {}
    for quant, kind in kinds.items():
        path = write_hollow(tmp_path / f"{quant}.gguf", Hollow(**{**vars(MODEL), "quant": kind}))
        files[f"model-{quant}.gguf"] = path.read_bytes()
    server = Server()
    server.become_hub(monkeypatch)
    server.add_repository("org/model", files)
    yield server
    server.close()


def judged(path: Path, left: int, asked: EngineOptions) -> fit.Report:
    limits = [Limit("--budget", left, Counts.resident)]
    with fit.find(str(path), offline=True, progress=Silent()) as subject:
        return fit.report(subject, asked, limits, process.TYPICAL)


# ---- what is judged ------------------------------------------------------------------------------


def test_every_quant_with_every_context_and_every_pair(path: Path) -> None:
    found = judged(path, 1 << 40, EngineOptions(n_ctx=1000))
    cells = {(cell.variant.quant, cell.n_ctx, cell.kv): cell for cell in found.cells}
    assert len(cells) == len(found.cells)
    names, contexts, pairs = (list(dict.fromkeys(column)) for column in zip(*cells, strict=True))
    assert contexts == [1000, 2048, 8192, 16384] and pairs == list(PAIRS)
    assert names[0] == "F16" and {"Q8_0", "Q4_K_M", "Q2_K"} < set(names)
    assert len(cells) == len(names) * len(contexts) * len(pairs)
    sizes = [cells[name, 1000, PLAIN].variant.weight_bytes for name in names]
    assert sizes == sorted(sizes, reverse=True)
    assert cells["F16", 1000, PLAIN].verdict.need == found.verdict.need
    for name, pair in itertools.product(names, pairs):
        few, many = (cells[name, n, pair].verdict.need.touched() for n in (2048, 8192))
        assert 0 <= many - few - 6144 * KV_PER_TOKEN[pair] < 6 * MIB
        plain = cells[name, 8192, PLAIN].verdict.need.touched()
        n_kept = 8192 + 64  # and a block that is copied
        assert plain - many == n_kept * (KV_PER_TOKEN[PLAIN] - KV_PER_TOKEN[pair])


def test_a_pair_that_was_asked_for_is_judged_too_and_comes_first(path: Path) -> None:
    asked = EngineOptions(n_ctx=4096, kv_k="q4_0", kv_v="q4_0")
    found = judged(path, 1 << 40, asked)
    assert list(dict.fromkeys(cell.kv for cell in found.cells)) == [KvPair("q4_0", "q4_0"), *PAIRS]
    assert {cell.kv for cell in found.shown} == {found.kv} == {KvPair("q4_0", "q4_0")}
    typed = found.cells[0].command
    assert typed == f"localllm run {path} -c 2048 --cache-type-k q4_0 --cache-type-v q4_0"


def test_commands_say_what_differs_from_a_plain_run(path: Path) -> None:
    found = judged(path, 1 << 40, EngineOptions(n_threads=2))
    commands = {(c.variant.quant, c.n_ctx, c.kv): c.command for c in found.cells}
    mixed = KvPair("q8_0", "q4_0")
    assert commands["F16", 2048, PLAIN] == f"localllm run {path} -c 2048 -t 2"
    assert commands["Q8_0", 8192, mixed] == (
        f'localllm run "$(localllm quantize {path} Q8_0)" -c 8192 -t 2 '
        "--cache-type-k q8_0 --cache-type-v q4_0"
    )


@pytest.mark.parametrize("is_made", [False, True])
def test_a_command_runs_what_was_judged(path: Path, is_made: bool) -> None:
    """Typed into a shell, also where the quant has been made before."""
    folder = Path(sys.executable).parent
    if is_made:
        subprocess.run([folder / "localllm", "quantize", path, "Q4_K_M", "-q"], check=True)
    found = judged(path, 1 << 40, EngineOptions())
    cell = next(c for c in found.cells if (c.variant.quant, c.kv) == ("Q4_K_M", PAIRS[-1]))
    assert ("quantize" in cell.command) == (not is_made)
    typed = f"PATH={folder}:$PATH; {cell.command} hi --raw -n 1 --temp 0 --json"
    ran = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
    said = json.loads(ran.stdout)
    file = engines.open_model(Path(said["path"]))
    assert file.info["weight_bytes"] == cell.variant.weight_bytes
    assert (said["n_ctx"], said["path"][-11:]) == (cell.n_ctx, "Q4_K_M.gguf")
    kv = next(part for part in said["memory"]["components"] if part["name"] == "kv cache")
    assert kv["reserved_bytes"] == cell.n_ctx * KV_PER_TOKEN[cell.kv]
    file.close()


# ---- what is shown -------------------------------------------------------------------------------


def test_a_cell_shows_the_finest_pair_that_fits(path: Path) -> None:
    for n_ctx in (4096, 16384):
        wide = judged(path, 1 << 40, EngineOptions(n_ctx=n_ctx))
        own = [c for c in wide.cells if c.variant.is_own and c.n_ctx == n_ctx]
        assert [c.kv for c in own] == list(PAIRS)
        for cell in own:
            found = judged(path, cell.verdict.need.touched(), EngineOptions(n_ctx=n_ctx))
            (shown,) = (c for c in found.shown if c.variant.is_own and c.n_ctx == n_ctx)
            assert (shown.kv, shown.verdict.fit) == (cell.kv, Fit.fits)
        found = judged(path, own[-1].verdict.need.touched() - 1, EngineOptions(n_ctx=n_ctx))
        (shown,) = (c for c in found.shown if c.variant.is_own and c.n_ctx == n_ctx)
        assert (shown.kv, shown.verdict.fit) == (PLAIN, Fit.does_not_fit)


def test_the_best_is_what_fits_and_loses_least(path: Path) -> None:
    left = judged(path, 1 << 40, EngineOptions(n_ctx=8192)).verdict.need.touched()
    found = judged(path, left, EngineOptions(n_ctx=8192))
    for n_ctx in {cell.n_ctx for cell in found.shown}:
        fits = [c for c in found.shown if c.n_ctx == n_ctx and c.verdict.fits]
        assert (n_ctx in found.best) == bool(fits)
        assert not fits or found.best[n_ctx] in fits
        assert all(fit.loss(found.best[n_ctx]) <= fit.loss(c) for c in fits)
    assert found.best[2048].variant.quant == found.best[8192].variant.quant == "F16"
    nothing = judged(path, MIB, EngineOptions(n_ctx=8192))
    assert nothing.best == {} and len(nothing.shown) == len(found.shown)


NOTHING = Verdict(Need((), n_ctx=1, n_threads=1), Fit.fits, None)


def cell_of(quant: str, kv: KvPair = PLAIN, made_of: str | None = None) -> fit.Cell:
    return fit.Cell(fit.QuantChoice(quant, 1, quant, made_of=made_of), kv, NOTHING, "")


def test_a_run_is_as_good_as_the_coarsest_of_its_parts() -> None:
    eight, mixed, four = KvPair("q8_0", "q8_0"), KvPair("q8_0", "q4_0"), KvPair("q4_0", "q4_0")
    best_first = [
        cell_of("F16"), cell_of("F16", eight), cell_of("Q8_0"), cell_of("Q8_0", eight),
        cell_of("Q6_K"), cell_of("F16", mixed), cell_of("Q5_K_M"), cell_of("Q5_K_M", mixed),
        cell_of("Q4_K_M"), cell_of("Q3_K_M"), cell_of("F16", four),
    ]  # fmt: skip
    losses = [fit.loss(cell) for cell in best_first]
    assert losses == sorted(losses)


def test_what_is_made_of_a_file_is_no_better_than_the_file() -> None:
    own = cell_of("Q4_1")
    for quant in quants.BY_NAME:
        assert fit.loss(own) < fit.loss(cell_of(quant, made_of="Q4_1"))
    made = cell_of("Q8_0", made_of="F16")
    assert fit.loss(made) == fit.loss(cell_of("Q8_0"))


def test_every_type_is_like_a_quant_that_there_is() -> None:
    assert {*KEYS_LIKE.values(), *VALUES_LIKE.values()} <= quants.BY_NAME.keys()
    assert {pair.k for pair in PAIRS} <= KEYS_LIKE.keys() == VALUES_LIKE.keys()
    assert quants.rank_near("Q4_K") == quants.rank_near("Q4_K_XL")
    assert quants.rank_near("UD-Q4_K_XL") == quants.rank_near("Q4_K_XL")
    assert quants.rank_near("nothing known") == len(quants.QUANTS)


# ---- text and JSON -------------------------------------------------------------------------------


def read_tables(text: str) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, str]]]]:
    """Of the printed tables: numbers by pair of types, and numbers with marks by quant."""
    lines = text.splitlines()
    start = lines.index("MiB of memory by tokens of context")
    kv_head = start + 2
    quant_head = next(i for i, line in enumerate(lines) if line.startswith("QUANT "))
    width = len("KEYS AND VALUES")
    kv = {line[:width].rstrip(): line[width:].split() for line in lines[kv_head : quant_head - 1]}
    by_quant = {}
    for line in lines[quant_head:]:
        if not line:
            break
        quant, *cells = re.findall(r"([\w-]+)(?: ([~x+*]+))?(?:\s+|$)", line)
        by_quant[quant[0]] = cells
    return kv, by_quant


def hold_against(text: str, said: dict[str, Any]) -> None:
    """The text's tables say what the JSON's cells do."""
    kv, by_quant = read_tables(text)
    table = said["table"]
    contexts = sorted({cell["n_ctx"] for cell in table})
    assert kv.pop("KEYS AND VALUES") == [str(n_ctx) for n_ctx in contexts]
    assert len(kv) == len({(cell["kv_k"], cell["kv_v"]) for cell in table})
    heads = by_quant.pop("QUANT")
    assert [number for number, _ in heads] == ["WEIGHTS", *map(str, contexts)]
    assert list(by_quant) == list(dict.fromkeys(cell["quant"] for cell in table))
    for cell in (cell for cell in table if cell["is_shown"]):
        (weights, _), *cells = by_quant[cell["quant"]]
        number, marks = cells[contexts.index(cell["n_ctx"])]
        assert int(weights) == round(cell["weight_bytes"] / MIB)
        assert int(number) == round(cell["touched_bytes"] / MIB)
        assert ("x" in marks) == (cell["verdict"] == "does_not_fit")
        assert ("~" in marks) == (cell["verdict"] == "pages")
        assert ("*" in marks) == cell["is_best"]
        pair = KvPair(cell["kv_k"], cell["kv_v"])
        given_up = "" if pair == (said["kv_k"], said["kv_v"]) else fit_tables.KV_MARKS[pair]
        assert marks.count("+") == given_up.count("+")
    for mark, meaning in (("x", "does not fit"), ("++", "q8_0 and q4_0"), ("*", "loses least")):
        is_used = any(mark in marks for cells in by_quant.values() for _, marks in cells)
        is_said = re.search(rf"^{re.escape(mark)} .*{meaning}", text, re.MULTILINE)
        assert bool(is_said) == is_used
    best = [c for c in table if c["is_best"] and c["n_ctx"] == said["n_ctx"]]
    told = [line.split(": ")[1] for line in text.splitlines() if line.startswith("the best with")]
    assert told in ([], [cell["command"] for cell in best])


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes the same in two calls."""
    monkeypatch.setattr(process, "measure", lambda: process.TYPICAL)


def say_twice(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    code = app.main(["fit", *arguments])
    text = capfd.readouterr()
    assert app.main(["fit", *arguments, "--json"]) == code
    said: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert code == (7 if said["verdict"] == "does_not_fit" else 0)
    hold_against(text.out, said)
    return text.out, said


@pytest.mark.parametrize("budget", ["60M", "100M", "170M", "8G"])
@pytest.mark.parametrize("types", [(), ("--cache-type-k", "q8_0")])
def test_of_a_file(
    path: Path,
    capfd: pytest.CaptureFixture[str],
    steady: None,
    budget: str,
    types: tuple[str, ...],
) -> None:
    _, said = say_twice(capfd, str(path), "-c", "4096", "--budget", budget, *types)
    pairs = {(cell["kv_k"], cell["kv_v"]) for cell in said["table"]}
    assert len(pairs) == 3 + len(types) // 2
    assert (said["kv_k"], said["kv_v"]) == (types[1] if types else "f16", "f16")


def test_of_a_repository_by_its_headers(
    hub: Server, capfd: pytest.CaptureFixture[str], steady: None
) -> None:
    name = "hf:org/model"
    text, said = say_twice(capfd, name, "-c", "8192", "--budget", "160M")
    assert (said["path"], said["quant"], said["model"]) == (None, "Q4_K_M", f"{name}:Q4_K_M")
    assert list(dict.fromkeys(cell["quant"] for cell in said["table"])) == list(QUANTS)
    flags = "--cache-type-k q8_0 --cache-type-v q8_0"
    by_key = {(c["quant"], c["n_ctx"], c["kv_v"], c["kv_k"]): c["command"] for c in said["table"]}
    assert by_key["Q8_0", 2048, "q8_0", "q8_0"] == f"localllm run {name}:Q8_0 -c 2048 {flags}"
    assert by_key["Q4_K_M", 8192, "f16", "f16"] == f"localllm run {name}:Q4_K_M -c 8192"
    assert f"the best with 8192 tokens: localllm run {name}:" in text
    assert not [asked for asked in hub.asked if asked.path.endswith(("F16.gguf", "Q8_0.gguf"))]


def test_of_a_name_of_the_catalog(
    hub: Server,
    capfd: pytest.CaptureFixture[str],
    steady: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ({"kind": "hub", "repo": "org/model", "quant": "Q8_0"},)
    entry = catalog_file.Entry("tiny:model", "model-Q8_0.gguf", rows)
    monkeypatch.setattr(catalog, "read", lambda: {entry.name: entry})
    _, said = say_twice(capfd, "tiny:model", "--budget", "100M")
    assert (said["path"], said["quant"]) == (None, "Q8_0")


def test_sixteen_quants_and_five_contexts_fit_a_terminal(
    tmp_path: Path,
) -> None:
    large = Hollow(
        n_layers=28, dim=3072, ffn_dim=8192, n_heads=24, n_kv_heads=8, n_vocab=128256,
        n_ctx=131072, quant="F16",
    )  # fmt: skip
    huge = Hollow(**{**vars(large), "n_layers": 120, "dim": 12288, "ffn_dim": 49152, "n_heads": 96})
    for n, model in enumerate((large, huge)):
        path = write_hollow(tmp_path / f"{n}-F16.gguf", model)
        found = judged(path, 9000 * MIB, EngineOptions(n_ctx=16384))
        lines = list(fit_tables.choices(found))
        assert max(map(len, lines)) <= 80
        head = next(line for line in lines if line.startswith("QUANT"))
        assert head.split()[2:] == ["2048", "8192", "16384", "32768", "131072"]
        rows = lines[lines.index(head) + 1 :]
        assert rows.index("") >= 16
