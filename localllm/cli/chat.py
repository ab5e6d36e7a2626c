"""The interactive prompt: one conversation, kept in one timeline, and the commands that steer it.

Each turn sends the whole conversation through the template; the timeline recognises what it has
been fed already, so only the new turn costs time. A line that begins with a slash is a command,
but only as typed: pasted or quoted text and files are never looked into. Ctrl-C stops an answer and
keeps it; at the prompt, or a second one within two seconds, it leaves.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from localllm.answer import footprint
from localllm.answer.overflow import window
from localllm.cli import console, stats
from localllm.cli.answer import HOW_IT_ENDED, AnswerStream, PrefillMeter, describe
from localllm.cli.request import has_template, shift
from localllm.errors import InterruptedByUserError, LocalLLMError, UsageError
from localllm.folders import state_folder
from localllm.sampling import Sampling, ranges

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

    from localllm.answer.generate import Result
    from localllm.answer.model import Answer, Model
    from localllm.cli.request import Request

QUOTE = '"""'
SECOND_INTERRUPT_SECONDS = 2.0
KV_SUFFIX = ".kv"
CHAT_SETTINGS = {"temp": "temperature"} | {
    field.name.replace("_", "-"): field.name
    for field in fields(Sampling)
    if field.name not in ("temperature", "biases")
}


class Leave(Exception):
    """/exit or Ctrl-D."""


class SlashCommand(NamedTuple):
    run: Callable[[Conversation, str], None]
    arguments: str
    summary: str


def talk(model: Model, request: Request) -> None:
    """Holds a conversation until the user leaves; the interrupt that leaves is raised."""
    conversation = Conversation(model, request)
    console.note(f"{request.name}: /help lists the commands, Ctrl-D leaves")
    session = open_session()
    while True:
        try:
            conversation.take(read_turn(session))
        except (Leave, EOFError):
            return
        except (LocalLLMError, OSError) as error:
            hint = error.hint if isinstance(error, LocalLLMError) else None
            console.error(str(error), hint)


# ---- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """What was typed; quoted text is never a command."""

    text: str
    is_quoted: bool = False


def open_session() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    return PromptSession(
        history=FileHistory(os.fspath(open_history())),
        completer=make_completer(),
        complete_while_typing=False,
        enable_history_search=True,
    )


def open_history() -> Path:
    """The history file, readable by its owner alone."""
    folder = state_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "history"
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def make_completer() -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class SlashCompleter(Completer):
        """Completes slash commands, and the names of settings behind /set."""

        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterator[Completion]:
            typed = document.text_before_cursor
            words = COMMANDS if " " not in typed else [f"/set {name}" for name in SETTINGS_SHOWN]
            for word in words:
                if typed.startswith("/") and word.startswith(typed):
                    yield Completion(word, start_position=-len(typed))

    return SlashCompleter()


def read_turn(session: PromptSession[str]) -> Turn:
    """One line, or several between triple quotes."""
    line = read_line(session, ">>> ")
    if not line.lstrip().startswith(QUOTE):
        return Turn(line)
    lines = [line.lstrip()[len(QUOTE) :]]
    while QUOTE not in lines[-1]:
        lines.append(read_line(session, "... "))
    text, _, rest = "\n".join(lines).partition(QUOTE)
    return Turn((text + rest).strip("\n"), is_quoted=True)


def read_line(session: PromptSession[str], prompt: str) -> str:
    """One line. A SIGTERM ends the prompt as a key would and leaves from here: raised inside the
    prompt's event loop, it might land in a task that shows it and goes on."""
    app = session.app
    received: list[int] = []

    def end_prompt() -> None:
        if app.is_running and not app.is_done:
            app.exit(result="")

    def receive(number: int, frame: FrameType | None) -> None:
        if app.loop is None:
            leave_on_sigterm(number, frame)
        else:
            received.append(number)
            app.loop.call_soon_threadsafe(end_prompt)

    leave_on_sigterm: Any = signal.signal(signal.SIGTERM, receive)
    try:
        line = session.prompt(prompt)
    finally:
        signal.signal(signal.SIGTERM, leave_on_sigterm)
    if received:
        leave_on_sigterm(received[0], None)
    return line


# ---- the conversation ------------------------------------------------------------------------


class Conversation:
    """Messages, settings, and what the next turn adds to them."""

    def __init__(self, model: Model, request: Request) -> None:
        self.model = model
        self.request = request
        self.messages: list[dict[str, str]] = list(request.before)
        self.n_left_out = 0  # of the oldest messages behind the system message
        self.attached: list[str] = []
        self.last: Result | None = None
        self.interrupted = -SECOND_INTERRUPT_SECONDS
        self.uses_template = not request.raw and has_template(model, request)
        if request.system is not None:
            self.set_system(request.system)

    def take(self, turn: Turn) -> None:
        if turn.text.startswith("/") and not turn.is_quoted and "\n" not in turn.text:
            self.command(turn.text)
        elif turn.text.strip() or self.attached:
            self.ask(turn.text)

    def command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        near = [command for command in COMMANDS if command.startswith(name)]
        if name not in COMMANDS and len(near) != 1:
            raise UsageError(f"no command {name}", "/help")
        command = COMMANDS[name if name in COMMANDS else near[0]]
        if argument.strip() and not command.arguments:
            raise UsageError(f"{name} takes no argument")
        command.run(self, argument.strip())

    def ask(self, text: str) -> None:
        content = "\n\n".join(filter(None, [text, *self.attached]))
        self.messages.append({"role": "user", "content": content})
        self.attached = []
        self.answer()

    def answer(self) -> None:
        """Streams the answer to the last message and keeps it, or what there is of it."""
        output = AnswerStream()
        answer: Answer | None = None
        try:
            answer = self.begin()
            for piece in answer.pieces:
                output.put(piece)
        except (KeyboardInterrupt, InterruptedByUserError):
            self.note_interrupt()
        except LocalLLMError:
            self.messages.pop()
            raise
        output.finish()
        if output.text or (answer and answer.result.finish):
            self.messages.append({"role": "assistant", "content": output.text})
        else:
            self.messages.pop()
        if answer is not None:
            self.last = answer.result
            self.tell_end(answer.result)

    def begin(self) -> Answer:
        request, meter = self.request, PrefillMeter(self.request.quiet)
        sampling = self.model.settle(**request.given)
        if self.uses_template:
            if self.n_left_out >= len(self.messages):
                self.n_left_out = 0
            self.n_left_out = shift(self.model, request, self.messages, self.n_left_out)
            return self.model.chat(
                window(self.messages, self.n_left_out),
                sampling,
                request.max_tokens,
                request.stop,
                think=request.think,
                progress=meter,
            )
        text = "\n\n".join(message["content"] for message in self.messages)
        return self.model.generate(text, sampling, request.max_tokens, request.stop, progress=meter)

    def note_interrupt(self) -> None:
        now = time.monotonic()
        if now - self.interrupted < SECOND_INTERRUPT_SECONDS:
            raise KeyboardInterrupt
        self.interrupted = now

    def tell_end(self, result: Result) -> None:
        if result.finish in HOW_IT_ENDED:
            console.note(f"({HOW_IT_ENDED[result.finish]})")
        if self.request.stats:
            for line in stats.lines(result, footprint.of(self.model, result)):
                console.note(line)
        elif self.request.verbose:
            console.note(describe(result))

    def set_system(self, text: str | None) -> None:
        """An empty message is one too; None is none, and leaves it to the template."""
        if not self.uses_template:
            raise UsageError("a system message needs a chat template")
        if self.messages and self.messages[0]["role"] == "system":
            del self.messages[0]
        if text is not None:
            self.messages.insert(0, {"role": "system", "content": text})

    def drop_exchange(self) -> str:
        """Removes the last question and its answer; returns the question."""
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            raise UsageError("there is nothing to take back")
        question = self.messages[asked[-1]]["content"]
        del self.messages[asked[-1] :]
        return question


# ---- commands --------------------------------------------------------------------------------


def show_help(conversation: Conversation, argument: str) -> None:
    for name, command in COMMANDS.items():
        console.note(f"  {name + ' ' + command.arguments:<20} {command.summary}")
    console.note(f"  {QUOTE} begins and ends a message of several lines")


def change_setting(conversation: Conversation, argument: str) -> None:
    name, _, text = argument.partition(" ")
    text = text.strip()
    request = conversation.request
    if name == "think" and text in ("on", "off"):
        conversation.request = replace(request, think=text == "on")
    elif name in CHAT_SETTINGS:
        field = CHAT_SETTINGS[name]
        given = request.given | {field: parse_setting(name, text)}
        conversation.model.settle(**given)
        conversation.request = replace(request, given=given)
    else:
        raise UsageError(
            f"no setting {name!r} with the value {text!r}", "/set " + ", ".join(SETTINGS_SHOWN)
        )


def parse_setting(name: str, text: str) -> float | int:
    whole = isinstance(ranges()[CHAT_SETTINGS[name]][1], int)
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise UsageError(f"{name} needs a number, not {text!r}") from None


def show_settings(conversation: Conversation, argument: str) -> None:
    sampling = conversation.model.settle(**conversation.request.given)
    console.note(f"  model          {conversation.model.file.path}")
    for name, field in CHAT_SETTINGS.items():
        value = getattr(sampling, field)
        console.note(f"  {name:<18} {'random' if value is None else value}")
    if conversation.messages and conversation.messages[0]["role"] == "system":
        console.note(f"  system             {conversation.messages[0]['content']}")


def set_system(conversation: Conversation, argument: str) -> None:
    conversation.set_system(argument or None)


def save(conversation: Conversation, argument: str) -> None:
    """JSON for whoever reads it; a name in .kv keeps what was computed too."""
    if not argument:
        raise UsageError("/save needs a file name")
    path = Path(argument).expanduser()
    messages = conversation.messages
    if path.suffix == KV_SUFFIX:
        n_kept = conversation.model.save(path, messages)
        console.note(f"saved {len(messages)} messages and {n_kept} computed tokens in {path}")
        return
    document = {"schema_version": console.SCHEMA_VERSION, "messages": messages}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    console.note(f"saved {len(messages)} messages in {path}")


def load(conversation: Conversation, argument: str) -> None:
    if not argument:
        raise UsageError("/load needs a file name")
    path = Path(argument).expanduser()
    conversation.messages = conversation.model.restore(path, console.note)
    conversation.n_left_out = 0
    console.note(f"loaded {len(conversation.messages)} messages")


def undo(conversation: Conversation, argument: str) -> None:
    conversation.drop_exchange()
    console.note("took back the last question and its answer")


def retry(conversation: Conversation, argument: str) -> None:
    question = conversation.drop_exchange()
    conversation.messages.append({"role": "user", "content": question})
    conversation.answer()


def edit(conversation: Conversation, argument: str) -> None:
    """Opens the last question, or nothing yet, in the editor and asks what comes back."""
    asked = [m["content"] for m in conversation.messages if m["role"] == "user"]
    text = edit_text(asked[-1] if asked else "")
    if asked and text:
        conversation.drop_exchange()
    if text:
        console.note(text)
        conversation.ask(text)


def edit_text(text: str) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.txt"
        path.write_text(text, encoding="utf-8")
        if subprocess.run([*shlex.split(editor), os.fspath(path)], check=False).returncode:
            raise UsageError(f"the editor {editor!r} failed; nothing was asked")
        return path.read_text(encoding="utf-8", errors="replace").strip()


def attach(conversation: Conversation, argument: str) -> None:
    if not argument:
        raise UsageError("/file needs a file name")
    data = Path(argument).expanduser().read_bytes()
    conversation.attached.append(data.decode("utf-8", "replace").rstrip("\n"))
    console.note(f"{argument} goes with the next message")


def show_stats(conversation: Conversation, argument: str) -> None:
    if conversation.last is None:
        raise UsageError("nothing has been answered yet")
    console.note(describe(conversation.last))


def show_context(conversation: Conversation, argument: str) -> None:
    model = conversation.model
    used, total = model.timeline.session.n_tokens, model.engine.n_ctx
    console.note(f"{used} of {total} tokens used")


def clear(conversation: Conversation, argument: str) -> None:
    system = [m for m in conversation.messages[:1] if m["role"] == "system"]
    conversation.messages = system
    conversation.n_left_out = 0
    conversation.attached = []
    console.note("a new conversation")


def leave(conversation: Conversation, argument: str) -> None:
    raise Leave


SETTINGS_SHOWN = (*CHAT_SETTINGS, "think")

COMMANDS = {
    "/help": SlashCommand(show_help, "", "this list"),
    "/set": SlashCommand(change_setting, "NAME VALUE", "change a setting, as /set temp 0"),
    "/show": SlashCommand(show_settings, "", "the model and its settings"),
    "/system": SlashCommand(set_system, "[TEXT]", "set or remove the system message"),
    "/save": SlashCommand(save, "FILE", "keep the conversation"),
    "/load": SlashCommand(load, "FILE", "go on with a kept conversation"),
    "/undo": SlashCommand(undo, "", "take the last question back"),
    "/retry": SlashCommand(retry, "", "ask the last question again"),
    "/edit": SlashCommand(edit, "", "change the last question in $EDITOR and ask it"),
    "/file": SlashCommand(attach, "FILE", "send a text with the next message"),
    "/stats": SlashCommand(show_stats, "", "timings of the last answer"),
    "/ctx": SlashCommand(show_context, "", "how full the context is"),
    "/clear": SlashCommand(clear, "", "begin a new conversation"),
    "/exit": SlashCommand(leave, "", "leave; so does Ctrl-D"),
}
