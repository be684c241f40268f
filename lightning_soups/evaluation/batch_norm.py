"""BatchNorm's running statistics of mixtures, recalculated on training batches through the kept loop."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_soups.evaluation.cache import CachedLoader
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.module_state import buffers_unchanged
from lightning_soups.evaluation.regroup import nothing
from lightning_soups.mixture import Mixture
from lightning_soups.weights.batch_norm import counting_anew, statistics, unseen


class RunningStatistics:
    """Gives the live module, once it is a mixture, running statistics of its own.

    Training batches go through the module's own ``validation_step``, whose logging is discarded. Only BatchNorm layers
    are in train mode: dropout stays off, as in the evaluation that follows. Every process makes the same passes, and
    all get what rank zero found. Statistics are rounded to the ingredients' dtype before they are used, so those that
    were scored are those that are saved.

    Args:
        loop: The kept loop, running.
        layers: The layers whose statistics to recalculate, by name.
        batches: The training batches, which keep themselves.
        recorded: An ingredient's state dict.
        every: Whether recipes are to see mixtures with recalculated statistics; otherwise only the soup gets them.

    Attributes:
        every: As given.
        unused: Layers that no training batch reached in the last pass over them; they keep what they had.
    """

    def __init__(
        self,
        loop: KeptLoop,
        layers: Mapping[str, _BatchNorm],
        batches: CachedLoader,
        recorded: Mapping[str, Tensor],
        every: bool,
    ) -> None:
        self._loop = loop
        self._layers = layers
        self._batches = batches
        self._dtypes = {name: recorded[name].dtype for name in statistics(layers) if name in recorded}
        self._known: dict[Mixture, dict[str, Tensor]] = {}
        self.every = every
        self.unused: list[str] = []

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def digest(self) -> str | None:
        """What the training batches are, once they have been read."""
        return self._batches.digest

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return list(self._layers)

    @staticmethod
    def concern(mixture: Mixture) -> bool:
        """Whether a mixture needs statistics of its own; an ingredient as it is has those that were recorded."""
        return len(mixture) > 1 or not mixture.is_uniform

    def write(self, mixture: Mixture) -> None:
        """Give the live module, which is this mixture with averaged statistics, recalculated ones."""
        if not self.concern(mixture):
            return
        if mixture not in self._known:
            self._known[mixture] = self.recalculate()
        self._copy(self._known[mixture])

    def knows(self, mixture: Mixture) -> bool:
        """Whether a mixture was written, so that there are statistics of it."""
        return mixture in self._known

    def of(self, mixture: Mixture) -> dict[str, Tensor]:
        """The recalculated statistics of a mixture that was written, by name, on CPU."""
        return self._known[mixture]

    def forget(self, mixture: Mixture) -> None:
        """A mixture will not be served."""
        self._known.pop(mixture, None)

    def recalculate(self) -> dict[str, Tensor]:
        """Make a pass over the training batches; returns the statistics that the live module has then."""
        loop, module = self._loop, self._loop.trainer.lightning_module
        layers = list(self._layers.values())
        counted = loop.batches, loop.samples
        parts = [self._batches, *(nothing() for _ in range(loop.dataloaders - 1))]
        with buffers_unchanged(module, but=statistics(self._layers)), counting_anew(layers):
            loop.one_pass(parts, in_train_mode=layers)
            self.unused = [name for name, layer in self._layers.items() if unseen(layer)]
        loop.batches, loop.samples = counted  # which are of held-out data
        fresh = {
            name: tensor.detach().to("cpu", self._dtypes[name], copy=True)
            for name, tensor in statistics(self._layers).items()
            if name in self._dtypes
        }
        if loop.trainer.world_size > 1:
            fresh = loop.trainer.strategy.broadcast(fresh)
        return fresh

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        live = statistics(self._layers)
        with torch.no_grad():
            for name, value in values.items():
                live[name].copy_(value)
