"""`bench` as a shell sees it, and what it is built from: work, profile, cases, shares, records.

Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, TinyModel, token_ids, write_gguf
from native_structs import Kernels

from localllm import _native, engines
from localllm.engines.base import PhaseTime, Work
from localllm.errors import IntegrityError, UsageError
from localllm.speed import measure, record, roofline
from localllm.speed.cases import GENERATE, PROMPT, Case, check_context, list_cases
from localllm.speed.limits import Limits
from localllm.speed.measure import Measured, Variant
from localllm.speed.results import Result, find_parts

KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "LSAN_OPTIONS")
SMALL = ["--prompt", "40", "--gen", "3", "--repeat", "1"]
PATIENCE = 120
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the tiny models, by name."""
    folder = tmp_path_factory.mktemp("bench")
    paths = {model.name: folder / f"{model.name}.gguf" for model in TINY_MODELS}
    for model in TINY_MODELS:
        write_gguf(model, paths[model.name])
    return paths


@pytest.fixture
def bench(tiny: dict[str, Path], tmp_path: Path) -> Any:
    """Runs `localllm bench` on a tiny model, in an empty folder."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = kept | {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path)}

    def called(*arguments: str, model: str = "llama3") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "localllm", "bench", str(tiny[model]), *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )

    return called


def report_of(ran: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert (ran.returncode, ran.stderr) == (0, b"")
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


# ---- the work of a step --------------------------------------------------------------------------


KEYS_AND_VALUES = ("attn_norm.weight", "attn_k.weight", "attn_v.weight", "attn_k.bias",
                   "attn_v.bias", "attn_k_norm.weight")  # fmt: skip


def expected_work(model: TinyModel, path: Path, spans: list[tuple[int, int, int]]) -> Work:
    """The work of a step, counted one position at a time from the file's own tensors."""
    n_rows, n_kept = sum(span[1] for span in spans), sum(span[2] for span in spans)
    weight_bytes = macs = kv_bytes = 0
    for name, _, shape, n_bytes, *_ in _native.Model(str(path)).tensors():
        is_head = name == ("token_embd.weight" if model.tied else "output.weight")
        if name == "token_embd.weight":
            weight_bytes += n_rows * n_bytes // shape[1]
        if name == "rope_freqs.weight" or (name == "token_embd.weight" and not is_head):
            continue
        is_last = name.startswith(f"blk.{model.n_layers - 1}.")
        for_kept = is_head or name == "output_norm.weight"
        for_kept |= is_last and not name.endswith(KEYS_AND_VALUES)
        n_columns = n_kept if for_kept else n_rows
        weight_bytes += n_bytes if n_columns else 0
        macs += shape[0] * shape[1] * n_columns if len(shape) == 2 else 0
    for layer in range(model.n_layers):
        window = model.window if model.is_local(layer) else 1 << 30
        for first, n, n_logits in spans:
            if layer == model.n_layers - 1:
                first, n = first + n - n_logits, n_logits
            seen = [set(range(max(0, p - window + 1), p + 1)) for p in range(first, first + n)]
            macs += sum(map(len, seen)) * 2 * model.n_heads * model.head_dim
            kv_bytes += len(set().union(*seen)) * 2 * model.n_kv_heads * model.head_dim * 2
    return Work(weight_bytes, kv_bytes, 0, macs)


SPANS = {
    "one token": [(0, 1, 1)],
    "no logits": [(0, 20, 0)],
    "behind a depth": [(30, 4, 1)],
    "several sessions": [(0, 1, 1), (40, 3, 1), (7, 2, 0)],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS.keys())
@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_work_is_what_the_file_and_the_positions_say(
    tiny: dict[str, Path], model: TinyModel, spans: list[tuple[int, int, int]]
) -> None:
    engine = _native.Engine(_native.Model(str(tiny[model.name])), n_ctx=128)
    assert Work(**engine.work(spans)) == expected_work(model, tiny[model.name], spans)


def test_work_tells_integer_weights_from_float_ones(real_models: dict[str, Path]) -> None:
    file = _native.Model(str(real_models["smollm2"]))
    matrices = [(quant, shape) for _, quant, shape, *_ in file.tensors() if len(shape) == 2]
    macs = sum(a * b for quant, (a, b) in matrices if quant not in ("F32", "F16", "BF16"))
    assert _native.Engine(file, n_ctx=64).work([(0, 1, 1)])["int8_macs"] == macs


@pytest.mark.parametrize(
    "spans", [[(1, 2)], [("a", 1, 1)], [(-1, 1, 1)], [(60, 5, 1)], [(0, 2, 3)], 3]
)
def test_work_of_what_no_step_can_be_is_refused(tiny: dict[str, Path], spans: Any) -> None:
    engine = _native.Engine(_native.Model(str(tiny["llama3"])), n_ctx=64)
    with pytest.raises((TypeError, _native.ArgumentError)):
        engine.work(spans)


# ---- the profile ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_a_profile_holds_the_work_and_changes_no_bit(
    tiny: dict[str, Path], model: TinyModel, n_threads: int
) -> None:
    file = _native.Model(str(tiny[model.name]))
    logits = []
    for profiled in (False, True):
        engine = _native.Engine(file, n_ctx=128, n_threads=n_threads)
        assert engine.profile() == []
        session = engine.session()
        engine.step([(session, [5, 6, 7], 0)])
        engine.set_profile(profiled)
        engine.step([(session, token_ids(model)[:40], 1)])
        engine.step([(session, [9], 1)])
        logits.append(np.array(engine.logits()))
    assert np.array_equal(*logits)
    phases = [PhaseTime(*row[:4], work=Work(**row[4])) for row in engine.profile()]
    total = sum((phase.work for phase in phases), start=Work())
    steps = [engine.work([(3, 40, 1)]), engine.work([(43, 1, 1)])]
    assert total == Work(**steps[0]) + Work(**steps[1])
    assert all(phase.seconds >= 0 for phase in phases)
    assert sum(phase.seconds for phase in phases) > 0
    names = list(dict.fromkeys(phase.step for phase in phases))
    assert names == ["embed", "qkv", "attend", "attn_out", "gate_up", "down", "logits"]
    assert {phase.layer for phase in phases if phase.step == "qkv"} == set(range(model.n_layers))
    engine.set_profile(False)
    engine.step([(session, [9], 1)])
    assert [PhaseTime(*row[:4], work=Work(**row[4])) for row in engine.profile()] == phases
    engine.set_profile(True)
    assert all(row[3] == 0 for row in engine.profile())


def test_a_profile_by_step_adds_up_to_the_runs() -> None:
    limits = Limits(read_bytes=1000, int8_macs=500, float_macs=100)
    read = PhaseTime("qkv", "multiply", 0, 3.0, Work(weight_bytes=2000, int8_macs=100))
    around = PhaseTime("qkv", "prepare", 0, 1.0, Work())
    compute = PhaseTime("attend", "attend", 0, 4.0, Work(kv_bytes=100, float_macs=300))
    measured = Measured(Case(PROMPT, 8), Work(), [5.0, 7.0], [limits, limits])
    measured.add_profile([around, read, compute])
    qkv, attend, between = find_parts(measured)
    assert (qkv.step, qkv.seconds, qkv.around_seconds) == ("qkv", 2, 0.5)
    assert (qkv.read_seconds, qkv.compute_seconds, qkv.least_seconds) == (1, 0.1, 1)
    assert (attend.seconds, attend.least_seconds, attend.operations) == (2, 1.5, 300)
    assert (between.seconds, between.least_seconds) == (2, 0)


# ---- the machine ---------------------------------------------------------------------------------


def test_every_kind_of_kernels_has_a_peak() -> None:
    for kernels in _native.machine()["kernels"]:
        assert _native.peak(kernels, False, 2, 0.001) > 0
        assert _native.peak(kernels, True, 1, 0.001) > 0
    assert _native.peak("none such", False, 1, 0.001) == 0
    assert _native.peak("scalar", False, 0, 0.001) == 0


def test_all_kernels_that_are_built_have_a_peak_of_their_own(internals: ctypes.CDLL) -> None:
    """Also those that this processor lacks; the portable loop would be too low a ceiling."""
    entries = (ctypes.POINTER(Kernels) * 9).in_dll(internals, "kernels_list")
    kernels = [entry.contents for entry in itertools.takewhile(bool, entries)]
    assert all(loop.run and loop.macs for one in kernels for loop in one.peaks)
    loops = {one.name: one.peaks[0].run for one in kernels}
    assert b"scalar" in loops
    # AMD's AVX-512 has the same instructions, and another choice of who uses them.
    shared = {b"avx512_amd": b"avx512"}
    assert all(loops[one] == loops[other] for one, other in shared.items() if one in loops)
    assert len(set(loops.values())) == len(set(loops) - set(shared))


@pytest.mark.parametrize(("n_bytes", "n_threads", "runs"), [(1 << 22, 3, True), (100, 1, False)])
def test_the_read_rate_needs_something_to_read(n_bytes: int, n_threads: int, runs: bool) -> None:
    assert (_native.read_rate(n_bytes, n_threads, 0.001) > 0) is runs
    assert _native.read_rate(n_bytes, 0, 0.001) == 0


# ---- cases and shares ----------------------------------------------------------------------------


def test_cases_are_every_combination_the_shallow_first() -> None:
    cases = list_cases([512], [8], [64, 0], [1, 4])
    assert [str(case) for case in cases] == [
        "prompt 512",
        "generate 8",
        "generate 8 x 4",
        "prompt 512 at depth 64",
        "generate 8 at depth 64",
        "generate 8 x 4 at depth 64",
    ]
    check_context(cases, 576)
    with pytest.raises(UsageError, match="needs a context of 576, but the model has 575"):
        check_context(cases, 575)


def test_a_prompt_keeps_the_logits_of_its_last_row_alone() -> None:
    assert measure.chunks(5, 20, 6) == [(5, 11, 0), (11, 17, 0), (17, 20, 1)]
    assert measure.chunks(0, 6, 6) == [(0, 6, 1)]
    assert measure.chunks(4, 4, 6) == []


def test_rates_and_shares_of_known_samples() -> None:
    work = Work(weight_bytes=700, kv_bytes=300, int8_macs=400, float_macs=100)
    # Each sample is held against the limits beside it: 0.5, 0.25 and 0.5 of what could be read.
    rates = [(1.0, 2000.0), (2.0, 2000.0), (4.0, 500.0)]
    limits = [Limits(read, 800, 400) for _, read in rates]
    result = Result(Measured(Case(GENERATE, 4, 0, 3), work, [s for s, _ in rates], limits))
    assert result.rates == [12, 6, 3]
    assert (result.rate, result.spread) == (6, 0.5)
    assert result.share_of_read == 0.5
    assert result.share_of_peak == (400 / 800 + 100 / 400) / 2
    assert result.share_of_limit == 0.5  # of 0.75, 0.375 and 0.5
    assert result.read_gbps == 500 / 1e9
    assert result.tops == 500 / 1e12


def test_every_round_measures_every_variant(tiny: dict[str, Path]) -> None:
    file = engines.open_model(tiny["gemma3"])
    cases = list_cases([70], [3], [0, 33], [2])
    seen: list[tuple[str, int]] = []
    variants = [Variant(1, "scalar"), Variant(2, "scalar")]
    subjects = measure.measure(
        file,
        cases,
        variants,
        2,
        profile=True,
        progress=lambda case, turn, repeat: seen.append((str(case), turn)),
    )
    by_depth = [[str(case) for case in cases if case.depth == depth] for depth in (0, 33)]
    assert seen == [(name, turn) for names in by_depth for turn in range(3) for name in names]
    assert [subject.engine.n_threads for subject in subjects] == [1, 2]
    for subject in subjects:
        for measured, case in zip(subject.measured, cases, strict=True):
            assert measured.case == case
            assert len(measured.seconds) == len(measured.limits) == 2
            total = sum((phase.work for phase in measured.profile), start=Work())
            assert total == measured.work + measured.work


# ---- the command ---------------------------------------------------------------------------------


def test_the_tables(bench: Any) -> None:
    ran = bench(*SMALL, "--batch", "1,2", "--depth", "0,20", "--threads", "1", "--profile")
    lines = ran.stdout.decode().splitlines()
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert "usable cores" in lines[0]
    assert lines[1].startswith("1 thread alone: memory reads")
    assert "1 thread: memory reads" in lines[3]
    for case in ("prompt 40", "generate 3", "generate 3 x 2", "generate 3 x 2 at depth 20"):
        assert sum(line.startswith(f"{case}  ") for line in lines) == 1
        assert f"{case}, mean of 1 runs:" in lines
    for step in ("qkv", "attend", "gate_up", "between steps"):
        assert sum(line.startswith(f"{step}  ") for line in lines) == 6


def test_the_json(bench: Any) -> None:
    report = report_of(bench(*SMALL, "--batch", "3", "--depth", "8", "--profile", "--json"))
    assert (report["schema_version"], report["kind"]) == (1, "localllm bench")
    assert {"version", "model", "machine", "runs", "comparisons"} <= report.keys()
    assert report["machine"]["processor"]
    assert report["machine"]["one_thread"].keys() == {"read_bytes", "int8_macs", "float_macs"}
    (run,) = report["runs"]
    assert run["kernels"] in report["machine"]["kernels"]
    prompt, generate = run["results"]
    assert (prompt["kind"], prompt["n_tokens"], prompt["depth"]) == ("prompt", 40, 8)
    assert (generate["kind"], generate["n_tokens"], generate["batch"]) == ("generate", 3, 3)
    for result in run["results"]:
        (sample,) = result["samples"]
        assert sample.keys() == {"seconds", "read_bytes", "int8_macs", "float_macs"}
        assert min(sample.values()) > 0
        assert min(result[key] for key in ("tokens_per_second", "read_gbps", "tops")) > 0
        assert min(result[key] for key in ("share_of_read", "share_of_peak")) > 0
        assert result["share_of_limit"] >= max(result["share_of_read"], result["share_of_peak"])
        phase = result["profile"][0]
        assert phase.keys() == {"step", "phase", "layer", "seconds", "work"}
        assert phase["work"].keys() == result["work"].keys()


def test_what_was_saved_is_measured_again_and_compared(bench: Any, tmp_path: Path) -> None:
    few = ("--prompt", "0", "--gen", "2", "--batch", "2", "--threads", "1")
    assert bench(*few, "--save", "a.json").returncode == 0
    report = report_of(bench("--compare", "a.json", "--save", "b.json", "--json"))
    assert json.loads((tmp_path / "b.json").read_text()) == report
    (comparison,) = report["comparisons"]
    assert (comparison["kind"], comparison["n_tokens"], comparison["batch"]) == ("generate", 2, 2)
    assert comparison["against"] == "a.json"
    assert comparison["low"] <= comparison["ratio"] <= comparison["high"]
    shown = bench("--compare", "b.json").stdout.decode().splitlines()
    (sentence,) = [line for line in shown if "times the tokens/s of b.json" in line]
    assert sentence.endswith(("the difference is real.", "no difference can be told."))
    assert "measured at another time" in shown[-1]


def test_a_variant_may_store_keys_and_values_otherwise(bench: Any) -> None:
    few = ("--prompt", "3", "--gen", "0", "--threads", "1", "--cache-type-v", "q8_0")
    report = report_of(bench(*few, "--against", "cache-type-k=q4_0,cache-type-v=f16", "--json"))
    settings = [(run["kv_k"], run["kv_v"]) for run in report["runs"]]
    assert settings == [("f16", "q8_0"), ("q4_0", "f16")]


def test_variants_are_compared_in_turns(bench: Any) -> None:
    few = ("--prompt", "3", "--gen", "0", "--threads", "1")
    against = ("--against", "kernels=scalar", "--against", "threads=2")
    report = report_of(bench(*few, *against, "--json"))
    settings = [(run["kernels"], run["n_threads"]) for run in report["runs"]]
    best = report["machine"]["kernels"][0]
    assert settings == [(best, 1), ("scalar", 1), (best, 2)]
    assert [c["against"] for c in report["comparisons"]] == ["kernels=scalar", "threads=2"]
    assert all(len(run["results"][0]["samples"]) == 5 for run in report["runs"])


def test_the_plot_is_a_png(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran = bench(*SMALL, "--batch", "1,2", "--plot", "roof.png")
    assert (ran.returncode, ran.stderr) == (0, b"")
    picture = (tmp_path / "roof.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 10_000


def test_without_matplotlib_the_plot_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs matplotlib") as raised:
        roofline.check_available(Path("roof.png"))
    assert raised.value.hint == "pip install 'localllm[plot]'"


def test_matplotlib_is_imported_by_the_plot_alone() -> None:
    program = "import sys, localllm.cli.bench; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


# arguments, what the sentence holds
MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing": (["--prompt", "0", "--gen", "0"], "positive"),
    "no repetition": (["--repeat", "0"], "--repeat"),
    "a zero among others": (["--prompt", "0,5"], "--prompt"),
    "no sequence": (["--batch", "0"], "--batch"),
    "no number": (["--gen", "1,many"], "many"),
    "batch of no generation": (["--gen", "0", "--batch", "2"], "--batch"),
    "too many sequences": (["--batch", "513", "--gen", "1", "--prompt", "0"], "--batch 513"),
    "a context the model lacks": (["--depth", "8k"], "the model has 8192"),
    "unknown setting": (["--against", "ctx=5"], "--against"),
    "setting of nothing": (["--against", "threads="], "--against"),
    "setting given twice": (["--against", "threads=1,threads=2"], "--against"),
    "unknown kernels": (["--against", "kernels=mmx"], "mmx"),
    "unknown type of keys": (["--against", "cache-type-k=q9"], "q9"),
    "too few for a comparison": (["--against", "threads=1", "--repeat", "4"], "--repeat"),
    "two comparisons": (["--against", "threads=1", "--compare", "x"], "--against"),
    "cases of its own": (["--compare", "x", "--depth", "3"], "--depth"),
    "no such file": (["--compare", "none.json"], "none.json"),
    "no such folder": (["--save", "none/x.json"], "none/x.json"),
    "a folder": (["--save", "."], "folder"),
    "no PNG": (["--plot", "x.svg"], ".png"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_with_one_sentence(bench: Any, name: str) -> None:
    arguments, words = MISTAKES[name]
    ran = bench(*arguments)
    lines = ran.stderr.decode().splitlines()
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert all(line.startswith("  try: ") for line in lines[1:])


# ---- saved files ---------------------------------------------------------------------------------


@pytest.fixture
def document(tiny: dict[str, Path]) -> dict[str, Any]:
    """What --save would write for the tiny llama3, with made-up samples."""
    sample = {"seconds": 1.0, "read_bytes": 1e9, "int8_macs": 1e9, "float_macs": 1e9}
    result = {**vars(Case(GENERATE, 2)), "work": vars(Work(1, 2, 3, 4)), "samples": [sample] * 5}
    return {
        "schema_version": record.SCHEMA_VERSION,
        "kind": record.KIND,
        "model": record.describe_model(engines.open_model(tiny["llama3"])),
        "machine": {"processor": "some"},
        "runs": [{"kernels": "scalar", "n_threads": 2, "results": [result]}],
    }


def read(document: Any, tiny: dict[str, Path], folder: Path) -> record.Saved:
    path = folder / "saved.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return record.read(path, engines.open_model(tiny["llama3"]))


def test_a_saved_file_is_read_back(
    document: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    saved = read(document, tiny, tmp_path)
    assert saved.cases == [Case(GENERATE, 2)]
    assert str(saved.run) == "scalar kernels, 2 threads"
    (comparison,) = record.compare_saved(saved.run, saved)
    assert (comparison.interval.ratio, comparison.interval.is_real) == (1, False)


def damaged(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    result = {**document["runs"][0]["results"][0], **changes}
    return {**document, "runs": [{**document["runs"][0], "results": [result]}]}


def test_a_file_that_is_none_of_ours_is_refused(
    document: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    no_time = [{**document["runs"][0]["results"][0]["samples"][0], "seconds": 0}] * 5
    for content, words in (
        ("{", "not JSON"),
        ([], "not written by"),
        ({**document, "kind": "other"}, "not written by"),
        ({**document, "schema_version": 99}, "schema 99"),
        ({**document, "runs": []}, "damaged"),
        ({**document, "runs": [{**document["runs"][0], "results": []}]}, "damaged"),
        ({key: value for key, value in document.items() if key != "machine"}, "damaged"),
        (damaged(document, samples=no_time), "damaged"),
        (damaged(document, kind="other"), "damaged"),
        (damaged(document, work={"bytes": 1}), "damaged"),
    ):
        with pytest.raises(IntegrityError, match=words):
            read(content, tiny, tmp_path)


def test_a_file_of_another_model_or_too_few_samples_is_refused(
    document: dict[str, Any], tiny: dict[str, Path], tmp_path: Path
) -> None:
    other = {**document, "model": {**document["model"], "n_params": 7}}
    with pytest.raises(UsageError, match="another model: its n_params is 7"):
        read(other, tiny, tmp_path)
    samples = document["runs"][0]["results"][0]["samples"][:4]
    with pytest.raises(UsageError, match="fewer than the 5 samples"):
        read(damaged(document, samples=samples), tiny, tmp_path)
