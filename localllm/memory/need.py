"""What a run needs: every component with its bytes, what kind they are, and what is here already.

The engine's own plan, which its allocator reads too, says most of it; the rest is this process
itself. Reserved is address space; touched is what will be resident once the context has been full.
Nothing but a model's header is read, so a need costs the same for 100 MB as for 100 GB.
"""

from __future__ import annotations

import enum
import mmap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.memory import process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localllm.engines.base import ModelFile
    from localllm.engines.options import EngineOptions
    from localllm.memory.process import Usage

MIB = 1 << 20

# What a run adds to its process behind the moment it opens its model: the template's modules, the
# text, the objects that hold the answer. Measured with CPython 3.11.
GROWTH_ANONYMOUS_BYTES = 17 * MIB // 4
GROWTH_FILE_BYTES = 5 * MIB
GROWTH_RESERVED_BYTES = 9 * MIB // 2
TOKEN_BYTES = 48  # of every token in the context: its number, and its place in two lists
STACK_TOUCHED_BYTES = 16 * 1024  # of a thread that computes
STACK_BYTES = 1 * MIB  # as threads.c sets it
# The kernel maps this much of a file around a page that is asked for, if it is in memory anyway.
FAULT_BYTES = 64 * 1024


WEIGHTS = "weights"  # the component that another quant changes


class Kind(enum.StrEnum):
    anonymous = "anonymous"  # this process's alone; stays until it is given back
    file = "file"  # pages of a file: shared, and dropped where memory is short
    device = "device"  # in a device's own memory, and nowhere in the host's


@dataclass(frozen=True)
class Component:
    """One part of a need. here: the bytes of it that the process has already."""

    name: str
    kind: Kind
    reserved_bytes: int
    touched_bytes: int
    here_bytes: int = 0


@dataclass(frozen=True)
class Need:
    """What a run with a context of n_ctx takes on n_threads threads."""

    components: tuple[Component, ...]
    n_ctx: int
    n_threads: int

    def select(self, kind: Kind | None) -> list[Component]:
        """The components of a kind; None: of every kind that is the host's memory."""
        if kind is None:
            return [c for c in self.components if c.kind is not Kind.device]
        return [c for c in self.components if c.kind is kind]

    def touched(self, kind: Kind | None = None) -> int:
        """Resident bytes of the whole process."""
        return sum(c.touched_bytes for c in self.select(kind))

    def missing_bytes(self, kind: Kind | None = None) -> int:
        """Resident bytes that the process does not have yet."""
        return sum(max(0, c.touched_bytes - c.here_bytes) for c in self.select(kind))

    def missing_address_space(self) -> int:
        """Anonymous address space that the process does not have yet."""
        return sum(max(0, c.reserved_bytes - c.here_bytes) for c in self.select(Kind.anonymous))

    def with_parts(self, parts: Iterable[Component]) -> Need:
        """The same run with something beside the engine."""
        return replace(self, components=(*self.components, *parts))

    def with_weights(self, n_bytes: int) -> Need:
        """The same run with other quants, whose weights have so many bytes. A device with memory of
        its own has a copy of them there."""
        more = n_bytes - sum(c.reserved_bytes for c in self.components if c.name == WEIGHTS)

        def resize(part: Component) -> Component:
            if part.name == WEIGHTS:
                return replace(part, reserved_bytes=n_bytes, touched_bytes=n_bytes)
            if part.kind is Kind.device:
                return device_memory(max(0, part.reserved_bytes + more))
            return part

        return replace(self, components=tuple(resize(part) for part in self.components))


@dataclass(frozen=True)
class Extent:
    """How far a run uses what it reserved: positions of the context, rows of its largest step."""

    n_positions: int
    n_rows: int


def need_of(
    file: ModelFile,
    options: EngineOptions,
    before: Usage | None = None,
    extent: Extent | None = None,
) -> Need:
    """What a run of this file with these options takes.

    before: this process before it opened the file; None: a typical one. extent: None: all of it.
    """
    before = before or process.TYPICAL
    plan = used = filled = file.plan(options)
    if extent is not None:
        # What layers with a window keep depends on the largest step that could come.
        short = replace(options, n_ctx=max(1, min(plan.n_ctx, extent.n_positions)))
        filled = file.plan(short)
        used = file.plan(replace(short, n_batch=max(1, extent.n_rows)))
    info = file.info
    header_bytes = whole_pages(max(0, info["file_bytes"] - plan.weight_bytes))
    anonymous, mapped = Kind.anonymous, Kind.file
    return Need(
        (
            Component(WEIGHTS, mapped, plan.weight_bytes, touched_weights(info, used.n_ctx)),
            Component("metadata", mapped, header_bytes, header_bytes, header_bytes),
            Component("kv cache", anonymous, plan.kv_bytes, filled.kv_bytes),
            # One block at a time is on its way to the saved prefixes, or from there.
            Component("kv copy", anonymous, plan.block_bytes, plan.block_bytes),
            Component("scratch", anonymous, plan.scratch_bytes, used.scratch_touched_bytes),
            Component("logits", anonymous, plan.logits_bytes, plan.logits_bytes),
            Component("tables", anonymous, plan.tables_bytes, used.tables_bytes),
            whole("tokenizer", anonymous, plan.tokenizer_bytes),
            stacks(plan.n_threads),
            Component(
                "interpreter",
                anonymous,
                before.anonymous_bytes + GROWTH_RESERVED_BYTES + plan.n_ctx * TOKEN_BYTES,
                before.anonymous_bytes + GROWTH_ANONYMOUS_BYTES + used.n_ctx * TOKEN_BYTES,
                before.anonymous_bytes,
            ),
            Component(
                "libraries",
                mapped,
                before.file_bytes + GROWTH_FILE_BYTES,
                before.file_bytes + GROWTH_FILE_BYTES,
                before.file_bytes,
            ),
            *([device_memory(plan.device_bytes)] if plan.device_bytes else []),
        ),
        plan.n_ctx,
        plan.n_threads,
    )


def whole_pages(n_bytes: int) -> int:
    return -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def whole(name: str, kind: Kind, n_bytes: int) -> Component:
    """A component that is here and in use, all of it."""
    return Component(name, kind, n_bytes, n_bytes, n_bytes)


def touched_weights(info: dict[str, int], n_positions: int) -> int:
    """All that a token reads; of an embedding that is not the head too, the rows that are used."""
    embedding_bytes = info["weight_bytes"] - info["token_bytes"]
    return info["token_bytes"] + min(embedding_bytes, n_positions * FAULT_BYTES)


def device_memory(n_bytes: int) -> Component:
    """What an engine takes of its device's own memory, all of it when it opens."""
    return Component("device memory", Kind.device, n_bytes, n_bytes)


def stacks(n_threads: int) -> Component:
    """The stacks of the engine's threads; the first of them is the caller's."""
    return Component(
        "stacks", Kind.anonymous, (n_threads - 1) * STACK_BYTES, n_threads * STACK_TOUCHED_BYTES
    )
