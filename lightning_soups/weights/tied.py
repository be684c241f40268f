"""Which names of a state dict mean one tensor."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_soups.weights.kinds import is_in_memory


def tied_names(state_dict: Mapping[str, Any]) -> dict[str, str]:
    """Find the tensors of a state dict that are another one: all of it, element by element in the same memory.

    Args:
        state_dict: Names and tensors; what is no tensor is tied to nothing.

    Returns:
        Names of tensors that are another one, and the name of that one, which comes first in the state dict.
    """
    first: dict[tuple[object, ...], str] = {}
    tied = {}
    for name, tensor in state_dict.items():
        # empty tensors all have address 0, and some have none
        if not isinstance(tensor, Tensor) or not is_in_memory(tensor) or tensor.numel() == 0:
            continue
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if (one := first.setdefault(place, name)) != name:
            tied[name] = one
    return tied
