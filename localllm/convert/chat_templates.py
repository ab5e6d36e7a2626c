"""The chat templates of a checkpoint, which may lie in four places, as GGUF metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf.constants import Keys

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.gguf_values import string, strings
from localllm.convert.json_file import kind_of
from localllm.errors import IntegrityError

KEY, MAIN = "chat_template", "default"
FOLDER = "additional_chat_templates"
MAX_BYTES = 1 << 20


def template_keys(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The main template and the named ones. Raises: OSError, IntegrityError."""
    templates = read_templates(checkpoint)
    keys = {}
    if MAIN in templates:
        keys[Keys.Tokenizer.CHAT_TEMPLATE] = string(templates.pop(MAIN))
    if templates:
        keys[Keys.Tokenizer.CHAT_TEMPLATES] = strings(list(templates))
        for name, template in templates.items():
            keys[Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name)] = string(template)
    return keys


def read_templates(checkpoint: Checkpoint) -> dict[str, str]:
    """By name, the later places before the earlier ones, as transformers has it."""
    templates: dict[str, str] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        templates |= named((checkpoint.read_json(name) or {}).get(KEY), name)
    for path in sorted((checkpoint.folder / FOLDER).glob("*.jinja")):
        templates[path.stem] = read_text(path)
    main = checkpoint.folder / f"{KEY}.jinja"
    return templates | ({MAIN: read_text(main)} if main.is_file() else {})


def named(value: Any, where: str) -> dict[str, str]:
    """One text, or a list of objects with a name and a template."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {MAIN: value}
    if isinstance(value, list) and all(is_named(entry) for entry in value):
        return {entry["name"]: entry["template"] for entry in value}
    raise IntegrityError(f"{KEY} in {where} is {kind_of(value)}, expected a text or named ones")


def is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("name", "template")
    )


def read_text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path.name} has more than {MAX_BYTES} bytes")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path.name} is not UTF-8 text (byte {error.start})") from error
