"""Finding checkpoints with the same weights, without reading all of all of them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_soups.weights.kinds import is_in_memory

_LOOKED_AT = 64  # tensors of a checkpoint; each is a page of the file to read, wherever it is


def same_weights(state_dicts: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Find those that have exactly the weights of an earlier one.

    A few numbers of each tell most apart; only what they do not tell apart is compared as a whole, bit for bit but for
    the sign of zero. What holds NaN is no copy of anything.

    Args:
        state_dicts: Names and tensors, on CPU.

    Returns:
        From the place of each copy to that of the first with these weights.
    """
    groups: dict[bytes, list[int]] = {}
    copies: dict[int, int] = {}
    for place, state_dict in enumerate(state_dicts):
        firsts = groups.setdefault(_glance(state_dict), [])
        first = next((one for one in firsts if _equal(state_dicts[one], state_dict)), None)
        if first is None:
            firsts.append(place)
        else:
            copies[place] = first
    return copies


def _glance(state_dict: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
        digest.update(f"{name}\0{kind}\0".encode())
    tensors = [one for one in state_dict.values() if isinstance(one, Tensor) and is_in_memory(one) and one.numel()]
    for tensor in tensors[:: max(1, len(tensors) // _LOOKED_AT)][: _LOOKED_AT - 1] + tensors[-1:]:
        middle = tuple(size // 2 for size in tensor.shape)
        digest.update(repr(tensor[middle].item()).encode())
    return digest.digest()


def _equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(_same(first[name], second[name]) for name in _late_first(first))


def _late_first(names: Iterable[str]) -> list[str]:
    """Heads, which differ where the rest was frozen, come last in most models."""
    return list(names)[::-1]


def _same(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return type(first) is type(second) and bool(repr(first) == repr(second))
    if not is_in_memory(first):
        return False
    if first.element_size() == 1 and first.is_floating_point():
        first, second = first.view(torch.uint8), second.view(torch.uint8)  # float8 has no comparison
    return torch.equal(first, second)
