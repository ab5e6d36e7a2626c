"""The user's config file: what it may say, whom it holds for, and what is said of its mistakes."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from localllm.cli import app, groups, settings
from localllm.cli.flags import option

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "LSAN_OPTIONS")
PATIENCE = 30

Ran = subprocess.CompletedProcess[str]
Call = Callable[..., Ran]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the config file of a user of their own lies, once it is written."""
    path = tmp_path / ".config" / "localllm" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path)}


@pytest.fixture
def call(environment: dict[str, str], scripts: dict[str, Path], tmp_path: Path) -> Call:
    """Runs the program; `@name` among the arguments is the file of a scripted model."""
    places = {f"@{name}": str(path) for name, path in scripts.items()}

    def called(*arguments: str, **variables: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "localllm", *(places.get(a, a) for a in arguments)],
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return called


def answer(call: Call, *flags: str, **variables: str) -> str:
    ran = call("run", "@paris", "q", *flags, **variables)
    assert (ran.stderr, ran.returncode) == ("", 0)
    return ran.stdout


def shown(call: Call, **variables: str) -> dict[str, tuple[object, str]]:
    """The value and the origin of every setting."""
    ran = call("config", "--json", **variables)
    assert (ran.stderr, ran.returncode) == ("", 0)
    return {
        row["name"]: (row["value"], row["origin"]) for row in json.loads(ran.stdout)["settings"]
    }


# ---- who has the last word -----------------------------------------------------------------------


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    call: Call, file: Path
) -> None:
    assert answer(call) == "The capital is Paris\u00e9.\n"
    file.write_text("max-tokens = 3")
    assert answer(call) == "The capital is\n"
    assert answer(call, LOCALLLM_MAX_TOKENS="2") == "The capital\n"
    assert answer(call, "-n", "1", LOCALLLM_MAX_TOKENS="2") == "The\n"


def test_a_commands_table_goes_before_the_top_and_holds_for_it_alone(
    call: Call, file: Path
) -> None:
    file.write_text("ctx = 64\nmax-tokens = 1\n[run]\nmax-tokens = 2\n[fit]\nctx = 128\n")
    report = json.loads(answer(call, "--json"))
    assert (report["n_ctx"], report["n_generated"]) == (64, 2)
    assert json.loads(call("fit", "@paris", "--json").stdout)["n_ctx"] == 128


def test_a_switch_of_the_file_is_undone_for_once_by_its_variable(call: Call, file: Path) -> None:
    file.write_text("strict = true")
    assert call("run", "@paris", "q", "-n", "1").returncode == 8
    assert answer(call, "-n", "1", LOCALLLM_STRICT="0") == "The\n"


def test_values_are_read_as_those_of_flags(call: Call, file: Path) -> None:
    file.write_text(
        'budget = "2GiB"\nctx = "0.25k"\nthreads = 1\ntemp = 1\ntop-p = 0.5\nthink = "off"\n'
        'stop = ["a", " b"]\noffline = true\nquiet = false\n[run]\nstop = "c"\n'
    )
    found = shown(call)
    assert {name: value for name, (value, origin) in found.items() if origin == "file"} == {
        "budget": 2 << 30,
        "ctx": 256,
        "threads": 1,
        "temp": 1.0,
        "top-p": 0.5,
        "think": "off",
        "stop": ["a", " b"],
        "offline": True,
        "quiet": False,
        "run.stop": ["c"],
    }


def test_an_editor_of_another_system_wrote_it(call: Call, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfmax-tokens = 1\r\n")
    assert answer(call) == "The\n"


def test_xdg_config_home(call: Call, tmp_path: Path, file: Path) -> None:
    file.write_text("max-tokens = 1")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "localllm").mkdir(parents=True)
    (elsewhere / "localllm" / "config.toml").write_text("max-tokens = 2")
    assert answer(call) == "The\n"
    assert answer(call, XDG_CONFIG_HOME=str(elsewhere)) == "The capital\n"
    assert answer(call, XDG_CONFIG_HOME="elsewhere") == "The\n"


# ---- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["no-prefix-cache = true", "[run]\nno-prefix-cache = true"])
def test_one_line_keeps_prompts_off_the_disk(
    call: Call, file: Path, tmp_path: Path, line: str
) -> None:
    arguments = ("run", "@paris", "x" * 300)
    file.write_text(line)
    assert call(*arguments).returncode == 0
    assert not (tmp_path / ".cache").exists()
    assert call(*arguments, LOCALLLM_NO_PREFIX_CACHE="0").returncode == 0
    assert len(list((tmp_path / ".cache").rglob("*.kv"))) == 4


def test_one_line_is_a_budget_and_named_where_it_binds(call: Call, file: Path) -> None:
    file.write_text('budget = "50M"\n')
    place = f"budget in '{file}' leaves 50.0 MiB"
    ran = call("run", "@endless", "q", "-c", "131072")
    assert ran.returncode == 7
    assert ran.stderr.startswith("error: this needs ") and place in ran.stderr.splitlines()[0]
    ran = call("fit", "@endless", "-c", "131072")
    assert ran.returncode == 7 and f"which {place.removesuffix(' 50.0 MiB')}" in ran.stdout
    ran = call("run", "@endless", "q", "-c", "131072", LOCALLLM_BUDGET="60M")
    assert ran.returncode == 7 and "but LOCALLLM_BUDGET leaves 60.0 MiB" in ran.stderr
    ran = call("run", "@endless", "q", "-c", "131072", "--budget", "70M")
    assert ran.returncode == 7 and "but --budget leaves 70.0 MiB" in ran.stderr
    assert answer(call, "-c", "64", "-n", "1", LOCALLLM_BUDGET="1G") == "The\n"


# ---- mistakes ------------------------------------------------------------------------------------

# What the file holds, and the sentence; {file} is its path.
MISTAKES = {
    "not toml": ("\nbudget = \n", "'{file}' is not TOML: Invalid value (at line 2, column 10)"),
    "twice": ("seed = 1\nseed = 2", "'{file}' is not TOML: Cannot overwrite a value"),
    "deep": ("a = " + "[" * 5000, "'{file}' is not TOML: "),
    "not utf-8": (b"system = '\xff'", "'{file}' is not UTF-8 text (byte 10)"),
    "unknown": ("bugdet = 1", "'bugdet' in '{file}' is no setting; did you mean 'budget'?"),
    "underscores": ("top_k = 1", "'top_k' in '{file}' is no setting; did you mean 'top-k'?"),
    "nothing near": ("xyzzy = 1", "'xyzzy' in '{file}' is no setting"),
    "of one command line": ("json = true", "'json' in '{file}' is no setting"),
    "unknown command": ("[runs]", "'[runs]' in '{file}' is no command; did you mean 'run'?"),
    "unknown in a table": (
        "[run]\nthread = 1",
        "'thread' of [run] in '{file}' is no setting of run; did you mean 'threads'?",
    ),
    "of one command line in a table": (
        "[run]\nraw = true",
        "'raw' of [run] in '{file}' is no setting of run",
    ),
    "command as a setting": ("run = true", "'run' in '{file}' is no setting"),
    "text for a switch": (
        'offline = "yes"',
        "offline in '{file}' is \"yes\", expected true or false",
    ),
    "number for a switch": ("quiet = 1", "quiet in '{file}' is 1, expected true or false"),
    "switch for a number": (
        "threads = true",
        "threads in '{file}' is true, expected a text or a number",
    ),
    "list": ("seed = [1]", "seed in '{file}' is [1], expected a text or a number"),
    "list of lists": ("stop = [[]]", "stop in '{file}' is [[]], expected a text or a number"),
    "date": ("seed = 2000-01-01", "seed in '{file}' is \"2000-01-01\", expected a text or"),
    "digits": ("seed = 0x" + "f" * 5000, "seed in '{file}': Exceeds the limit"),
    "digits for a switch": ("quiet = 0x" + "f" * 5000, "quiet in '{file}': Exceeds the limit"),
    "size": ('budget = "big"', "budget in '{file}': 'big' is not a size such as 512M, 2G"),
    "count": ("threads = -1", "threads in '{file}': '-1' is not a count such as 512 or 4k"),
    "number": ('temp = "warm"', "temp in '{file}': 'warm' is not a valid float"),
    "choice": (
        '[run]\noverflow = "half"',
        "overflow of [run] in '{file}': 'half' is not one of 'error', 'shift'",
    ),
    "range": (
        "temp = -1",
        "temperature is -1.0, but must lie between 0 and 100 (temp in '{file}')",
    ),
    "zero": ("ctx = 0", "ctx is 0, but must be at least 1 (ctx in '{file}')"),
    "deadline": ("deadline = 0", "deadline in '{file}' is 0, but must be a positive number"),
    "type of keys": (
        'cache-type-k = "q9"',
        "no type \"q9\" of keys and values; there are f16, q8_0, q4_0 (cache-type-k in '{file}')",
    ),
    "kernels": ('kernels = "mmx"', 'no kernels "mmx" on this processor; it has '),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_with_its_place_and_exit_2(
    call: Call, file: Path, name: str
) -> None:
    text, sentence = MISTAKES[name]
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = call("run", "@paris", "q")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: " + sentence.format(file=file))
    assert str(file) in ran.stderr and ran.stderr.count("\n") == 1


def test_what_does_not_go_with_a_flag_names_the_file(call: Call, file: Path) -> None:
    file.write_text('system = "Be brief."')
    ran = call("run", "@paris", "q", "--raw")
    assert ran.returncode == 2
    assert ran.stderr == (
        f"error: system in '{file}' needs the chat template, which --raw leaves out\n"
    )
    ran = call("run", "@paris", "q", "--raw", "--system", "x")
    assert ran.stderr == "error: --system needs the chat template, which --raw leaves out\n"


def test_an_error_that_has_nothing_to_do_with_the_file_leaves_it_out(
    call: Call, file: Path
) -> None:
    file.write_text('budget = "2G"\nsystem = ""\nquiet = true\nthreads = 1\nmin-p = 1\n')
    ran = call("run", "@paris")
    assert ran.stderr == "error: there is no prompt, neither in the arguments nor on stdin\n"
    ran = call("run", "@paris", "q", "--temp", "-1")
    assert ran.stderr == "error: temperature is -1.0, but must lie between 0 and 100\n"
    ran = call("run", "@paris", "q", "--ctx", "0")
    assert ran.stderr == "error: ctx is 0, but must be at least 1\n"


def test_a_file_that_cannot_be_read_is_said(call: Call, file: Path) -> None:
    file.mkdir()
    ran = call("run", "@paris", "q")
    assert (ran.returncode, ran.stderr) == (1, f"error: '{file}': Is a directory\n")


def test_a_command_answers_for_what_it_reads_and_config_for_all(call: Call, file: Path) -> None:
    file.write_text("[bench]\nseed = 1\n[run]\nmax-tokens = 1\n")
    assert answer(call) == "The\n"
    for verb in ("list", "doctor"):
        assert call(verb, "--json").returncode == 0
    ran = call("config")
    assert ran.returncode == 2
    assert ran.stderr == f"error: 'seed' of [bench] in '{file}' is no setting of bench\n"


# ---- localllm config -----------------------------------------------------------------------------


def test_config_shows_values_and_where_they_come_from(call: Call, file: Path) -> None:
    file.write_text('budget = "6G"\nthreads = 2\nsystem = "a\\nb"\n[run]\ntemp = 0.5\n')
    ran = call("config", "--show-origin", LOCALLLM_THREADS="3")
    assert (ran.stderr, ran.returncode) == ("", 0)
    header, *lines = (line.split(maxsplit=2) for line in ran.stdout.splitlines())
    assert header == ["SETTING", "VALUE", "ORIGIN"]
    assert [line[0] for line in lines] == [*settings.SETTINGS, "run.temp"]
    rows = {line[0]: line[1:] for line in lines}
    assert rows["budget"] == ["6G", str(file)]
    assert rows["threads"] == ["3", "LOCALLLM_THREADS"]
    assert rows["system"] == ["'a\\nb'", str(file)]
    assert rows["temp"] == ["-", "default"]
    assert rows["run.temp"] == ["0.5", str(file)]
    assert rows["overflow"] == ["error", "default"]
    assert rows["quiet"] == ["false", "default"]
    plain = call("config", LOCALLLM_THREADS="3").stdout.splitlines()
    assert [line.split() for line in plain[:2]] == [["SETTING", "VALUE"], ["threads", "3"]]


def test_the_json_of_config(call: Call, file: Path) -> None:
    assert json.loads(call("config", "--json").stdout)["path"] is None
    file.write_text('budget = "6G"\n')
    document = json.loads(call("config", "--json", LOCALLLM_SEED="7").stdout)
    assert (document["schema_version"], document["path"]) == (1, str(file))
    rows = {row.pop("name"): row for row in document["settings"]}
    assert rows["budget"] == {
        "value": 6 << 30,
        "origin": "file",
        "variable": "LOCALLLM_BUDGET",
    }
    assert (rows["seed"]["value"], rows["seed"]["origin"]) == (7, "environment")
    assert (rows["ctx"]["value"], rows["ctx"]["origin"]) == (None, "default")


def test_config_names_a_variable_that_it_cannot_read(call: Call) -> None:
    ran = call("config", LOCALLLM_BUDGET="big")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: LOCALLLM_BUDGET: 'big' is not a size")


def test_the_path_of_the_file_whether_it_is_there_or_broken(call: Call, file: Path) -> None:
    assert call("config", "--path").stdout == f"{file}\n"
    file.write_text("=")
    ran = call("config", "--path")
    assert (ran.stdout, ran.returncode) == (f"{file}\n", 0)


# ---- the table of settings -----------------------------------------------------------------------


@pytest.mark.parametrize("key", settings.SETTINGS)
def test_a_setting_is_a_flag_of_a_command_and_has_its_variable(key: str) -> None:
    having = [verb for verb in app.COMMANDS if key in settings.settings_of(app.make_parser(verb))]
    assert having
    assert key not in app.COMMANDS, "a table and a value cannot share a name"


def test_a_flag_whose_variable_has_another_name_is_another_thing() -> None:
    for verb, key in (("eval", "ctx"), ("imatrix", "ctx"), ("snapshot", "system")):
        parser = app.make_parser(verb)
        assert key in settings.flags_of(parser) and key not in settings.settings_of(parser)


def test_what_reads_writes_deletes_or_is_for_programs_is_no_setting() -> None:
    apart = {"json", "yes", "force", "out", "file", "text", "save", "merge", "dry-run", "snapshot"}
    flags = {flag for verb in app.COMMANDS for flag in settings.flags_of(app.make_parser(verb))}
    assert apart <= flags
    assert not apart & set(settings.SETTINGS)


# ---- what it costs, and nowhere to look for it ---------------------------------------------------


def imported(environment: dict[str, str], *arguments: str) -> set[str]:
    code = (
        "import sys; from localllm.__main__ import main; main();"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return set(ran.stderr.splitlines())


def test_without_a_file_nothing_is_imported_for_it(environment: dict[str, str], file: Path) -> None:
    arguments = ("cache", "ls")
    assert "tomllib" not in imported(environment, *arguments)
    file.write_text("")
    assert "tomllib" in imported(environment, *arguments)
    assert "localllm.cli.settings" not in imported(environment, "--help")


HOMELESS = """
import pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from localllm.__main__ import main
sys.exit(main())
"""


def test_a_user_without_a_home_has_no_file(
    environment: dict[str, str], scripts: dict[str, Path], tmp_path: Path
) -> None:
    """As in a container whose user is a mere number."""
    del environment["HOME"]
    environment |= {"XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}

    def call(*arguments: str, **variables: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-c", HOMELESS, *arguments],
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    run = ("run", str(scripts["paris"]), "q")
    assert (call(*run).stdout, call(*run).returncode) == ("The capital is Paris\u00e9.\n", 0)
    assert json.loads(call("config", "--json").stdout)["path"] is None
    ran = call("config", "--path")
    assert ran.returncode == 2
    assert ran.stderr == "error: there is no home folder, and XDG_CONFIG_HOME names no other\n"
    folder = tmp_path / "config" / "localllm"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("max-tokens = 1")
    assert call(*run, XDG_CONFIG_HOME=str(folder.parent)).stdout == "The\n"


# ---- groups of flags -----------------------------------------------------------------------------


class Colours(groups.Group):
    """A group: the first of its flags has a default that is not None."""

    red: Annotated[int, option("--red", help="How red.")] = 7
    green: Annotated[str | None, option("--green", help="How green.")] = None


def test_a_group_stands_in_a_command_as_its_flags() -> None:
    def command(first: int = 1, *, colours: Colours, last: bool = False) -> Any:
        """Help."""
        return first, colours, last

    shown = groups.spread(command)
    assert list(inspect.signature(shown).parameters) == ["first", "red", "green", "last"]
    assert shown.__doc__ == "Help."
    values = {"first": 2, "red": 3, "green": "x", "last": True}
    first, colours, last = shown(**values)
    assert (first, vars(colours), last) == (2, {"red": 3, "green": "x"}, True)


def test_a_group_without_flags_given_has_its_defaults() -> None:
    parser = app.make_parser("run")
    context = parser.make_context("run", ["model"], default_map={})
    found = {name: context.params[name] for name in ("temperature", "kv_k", "seed", "quiet")}
    assert found == {"temperature": None, "kv_k": None, "seed": None, "quiet": False}
