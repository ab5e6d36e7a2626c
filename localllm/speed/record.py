"""The document of a measurement: what --json prints, --save writes and --compare reads back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.engines.base import Work
from localllm.errors import IntegrityError, UsageError
from localllm.speed.cases import GENERATE, PROMPT, Case
from localllm.speed.intervals import ENOUGH, Interval, paired_ratio, unpaired_ratio
from localllm.speed.limits import Limits, middle
from localllm.speed.measure import Measured, Subject
from localllm.speed.results import Result

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile

KIND = "localllm bench"
SCHEMA_VERSION = 1
IDENTITY = ("arch", "n_params", "weight_bytes", "file_bytes")


@dataclass(frozen=True)
class Run:
    """One variant's settings and results."""

    kernels: str
    n_threads: int
    kv_k: str
    kv_v: str
    results: list[Result]

    @classmethod
    def of(cls, subject: Subject) -> Run:
        engine = subject.engine
        results = [Result(measured) for measured in subject.measured]
        return cls(engine.kernels, engine.n_threads, engine.kv_k, engine.kv_v, results)

    @property
    def limits(self) -> Limits:
        return middle(limits for result in self.results for limits in result.measured.limits)

    def __str__(self) -> str:
        threads = f"{self.n_threads} thread{'s' * (self.n_threads != 1)}"
        text = f"{self.kernels} kernels, {threads}"
        is_plain = (self.kv_k, self.kv_v) == ("f16", "f16")
        return text if is_plain else f"{text}, keys {self.kv_k}, values {self.kv_v}"

    def to_json(self) -> dict[str, Any]:
        return {
            "kernels": self.kernels,
            "n_threads": self.n_threads,
            "kv_k": self.kv_k,
            "kv_v": self.kv_v,
            "limits": vars(self.limits),
            "results": [result.to_json() for result in self.results],
        }


@dataclass(frozen=True)
class Saved:
    """What a file of --save holds that a comparison needs."""

    path: Path
    machine: dict[str, Any]
    run: Run

    @property
    def cases(self) -> list[Case]:
        return [result.measured.case for result in self.run.results]


@dataclass(frozen=True)
class Comparison:
    """Tokens per second of this run over those of another, for one case."""

    case: Case
    other: str
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        numbers = {**asdict(self.interval), "is_real": self.interval.is_real}
        return {**vars(self.case), "against": self.other, **numbers}


def describe_model(file: ModelFile) -> dict[str, Any]:
    return {"path": str(file.path), **{key: file.info[key] for key in IDENTITY}}


def document(
    name: str,
    file: ModelFile,
    machine: dict[str, Any],
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "model": {"name": name, **describe_model(file)},
        "machine": machine,
        "runs": [run.to_json() for run in runs],
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read(path: Path, file: ModelFile) -> Saved:
    """The first run of a saved file, of the model in `file`.

    Raises: UsageError where it is of another model or too short, IntegrityError where it is no
    such file or of another schema.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r} to compare with")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise IntegrityError(f"{str(path)!r} was not written by bench --save")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise IntegrityError(
            f"{str(path)!r} has schema {content.get('schema_version')}, but this localllm reads "
            f"{SCHEMA_VERSION}",
            "measure again with --save",
        )
    try:
        model, run = content["model"], read_run(content["runs"][0])
        differing = [key for key in IDENTITY if model[key] != file.info[key]]
        saved = Saved(path, {"processor": str(content["machine"]["processor"])}, run)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{str(path)!r} is damaged: {error!r}") from error
    if differing:
        key = differing[0]
        raise UsageError(
            f"{str(path)!r} is of another model: its {key} is {model[key]}, this one's is "
            f"{file.info[key]}"
        )
    if min(len(result.measured.seconds) for result in run.results) < ENOUGH:
        raise UsageError(f"{str(path)!r} has fewer than the {ENOUGH} samples an interval needs")
    return saved


def read_run(run: dict[str, Any]) -> Run:
    results = [read_result(result) for result in run["results"]]
    if not results:
        raise ValueError("no results")
    kv_k, kv_v = (str(run.get(key, "f16")) for key in ("kv_k", "kv_v"))  # what all once were
    return Run(str(run["kernels"]), int(run["n_threads"]), kv_k, kv_v, results)


def read_result(result: dict[str, Any]) -> Result:
    case = Case(str(result["kind"]), *(int(result[key]) for key in ("n_tokens", "depth", "batch")))
    samples = result["samples"]
    seconds = [float(sample["seconds"]) for sample in samples]
    limits = [Limits(**{key: float(s[key]) for key in Limits.__annotations__}) for s in samples]
    if (
        case.kind not in (PROMPT, GENERATE)
        or min(case.n_tokens, case.batch, case.depth + 1, *seconds) <= 0
    ):
        raise ValueError(f"no such case: {case}")
    return Result(Measured(case, Work(**result["work"]), seconds, limits))


def compare_saved(run: Run, saved: Saved) -> list[Comparison]:
    """A run of the same cases against the one in a file."""
    return [
        Comparison(now.measured.case, str(saved.path), unpaired_ratio(now.rates, then.rates))
        for now, then in zip(run.results, saved.run.results, strict=True)
    ]


def compare_variants(run: Run, other: Run, label: str) -> list[Comparison]:
    """Two runs whose samples were taken side by side."""
    return [
        Comparison(one.measured.case, label, paired_ratio(one.rates, two.rates))
        for one, two in zip(run.results, other.results, strict=True)
    ]
