"""Which tensors can be averaged at all: those that hold their numbers in memory, one by one."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_MOST_LINES = 20  # of tensors that are named one by one

# by name, because torch 2.6 has not got them all
_SCALES = ("float8_e8m0fnu",)
_PACKED = (
    *("float4_e2m1fn_x2", "bit", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)
_SCALE_DTYPES = frozenset(getattr(torch, name) for name in _SCALES if hasattr(torch, name))
_PACKED_DTYPES = frozenset(getattr(torch, name) for name in _PACKED if hasattr(torch, name))


def refuse_odd(state_dict: Mapping[str, Any], where: str) -> None:
    """Refuse tensors that are no plain arrays of numbers, and whose average would be an error or nonsense.

    Args:
        state_dict: Names and tensors; of other values only quantized modules' packed parameters are looked at.
        where: What to call the state dict.

    Raises:
        ValueError: There are such tensors; the message names them, says what they are, and what to do.
    """
    lines = []
    for name, value in state_dict.items():
        for tensor in _tensors_in(value):
            if (reason := odd(tensor)) is not None:
                lines.append(f"  {name}: {tensor.dtype}, {reason}")
                break
    if lines:
        more = [f"  … and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        raise ValueError(
            f"{where} holds tensors that cannot be averaged:\n"
            + "\n".join([*lines[:_MOST_LINES], *more])
            + "\nOr leave them out with `weights` (exclude): then the module's own values are kept."
        )


def odd(tensor: Tensor) -> str | None:
    """Say what is odd about a tensor that cannot be averaged, and what to do; None when it can be, or is a counter."""
    if (reason := _not_in_memory(tensor)) is not None:
        return reason
    if tensor.dtype in _SCALE_DTYPES:
        return "the scales of weights that are quantized in blocks. Save the model in bfloat16 or float32"
    if tensor.dtype in _PACKED_DTYPES:
        return "several numbers packed into a byte. Save the model in bfloat16 or float32"
    return None


def is_in_memory(tensor: Tensor) -> bool:
    """Whether a tensor is bytes at an address, which can be compared and hashed."""
    return _not_in_memory(tensor) is None


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors in memory are alike, byte by byte: also those that torch cannot compare, and NaN."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor in memory, as uint8 of shape (bytes,), on its device."""
    flat = tensor.detach().contiguous().reshape(-1).resolve_conj().resolve_neg()
    if flat.stride() != (1,):  # a single number may have any, and is contiguous with it
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def _not_in_memory(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "a nested tensor. Save its parts as tensors of their own"
    if tensor.is_quantized:
        return "quantized. Save the model before it is quantized, or dequantize it with .dequantize()"
    if tensor.layout is not torch.strided:
        return f"not dense but {tensor.layout}. Save it dense, with .to_dense()"
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"a {type(tensor).__name__}, which keeps its numbers elsewhere. Save the weights as plain tensors"
    if tensor.is_meta:
        return "on the meta device, so it has no values. Save the model after its weights have been loaded"
    return None


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """A tensor itself, and the quantized ones that torch's quantized modules put into tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        yield from (part for part in value if isinstance(part, Tensor) and part.is_quantized)
