"""Which part of a whole tensor one process holds when the tensor is sharded over several."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

Part = tuple[slice, ...]


def own_part(tensor: DTensor) -> Part | None:
    """Say which part of a sharded tensor this process holds.

    ``Shard(dim)`` cuts a dimension of n into k shares as :func:`torch.chunk` does: of ⌈n/k⌉ each, the last ones smaller
    or empty (https://docs.pytorch.org/docs/stable/distributed.tensor.html). Several cut one after the other, in the
    order of the mesh's dimensions.

    Args:
        tensor: A tensor with any number of ``Shard`` and ``Replicate`` placements.

    Returns:
        One slice a dimension, such that ``whole[part]`` has the shape of ``tensor.to_local()``; None for other
        placements, of which a process may hold several pieces, and on a process that holds nothing.
    """
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return None
    bounds = [(0, length) for length in tensor.shape]
    for dimension, (placement, index) in enumerate(zip(tensor.placements, coordinate, strict=True)):
        if type(placement) is Shard:  # others that are cut in stripes derive from it in some versions of torch
            start, stop = bounds[placement.dim]
            share = -(-(stop - start) // mesh.size(dimension))
            bounds[placement.dim] = (min(stop, start + index * share), min(stop, start + (index + 1) * share))
        elif type(placement) is not Replicate:
            return None
    shape = tuple(stop - start for start, stop in bounds)
    return tuple(slice(*one) for one in bounds) if tensor.to_local().shape == shape else None


def parts_of(state_dict: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Take a part of some tensors, as views: what is not in it is never read from a memory-mapped file.

    Args:
        state_dict: Whole tensors, and what else a checkpoint holds.
        parts: Of which tensors which part; the others are left whole.
    """
    return {
        name: value[parts[name]] if name in parts and isinstance(value, Tensor) else value
        for name, value in state_dict.items()
    }
