"""What a study can ask about the test data: how models and ensembles of models do on each dataset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

from torch import Tensor

from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode


class Measurer(ABC):
    """Measures on the test dataloaders. Nothing is chosen by what it says.

    Attributes:
        metric: The logged metric that is reported.
        mode: Whether more or less of it is better.
        datasets: Names of the test dataloaders, in their order.
        in_distribution: Those of them that are like the training data.
        shifted: The others.
    """

    metric: str
    mode: Mode
    datasets: tuple[str, ...]
    in_distribution: tuple[str, ...]
    shifted: tuple[str, ...]

    @abstractmethod
    def measure(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        """The metric of a mixture on each dataset, through the module's own ``test_step``.

        Args:
            mixture: What to measure.
            label: What the progress bar calls it.
        """

    @abstractmethod
    def ensemble(self, members: Mapping[Mixture, float], label: str = "") -> dict[str, float]:
        """The metric of an ensemble on each dataset: outputs of the members are averaged, not their weights.

        The outputs are those of the module's ``forward``, or of a named submodule; logits, usually. The module's own
        ``test_step`` runs on the averaged outputs, so the metric is the module's.

        Args:
            members: The weight of each member's outputs; they are used as they are, so they should sum to 1.
            label: What the progress bar calls it.
        """

    @abstractmethod
    def per_sample(self, model: Mixture | Mapping[Mixture, float]) -> dict[str, Tensor | None]:
        """The metric of each sample, of a mixture or an ensemble.

        Args:
            model: See :meth:`measure` and :meth:`ensemble`.

        Returns:
            By dataset the values, float64, shape (n,), in the same order for every model; None where the metric is no
            mean over samples.
        """


@final
class NoTestData(Measurer):
    """For studies that measure nothing on test data.

    Args:
        metric: The held-out metric.
        mode: Its direction.
    """

    def __init__(self, metric: str, mode: Mode) -> None:
        self.metric, self.mode = metric, mode
        self.datasets = self.in_distribution = self.shifted = ()

    def measure(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        """There is nothing to measure."""
        return {}

    def ensemble(self, members: Mapping[Mixture, float], label: str = "") -> dict[str, float]:
        """There is nothing to measure."""
        return {}

    def per_sample(self, model: Mixture | Mapping[Mixture, float]) -> dict[str, Tensor | None]:
        """There is nothing to measure."""
        return {}
