"""What steps and hooks keep in attributes of a module and of callbacks, put back after a pass that does not count."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from lightning_soups.evaluation.sharded_module import local, wraps_flat_parameters

_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None))
_LEFT_ALONE: tuple[type, ...] = (
    *(nn.Module, Trainer, LightningDataModule, DataLoader, Dataset, type),
    *(FunctionType, BuiltinFunctionType, MethodType, ModuleType),
)
# Libraries whose objects are services, such as displays and connections, and not something that a step adds up in.
_SERVICES = frozenset({"lightning", "pytorch_lightning", "logging", "matplotlib", "mlflow", "rich", "tensorboard"})
_SERVICES |= frozenset({"threading", "torch", "torchvision", "tqdm", "transformers", "wandb"})
_MANY = 100  # tensors in longer collections are samples or outputs, which nobody adds to in place
_LARGE = 1 << 20  # numbers; a larger tensor is no sum
_OF_EVERY_MODULE = frozenset(vars(LightningModule()))


class KeptAttributes:
    """The state of a module's and of callbacks' attributes at one moment.

    A pass over a part of the data, or over other data, calls no hook of its end, which would compute from it. So what
    its steps have added up for these hooks is put back: numbers, tensors, lists, dictionaries, sets, deques, arrays,
    torchmetrics metrics wherever they are held, and objects of the user's own, at any depth. Everything keeps its
    identity. Metrics that are submodules are left alone: they are reset before every pass.

    Args:
        owners: The module and the callbacks.
    """

    def __init__(self, owners: Iterable[object]) -> None:
        self._put_back: list[Callable[[], None]] = []
        self._seen: dict[int, Any] = {}  # keeps what it has seen alive, so that its id stays its own
        for owner in _with_submodules(owners):
            self._remember_attributes(owner, but=_OF_EVERY_MODULE)

    def restore(self) -> None:
        """Put everything back."""
        for put_back in self._put_back:
            put_back()

    def _remember_attributes(self, owner: object, but: frozenset[str] = frozenset()) -> None:
        if not hasattr(owner, "__dict__"):  # paths, locks, patterns and the like
            return
        attributes = {name: value for name, value in vars(owner).items() if name not in but}
        self._put_back.append(partial(_set_attributes, owner, attributes))
        for value in attributes.values():
            self._remember(value)

    def _remember(self, value: Any, with_tensors: bool = True) -> None:
        if type(value) in _IMMUTABLE or id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            if with_tensors and value.numel() <= _LARGE and _has_memory(value):
                self._put_back.append(partial(_fill, value, value.detach().clone()))
            return
        self._seen[id(value)] = value
        if isinstance(value, Metric):
            self._put_back.append(partial(_set_state, value, deepcopy(value.metric_state), value._update_count))
        elif isinstance(value, (list, deque, dict, set)):
            self._put_back.append(partial(_set_contents, value, value.copy()))
            self._remember_all(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, (tuple, frozenset)):
            self._remember_all(value)
        elif isinstance(value, np.ndarray):
            self._put_back.append(partial(np.copyto, value, value.copy()))
        elif not isinstance(value, _LEFT_ALONE) and type(value).__module__.partition(".")[0] not in _SERVICES:
            self._remember_attributes(value)

    def _remember_all(self, values: Any) -> None:
        for value in values:
            self._remember(value, with_tensors=len(values) <= _MANY)


def _has_memory(tensor: Tensor) -> bool:
    """Not so between steps for what ``FullyShardedDataParallel`` puts together in each; reading it would crash."""
    return tensor.numel() == 0 or local(tensor).untyped_storage().nbytes() > 0


def _set_attributes(owner: object, attributes: dict[str, Any]) -> None:
    vars(owner).update(attributes)


def _set_contents(collection: Any, contents: Any) -> None:
    collection.clear()
    if isinstance(collection, (list, deque)):
        collection.extend(contents)
    else:
        collection.update(contents)


def _fill(tensor: Tensor, value: Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.resize_(value.shape).copy_(value)


def _set_state(metric: Metric, state: dict[str, Any], updates: int) -> None:
    metric.reset()
    for name, accumulated in state.items():
        setattr(metric, name, accumulated)
    metric._update_count = updates


def _with_submodules(owners: Iterable[object]) -> Iterator[object]:
    for owner in owners:
        everything = owner.modules() if isinstance(owner, nn.Module) else [owner]
        yield from (one for one in everything if not isinstance(one, Metric) and not wraps_flat_parameters(one))
