"""The table of contents of the command line, and the frame every command runs in.

A command is one module with one function `command`, whose Typer annotations are its arguments and
whose docstring is its help.
Only the chosen command's module is imported, and the overview needs none of them, so that
`--help` costs no more than the interpreter. A command prints through console.py, raises what
failures.py knows, and returns nothing, or its exit code where that is not 0.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from localllm.cli import console, failures
from localllm.errors import UsageError

if TYPE_CHECKING:
    from typer.core import TyperCommand


class Command(NamedTuple):
    module: str
    summary: str


COMMANDS = {
    "pull": Command("pull", "Fetch a model and print the path of its file"),
    "run": Command("run", "Answer a prompt, or talk in the terminal"),
    "list": Command("list", "List the models that are here"),
    "show": Command("show", "Describe one model"),
    "fit": Command("fit", "Say whether a model fits this machine, and what would"),
    "rm": Command("rm", "Delete a model"),
    "tokenize": Command("tokenize", "Turn text into token ids"),
    "convert": Command("convert", "Make a GGUF file of a Hugging Face checkpoint"),
    "quantize": Command("quantize", "Write a model with other quants"),
    "doctor": Command("doctor", "Say what this machine and this installation can do"),
    "imatrix": Command("imatrix", "Measure which inputs of a model matter, for quantize"),
    "eval": Command("eval", "Measure perplexity, and what a quant loses"),
    "snapshot": Command("snapshot", "Compute a system message once, into a file for run"),
    "config": Command("config", "Show the settings, and where they come from"),
    "cache": Command("cache", "List or clear the prompts that are kept on the disk"),
    "bench": Command("bench", "Measure the speed of a model on this machine"),
}
ALIASES = {"ls": "list"}

HELP_FLAGS = ("--help", "-h", "help")


def main(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit code of the process."""
    signal.signal(signal.SIGTERM, leave_on_sigterm)
    try:
        code = dispatch(arguments)
        console.flush()
    except Exception as error:
        code = failures.report(failures.find_cause(error))
    except KeyboardInterrupt as error:
        code = failures.report(error)
    return code


def leave_on_sigterm(signal_number: int, frame: object) -> NoReturn:
    """Unwinds, so that partial files go and the terminal is restored."""
    sys.exit(128 + signal_number)


def dispatch(arguments: Sequence[str]) -> int:
    if not arguments:
        console.note(overview())
        return 2
    name, *rest = arguments
    if name in HELP_FLAGS:
        if not rest:
            console.out(overview())
            return 0
        name, rest = rest[0], ["--help"]
    return run_command(find_verb(name), rest)


def find_verb(name: str) -> str:
    verb = ALIASES.get(name, name)
    if verb in COMMANDS:
        return verb
    if name.startswith("-"):
        raise UsageError(f"no option {name!r} before a command", "localllm --help")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    raise UsageError(
        f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        "localllm --help",
    )


def overview() -> str:
    """What the program does, in one screen."""
    names = {verb: [verb] for verb in COMMANDS}
    for alias, verb in ALIASES.items():
        names[verb].append(alias)
    lines = [f"  {', '.join(names[verb]):<10} {row.summary}" for verb, row in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: localllm COMMAND [ARGUMENTS]",
            "",
            "Runs language models on this machine.",
            "",
            *lines,
            "",
            "A model is a catalog name (smollm2:135m), hf:org/repo[:QUANT], pypi:package,",
            "https://…, or a path to a GGUF file. A unique prefix of a name is enough.",
            "",
            "localllm COMMAND --help  tells more about one command",
            "localllm --version       prints the version",
        ]
    )


def run_command(verb: str, arguments: Sequence[str]) -> int:
    """Parses with Typer and calls the command. Typer's own main() would map errors itself."""
    import typer

    from localllm.cli import origins, settings

    parser = make_parser(verb)
    file = settings.read(COMMANDS) if settings.settings_of(parser) else settings.Settings()
    said = settings.defaults(file, verb, parser)
    try:
        with parser.make_context(f"localllm {verb}", list(arguments), default_map=said) as context:
            context.obj = origins.find(
                file, verb, parser, context.get_parameter_source, context.params
            )
            with context.obj.told():
                code = parser.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    except typer.TyperException as error:
        raise UsageError(error.format_message(), f"localllm {verb} --help") from error
    return code if isinstance(code, int) else 0


def make_parser(verb: str) -> TyperCommand:
    """A command's arguments, as its module declares them."""
    import typer
    from typer.core import TyperCommand

    from localllm.cli import groups

    module = importlib.import_module(f"localllm.cli.{COMMANDS[verb].module}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    help_names = {"help_option_names": ["-h", "--help"]}
    app.command(name=verb, context_settings=help_names)(groups.spread(module.command))
    parser = typer.main.get_command(app)
    assert isinstance(parser, TyperCommand)
    return parser
