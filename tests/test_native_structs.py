"""The structs that the tests read are those of the headers, member by member.

A mirror that is out of date would still read something; here the C compiler is told where each
member should lie and how much room it takes, and refuses what is not so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import native_structs
import pytest
from conftest import ROOT
from native_structs import STRUCTS

HEADERS = ("localllm_measure.h", "format/gguf.h", "kernels/kernels.h", "model/plan.h")


def members(struct: type[ctypes.Structure]) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of every member, those of an unnamed union as C has them."""
    found = []
    for name, kind, *_ in struct._fields_:
        offset, n_bytes = getattr(struct, name).offset, ctypes.sizeof(kind)
        unnamed = name in getattr(struct, "_anonymous_", ())
        names = [inner for inner, *_ in kind._fields_] if unnamed else [name]
        found += [(each, offset, n_bytes) for each in names]
    return found


def statements(name: str, struct: type[ctypes.Structure]) -> list[str]:
    """What the C compiler is to find true of a struct."""
    said = [(f"sizeof({name}) == {ctypes.sizeof(struct)}", name)]
    for member, offset, n_bytes in members(struct):
        said.append((f"offsetof({name}, {member}) == {offset}", f"{name}.{member}"))
        said.append((f"sizeof((({name} *)0)->{member}) == {n_bytes}", f"{name}.{member}"))
    return [f'_Static_assert({truth}, "{what}");' for truth, what in said]


def compile_(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "structs.c"
    includes = ["#include <stddef.h>", *(f'#include "{header}"' for header in HEADERS)]
    source.write_text("\n".join([*includes, *lines]) + "\n")
    compiler = [os.environ.get("CC", "cc"), "-std=c11", "-fsyntax-only", "-I", str(ROOT / "native")]
    return subprocess.run([*compiler, str(source)], capture_output=True, text=True, check=False)


def test_every_struct_is_as_its_header_has_it(tmp_path: Path) -> None:
    lines = [line for name, struct in STRUCTS.items() for line in statements(name, struct)]
    compiled = compile_(lines, tmp_path)
    assert compiled.returncode == 0, compiled.stderr


def test_every_struct_is_held_against_one() -> None:
    mirrors = {
        kind
        for kind in vars(native_structs).values()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure)
    }
    assert mirrors == set(STRUCTS.values())


class MovedChunk(ctypes.Structure):
    _fields_ = (*native_structs.AttendChunk._fields_[1:], native_structs.AttendChunk._fields_[0])


class ShortError(ctypes.Structure):
    _fields_ = native_structs.Error._fields_[:-1]


@pytest.mark.parametrize(
    ("name", "struct", "said"),
    [("attend_chunk", MovedChunk, "attend_chunk.k"), ("ll_error", ShortError, "ll_error")],
)
def test_a_mirror_that_is_out_of_date_is_told(
    name: str, struct: type[ctypes.Structure], said: str, tmp_path: Path
) -> None:
    compiled = compile_(statements(name, struct), tmp_path)
    assert compiled.returncode != 0 and said in compiled.stderr
