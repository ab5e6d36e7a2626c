"""The weights of a checkpoint under their GGUF names, folded so that the forward pass stays plain.

Nothing is read but scales and the norms that change; rows go from file to file through the native
quantizer. What is computed here (norms, factors of RoPE) lies in a temporary file meanwhile, so
that all tensors come from files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, NamedTuple

from gguf.constants import MODEL_TENSOR as Kind

from localllm.convert.checkpoint import MAX_COUNT, Checkpoint, Config
from localllm.convert.families.family import Family, n_kv_heads
from localllm.convert.safetensors_file import Stored
from localllm.convert.tensor_names import (
    HEAD,
    HEADS,
    ROPE_FACTORS,
    TensorName,
    find_name,
    name_map,
)
from localllm.engines.quantizer import TensorSource
from localllm.errors import IntegrityError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

F8 = "F8_E4M3"
READABLE = ("F32", "F16", "BF16", F8)
SCALES = (".weight_scale_inv", ".weight_scale")
# What goes with 8-bit activations and caches, which this engine does not have.
UNUSED = re.compile(r".*(\.(input|output|activation)_scale|\.[kv]_scale|rotary_emb\.inv_freq)")


class Weight(NamedTuple):
    """A tensor on its way. dims: GGUF's order, the row first."""

    name: str
    dims: tuple[int, ...]
    source: TensorSource


def map_weights(
    checkpoint: Checkpoint, family: Family, config: Config, factors: Floats | None, spare: IO[bytes]
) -> list[Weight]:
    """Every weight of the model in the order of its file. spare: takes what is computed.

    Raises: IntegrityError for a tensor that has no place, or is stored in another way.
    """
    names = name_map(family.arch)
    named: dict[str, tuple[TensorName, Stored]] = {}
    for stored in checkpoint.tensors.values():
        if is_left_out(stored.name, family) or stored.name.endswith(SCALES):
            continue
        name = find_name(stored.name, names)
        if name is None:
            raise IntegrityError(
                f"the tensor {stored.name[:100]} has no place in a {family.arch} model"
            )
        if str(name) in named:
            other = named[str(name)][1]
            raise IntegrityError(f"{other.name[:100]} and {stored.name[:100]} are both {name}")
        named[str(name)] = name, stored
    if shares_head(config, str(HEAD) in named):
        named.pop(str(HEAD), None)
    weights = [
        make_weight(name, stored, checkpoint.tensors, family, config, spare)
        for name, stored in sorted(named.values(), key=lambda pair: pair[0].place)
    ]
    if factors is not None:
        weights.append(Weight(str(ROPE_FACTORS), (factors.size,), put_aside(factors, spare)))
    return weights


def is_left_out(name: str, family: Family) -> bool:
    return UNUSED.fullmatch(name) is not None or is_foreign(name, family)


def is_foreign(name: str, family: Family) -> bool:
    """Whether a weight belongs to what sees or hears, beside the text model."""
    return name.removeprefix("model.").startswith(family.left_out) if family.left_out else False


def shares_head(config: Config, has_head: bool) -> bool:
    """Whether the embedding is the head too; a file that does not say so shares it if it must."""
    key = "tie_word_embeddings"
    if config.find(key) is None:
        return not has_head
    shares = config.flag(key)
    if not shares and not has_head:
        raise IntegrityError(f"{config.where} has {key} false, but {HEADS[0]} is not there")
    return shares


def make_weight(
    name: TensorName,
    stored: Stored,
    tensors: Mapping[str, Stored],
    family: Family,
    config: Config,
    spare: IO[bytes],
) -> Weight:
    if stored.dtype not in READABLE:
        raise IntegrityError(
            f"{stored.name[:100]} is stored as {stored.dtype[:20]}, expected one of "
            f"{', '.join(READABLE)}"
        )
    if not 1 <= len(stored.shape) <= 2 or 0 in stored.shape:
        raise IntegrityError(
            f"{stored.name[:100]} has shape {list(stored.shape)}, expected rows and columns"
        )
    dims = stored.shape[::-1]
    if family.norm_offset and name.is_norm and name.suffix == "weight":
        return Weight(str(name), dims, put_aside(read_floats(stored) + family.norm_offset, spare))
    n_rows = dims[1] if len(dims) == 2 else 1
    row_dim, order = dims[0], None
    if family.pairs_adjacent and name.kind in (Kind.ATTN_Q, Kind.ATTN_K):
        n_rows, row_dim = (n_rows, row_dim) if len(dims) == 2 else (row_dim, 1)
        is_q = name.kind == Kind.ATTN_Q
        order = pair_rows(
            stored, config.count("num_attention_heads") if is_q else n_kv_heads(config)
        )
    source = TensorSource(stored.fd, stored.offset, stored.dtype, n_rows, row_dim, order)
    return Weight(str(name), dims, scaled(source, stored, tensors, config))


def pair_rows(stored: Stored, n_heads: int) -> NDArray[numpy.uint32]:
    """The rows of q or k in the order that puts channels i and i + half of a head side by side."""
    import numpy as np

    if stored.shape[0] % (2 * n_heads) or stored.shape[0] > MAX_COUNT:
        raise IntegrityError(
            f"{stored.name[:100]} has {stored.shape[0]} rows, expected an even number for each of "
            f"{n_heads} heads"
        )
    rows = np.arange(stored.shape[0], dtype=np.uint32).reshape(n_heads, 2, -1)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)


# ---- 8-bit floats --------------------------------------------------------------------------------


def scaled(
    source: TensorSource, stored: Stored, tensors: Mapping[str, Stored], config: Config
) -> TensorSource:
    """The source with the scales of an 8-bit one: of the tensor, of each row, or of blocks."""
    stem = stored.name.removesuffix(".weight")
    scales = next((tensors[stem + end] for end in SCALES if stem + end in tensors), None)
    if stored.dtype != F8:
        if scales is not None:
            raise IntegrityError(f"{stored.name[:100]} is {stored.dtype} and has scales")
        return source
    if scales is None:
        if config.find("quantization_config") is not None:
            raise IntegrityError(f"{stored.name[:100]} is {F8}, and its scales are missing")
        return source
    rows, columns = source.n_rows, source.row_dim
    shape = tuple(n for n in scales.shape if n != 1) or (1,)
    block = block_of(config)
    values = read_floats(scales)
    if values.size == 1:
        block = (rows, columns)
    elif shape == (rows,):
        block = (1, columns)
    elif block is None or scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise IntegrityError(
            f"{scales.name[:100]} has shape {list(scales.shape)} for {rows} rows of {columns}, "
            f"expected one scale, one a row, or one a block of {block or 'weight_block_size'}"
        )
    return TensorSource(
        source.fd, source.offset, F8, rows, columns, source.row_order, values, *block
    )


def block_of(config: Config) -> tuple[int, int] | None:
    """weight_block_size: rows and columns that share a scale."""
    given = config.part("quantization_config").find("weight_block_size")
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or len(given) != 2
        or not all(type(n) is int and 1 <= n < 1 << 31 for n in given)
    ):
        raise IntegrityError(f"weight_block_size in {config.where} is {given!r:.60}")
    return given[0], given[1]


# ---- small tensors in memory ---------------------------------------------------------------------


def read_floats(stored: Stored) -> Floats:
    """A small tensor, flat. Raises: IntegrityError for one of another type, or too large."""
    import numpy as np

    if stored.dtype not in ("F32", "F16", "BF16") or stored.n_bytes > 1 << 26:
        raise IntegrityError(
            f"{stored.name[:100]} is {stored.dtype[:20]} of {stored.n_bytes} bytes, expected a few "
            "floats"
        )
    raw = os.pread(stored.fd, stored.n_bytes, stored.offset)
    if stored.dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f4" if stored.dtype == "F32" else "<f2").astype(np.float32)


def put_aside(values: Floats, spare: IO[bytes]) -> TensorSource:
    """The values at the end of the temporary file, as a source to read them from."""
    offset = spare.seek(0, 2)
    spare.write(values.tobytes())
    spare.flush()
    return TensorSource(spare.fileno(), offset, "F32", 1, values.size)
