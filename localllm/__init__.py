"""localllm: run language models on this machine, from Python as from the command line.

    import localllm

    with localllm.load("smollm2:135m") as model:
        for text in model.chat([{"role": "user", "content": "What is the capital of France?"}]):
            print(text, end="", flush=True)

The public names are imported when they are first used, so that `import localllm` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm import errors
    from localllm.answer.model import Answer, Model, load
    from localllm.sampling import Sampling

__version__ = "0.1.0"
__all__ = ["Answer", "Model", "Sampling", "errors", "load"]

HOMES = {
    "Answer": "answer.model",
    "Model": "answer.model",
    "load": "answer.model",
    "Sampling": "sampling",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("localllm.errors")
    if name in HOMES:
        return getattr(importlib.import_module(f"localllm.{HOMES[name]}"), name)
    raise AttributeError(f"module 'localllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
