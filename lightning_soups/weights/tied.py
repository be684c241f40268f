"""Which names of a state dict mean one tensor."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

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
        place = (_memory(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if (one := first.setdefault(place, name)) != name:
            tied[name] = one
    return tied


def _memory(tensor: Tensor) -> object:
    if not isinstance(tensor, DTensor):
        return tensor.data_ptr()
    own = tensor.to_local()  # a sharded tensor has no address; a process that holds nothing of it still has its storage
    return own.storage_offset(), own.untyped_storage()._cdata
