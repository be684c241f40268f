"""What a recipe that learns coefficients can ask: losses and gradients on parts of the held-out data."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lightning_soups.mixture import Mixture


class Gradient(NamedTuple):
    r"""A loss and how it changes with every coefficient.

    Args:
        loss: The mean loss over the samples of a step.
        by_parameter: For each parameter tensor :math:`\theta^{(t)}` of the module
            :math:`\langle \partial L / \partial \theta^{(t)}, \theta_i^{(t)} \rangle` for the mixture's members in
            their order, float64, shape (N,). Sums over tensors are the gradients of coefficients that they share.
    """

    loss: float
    by_parameter: dict[str, Tensor]


class Learner(ABC):
    """The held-out data in two parts: one to learn on, in steps, and one that is not learned on.

    Attributes:
        steps: How many steps see every sample of the first part once.
        parameters: Names of the parameters that have gradients.
    """

    steps: int
    parameters: tuple[str, ...]

    @abstractmethod
    def gradient(self, mixture: Mixture, step: int) -> Gradient:
        """The gradient of a mixture's loss over the samples of one step, counted from 0 through all epochs.

        Every epoch shuffles the samples anew, in a way that depends on the seed and the epoch only.
        """

    @abstractmethod
    def validation_loss(self, mixture: Mixture) -> float:
        """The mean loss over the samples that are not learned on."""
