"""The GGUF name of each of a checkpoint's tensors, by the gguf package's map for the family.

That map also knows the spellings of other formats, among them ones that keep the rows of q and k in
another order. So a name is looked up only where it is spelled as the classes of transformers spell
it, and means something only where the engine has a place for that kind of tensor.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gguf.constants import MODEL_ARCH_NAMES, TENSOR_NAMES
from gguf.constants import MODEL_TENSOR as Kind
from gguf.tensor_mapping import TensorNameMap, get_tensor_name_map

# Every kind of tensor that the engine has a place for, in the order of a file.
FIRST = (Kind.TOKEN_EMBD,)
OF_A_LAYER = (
    Kind.ATTN_NORM,
    Kind.ATTN_Q,
    Kind.ATTN_K,
    Kind.ATTN_V,
    Kind.ATTN_Q_NORM,
    Kind.ATTN_K_NORM,
    Kind.ATTN_OUT,
    Kind.ATTN_POST_NORM,
    Kind.FFN_NORM,
    Kind.FFN_GATE,
    Kind.FFN_UP,
    Kind.FFN_DOWN,
    Kind.FFN_PRE_NORM,
    Kind.FFN_POST_NORM,
)
LAST = (Kind.OUTPUT, Kind.OUTPUT_NORM, Kind.ROPE_FREQS)
KINDS = (*FIRST, *OF_A_LAYER, *LAST)

SPELLED = re.compile(
    r"(?:model\.language_model\.|language_model\.model\.|model\.|)"
    r"(?:layers\.(?P<layer>0|[1-9]\d{0,4})\."
    r"(?P<part>(?:self_attn|mlp)\.[a-z]+_(?:proj|norm)|[a-z_]+_layernorm)"
    r"|(?P<outer>embed_tokens|norm))\.(?P<suffix>weight|bias)"
)
HEADS = ("lm_head.weight", "language_model.lm_head.weight")


class TensorName(NamedTuple):
    """layer: None for what belongs to no layer."""

    kind: Kind
    layer: int | None = None
    suffix: str = "weight"

    def __str__(self) -> str:
        return f"{TENSOR_NAMES[self.kind].format(bid=self.layer)}.{self.suffix}"

    @property
    def place(self) -> tuple[bool, int, int, str]:
        """Sorts as the tensors lie in a file."""
        layer = -1 if self.layer is None else self.layer
        return self.kind in LAST, layer, KINDS.index(self.kind), self.suffix

    @property
    def is_norm(self) -> bool:
        return TENSOR_NAMES[self.kind].endswith("norm")


EMBEDDING, HEAD, ROPE_FACTORS = map(TensorName, (Kind.TOKEN_EMBD, Kind.OUTPUT, Kind.ROPE_FREQS))


def name_map(arch: str) -> TensorNameMap:
    """The map of a family; its layer 0 stands for all, since a config.json may claim any number."""
    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    return get_tensor_name_map(known[arch], 1)


def find_name(spelled: str, names: TensorNameMap) -> TensorName | None:
    """model.layers.3.mlp.up_proj.weight is blk.3.ffn_up.weight; None for what has no place."""
    if spelled in HEADS:
        return HEAD
    found = SPELLED.fullmatch(spelled)
    if found is None:
        return None
    layer, part = found["layer"], found["part"]
    kind = names.get_type(f"model.layers.0.{part}" if part else f"model.{found['outer']}")
    if kind not in KINDS:
        return None
    return TensorName(kind, int(layer) if layer else None, found["suffix"])
