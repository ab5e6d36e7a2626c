"""`fit`, and what `run` says and does where a model does not fit: verdicts, alternatives, numbers.

The models are hollow: as large as real ones, at the cost of their headers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hollow_models import HUGE, Hollow, write_hollow

from localllm import disk, engines
from localllm.answer import opening
from localllm.cli import app
from localllm.engines.options import EngineOptions
from localllm.errors import DoesNotFitError
from localllm.memory import alternatives, fit, paging, process
from localllm.memory.limits import Counts, Limit
from localllm.memory.verdict import Fit, judge, settle_options
from localllm.models import catalog, catalog_file
from localllm.models.sources import Silent
from localllm.units import format_bytes

MIB = 1 << 20
GIB = 1 << 30

Ran = subprocess.CompletedProcess[str]
Call = Callable[..., Ran]
LARGE = Hollow(
    n_layers=8, dim=1024, ffn_dim=4096, n_kv_heads=8, n_vocab=16384, n_ctx=16384, quant="F16"
)
KV_PER_TOKEN = 32 << 10


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs the program as a user with an empty store."""

    def called(*arguments: str, **variables: str) -> Ran:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "localllm", *arguments],
            env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)} | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return called


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """288 MiB of weights."""
    return write_hollow(tmp_path / "large-F16.gguf", LARGE)


# ---- fit -----------------------------------------------------------------------------------------


def test_json_says_every_part_and_the_parts_make_the_whole(call: Call, large: Path) -> None:
    ran = call("fit", str(large), "--json", "-c", "4096", "-t", "2")
    assert (ran.returncode, ran.stderr) == (0, "")
    said = json.loads(ran.stdout)
    parts = {part["name"]: part for part in said["components"]}
    assert list(parts) == [
        "weights", "metadata", "kv cache", "kv copy", "scratch", "logits", "tables", "tokenizer",
        "stacks", "interpreter", "libraries",
    ]  # fmt: skip
    files = {name for name, part in parts.items() if part["kind"] == "file"}
    assert files == {"weights", "metadata", "libraries"}
    file = engines.open_model(large)
    plan = file.plan(EngineOptions(n_ctx=4096, n_threads=2))
    assert parts["weights"]["reserved_bytes"] == plan.weight_bytes
    assert parts["kv cache"]["reserved_bytes"] == plan.kv_bytes == 4096 * KV_PER_TOKEN
    assert parts["scratch"]["reserved_bytes"] == plan.scratch_bytes
    assert said["touched_bytes"] == sum(part["touched_bytes"] for part in parts.values())
    assert (said["verdict"], said["n_ctx"], said["n_threads"]) == ("fits", 4096, 2)
    assert (said["model"], said["path"], said["quant"]) == (str(large), str(large), "F16")
    assert said["limit"]["need_bytes"] <= said["limit"]["left_bytes"]
    file.close()


def test_the_size_of_a_quant_is_what_quantize_would_write(call: Call, tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "model-F16.gguf", Hollow(quant="F16"))
    said = json.loads(call("fit", str(path), "--json").stdout)
    expected = {cell["quant"]: cell["weight_bytes"] for cell in said["table"]}
    for quant in ("Q8_0", "Q4_K_M"):
        made = call("quantize", str(path), quant, "-q").stdout.strip()
        file = engines.open_model(Path(made))
        assert file.info["weight_bytes"] == expected[quant]
        file.close()


def test_text_says_the_same(call: Call, large: Path) -> None:
    said = json.loads(call("fit", str(large), "--json", "-c", "4096", "--budget", "8G").stdout)
    lines = call("fit", str(large), "-c", "4096", "--budget", "8G").stdout.splitlines()
    assert lines[0].startswith(f"{large}, F16, with a context of 4096 on ")
    weights = next(line for line in lines if line.startswith("weights"))
    assert weights.split()[1:] == ["file", *format_bytes(LARGE_WEIGHTS).split() * 2]
    assert any(line.startswith("fits: ") and said["limit"]["name"] in line for line in lines)


LARGE_WEIGHTS = 2 * sum(rows * columns for _, rows, columns in LARGE.matrices()) + 17 * 1024 * 4


def test_what_does_not_fit_exits_with_7_and_says_what_would(call: Call, large: Path) -> None:
    ran = call("fit", str(large), "--json", "-c", "16384", "--budget", "600M")
    assert ran.returncode == 7
    said = json.loads(ran.stdout)
    assert (said["verdict"], said["limit"]["name"]) == ("does_not_fit", "--budget")
    first, *_ = said["alternatives"]
    command = first["command"].split()
    assert command[:3] == ["localllm", "run", str(large)] and command[3] == "-c"
    again = call("fit", str(large), "-c", command[4], "--budget", "600M")
    assert again.returncode == 0, "the alternative does fit"
    more = call("fit", str(large), "-c", str(int(command[4]) + 1024), "--budget", "600M")
    assert more.returncode == 7, "and is not far from the most that does"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-c", "0"], 2, "ctx is 0"),
        (["-c", "99999999999"], 2, "does not exist"),
        (["--budget", "big"], 2, "'big'"),
        (["--budget", "0"], 2, "budget is 0"),
        (["-t", "0"], 2, "threads is 0"),
        (["-t", "100000"], 2, "threads 100000"),
    ],
)
def test_what_cannot_be_asked(
    call: Call, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    path = write_hollow(tmp_path / "model.gguf", Hollow())
    ran = call("fit", str(path), *arguments)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert said in ran.stderr and "Traceback" not in ran.stderr


def test_names_that_are_not_here(call: Call) -> None:
    for arguments, code in (
        (["no-such-model"], 3),
        (["./no-file.gguf"], 3),
        (["gemma3:270m"], 3),  # only in a package, whose header cannot be read alone
        (["hf:org/repo", "--offline"], 5),
    ):
        ran = call("fit", *arguments)
        assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
        assert ran.stderr.startswith("error: ") and "Traceback" not in ran.stderr


CHILD = """
import sys
from pathlib import Path
from localllm.cli import app
code = app.main(sys.argv[1:])
io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
status = Path("/proc/self/status").read_text()
heavy = {"numpy", "rich", "huggingface_hub", "gguf"} & sys.modules.keys()
print(code, io["rchar"], status.split("VmHWM:")[1].split()[0], len(heavy), file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process reads")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["fit", "-c", "8192", "--budget", "60G", "--json"], None),
        (["fit", "--budget", "4G"], 7),
        (["run", "hi", "--budget", "4G"], 7),
        (["run", "hi", "-c", "8192", "--budget", "30G"], 7),
    ],
)
def test_forty_gigabytes_are_judged_by_their_header(
    tmp_path: Path, command: list[str], code: int | None
) -> None:
    """With every alternative, of which none fits in 4 GiB: so what is refused is refused at once,
    whatever the machine's speed."""
    path = write_hollow(tmp_path / "huge-Q4_K.gguf", HUGE)
    assert path.stat().st_size > 39e9
    verb, *rest = command
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, verb, str(path), *rest],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    ended, n_read, peak_kib, n_heavy = map(int, ran.stderr.splitlines()[-1].split())
    assert ended in (0, 7) if code is None else ended == code
    if "--json" in command:
        assert json.loads(ran.stdout)["components"][0]["reserved_bytes"] > 39e9
    assert n_read < 16e6, "the interpreter's own modules included"
    assert peak_kib < 64 << 10, "what is mapped and read is resident: no more than the header"
    assert n_heavy == 0


# ---- three verdicts ------------------------------------------------------------------------------


def report_of(path: Path, limits: list[Limit], ctx: int = 0) -> fit.Report:
    with fit.find(str(path), offline=True, progress=Silent()) as subject:
        return fit.report(subject, EngineOptions(n_ctx=ctx), limits, process.TYPICAL)


def test_the_three_verdicts(large: Path) -> None:
    def fit_of(left: int) -> Fit:
        return report_of(large, [Limit("memory", left)], 4096).verdict.fit

    need = report_of(large, [], 4096).verdict.need
    assert fit_of(need.missing_bytes()) is Fit.fits
    assert fit_of(need.missing_bytes() - 1) is Fit.pages
    pinned = Limit("memory", 0).pinned(need)
    assert 128 * MIB < pinned < need.missing_bytes() - LARGE_WEIGHTS
    assert fit_of(pinned) is Fit.pages
    assert fit_of(pinned - 1) is Fit.does_not_fit


def test_the_speed_of_paging_is_the_disks(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "read_rate", lambda path: 100e6)
    verdict = report_of(large, [Limit("memory", 400 * MIB)], 4096).verdict
    file = engines.open_model(large)
    assert verdict.fit is Fit.pages
    sentence = paging.describe(verdict, file)
    assert f"about {100e6 / LARGE_WEIGHTS:.2g} tokens/s" in sentence
    assert "memory leaves 400.0 MiB" in sentence
    monkeypatch.setattr(disk, "read_rate", lambda path: None)
    assert "tokens/s" not in paging.describe(verdict, file)
    file.close()


def test_the_rate_of_a_disk(large: Path, tmp_path: Path) -> None:
    assert disk.read_rate(large) is None, "a hole is no disk"
    assert disk.read_rate(tmp_path / "missing") is None
    data = tmp_path / "data"
    with data.open("wb") as file:
        file.write(os.urandom(64 * MIB))
        os.fsync(file.fileno())
    rate = disk.read_rate(data)
    assert rate is None or 1e6 < rate < 1e11


# ---- what would fit ------------------------------------------------------------------------------


def offers_for(path: Path, left: int, ctx: int) -> list[alternatives.Alternative]:
    return offers_with(path, left, EngineOptions(n_ctx=ctx))


def offers_with(path: Path, left: int, typed: EngineOptions) -> list[alternatives.Alternative]:
    limits = [Limit("--budget", left, Counts.resident)]
    file = engines.open_model(path)
    try:
        options, verdict = settle_options(file, typed, limits)
        assert not verdict.runs
        refused = alternatives.Refused(str(path), file, options, typed.n_ctx, limits)
        found = alternatives.find(refused)
    finally:
        file.close()
    for offer in found:
        assert offer.verdict.fits and judge(offer.verdict.need, limits).fits
    return found


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "data/localllm/models"
    folder.mkdir(parents=True)
    return folder


def test_a_shorter_context_comes_first(user: Path, large: Path) -> None:
    first, *others = offers_for(large, 600 * MIB, 12288)
    assert first.command == f"localllm run {large} -c {first.options.n_ctx}"
    assert 7000 < first.options.n_ctx < 12288 and first.path == large
    kv, made = others
    q8_0 = "--cache-type-k q8_0 --cache-type-v q8_0"
    assert kv.command == f"localllm run {large} -c 12288 {q8_0}" and kv.path == large
    assert kv.verdict.need.touched() < 600 * MIB and kv.options.n_ctx == 12288
    assert made.path is None, "one made of this file"
    assert made.command == f'localllm run "$(localllm quantize {large} Q8_0)" -c 12288'


def test_four_bits_are_for_values_where_eight_do_not_do(user: Path, large: Path) -> None:
    _, kv, _ = offers_for(large, 510 * MIB, 12288)
    assert kv.command.endswith("--cache-type-k q8_0 --cache-type-v q4_0")
    assert kv.change == "keys and values stored as q8_0 and q4_0"


def test_every_command_keeps_what_was_typed(user: Path, large: Path) -> None:
    typed = EngineOptions(n_ctx=12288, n_threads=2, kv_k="q8_0", kv_v="q8_0")
    kept = "-t 2 --cache-type-k q8_0 --cache-type-v q8_0"
    shorter, smaller, made = offers_with(large, 510 * MIB, typed)
    assert shorter.command == f"localllm run {large} -c {shorter.options.n_ctx} {kept}"
    assert smaller.command == f"localllm run {large} -c 12288 {kept[:-4]}q4_0"
    assert made.command.endswith(f'Q8_0)" -c 12288 {kept}')


def test_without_a_context_the_largest_that_fits_is_judged_and_said(
    user: Path, large: Path
) -> None:
    found = offers_for(large, 240 * MIB, 0)
    assert found, "a smaller quant with less than the model's own context"
    (made,) = found
    assert made.command == f'localllm run "$(localllm quantize {large} Q8_0)"'
    assert made.options.n_ctx < LARGE.n_ctx and made.options.n_ctx % 64 == 0
    assert made.change == f"Q8_0, made of this file, with a context of {made.options.n_ctx}"


def test_other_quants_that_are_here_best_first(user: Path, tmp_path: Path, large: Path) -> None:
    for quant, place in (("Q4_K", user), ("Q8_0", tmp_path), ("Q6_K", user)):
        model = Hollow(**{**vars(LARGE), "quant": quant})
        name = f"large-{quant}_M.gguf" if quant == "Q4_K" else f"large-{quant}.gguf"
        write_hollow(place / name, model)
    write_hollow(tmp_path / "other-Q8_0.gguf", Hollow(n_layers=1))
    found = offers_for(large, 240 * MIB, 512)
    assert [offer.command for offer in found] == [
        f"localllm run {tmp_path}/large-Q8_0.gguf -c 512",
        "localllm run large-Q6_K -c 512",
        "localllm run large-Q4_K_M -c 512",
    ]
    assert found[0].change == "Q8_0, which is here"


def test_a_quant_that_the_catalog_knows(
    user: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalog_file.Entry("big:small", "LARGE-q4_0.gguf", (), n_bytes=80 * MIB)
    bigger = catalog_file.Entry("big:big", "large-Q8_0.gguf", (), n_bytes=800 * MIB)
    monkeypatch.setattr(catalog, "read", lambda: {e.name: e for e in (bigger, entry)})
    found = offers_for(large, 200 * MIB, 512)
    assert found[0].command == "localllm run big:small -c 512"
    assert found[0].path is None and "catalog" in found[0].change


def test_nothing_is_offered_where_nothing_fits(user: Path, large: Path) -> None:
    assert offers_for(large, 10 * MIB, 512) == []


# ---- run -----------------------------------------------------------------------------------------


def test_a_refusal_says_all(call: Call, large: Path) -> None:
    ran = call("run", str(large), "hi", "-c", "16384", "--budget", "600M")
    assert (ran.returncode, ran.stdout) == (7, "")
    said, *commands = ran.stderr.splitlines()
    assert said.startswith("error: this needs 8") and "--budget leaves 600.0 MiB" in said
    assert commands[0].startswith(f"  try: localllm run {large} -c ")
    assert 1 <= len(commands) <= 3
    assert all(line.startswith("   or: localllm run ") for line in commands[1:])


RAW = ("--raw", "-n", "2", "--temp", "0")


def test_adapt_takes_the_first_that_fits_and_says_so(call: Call, large: Path) -> None:
    asked = ("run", str(large), "hi", "-c", "16384", "--budget", "600M", *RAW)
    refused = call(*asked)
    offered = int(refused.stderr.split(" -c ")[1].split()[0])
    for ran in (call(*asked, "--adapt"), call(*asked, LOCALLLM_ADAPT="1")):
        assert (ran.returncode, ran.stdout) == (0, "\0\0\n")
        assert ran.stderr.startswith("adapted to --budget: a context of ")
        assert ran.stderr.endswith(" instead of 16384\n") and ran.stderr.count("\n") == 1
    n_ctx = json.loads(call(*asked, "--adapt", "--json").stdout)["n_ctx"]
    assert abs(n_ctx - offered) <= 64, "what a process takes differs by some pages"


def test_adapt_takes_a_smaller_quant_that_is_here(call: Call, tmp_path: Path, large: Path) -> None:
    small = write_hollow(tmp_path / "large-Q8_0.gguf", Hollow(**{**vars(LARGE), "quant": "Q8_0"}))
    ran = call("run", str(large), "hi", "-c", "512", "--budget", "220M", "--adapt", "--json", *RAW)
    assert ran.returncode == 0
    assert ran.stderr == "adapted to --budget: Q8_0, which is here\n"
    assert json.loads(ran.stdout)["path"] == str(small)


def test_adapt_says_what_it_passed_over(
    user: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads on a machine without room for their panels: only a smaller quant, which is not
    here, or fewer threads would do."""
    limits = [Limit("--budget", 420 * MIB, Counts.resident)]
    monkeypatch.setattr(opening, "find_limits", lambda budget, **_: limits)
    monkeypatch.setattr(process, "measure", lambda: process.TYPICAL)
    asked = {"ctx": 512, "threads": 200}
    with pytest.raises(DoesNotFitError) as raised:
        opening.load(large, **asked)
    assert raised.value.hint is not None
    commands = raised.value.hint.split("\n   or: ")
    assert "Q8_0, made of this file" in commands[0] and "-t 1 " in commands[-1]
    with opening.load(large, **asked, adapt=True) as adapted:
        assert (adapted.engine.n_threads, adapted.engine.n_ctx) == (1, 512)
        assert adapted.adapted == (
            "one thread, which is slower; not on this machine: Q8_0, made of this file"
        )


def test_adapt_takes_what_was_made_of_the_file_before(call: Call, large: Path) -> None:
    made = call("quantize", str(large), "Q4_K_M", "-q").stdout.strip()
    ran = call("run", str(large), "hi", "-c", "512", "--budget", "220M", "--adapt", "--json", *RAW)
    assert (ran.returncode, ran.stderr) == (0, "adapted to --budget: Q4_K_M, which is here\n")
    assert json.loads(ran.stdout)["path"] == made


def test_where_nothing_fits_that_is_said(call: Call, large: Path) -> None:
    ran = call("fit", str(large), "--budget", "10M")
    assert ran.returncode == 7
    assert "no shorter context and no smaller quant of it fits" in ran.stdout


def test_adapt_cannot_do_what_nothing_can(call: Call, large: Path) -> None:
    ran = call("run", str(large), "hi", "--budget", "10M", "--adapt")
    assert (ran.returncode, ran.stdout) == (7, "")
    assert "smaller model" in ran.stderr


def test_oversubscription_is_allowed_where_it_is_asked_for(call: Call, large: Path) -> None:
    asked = ("run", str(large), "hi", "-c", "16384", "--budget", "600M", *RAW)
    variable = {"LOCALLLM_ALLOW_OVERSUBSCRIBE": "1"}
    for ran in (call(*asked, "--allow-oversubscribe"), call(*asked, **variable)):
        assert (ran.returncode, ran.stdout) == (0, "\0\0\n")
        assert "this needs 8" in ran.stderr and "--allow-oversubscribe" in ran.stderr


# ---- predicted and measured ----------------------------------------------------------------------


def test_stats_say_what_was_predicted_and_what_was_measured(call: Call, large: Path) -> None:
    asked = ("run", str(large), "hello " * 40, "-c", "1024", "--seed", "3", *RAW)
    ran = call(*asked, "--stats")
    assert (ran.returncode, ran.stdout) == (0, "\0\0\n")
    lines = ran.stderr.splitlines()
    assert lines[0].startswith("prompt: 240 tokens") and "seed 3" in lines
    assert [line.split("  ")[0] for line in lines[-4:]] == [
        "model file", "other files", "anonymous", "peak"
    ]  # fmt: skip
    assert any(line.startswith("  kv cache") and "8.0 MiB" in line for line in lines)
    said = json.loads(call(*asked, "--json").stdout)["memory"]
    totals: dict[str, dict[str, Any]] = said["totals"]
    for total in totals.values():
        predicted, measured = total["predicted_bytes"], total["measured_bytes"]
        assert abs(predicted - measured) <= max(0.05 * measured, 16 * MIB)
    assert totals["model_file"]["measured_bytes"] > LARGE_WEIGHTS
    anonymous = totals["anonymous"]
    assert anonymous["predicted_bytes"] >= 0.97 * anonymous["measured_bytes"]


def test_run_says_that_weights_will_page_and_answers(
    large: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, "find_limits", lambda budget, **_: [Limit("memory", 300 * MIB)])
    monkeypatch.setattr(disk, "read_rate", lambda path: 50e6)
    asked = ["run", str(large), "hi", "--no-stdin", "-c", "1024", *RAW]
    assert app.main(asked) == 0
    said = capfd.readouterr()
    assert said.out == "\0\0\n"
    assert f"about {50e6 / LARGE_WEIGHTS:.2g} tokens/s by what the disk reads" in said.err
    assert app.main([*asked, "-q"]) == 0
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(opening, "find_limits", lambda budget, **_: [Limit("memory", 30 * MIB)])
    assert app.main(asked) == 7
