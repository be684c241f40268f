"""Modules whose parameters are shared out among processes, by ``ModelParallelStrategy`` or ``FSDPStrategy``."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed, nn

from lightning_soups.weights.shards import Part, own_part, parts_of

if distributed.is_available():
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.fsdp import FullyShardedDataParallel as FlatParameters
    from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold parts of the module's parameters, so that each step of it is a collective."""
    if not distributed.is_available():
        return False
    reshard(module)
    return has_flat_parameters(module) or any(map(is_part, module.parameters()))


def has_flat_parameters(module: nn.Module) -> bool:
    """Whether parameters are hidden in the flat ones of ``FullyShardedDataParallel``."""
    return any(map(wraps_flat_parameters, module.modules()))


def wraps_flat_parameters(thing: object) -> bool:
    """Whether something is a ``FullyShardedDataParallel``, whose attributes are its own business.

    It takes a tensor that has its memory back for one that is gathered already, and steps then use what is in it.
    """
    return distributed.is_available() and isinstance(thing, FlatParameters)


def reshard(module: nn.Module) -> None:
    """Free parameters that ``fully_shard`` has gathered for a step, and would take for those of the next one.

    By default the outermost module's are kept after a step, for a backward pass that does not come.
    """
    if distributed.is_available():
        for one in module.modules():
            if isinstance(one, FSDPModule):
                one.reshard()


def is_part(tensor: Tensor) -> bool:
    """Whether processes hold parts of a tensor."""
    return distributed.is_available() and isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def local_value(tensor: Tensor, value: Tensor) -> Tensor:
    """What this process should hold of a sharded tensor that has a certain value as a whole; nothing is sent.

    Args:
        tensor: Parameter or buffer of a sharded module.
        value: Of the same shape.
    """
    assert isinstance(tensor, DTensor)
    part = own_part(tensor)
    if part is not None:
        return value[part]
    mesh = tensor.device_mesh
    replicated = DTensor.from_local(value.to(tensor.to_local()), mesh, run_check=False)
    return replicated.redistribute(mesh, tensor.placements).to_local()


def load_whole(module: nn.Module, state_dict: Mapping[str, Any], strict: bool) -> None:
    """Load a whole state dict, which every process has, as ``load_state_dict`` does for modules that are not sharded.

    Lightning's strategies for sharded modules only load files; their ``load_model_state_dict`` does nothing.

    Args:
        module: The strategy's, with ``FullyShardedDataParallel`` around it where that is used.
        state_dict: All of its tensors.
        strict: Whether all names have to fit.

    Raises:
        RuntimeError: Names or shapes do not fit.
    """
    reshard(module)
    set_model_state_dict(module, dict(state_dict), options=StateDictOptions(full_state_dict=True, strict=strict))


class Shards:
    """What this process holds of a sharded module's parameters, and the same parts of ingredients.

    Args:
        module: Sharded by ``fully_shard`` or ``parallelize_module``; every parameter in one piece.
        parts: By name, which part of the whole parameter that is.
    """

    def __init__(self, module: LightningModule, parts: Mapping[str, Part]) -> None:
        self._module = module
        self._parts = parts

    @classmethod
    def of(cls, module: LightningModule, ingredient: Mapping[str, Any]) -> "Shards | None":
        """Find the parts; None when there is more to loading such an ingredient than to copy parts of its tensors.

        Args:
            module: A sharded module.
            ingredient: The weights of any of the ingredients, by all names of tied tensors.
        """
        reshard(module)
        named = dict(_named_tensors(module))
        parts = {name: own_part(tensor) for name, tensor in named.items() if isinstance(tensor, DTensor)}
        found = {name: part for name, part in parts.items() if part is not None}
        complete = not module.strict_loading or module.state_dict().keys() <= ingredient.keys()
        fits = all(
            isinstance(value, Tensor) and name in named and named[name].shape == value.shape
            for name, value in ingredient.items()
        )
        in_one_piece = len(found) == len(parts) and not has_flat_parameters(module)
        return cls(module, found) if fits and complete and in_one_piece else None

    def part(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The same parts of an ingredient."""
        return parts_of(state_dict, self._parts)

    def live(self) -> dict[str, Tensor]:
        """What this process holds, to be written to in place; the rest of the module is whole."""
        reshard(self._module)
        with torch.no_grad():
            return {name: local(tensor) for name, tensor in _named_tensors(self._module)}


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
