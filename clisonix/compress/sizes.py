"""How many bytes will the file weigh? Answered exactly, without writing it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clisonix.errors import ClisonixError

# In the order in which safetensors lays dtypes out; it decides the digits of the offsets in the header.
DTYPES: dict[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_POSITION = {code: position for position, code in enumerate(DTYPES.values())}
ITEM_BYTES = {code: dtype.itemsize for dtype, code in DTYPES.items()}


class TensorSpec(NamedTuple):
    """One tensor of a file: its name, its dtype as safetensors spells it ("F32"), and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data, without the header entry."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def file_bytes(tensors: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None) -> int:
    """The exact size of a safetensors file: length field, padded header, data.

    Follows the format as written by the safetensors library (https://github.com/huggingface/safetensors):
    compact JSON, metadata first, tensors by dtype and then by name, padded with spaces to a multiple of 8.

    Args:
        tensors: what the file holds, in any order.
        metadata: the `__metadata__` entry.

    Returns:
        Bytes on disk.
    """
    header: dict[str, object] = {}
    if metadata is not None:
        header["__metadata__"] = dict(metadata)
    offset = 0
    for spec in sorted(tensors, key=lambda spec: (_POSITION[spec.dtype], spec.name.encode())):
        end = offset + spec.nbytes
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + offset


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a file of `model` holds: those of `state_dict()`, a shared one once, by its first name.

    Raises:
        ClisonixError: the state holds something that is not a dense tensor of a dtype safetensors knows.
    """
    held: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ClisonixError(
                f"the state of the model holds {name!r}, a {type(tensor).__name__}; only tensors can be "
                "stored, so register it as a buffer"
            )
        if is_lazy(tensor):
            raise ClisonixError(f"{name} is not initialised yet (a lazy module); run the model once on a batch first")
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
            raise ClisonixError(
                f"{name} is a {tensor.layout} tensor of {tensor.dtype}, which safetensors files cannot hold; "
                "convert it first"
            )
        held.setdefault(id(tensor), (name, tensor))
    return dict(held.values())


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    """What `file_bytes` needs to know of one tensor."""
    return TensorSpec(name, DTYPES[tensor.dtype], tuple(tensor.shape))
