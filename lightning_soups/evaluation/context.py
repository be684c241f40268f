"""What answers depend on besides the mixture: two cooks can share them only if all of this is the same."""

import inspect
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn.parameter import is_lazy

from lightning_soups.evaluation.batch_norm import RunningStatistics
from lightning_soups.evaluation.digest import Digest
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import gather
from lightning_soups.records import versions

# where classes come from whose versions are compared, or that do not change
_LIBRARIES = ("lightning", "lightning_fabric", "lightning_soups", "pytorch_lightning", "torch", "torchmetrics")
_PIECES = range(0, 32, 8)  # of 32 hexadecimal digits, each of which a float64 holds


def module_context(loop: KeptLoop, mixed: Container[str]) -> dict[str, str]:
    """Describe the module and how it runs; to be called before a mixture is written into it, by every process.

    Args:
        loop: The kept loop, running.
        mixed: Names of the tensors that every mixture replaces.
    """
    trainer, module = loop.trainer, loop.trainer.lightning_module
    digest = Digest()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name not in mixed and not is_lazy(tensor):
            digest.update((name, tensor))
    device = trainer.strategy.root_device
    return {
        "the module's class": " ".join(_sources(type(module))),
        "the module's hyperparameters": repr(_plain(dict(module.hparams))),
        "the module's own weights": _of_all(loop, [str(digest)]),
        "the precision": f"{trainer.precision} {torch.get_float32_matmul_precision()}",
        "the devices": f"{trainer.world_size} {device.type}",
        "versions": repr(versions()),
    }


def data_context(loop: KeptLoop, statistics: RunningStatistics | None) -> dict[str, str]:
    """Describe the data, which is read unless a pass has done that; to be called by every process.

    Args:
        loop: The kept loop, running.
        statistics: What recalculates BatchNorm's running statistics.
    """
    training = [] if statistics is None else [f"{statistics.digest} {statistics.every} {statistics.names}"]
    return {
        "the held-out data": _of_all(loop, loop.data_digests()),
        "the training data for BatchNorm": " ".join(training),
    }


def _of_all(loop: KeptLoop, digests: Iterable[str]) -> str:
    """The digests of all processes, in their order."""
    own = [float(int(one[start : start + 8], 16)) for one in digests for start in _PIECES]
    return " ".join(f"{int(piece):08x}" for piece in gather(loop, own).flatten().tolist())


def _sources(module: type[LightningModule]) -> Iterable[str]:
    """What the classes are that the user wrote; their code decides what is logged."""
    for one in module.__mro__:
        if one.__module__.partition(".")[0] in _LIBRARIES or one.__module__ in ("builtins", "abc", "typing"):
            continue
        digest = Digest()
        with suppress(OSError, TypeError):  # typed into an interpreter
            digest.update(inspect.getsource(one))
        yield f"{one.__module__}.{one.__qualname__} {digest}"


def _plain(value: Any) -> Any:
    """A value without what is called otherwise in every process, such as the address of an object."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else type(value).__qualname__
