"""Multiple choice: which of the answers a model finds likeliest behind a question.

A file has one JSON object a line: "question" (text), "choices" (texts), "answer" (its index).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from localllm.errors import UsageError
from localllm.evaluate.perplexity import log_softmax

if TYPE_CHECKING:
    from localllm.engines.base import Engine, ModelFile
    from localllm.evaluate.texts import Progress


@dataclass(frozen=True)
class Task:
    question: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class Accuracy:
    """Shares of the tasks answered right, by the sum of the log-probabilities, and by that sum per
    byte of the choice; each with its standard error."""

    summed: float
    summed_error: float
    per_byte: float
    per_byte_error: float
    n_tasks: int


def read(path: Path) -> list[Task]:
    """Raises: UsageError, which names the line; OSError."""
    tasks = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            tasks.append(task_of(json.loads(line)))
        except ValueError as error:
            raise UsageError(f"{os.fspath(path)!r}, line {number}: {error}") from error
    if not tasks:
        raise UsageError(f"{os.fspath(path)!r} has no tasks")
    return tasks


def task_of(row: Any) -> Task:
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    question, choices, answer = (row.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question:
        raise ValueError('"question" must be a text')
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError('"choices" must be a list of two or more texts')
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError('"choices" must be texts that are not empty')
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f'"answer" must be from 0 to {len(choices) - 1}')
    return Task(question, choices, answer)


def measure(
    file: ModelFile, engine: Engine, tasks: list[Task], progress: Progress | None = None
) -> Accuracy:
    """Raises: ContextFullError, EngineError, InterruptedByUserError."""
    summed = per_byte = 0
    for done, task in enumerate(tasks):
        scores = score(file, engine, task)
        n_bytes = np.array([len(choice.encode()) for choice in task.choices])
        summed += int(scores.argmax()) == task.answer
        per_byte += int((scores / n_bytes).argmax()) == task.answer
        if progress:
            progress(done + 1, len(tasks))
    n = len(tasks)
    return Accuracy(summed / n, spread(summed, n), per_byte / n, spread(per_byte, n), n)


def spread(right: int, n: int) -> float:
    share = right / n
    return math.sqrt(share * (1 - share) / max(n - 1, 1))


def score(file: ModelFile, engine: Engine, task: Task) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The log-probability of each choice behind the question and a space, in nats."""
    session = engine.session()
    question = file.tokenize(task.question, add_special=True)
    scores = np.zeros(len(task.choices))
    for i, choice in enumerate(task.choices):
        text = choice if choice[0].isspace() or task.question[-1].isspace() else " " + choice
        ids = file.tokenize(text)
        everything = [*question, *ids]
        # What is computed of the question is not computed again; its last token is, for what it
        # says comes next.
        held = session.reuse(question[:-1])
        for start in range(held, len(everything) - 1, engine.n_batch):
            rows = everything[start : min(start + engine.n_batch, len(everything) - 1)]
            end = start + len(rows)
            n_kept = min(len(rows), max(0, end - (len(question) - 1)))
            engine.step([(session, rows, n_kept)])
            following = everything[end - n_kept + 1 : end + 1]
            if n_kept:
                with engine.logits() as kept:
                    log_p = log_softmax(np.frombuffer(kept, np.float32).reshape(n_kept, -1))
                scores[i] += log_p[np.arange(n_kept), following].sum()
    session.close()
    return scores
