"""The bench's own arithmetic: random blocks, rounds, ratios, tables. Nothing is timed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from localllm import _native

sys.path.insert(0, str(ROOT / "bench"))

import gguf
import phases
import ratios
import report
import run
import synthetic
from goals import (
    AVX2_GOALS,
    DEEP_MODEL,
    GOALS,
    LOAD,
    MEMORY,
    MODELS,
    PEAK,
    Goal,
    find_goal,
    over,
)

TINY = synthetic.Shape(
    n_layers=3, dim=256, ffn_dim=512, n_heads=4, n_kv_heads=2, n_vocab=4096, n_ctx=512
)


# ---- synthetic models ----------------------------------------------------------------------------


@pytest.mark.parametrize("quant", synthetic.BLOCKS, ids=lambda quant: quant.name)
def test_random_blocks_are_plain_weights(quant: Any) -> None:
    rows = synthetic.random_rows(quant, 32, 2048, np.random.default_rng(3))
    weights = gguf.dequantize(rows, quant)
    assert weights.shape == (32, 2048)
    assert np.isfinite(weights).all()
    assert 0.5 < weights.std() * 2048**0.5 < 1.5
    assert abs(weights.mean()) < 0.1 * weights.std()
    blocks = rows.reshape(-1).view(synthetic.BLOCKS[quant][0])
    for scale in {"d", "dmin"} & set(blocks.dtype.names or ()):
        assert (abs(blocks[scale]) >= np.finfo(np.float16).tiny).all(), "a denormal scale"


@pytest.mark.parametrize("quant", synthetic.MIXES)
def test_a_synthetic_model_opens_and_its_logits_are_finite(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "model.gguf"
    synthetic.write_model(path, quant, TINY)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    model = _native.Model(str(path))
    assert model.tokenize(b"What is this?\n") and model.info["n_vocab"] == TINY.n_vocab
    engine = _native.Engine(model, n_ctx=64, n_batch=32, n_logits=32, n_threads=1)
    engine.step([(engine.session(), list(range(32)), 32)])
    logits = np.array(engine.logits())
    assert np.isfinite(logits).all()
    assert 0.01 < logits.std() < 100


def test_the_usual_mix_gives_the_wide_quant_to_the_usual_layers() -> None:
    wide = [i for i in range(16) if synthetic.q4_k_m("ffn_down", i, 16).name == "Q6_K"]
    assert wide == [0, 1, 4, 7, 10, 13, 14, 15]
    n_bytes = sum(
        n_rows * gguf.quant_shape_to_byte_shape((n_rows, dim), quant)[1]
        for _, quant, n_rows, dim in synthetic.matrices(synthetic.Shape(), synthetic.q4_k_m)
    )
    assert 790e6 < n_bytes < 810e6


def test_the_vocabulary_merges_only_what_it_has() -> None:
    tokens, merges = synthetic.vocabulary(8192)
    assert len(tokens) == len(set(tokens)) == 8192
    known = set(tokens[:256])
    for merge in merges:
        left, right = merge.split(" ")
        assert left in known and right in known
        known.add(left + right)
    assert known <= set(tokens)


# ---- phases --------------------------------------------------------------------------------------


class CountingTimeline:
    """Takes a millisecond for every id."""

    n_vocab = 100

    def __init__(self) -> None:
        self.position = 0
        self.closed = False

    def feed(self, rows: list[list[int]]) -> float:
        assert all(len(ids) == len(rows[0]) for ids in rows)
        self.position += len(rows[0])
        return 1e-3 * sum(map(len, rows))

    def rewind(self, position: int) -> None:
        assert position <= self.position
        self.position = position

    def close(self) -> None:
        self.closed = True


def test_every_phase_is_measured_at_its_depth() -> None:
    opened: list[tuple[int, int, str, CountingTimeline]] = []

    def open_timeline(n_sequences: int, n_ctx: int, kv: str) -> CountingTimeline:
        opened.append((n_sequences, n_ctx, kv, CountingTimeline()))
        return opened[-1][3]

    def measure(phase: phases.Phase, timeline: Any) -> float:
        assert timeline.position == phase.depth
        return phases.measure(phase, timeline)

    speeds = phases.measure_all(list(phases.PHASES), open_timeline, measure)
    assert {name: round(speed) for name, speed in speeds.items()} == {
        phase.name: 1000 for phase in phases.PHASES
    }
    assert [shape[:3] for shape in opened] == [
        (1, 512, "f16"),
        (8, 64, "f16"),
        (1, 4096 + 512, "f16"),
        (1, 4096 + 512, "q8_0"),
    ]
    assert all(timeline.closed for *_, timeline in opened)


# ---- ratios --------------------------------------------------------------------------------------


def test_the_peers_better_setting_counts() -> None:
    samples = {"ours": [3.0, 3.0], "repack": [1.0, 1.2], "no repack": [2.0, 1.8]}
    faster = ratios.make_row("m", "p", samples, unit="tokens/s", goal=Goal())
    assert (faster.peer_setting, faster.peer) == ("no repack", 1.9)
    shorter = ratios.make_row("m", "p", samples, unit="ms", less_is_better=True, goal=Goal())
    assert shorter.peer_setting == "repack"


def test_ours_is_held_against_ours_where_both_phases_were_measured() -> None:
    model = next(model for model in MODELS if model.name == DEEP_MODEL)
    deep = phases.find_phases(["deep-generation", "deep-generation-q8_0"])
    own = [{"speeds": {"deep-generation": 10.0, "deep-generation-q8_0": 11.0}}] * 3
    (row,) = run.beside_rows(model, deep, own, 0, "native")
    assert (row.ours, row.peer, row.peer_setting) == (11.0, 10.0, "ours, F16 KV")
    assert row.goal == Goal(1.0)
    assert run.beside_rows(model, deep[1:], own, 0, "native") == []


def test_the_interval_is_paired() -> None:
    """Rounds of very different speed, always twice as fast as the peer: no doubt is left."""
    peer = [10.0, 20.0, 40.0, 15.0, 30.0]
    low, high = ratios.ratio_interval([2 * figure for figure in peer], peer) or (0, 0)
    assert low == high == 2.0
    low, high = ratios.ratio_interval([25.0, 35.0, 90.0, 30.0, 50.0], peer) or (0, 0)
    assert low < ratios.ratio_of_medians([25.0, 35.0, 90.0, 30.0, 50.0], peer) < high


def test_one_round_has_no_interval_and_unequal_rounds_are_refused() -> None:
    assert ratios.ratio_interval([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="2 rounds of ours beside 1"):
        ratios.ratio_interval([1.0, 2.0], [2.0])


# ---- reports -------------------------------------------------------------------------------------


def a_report(time: str, *rows: ratios.Row, **changes: Any) -> dict[str, Any]:
    machine = {
        "time": time,
        "processor": "a processor",
        "cores": 2,
        "threads": 2,
        "system": "a system",
        "localllm": "1",
        "kernels": "avx512",
        "isa": "native",
        "peer": "the peer 1",
        "peer_system": "AVX2 = 1",
        "read_rate": 45e9,
        "peaks": {"int8": 1.1e12},
    }
    whole = {"machine": machine | changes, "rows": [asdict(row) for row in rows]}
    copy: dict[str, Any] = json.loads(json.dumps(whole))
    return copy


def a_row(model: str, phase: str, ours: float, goal: Goal | None = None, **more: Any) -> ratios.Row:
    samples = {"ours": [ours, ours, ours], "repack": [10.0, 10.0, 10.0]}
    settings = {"unit": "tokens/s"} | more
    return ratios.make_row(model, phase, samples, goal=goal or Goal(), **settings)


def test_merging_keeps_other_rows_and_takes_the_newest() -> None:
    first = a_report("2026-01-01T10:00:00", a_row("a", "x", 20), a_row("b", "x", 30))
    second = a_report("2026-01-01T11:00:00", a_row("a", "x", 40), a_row("a", "y", 50))
    merged = ratios.merge_reports([second, first])
    assert {(row["model"], row["phase"]): row["ours"] for row in merged["rows"]} == {
        ("a", "x"): 40,
        ("b", "x"): 30,
        ("a", "y"): 50,
    }
    assert [row["time"][11:13] for row in merged["rows"]] == ["11", "10", "11"]


def test_runs_of_different_kernels_do_not_merge() -> None:
    first = a_report("1", a_row("a", "x", 20))
    with pytest.raises(ValueError, match="differs from that of 2 in kernels"):
        ratios.merge_reports([first, a_report("2", kernels="avx2")])


@pytest.mark.parametrize(
    ("ours", "goal", "more", "cells"),
    [
        (20.0, Goal(1.5, 3.0, elsewhere=1.2), {}, ["1.5x (3x)", "yes", "1.2x"]),
        (12.0, Goal(1.5), {}, ["1.5x", "no", ""]),
        (2.0, Goal(0.2), {"unit": "ms", "less_is_better": True}, ["at most 0.2x", "yes", ""]),
        (3.0, Goal(0.2), {"unit": "ms", "less_is_better": True}, ["at most 0.2x", "no", ""]),
        (160.0, Goal(own=150.0), {"unit": "ms"}, ["at most 150 ms", "no", ""]),
        (12.0, Goal(), {}, ["", "", ""]),
    ],
)
def test_a_goal_and_whether_it_is_met(
    ours: float, goal: Goal, more: dict[str, Any], cells: list[str]
) -> None:
    table = report.markdown(a_report("1", a_row("a", "x", ours, goal, **more)))
    line = next(line for line in table.splitlines() if line.startswith("| a |"))
    assert [cell.strip() for cell in line.split("|")][8:11] == cells
    assert f"**{ours / 10:.2f}x**" in line


def test_the_table_shows_the_machines_limits() -> None:
    limit = {"reached": 41.5, "unit": "GB/s", "of": 45.0, "share": 0.9222, "goal": 0.93}
    table = report.markdown(a_report("1", a_row("a", "x", 20, limit=limit)))
    assert "41.5 GB/s, 92% of 45 (goal 93%)" in table
    assert "Memory reads 45.0 GB/s; the int8 peak is 2.20 T operations/s" in table


def test_a_run_never_overwrites_another(tmp_path: Path) -> None:
    for time in ("2026-01-01T10:00:00", "2026-01-01T10:00:01"):
        report.write_report(a_report(time, a_row("a", "x", 20)), tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.md"))) == 2


def test_every_goal_is_of_a_row_that_is_measured() -> None:
    names = {phase.name for phase in phases.PHASES} | {LOAD, MEMORY, PEAK}
    deep = {phase.name for phase in phases.PHASES if phase.depth}
    beside = {over(phase.name, phase.beside) for phase in phases.PHASES if phase.beside}
    names |= beside
    deep |= beside
    for model, phase in [*GOALS, *AVX2_GOALS]:
        assert model in {m.name for m in MODELS} and phase in names
        assert model == DEEP_MODEL or phase not in deep
    assert find_goal(DEEP_MODEL, "prompt", "avx2").ratio == 1.0
    assert find_goal(DEEP_MODEL, "batch", "avx2") == Goal()
    assert {m.source for m in MODELS if m.is_synthetic} == set(synthetic.MIXES)
