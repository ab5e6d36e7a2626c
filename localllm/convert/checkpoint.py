"""A model as Hugging Face publishes it: a folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localllm.convert.json_file import kind_of, read_json
from localllm.convert.safetensors_file import Stored, read_header
from localllm.errors import IntegrityError, ModelNotFoundError
from localllm.models.sources.repository import WEIGHTS, find_checkpoint

MAX_COUNT = 1 << 24  # above any size of a model, and small enough to count up to


class Config:
    """The settings of a config.json; what is null counts as not given.

    Every getter raises IntegrityError for a value of another kind, and where one is missing.
    """

    def __init__(self, given: Mapping[str, Any], where: str = "config.json") -> None:
        self.given = {key: value for key, value in given.items() if value is not None}
        self.where = where

    def find(self, key: str) -> Any:
        return self.given.get(key)

    def require(self, key: str) -> Any:
        if key not in self.given:
            raise IntegrityError(f"{self.where} has no {key}")
        return self.given[key]

    def count(self, key: str) -> int:
        value = self.require(key)
        if type(value) is not int or not 1 <= value < MAX_COUNT:
            raise self.wrong(key, "a whole number above 0")
        return value

    def number(self, key: str) -> float:
        value = self.require(key)
        # The bound first: an int of JSON may be larger than any float.
        if type(value) not in (int, float) or not abs(value) < 1e30 or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.require(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str) -> str:
        value = self.require(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def part(self, key: str) -> Config:
        """The settings in an object under a key; none where it is not given."""
        value = self.given.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Config(value, f"{key} in {self.where}")

    def over(self, defaults: Mapping[str, Any]) -> Config:
        """These settings, and the defaults for those that are not given."""
        return Config({**defaults, **self.given}, self.where)

    def wrong(self, key: str, expected: str) -> IntegrityError:
        return IntegrityError(
            f"{key} in {self.where} is {kind_of(self.given[key])}, expected {expected}"
        )


class Checkpoint:
    """An open folder. tensors: those of all its files, by their Hugging Face names."""

    def __init__(self, folder: Path, config: Config, tensors: Mapping[str, Stored]) -> None:
        self.folder = folder
        self.config = config
        self.tensors = tensors

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a file of the folder; None where there is no such file."""
        path = self.folder / name
        return read_json(path) if path.is_file() else None


@contextlib.contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Opens every file of weights, without reading any. Raises: OSError, IntegrityError,
    ModelNotFoundError where the folder is no checkpoint."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    files = find_checkpoint(names)
    if not files:
        lacks = "config.json" if "config.json" not in names else "*.safetensors"
        raise ModelNotFoundError(f"{os.fspath(folder)!r} is no checkpoint: it has no {lacks}")
    weights = [name for name in files if name.endswith(WEIGHTS)]
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Stored] = {}
        for name in weights:
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            for tensor in read_header(folder / name, fd).values():
                if tensor.name in tensors:
                    both = f"{tensors[tensor.name].file.name} and {name}"
                    raise IntegrityError(f"the tensor {tensor.name[:100]} is in {both}")
                tensors[tensor.name] = tensor
        require_all(folder, tensors)
        yield Checkpoint(folder, Config(read_json(folder / "config.json")), tensors)


def require_all(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """An index names the file of every tensor; one that is not there is a file that is missing."""
    for path in sorted(folder.glob(f"*{WEIGHTS}.index.json")):
        listed = read_json(path).get("weight_map")
        if not isinstance(listed, dict):
            raise IntegrityError(f"{path.name} has no weight_map")
        for name, file in listed.items():
            if name not in tensors:
                raise IntegrityError(f"{name[:100]} of {str(file)[:100]!r} is not there")
