"""The example at the top of localllm.h compiles as it stands there, and answers as Python does."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

import localllm

N_TOKENS = 32  # that the example's session holds at most
HEADERS = sorted((ROOT / "native").glob("localllm*.h"))


def example() -> str:
    """The lines of the header's first comment that are indented by three more."""
    comment = (ROOT / "native/localllm.h").read_text().split("*/")[0]
    return "\n".join(re.findall(r"^ \*   (.+)$", comment, re.MULTILINE))


def compile_(source: str, folder: Path, *flags: str) -> None:
    (folder / "main.c").write_text(source)
    compiler = [os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    where = ["-I", str(ROOT / "native"), str(folder / "main.c")]
    subprocess.run([*compiler, *where, *flags], check=True)


@pytest.mark.parametrize("script", ["paris", "endless"])
def test_the_example_answers(
    internals: ctypes.CDLL, scripts: dict[str, Path], script: str, tmp_path: Path
) -> None:
    asked = "What is it?\\n"  # the scripts answer behind a newline
    code = example()
    assert code.count('"The sky is"') == 1
    code = code.replace("The sky is", asked)
    source = f"""
#include "localllm.h"
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {{
    if (argc != 2) return 1;
    const char *path = argv[1];
{code}
    return ok ? 0 : 1;
}}
"""
    library = Path(internals._name)
    linked = [str(library), f"-Wl,-rpath,{library.parent}", "-o", str(tmp_path / "example")]
    compile_(source, tmp_path, *linked)
    command = [str(tmp_path / "example"), str(scripts[script])]
    said = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    with localllm.load(scripts[script], ctx=512) as model:
        prompt = asked.replace("\\n", "\n")
        n_prompt = len(model.file.tokenize(prompt, add_special=True))
        greedy = localllm.Sampling(temperature=0)
        answer = model.generate(prompt, greedy, max_tokens=N_TOKENS - n_prompt + 1)
        assert said == "".join(answer) and said


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_every_public_header_stands_alone(header: Path, tmp_path: Path) -> None:
    source = f'#include "{header.name}"\nint main(void) {{ return 0; }}\n'
    compile_(source, tmp_path, "-fsyntax-only")
