"""Whether all weights are numbers: one NaN in one ingredient makes a soup of NaN."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_soups.weights.chunks import Release, pieces
from lightning_soups.weights.kinds import is_in_memory

_PIECE = 1 << 20  # numbers that are looked at, and given back, at a time
_SOME = 3  # tensors that are named


def not_finite(
    state_dict: Mapping[str, Any], parameters: Container[str] = (), release: Release | None = None
) -> str | None:
    """Find what is no number in floating-point and complex tensors.

    NaN is wrong in any of them, and infinity in a parameter. Buffers may hold infinity: masks do.

    Args:
        state_dict: Names and tensors, on CPU, of any shape and dtype; other entries are passed over.
        parameters: The names of those that are parameters.
        release: Called with each piece of a tensor that has been read.

    Returns:
        What was found, in words, with the names of some tensors; None when all is well.
    """
    found: dict[str, str] = {}
    for name, value in state_dict.items():
        if isinstance(value, Tensor) and _has_floats(value):
            what = _worst(value, name in parameters, release or _keep)
            if what is not None:
                found[name] = what
    if not found:
        return None
    named = ", ".join(f"{what} in {name!r}" for name, what in list(found.items())[:_SOME])
    more = f" and {len(found) - _SOME} more tensors" if len(found) > _SOME else ""
    return f"{named}{more}"


def _has_floats(tensor: Tensor) -> bool:
    return is_in_memory(tensor) and tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex())


def _worst(tensor: Tensor, is_parameter: bool, release: Callable[[Tensor], None]) -> str | None:
    values = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    worst = None
    for (piece,) in pieces([values], _PIECE):
        numbers = piece if piece.element_size() > 1 else piece.float()  # float8 has no comparison
        low, high = (float(one) for one in torch.aminmax(numbers))  # NaN wins over any number
        release(piece)
        if low != low:
            return "NaN"
        if is_parameter and (low == -torch.inf or high == torch.inf):
            worst = "infinity"
    return worst


def _keep(tensor: Tensor) -> None:
    """Nothing is given back."""
