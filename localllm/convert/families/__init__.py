"""The families whose checkpoints can be converted: those that the engine runs."""

from __future__ import annotations

from localllm.convert.checkpoint import Config
from localllm.convert.families import gemma3, llama, qwen2, qwen3
from localllm.convert.families.family import Family
from localllm.errors import IntegrityError

FAMILIES = (llama.FAMILY, qwen2.FAMILY, qwen3.FAMILY, gemma3.FAMILY)


def find_family(config: Config) -> Family:
    """The family of a config.json. Raises: IntegrityError."""
    classes = config.find("architectures")
    if not isinstance(classes, list) or len(classes) != 1 or not isinstance(classes[0], str):
        raise IntegrityError(f"{config.where} names no one model class in architectures")
    for family in FAMILIES:
        if classes[0] in family.classes:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.classes)
    raise IntegrityError(f"the model class {classes[0][:60]!r} is not supported; known are {known}")
