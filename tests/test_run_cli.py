"""`run`, `tokenize` and `doctor` as a shell sees them: bytes, sentences, exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_models import ANSWER

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "LSAN_OPTIONS")
PATIENCE = 30


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user of their own: nothing configured, nothing stored."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path)}


Ran = subprocess.CompletedProcess[bytes]


@pytest.fixture
def call(environment: dict[str, str], scripts: dict[str, Path], tmp_path: Path) -> Any:
    """Runs the program; `@name` among the arguments is the file of a scripted model."""

    def called(arguments: list[str], stdin: bytes | None = None, **variables: str) -> Ran:
        return subprocess.run(
            command_line(arguments, scripts),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    return called


def command_line(arguments: list[str], scripts: dict[str, Path]) -> list[str]:
    places = {f"@{name}": str(path) for name, path in scripts.items()}
    return [sys.executable, "-m", "localllm", *(places.get(a, a) for a in arguments)]


def start(
    arguments: list[str], scripts: dict[str, Path], environment: dict[str, str], **streams: Any
) -> subprocess.Popen[bytes]:
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command_line(arguments, scripts), env=environment, bufsize=0, **(defaults | streams)
    )


# ---- the answer's bytes ------------------------------------------------------------------------

PARIS = f"{ANSWER}\n".encode()

# arguments, stdin (None: empty), the bytes of stdout
ANSWERS: dict[str, tuple[list[str], bytes | None, bytes]] = {
    "argument": (["@paris", "q"], None, PARIS),
    "piped": (["@paris"], b"q", PARIS),
    "both": (["@paris", "q"], b"text\n", PARIS),
    "several arguments": (["@paris", "two", "words"], None, PARIS),
    "dash": (["@paris", "-"], b"q", PARIS),
    "no stdin": (["@paris", "q", "--no-stdin"], b"never read", PARIS),
    "greedy": (["@paris", "q", "--temp", "0"], None, PARIS),
    "stop": (["@paris", "q", "--stop", " Paris"], None, b"The capital is\n"),
    "stop at newline": (["@paris", "q", "--stop", "\n"], None, PARIS),
    "max tokens": (["@paris", "q", "-n", "2"], None, b"The capital\n"),
    "cut character": (["@paris", "q", "-n", "5"], None, "The capital is Paris\ufffd\n".encode()),
    "reasoning is hidden": (["@thinker", "q"], None, b"Yes\n"),
    "no reasoning": (["@thinker", "q", "--think", "off"], None, b" No\n"),
    "raw": (["@bare", "--raw", "Is it?"], None, b" Yes.\n"),
    "no template": (["@bare", "Is it?"], None, b" Yes.\n"),
    "piped raw loses its newlines": (["@bare", "--raw"], b"Is it?\n\n", b" Yes.\n"),
    "place": (["@bare", "say {}?"], b"piped", b" Yes.\n"),
    "not utf-8": (["@paris"], b"\xff\xfe\x00q", PARIS),
    "one thread": (["@paris", "q", "-t", "1", "-c", "64"], None, PARIS),
    "scalar": (["@paris", "q", "--kernels", "scalar"], None, PARIS),
    "int8 keys": (["@paris", "q", "--cache-type-k", "q8_0"], None, PARIS),
    "int8 values": (["@paris", "q", "--cache-type-v", "q8_0"], None, PARIS),
    "numbers with units": (["@paris", "q", "-c", "0.25k", "--budget", "2GiB"], None, PARIS),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_stdout_is_the_answer_and_one_newline(call: Any, name: str) -> None:
    arguments, stdin, expected = ANSWERS[name]
    ran = call(["run", *arguments], stdin)
    assert (ran.stdout, ran.stderr, ran.returncode) == (expected, b"", 0)


def test_every_flag_has_a_variable(call: Any) -> None:
    ran = call(["run", "@paris", "q"], LOCALLLM_MAX_TOKENS="2", LOCALLLM_SEED="1")
    assert ran.stdout == b"The capital\n"
    ran = call(["run", "@paris", "q", "-n", "1"], LOCALLLM_MAX_TOKENS="2")
    assert ran.stdout == b"The\n"
    shown = call(["run", "--help"]).stdout.decode()
    options = shown.split("-s, --system")[1]
    n_flags = options.count("\n  -") + options.count("\n      --")
    assert "LOCALLLM_" in shown
    assert options.count("LOCALLLM_") >= n_flags - 1


def prompt_text(call: Any, arguments: list[str], stdin: bytes | None = None) -> str:
    """What the model was given: the raw prompt's own count of bytes, by its tokens."""
    report = json.loads(call(["run", "@bare", "--json", *arguments], stdin).stdout)
    return str(report["n_prompt"])


@pytest.mark.parametrize(
    ("arguments", "stdin", "same_as"),
    [
        (["ask?"], b"text?", "ask?\n\ntext?"),
        (["see {} here?"], b"text", "see text here?"),
        (["a{}b{}?"], b"x", "axb{}?"),
        (["{}?"], b"{}", "{}?"),
        (["ask?"], b"text?\n\n\n", "ask?\n\ntext?"),
        (["ask", "me?"], None, "ask me?"),
        (["-", "ask?"], b"text?", "ask?\n\ntext?"),
        (["-f", "doc.txt", "ask?"], b"text?", "ask?\n\nfile\n\ntext?"),
        (["-f", "doc.txt"], None, "file"),
    ],
)
def test_where_the_parts_of_a_prompt_go(
    call: Any, tmp_path: Path, arguments: list[str], stdin: bytes | None, same_as: str
) -> None:
    (tmp_path / "doc.txt").write_text("file\n")
    assert prompt_text(call, arguments, stdin) == prompt_text(call, ["--no-stdin", same_as])


@pytest.mark.parametrize("text", ["@doc.txt", "/exit", "<|im_end|>", "{{ 1 }}", "doc.txt {}"])
def test_piped_text_is_data(call: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "doc.txt").write_text("a file that must not be opened " * 9)
    ran = call(["run", "@paris", "--json"], text.encode())
    assert json.loads(ran.stdout)["n_prompt"] == len(text.encode()) + N_AROUND_A_PROMPT


# <|im_start|> "user\n" … <|im_end|> "\n" <|im_start|> "assistant\n", a token a byte
N_AROUND_A_PROMPT = 1 + 5 + 1 + 1 + 1 + 10


def test_json(call: Any) -> None:
    ran = call(["run", "@thinker", "q", "--json", "--seed", "5", "--temp", "0.3"])
    report = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert report["schema_version"] == 1
    assert (report["text"], report["reasoning"]) == ("Yes", "Hm, well")
    assert (report["finish"], report["seed"], report["n_generated"]) == ("stop", 5, 6)
    assert report["sampling"]["temperature"] == 0.3
    assert set(report["seconds"]) == {"load", "prompt", "generate", "first_token"}


def test_a_random_seed_is_told_and_gives_the_same_again(call: Any) -> None:
    arguments = ["run", "@endless", "q", "-n", "40", "--json"]
    first = json.loads(call(arguments).stdout)
    again = json.loads(call([*arguments, "--seed", str(first["seed"]), "-t", "1"]).stdout)
    other = json.loads(call(arguments).stdout)
    assert first["text"] == again["text"]
    assert first["seed"] != other["seed"]


def test_verbose_tells_the_timings_on_stderr(call: Any) -> None:
    ran = call(["run", "@paris", "q", "-v"])
    assert ran.stdout == PARIS
    assert b"tokens/s" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


def test_a_prompt_needs_neither_rich_nor_numpy(call: Any) -> None:
    ran = call(["run", "@paris", "q"], PYTHONPROFILEIMPORTTIME="1")
    imported = {line.split(b"|")[-1].strip() for line in ran.stderr.splitlines()}
    assert b"localllm._native" in imported
    assert not imported & {b"rich", b"numpy", b"huggingface_hub", b"prompt_toolkit"}


# ---- what goes wrong ---------------------------------------------------------------------------

# arguments, exit code, words of the sentence
MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no model": (["run"], 2, "MODEL"),
    "nothing asked": (["run", "@paris"], 2, "no prompt"),
    "dash without stdin": (["run", "@paris", "-", "--no-stdin"], 2, "--no-stdin"),
    "unknown flag": (["run", "@paris", "q", "--speed", "9"], 2, "--speed"),
    "bad number": (["run", "@paris", "q", "-n", "many"], 2, "'many'"),
    "bad temperature": (["run", "@paris", "q", "--temp", "-1"], 2, "temperature"),
    "nan": (["run", "@paris", "q", "--top-p", "nan"], 2, "top-p"),
    "bad seed": (["run", "@paris", "q", "--seed", "-1"], 2, "seed"),
    "no tokens": (["run", "@paris", "q", "-n", "0"], 2, "--max-tokens"),
    "bad size": (["run", "@paris", "q", "--budget", "big"], 2, "'big'"),
    "no context": (["run", "@paris", "q", "-c", "0"], 2, "ctx"),
    "bad kernels": (["run", "@paris", "q", "--kernels", "mmx"], 2, "mmx"),
    "bad type of keys": (["run", "@paris", "q", "--cache-type-k", "q9"], 2, "f16, q8_0"),
    "bad type of values": (["run", "@paris", "q", "--cache-type-v", "q9"], 2, "f16, q8_0"),
    "empty stop": (["run", "@paris", "q", "--stop", ""], 2, "--stop"),
    "bad part": (["run", "@paris", "q", "--truncate", "half"], 2, "half"),
    "bad deadline": (["run", "@paris", "q", "--deadline", "0"], 2, "--deadline"),
    "think is unknown": (["run", "@paris", "q", "--think", "on"], 2, "thinking"),
    "raw system": (["run", "@paris", "q", "--raw", "-s", "x"], 2, "--system"),
    "raw think": (["run", "@thinker", "q", "--raw", "--think", "on"], 2, "--think"),
    "system without template": (["run", "@bare", "q?", "-s", "x"], 2, "--system"),
    "no such file": (["run", "./none.gguf", "q"], 3, "none.gguf"),
    "not pulled": (["run", "smollm2:135m", "q", "--no-pull"], 3, "smollm2:135m"),
    "offline": (["run", "smollm2:135m", "q", "--offline"], 3, "smollm2:135m"),
    "not a model": (["run", "./text.gguf", "q"], 6, "text.gguf"),
    "too large": (["run", "@endless", "q", "--budget", "50M", "-c", "131072"], 7, "--budget"),
    "too long": (["run", "@short", "q" * 100], 8, "119 tokens"),
    "full": (["run", "@short", "q"], 8, "context is full"),
    "strict": (["run", "@paris", "q", "-n", "2", "--strict"], 8, "--max-tokens"),
    "deadline": (["run", "@endless", "q", "--deadline", "0.6"], 124, "0.6 s"),
    "no text to tokenize": (["tokenize"], 2, "MODEL"),
    "tokenize what": (["tokenize", "./none.gguf", "x"], 3, "none.gguf"),
    "doctor who": (["doctor", "who"], 2, "who"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_code_and_one_sentence(call: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.gguf").write_text("this is not a model\n")
    arguments, code, words = MISTAKES[name]
    ran = call(arguments)
    lines = ran.stderr.decode().splitlines()
    assert ran.returncode == code, ran.stderr
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert all(line.startswith("  try: ") for line in lines[1:])
    assert len(lines) <= 2


@pytest.mark.parametrize("part", ["head", "middle", "tail"])
def test_a_text_that_is_too_long_is_cut_where_asked(call: Any, part: str) -> None:
    text = b"a" * 30 + b"m" * 30 + b"z" * 30
    ran = call(["run", "@short", "--truncate", part, "-n", "4", "--json"], text)
    report = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert report["n_generated"] == 4
    assert report["n_prompt"] <= 60


def test_an_instruction_that_is_too_long_is_not_cut(call: Any) -> None:
    ran = call(["run", "@short", "q" * 99, "--truncate", "tail"], b"text")
    assert ran.returncode == 8
    assert ran.stdout == b""


# ---- signals and readers that leave --------------------------------------------------------------


@pytest.mark.clock
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_and_what_was_printed_stays(
    environment: dict[str, str], scripts: dict[str, Path], number: int, code: int
) -> None:
    process = start(["run", "@endless", "q"], scripts, environment)
    assert process.stdout is not None
    assert process.stdout.read(3) == b" la"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert time.monotonic() - sent < 2
    assert err == b""
    assert out.startswith((b" la", b" lo"))


@pytest.mark.clock
def test_an_interrupt_while_the_prompt_is_read(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    """A prompt that takes long: the one-token batches of scalar kernels at a great depth."""
    arguments = ["run", "@endless", "--kernels", "scalar", "-t", "1"]
    process = start(arguments, scripts, environment, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * 100_000)
    process.stdin.close()
    process.stdin = None
    time.sleep(1.5)
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert time.monotonic() - sent < 1


def test_the_reader_leaves(environment: dict[str, str], scripts: dict[str, Path]) -> None:
    process = start(["run", "@endless", "q"], scripts, environment)
    assert process.stdout is not None
    assert process.stdout.read(3) == b" la"
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_tokens_arrive_one_by_one_also_in_a_pipe(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    process = start(["run", "@endless", "q"], scripts, environment)
    assert process.stdout is not None
    reads = [os.read(process.stdout.fileno(), 4096) for _ in range(20)]
    process.kill()
    process.communicate()
    assert all(reads)
    assert min(map(len, reads)) <= 12


# ---- on a terminal -------------------------------------------------------------------------------


def read_terminal(descriptor: int, seconds: float) -> Iterator[bytes]:
    """What arrives within the time, until the other side closes."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            return
        try:
            data = os.read(descriptor, 4096)
        except OSError:
            return
        if not data:
            return
        yield data


def on_terminal(
    arguments: list[str], scripts: dict[str, Path], environment: dict[str, str], *streams: str
) -> tuple[bytes, int]:
    """Runs with the named streams on one terminal; what that terminal shows, and the exit code."""
    main, side = pty.openpty()
    process = start(arguments, scripts, environment, **dict.fromkeys(streams, side))
    os.close(side)
    shown = b"".join(read_terminal(main, PATIENCE))
    code = process.wait(timeout=PATIENCE)
    os.close(main)
    process.communicate()
    return shown, code


def test_a_terminal_shows_the_answer(environment: dict[str, str], scripts: dict[str, Path]) -> None:
    environment["TERM"] = "xterm"
    shown, code = on_terminal(["run", "@paris", "q"], scripts, environment, "stdout", "stderr")
    assert (shown, code) == (ANSWER.encode() + b"\r\n", 0)


def test_reasoning_is_shown_dim_beside_the_answer(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    environment["TERM"] = "xterm"
    streams = ("stdout", "stderr")
    shown, _ = on_terminal(["run", "@thinker", "q"], scripts, environment, *streams)
    assert b"\x1b[2mHm" in shown
    assert shown.endswith(b"Yes\r\n")
    environment["NO_COLOR"] = "1"
    shown, _ = on_terminal(["run", "@thinker", "q"], scripts, environment, *streams)
    assert b"Hm, well" in shown
    assert b"\x1b" not in shown


def test_a_base_model_says_so_only_to_people(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    environment["TERM"] = "xterm"
    shown, code = on_terminal(["run", "@bare", "q?"], scripts, environment, "stderr")
    assert b"no chat template" in shown
    assert shown.count(b"\n") == 1
    assert code == 0
    shown, _ = on_terminal(["run", "@bare", "q?", "-q"], scripts, environment, "stderr")
    assert shown == b""


def test_a_silent_pipe_is_explained_after_two_seconds(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    environment["TERM"] = "xterm"
    main, side = pty.openpty()
    started = time.monotonic()
    process = start(["run", "@paris"], scripts, environment, stdin=subprocess.PIPE, stderr=side)
    os.close(side)
    shown = next(read_terminal(main, PATIENCE))
    assert time.monotonic() - started >= 2
    out, _ = process.communicate(b"q", timeout=PATIENCE)
    os.close(main)
    assert b"waiting for text on stdin" in shown
    assert out == PARIS


# ---- tokenize, doctor ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "stdin", "out"),
    [
        (["a b"], None, "97 32 98\n"),
        ([], b"a\n", "97 10\n"),
        ([], b"", "\n"),
        (["--count", "abc"], None, "3\n"),
        (["--count", "<|im_end|>"], None, "10\n"),
        (["--count", "--special", "<|im_end|>"], None, "1\n"),
    ],
)
def test_tokenize(call: Any, arguments: list[str], stdin: bytes | None, out: str) -> None:
    ran = call(["tokenize", "@paris", *arguments], stdin)
    assert (ran.stdout.decode(), ran.stderr, ran.returncode) == (out, b"", 0)


def test_tokenize_json(call: Any) -> None:
    report = json.loads(call(["tokenize", "@paris", "--json", "é"]).stdout)
    assert report["n_tokens"] == 2
    assert [token["bytes"] for token in report["tokens"]] == ["c3", "a9"]


def test_doctor(call: Any) -> None:
    report = json.loads(call(["doctor", "--json"]).stdout)
    assert report["schema_version"] == 1
    assert report["machine"]["n_usable_cores"] >= 1
    assert "scalar" in report["machine"]["kernels"]
    assert report["machine"]["read_gbps"] > 0.1
    assert report["memory"]["left_bytes"] > 1 << 20
    assert report["memory"]["binds"] in [limit["name"] for limit in report["memory"]["limits"]]
    ran = call(["doctor"], HTTPS_PROXY="http://user:secret@proxy")
    assert ran.returncode == 0
    assert b"usable cores" in ran.stdout
    assert b"secret" not in ran.stdout


# ---- a real model --------------------------------------------------------------------------------


def test_a_real_model_answers_through_a_pipe(call: Any, real_models: dict[str, Path]) -> None:
    store = str(real_models["smollm2"].parents[2])
    arguments = ["run", "smollm2:135m", "--temp", "0"]
    ran = call(arguments, b"What is the capital of France?", XDG_DATA_HOME=store)
    assert (ran.stderr, ran.returncode) == (b"", 0)
    assert ran.stdout == b"The capital of France is Paris.\n"


# ---- what starting costs -----------------------------------------------------------------------


def test_an_answer_imports_nothing_it_does_not_need(
    environment: dict[str, str], scripts: dict[str, Path]
) -> None:
    code = (
        "import sys; from localllm.__main__ import main; main();"
        "print('\\n', *sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "run", str(scripts["paris"]), "q", "-n", "1"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    imported = set(ended.stderr.split())
    heavy = {"rich", "numpy", "huggingface_hub", "httpx2", "pydantic", "prompt_toolkit", "asyncio"}
    heavy |= {"gguf"}
    assert "localllm.answer.model" in imported and not imported & heavy


def test_a_command_puts_off_the_search_for_cycles_and_ends_without_one(
    environment: dict[str, str],
) -> None:
    code = (
        "import gc; from localllm.__main__ import OBJECTS_PER_SEARCH, main; main();"
        "assert gc.isenabled() and gc.get_threshold()[0] == OBJECTS_PER_SEARCH;"
        "assert gc.get_freeze_count() > 0"
    )
    subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env=environment,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
