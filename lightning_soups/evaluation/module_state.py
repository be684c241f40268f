"""Handing a module back as it came."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lightning_soups.evaluation.sharded_module import is_part, is_sharded, local, local_value, reshard
from lightning_soups.weights.kinds import odd


@contextmanager
def unchanged(module: LightningModule) -> Iterator[None]:
    """Restore a module when the block ends, with or without an error.

    What is restored: the values of all parameters and buffers, those outside the state dict included, their device
    and dtype, the state of torchmetrics metrics, and the train/eval mode of every submodule. The copy is kept on CPU:
    one model's worth of memory, of a sharded module the part of this process. Parameters keep their identity, so
    optimizers and tied weights stay valid. A module that is sharded in the block stays so, where it is. Buffers that
    are no plain arrays of numbers (sparse, quantized, packed) are not copied: they are set back if they were replaced.

    Args:
        module: The user's module.
    """
    device, dtype = module.device, module.dtype
    values = {
        name: (tensor.device, tensor.shape, _copy(local(tensor.detach()) if is_part(tensor) else tensor, "cpu"))
        for name, tensor in _tensors(module)
    }
    modes = {name: submodule.training for name, submodule in module.named_modules()}
    metrics = {name: (deepcopy(metric.metric_state), metric._update_count) for name, metric in _metrics(module)}
    try:
        yield
    finally:
        if (module.device, module.dtype) != (device, dtype) and not is_sharded(module):
            module.to(device=device, dtype=dtype)  # also resets what LightningModule reports as its device and dtype
        for name, tensor in _tensors(module):
            if name in values:  # configure_model may have added others
                own_device, shape, value = values[name]
                if is_part(tensor):
                    with torch.no_grad():
                        local(tensor).copy_(value if shape != value.shape else local_value(tensor, value))
                else:
                    _restore(module, name, tensor, own_device, value)
        for name, submodule in module.named_modules():
            submodule.training = modes.get(name, submodule.training)
        for name, metric in _metrics(module):
            metric.reset()
            if name in metrics:
                state, metric._update_count = metrics[name]
                for attribute, accumulated in state.items():
                    setattr(metric, attribute, accumulated)


class UnsavedState:
    """Keeps one question from leaking into the next through what no checkpoint holds: some buffers, and metrics.

    Args:
        module: The module that is evaluated, set up on its device.
    """

    def __init__(self, module: LightningModule) -> None:
        saved = module.state_dict().keys()
        self._values = {name: _copy(buffer) for name, buffer in module.named_buffers() if name not in saved}

    def restore(self, module: LightningModule) -> None:
        """Set buffers back, make every one that a checkpoint can be loaded into, and reset metrics."""
        for _, metric in _metrics(module):
            metric.reset()
        for name, buffer in list(module.named_buffers()):
            value = self._values.get(name, buffer)
            if value is not buffer or buffer.is_inference():
                _restore(module, name, buffer, buffer.device, _copy(value))


@contextmanager
def buffers_unchanged(module: nn.Module, but: Collection[str]) -> Iterator[None]:
    """Put the buffers of a module back when the block ends, all but those that are named."""
    values = {name: _copy(buffer) for name, buffer in module.named_buffers() if name not in but}
    try:
        yield
    finally:
        for name, buffer in list(module.named_buffers()):
            if name in values:
                _restore(module, name, buffer, values[name].device, values[name])


def _restore(module: nn.Module, name: str, tensor: Tensor, device: torch.device, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    if odd(value) is not None:
        setattr(module.get_submodule(owner), leaf, value)
    elif tensor.is_inference():  # a buffer that validation_step assigned anew; such a tensor cannot be written to
        setattr(module.get_submodule(owner), leaf, value.to(device))
    elif (tensor.device, tensor.dtype, tensor.shape) == (device, value.dtype, value.shape) and not _is_expanded(tensor):
        with torch.no_grad():
            tensor.copy_(value)
    else:
        tensor.data = value.to(device)


def _copy(tensor: Tensor, device: str | None = None) -> Tensor:
    """A tensor that no one else writes to; of odd ones, many of which torch cannot copy, the tensor itself."""
    return tensor if odd(tensor) is not None else tensor.detach().to(device or tensor.device, copy=True)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several of its elements are one number in memory, so that it cannot be written to."""
    if tensor.layout is not torch.strided:
        return False
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _tensors(module: LightningModule) -> Iterator[tuple[str, Tensor]]:
    reshard(module)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        # without a shape until the first batch, or without a value until it is sharded: nothing to come back to
        if not is_lazy(tensor) and not tensor.is_meta:
            yield name, tensor


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, one) for name, one in module.named_modules() if isinstance(one, Metric))
