"""The interactive prompt, driven as a person would through a pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from scripted_models import ANSWER

from localllm.cli.chat import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20
PROMISED = "help set show system save load undo retry edit file stats ctx clear exit"

# The prompt switches bracketed paste on while it reads a line, and off when it has one.
READING = "\x1b[?2004h"
READ = "\x1b[?2004l"

Open = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def talk(scripts: dict[str, Path], tmp_path: Path) -> Iterator[Open]:
    """Opens a conversation with a scripted model and waits for its prompt."""
    opened = []

    def open_one(name: str, *flags: str, **variables: str) -> pexpect.spawn[str]:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(paths),
            "HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "TERM": "xterm",
            "NO_COLOR": "1",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            **variables,
        }
        child = pexpect.spawn(
            sys.executable,
            ["-m", "localllm", "run", str(scripts[name]), *flags],
            env=environment,
            cwd=str(tmp_path),
            timeout=PATIENCE,
            encoding="utf-8",
            dimensions=(40, 160),
        )
        opened.append(child)
        child.expect_exact(READING)
        return child

    yield open_one
    for child in opened:
        child.close(force=True)


def ask(child: pexpect.spawn[str], text: str) -> str:
    """Types a line; returns what is shown from there to the next prompt, without escapes."""
    child.send(text + "\r")
    child.expect_exact(READ)
    child.expect_exact(READING)
    return plain(child.before or "")


def plain(text: str) -> str:
    return re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])", "", text)


def leave(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def open_for_its_reader(fifo: Path) -> int:
    """The writing end, once somebody waits at the other."""
    for _ in range(100 * PATIENCE):
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError(f"nobody reads {fifo}")


def used(child: pexpect.spawn[str]) -> int:
    found = re.search(r"(\d+) of \d+ tokens used", ask(child, "/ctx"))
    assert found
    return int(found[1])


def test_a_conversation_is_kept_and_left(talk: Open) -> None:
    child = talk("paris")
    assert ANSWER in ask(child, "hello")
    first = used(child)
    assert ANSWER in ask(child, "again")
    assert used(child) > first + len(ANSWER)
    found = re.search(r"(\d+) of them reused", ask(child, "/stats"))
    assert found
    assert int(found[1]) > 20
    child.sendeof()
    assert leave(child) == 0


@pytest.mark.parametrize(("line", "n_blocks"), [("", 4), ("no-prefix-cache = true", 0)])
def test_the_config_file_keeps_conversations_off_the_disk(
    talk: Open, tmp_path: Path, line: str, n_blocks: int
) -> None:
    folder = tmp_path / ".config" / "localllm"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(line)
    child = talk("paris")
    assert ANSWER in ask(child, "x" * 256)
    assert len(list((tmp_path / ".cache").rglob("*.kv"))) == n_blocks


def test_exit_leaves_and_the_history_is_private(talk: Open, tmp_path: Path) -> None:
    child = talk("paris")
    ask(child, "a secret question")
    child.send("/exit\r")
    assert leave(child) == 0
    history = tmp_path / "state" / "localllm" / "history"
    assert "a secret question" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


@pytest.mark.clock
def test_ctrl_c_stops_an_answer_and_keeps_it(talk: Open) -> None:
    child = talk("endless")
    child.send("sing\r")
    child.expect_exact("la lo")
    sent = time.monotonic()
    child.sendintr()
    child.expect_exact(READING)
    assert time.monotonic() - sent < 2
    child.send("/save kept.json\r")
    child.expect_exact("saved 2 messages")
    child.expect_exact(READING)
    child.sendintr()
    assert leave(child) == 130


def test_a_second_ctrl_c_within_two_seconds_leaves(talk: Open) -> None:
    child = talk("endless")
    child.send("sing\r")
    child.expect_exact("la lo")
    child.sendintr()
    child.expect_exact(READING)
    child.sendintr()
    assert leave(child) == 130


def test_sigterm_leaves_the_prompt(talk: Open) -> None:
    child = talk("paris")
    child.kill(signal.SIGTERM)
    assert leave(child) == 143


def test_sigterm_while_the_history_is_read_leaves_too(talk: Open, tmp_path: Path) -> None:
    history = tmp_path / "state" / "localllm" / "history"
    history.parent.mkdir(parents=True)
    os.mkfifo(history)
    child = talk("paris")
    writer = open_for_its_reader(history)
    child.kill(signal.SIGTERM)
    os.close(writer)
    assert leave(child) == 143
    assert "Traceback" not in (child.before or "")


def test_several_lines_between_quotes_and_in_a_paste(talk: Open) -> None:
    child = talk("paris")
    assert ANSWER not in ask(child, '"""one')
    assert ANSWER not in ask(child, "/exit")
    assert ANSWER in ask(child, 'three"""')
    child.send("\x1b[200~/exit\nis text here\x1b[201~")
    assert ANSWER in ask(child, "")
    ask(child, "/save said.json")
    child.sendeof()
    assert leave(child) == 0
    said = json.loads((Path(str(child.cwd)) / "said.json").read_text())
    questions = [m["content"] for m in said["messages"] if m["role"] == "user"]
    assert questions == ["one\n/exit\nthree", "/exit\nis text here"]


def test_tab_completes_commands(talk: Open) -> None:
    child = talk("paris")
    child.send("/sta\t")
    child.expect_exact("/stats")
    assert "nothing has been answered yet" in ask(child, "")


def test_commands_steer_the_conversation(talk: Open, tmp_path: Path) -> None:
    (tmp_path / "doc.txt").write_text("a document\n")
    child = talk("paris", "-s", "Be brief.")
    shown = ask(child, "/help")
    assert list(COMMANDS) == [f"/{name}" for name in PROMISED.split()]
    for name in COMMANDS:
        assert name in shown
    assert re.search(r"system +Be brief\.", ask(child, "/show"))
    ask(child, "/set temp 0")
    assert re.search(r"temp +0\.0", ask(child, "/show"))
    ask(child, "/file doc.txt")
    assert ANSWER in ask(child, "what is in it")
    assert ANSWER in ask(child, "/retry")
    ask(child, "/save first.json")
    messages = json.loads((tmp_path / "first.json").read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "what is in it\n\na document"
    assert messages[2]["content"].startswith(ANSWER)
    ask(child, "/undo")
    ask(child, "/system")
    ask(child, "/save second.json")
    assert json.loads((tmp_path / "second.json").read_text())["messages"] == []
    assert "loaded 3 messages" in ask(child, "/load first.json")
    ask(child, "/clear")
    ask(child, "/save third.json")
    third = json.loads((tmp_path / "third.json").read_text())["messages"]
    assert [m["role"] for m in third] == ["system"]


def test_the_editor_changes_the_last_question(talk: Open, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "edited" > "$1"\n')
    editor.chmod(0o700)
    child = talk("paris", EDITOR=str(editor))
    ask(child, "first")
    assert ANSWER in ask(child, "/edit")
    ask(child, "/save edited.json")
    messages = json.loads((tmp_path / "edited.json").read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["edited"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nothing", "no command /nothing"),
        ("/s", "no command /s"),
        ("/set temp hot", "needs a number"),
        ("/set temp -1", "temperature"),
        ("/set volume 11", "volume"),
        ("/load none.json", "No such file"),
        ("/undo", "nothing to take back"),
        ("/clear all", "takes no argument"),
        ("/file none.txt", "No such file"),
        ("/set think on", ""),
    ],
)
def test_a_mistake_is_told_and_the_prompt_stays(talk: Open, line: str, words: str) -> None:
    child = talk("paris")
    assert words in ask(child, line)
    assert ("thinking" if "think" in line else ANSWER) in ask(child, "hello")


def test_a_full_context_is_told_and_the_conversation_can_go_on(talk: Open) -> None:
    child = talk("short")
    assert "the context is full" in ask(child, "q")
    assert "but the context holds 64" in ask(child, "q")
    ask(child, "/clear")
    assert "la" in ask(child, "q")


def test_reasoning_is_shown_but_not_kept(talk: Open, tmp_path: Path) -> None:
    child = talk("thinker")
    shown = ask(child, "q")
    assert "Hm, well" in shown
    ask(child, "/save thought.json")
    messages = json.loads((tmp_path / "thought.json").read_text())["messages"]
    assert messages[1]["content"] == "Yes"


def test_a_conversation_outgrows_its_context(talk: Open) -> None:
    child = talk("paris", "-c", "128", "--overflow", "shift", "-n", "8")
    said = [ask(child, f"Where is number {i}?") for i in range(6)]
    assert all(ANSWER in text for text in said)
    assert any("oldest messages are left out)" in text for text in said)
    other = talk("paris", "-c", "128", "-n", "8")
    assert any("but the context holds 128" in ask(other, f"Where is {i}?") for i in range(6))
