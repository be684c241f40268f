"""Running statistics of BatchNorm layers: which there are, and counting them anew."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private, but what torch.optim.swa_utils.update_bn looks for, too

_MOMENTS = ("running_mean", "running_var")
_BUFFERS = (*_MOMENTS, "num_batches_tracked")


def tracking_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name; a shared layer under each of its names."""
    return {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
    }


def statistics(layers: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """The layers' own buffers, by the names that they have in a state dict: means, variances and counters."""
    named = {
        f"{name}.{buffer}".lstrip("."): getattr(layer, buffer) for name, layer in layers.items() for buffer in _BUFFERS
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def differing(layers: Iterable[str], state_dicts: Iterable[Mapping[str, Tensor]]) -> list[str]:
    """Which layers have running statistics in all of some state dicts, and not the same ones in all.

    Statistics that are the same everywhere were frozen while the models were trained.

    Args:
        layers: Names of layers.
        state_dicts: At least one.
    """
    first, *others = state_dicts
    names = {layer: [f"{layer}.{moment}".lstrip(".") for moment in _MOMENTS] for layer in layers}
    return [
        layer
        for layer, moments in names.items()
        if all(name in one for one in (first, *others) for name in moments)
        and any(not torch.equal(first[name], other[name]) for other in others for name in moments)
    ]


@contextmanager
def counting_anew(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let layers forget their statistics, and average those of all batches that they see in train mode in the block.

    Every batch counts the same (``momentum=None``), as in ``torch.optim.swa_utils.update_bn``. Processes do not
    exchange statistics, ``SyncBatchNorm`` included: each is to see the same batches. A layer that saw no batch gets
    back the statistics that it had.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018, section 3.2,
    arXiv:1803.05407.
    """
    own = list(dict.fromkeys(layers))
    before = [(layer.momentum, {name: getattr(layer, name).clone() for name in _BUFFERS}) for layer in own]
    alone = [layer for layer in own if type(layer).forward is nn.SyncBatchNorm.forward]
    try:
        for layer in own:
            layer.reset_running_stats()
            layer.momentum = None
        for layer in alone:
            layer.forward = partial(_BatchNorm.forward, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in alone:
            del layer.forward
        for layer, (momentum, buffers) in zip(own, before, strict=True):
            layer.momentum = momentum
            if not unseen(layer):
                continue
            with torch.no_grad():
                for name, value in buffers.items():
                    getattr(layer, name).copy_(value)


def unseen(layer: _BatchNorm) -> bool:
    """Whether a layer has seen no batch in train mode since it forgot its statistics."""
    return layer.num_batches_tracked is not None and int(layer.num_batches_tracked) == 0
