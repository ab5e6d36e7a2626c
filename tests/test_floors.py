"""The house keeps its floors: an include or an import points down, or to another file of its own
room on the same floor, and never in a circle.

The floors are the ones of docs/architecture.md; C file names are unique, so a trace names one file.
"""

from __future__ import annotations

import ast
import ctypes
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

NATIVE = ROOT / "native"
PACKAGE = ROOT / "localllm"

# From the bottom up; folders on one floor may not include each other.
C_FLOORS: list[set[str]] = [
    {"base"},
    {"format"},
    {"kernels"},
    {"model", "text", "sample", "machine", "quantize"},
    {"device"},
    {"engine"},
    {"api.c"},
    {"python"},
]
PUBLIC_HEADERS = {"localllm.h", "localllm_measure.h", "localllm_quantize.h"}

# Folders and modules; a module that is not named belongs to its folder.
PYTHON_FLOORS: list[set[str]] = [
    {"errors", "sampling", "units", "folders", "disk", "_native"},
    {
        "engines.base",
        "engines.options",
        "memory.proc_files",
        "memory.process",
        "memory.kv_types",
        "models.quants",
        "convert.mixes",
    },
    {"engines", "models.sources"},
    {"convert"},
    {"models"},
    {"memory"},
    {"answer", "speed", "evaluate"},
    {"cli"},
    {"__init__", "__main__"},
]


def c_floor(path: str) -> int:
    head = path.split("/")[0]
    return next(i for i, names in enumerate(C_FLOORS) if head in names)


def c_files() -> list[Path]:
    return sorted([*NATIVE.rglob("*.c"), *NATIVE.rglob("*.h")])


@pytest.mark.parametrize("file", c_files(), ids=lambda f: str(f.relative_to(NATIVE)))
def test_includes_point_down(file: Path) -> None:
    here = str(file.relative_to(NATIVE))
    if here in PUBLIC_HEADERS:
        return
    for included in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE):
        if included in PUBLIC_HEADERS:
            continue
        assert (NATIVE / included).is_file(), f"{here} includes {included}, which is not there"
        same_folder = included.split("/")[0] == here.split("/")[0]
        assert same_folder or c_floor(included) < c_floor(here), f"{here} includes {included}"


def test_c_sources_call_in_no_circle(internals: ctypes.CDLL) -> None:
    """By the symbols of what the compiler made of each: who defines what, and who asks for it."""
    objects = Path(internals._name).parent / "CMakeFiles/localllm_engine.dir/native"
    built = {
        path: NATIVE / path.relative_to(objects).with_suffix("") for path in objects.rglob("*.o")
    }
    files = [str(path) for path, source in built.items() if source.is_file()]  # not a moved one's
    if not files or shutil.which("nm") is None:
        pytest.skip("no object files beside the library, or no nm to read them")
    command = ["nm", "-A", "-P", "-g", *files]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    home: dict[str, str] = {}
    asked: dict[str, set[str]] = {}
    for line in listed.splitlines():
        path, _, symbol = line.partition(": ")
        name, kind = symbol.split()[:2]
        source = str(Path(path).relative_to(objects).with_suffix(""))
        if kind == "U":
            asked.setdefault(source, set()).add(name)
        else:
            home[name] = source
    arrows = {source: {home[n] for n in names if n in home} for source, names in asked.items()}
    assert arrows["engine/engine.c"] > {"model/plan.c"}
    assert find_circle({source: to - {source} for source, to in arrows.items()}) == []


def test_only_the_module_knows_python() -> None:
    knowing = [f.parent.name for f in c_files() if "Python.h" in f.read_text()]
    assert knowing == ["python"]


def test_c_file_names_are_unique() -> None:
    counts = Counter(f.name for f in c_files())
    assert [name for name, n in counts.items() if n > 1] == []


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def python_floor(module: str) -> int:
    """That of the module or, where it is not named, of the folder it lies in."""
    parts = module.split(".")
    while parts:
        for i, names in enumerate(PYTHON_FLOORS):
            if ".".join(parts) in names:
                return i
        parts.pop()
    raise AssertionError(f"{module} is on no floor")


def imported_modules(file: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if not name.startswith("localllm."):
                continue
            parts = name.split(".")[1:]
            while parts and not exists(parts):
                parts.pop()
            if parts:
                found.add(".".join(parts))
    return found


def exists(parts: list[str]) -> bool:
    path = PACKAGE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file() or parts == ["_native"]


def room_of(module: str) -> str:
    """The folder of the package that a module lies in, "" for the modules beside the folders."""
    head = module.split(".")[0]
    return head if (PACKAGE / head).is_dir() else ""


@pytest.mark.parametrize("file", python_files(), ids=module_name)
def test_imports_point_down(file: Path) -> None:
    here = module_name(file)
    for imported in imported_modules(file):
        beside = room_of(imported) == room_of(here)
        down = python_floor(here) - python_floor(imported)
        assert down > 0 or (down == 0 and beside), f"{here} imports {imported}"


def find_circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names along a circle of the arrows, the first one again at the end; empty where none is."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(arrows.get(name, ())):
            if circle := walk(target, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(arrows) if (circle := walk(name, []))), [])


def test_python_modules_import_in_no_circle() -> None:
    """Late imports and those for types alone count as well."""
    assert find_circle({module_name(file): imported_modules(file) for file in python_files()}) == []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}, "c": set()}) == ["b", "d", "b"]


@pytest.mark.parametrize("file", python_files(), ids=module_name)
def test_only_engines_and_their_settings_import_the_native_module(file: Path) -> None:
    allowed = {"engines.native", "engines.quantizer", "sampling"}
    if "_native" in imported_modules(file):
        assert module_name(file) in allowed


@pytest.mark.parametrize("file", python_files(), ids=module_name)
def test_only_converting_imports_gguf(file: Path) -> None:
    """The package costs time and memory at the start, which whoever converts nothing saves."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if any(name.split(".")[0] == "gguf" for name in names):
            assert room_of(module_name(file)) == "convert"


def test_commands_do_not_import_each_other() -> None:
    frame = {"app", "console", "failures", "flags"}
    for file in (PACKAGE / "cli").glob("*.py"):
        verbs = {m.split(".")[1] for m in imported_modules(file) if m.startswith("cli.")}
        if file.stem == "app":
            continue
        from localllm.cli.app import COMMANDS

        commands = {row.module.rsplit(".", 1)[-1] for row in COMMANDS.values()}
        assert (verbs - frame) & commands == set(), f"{file.name} imports another command"
