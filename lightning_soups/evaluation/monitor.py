"""The metric that decides, read from what a pass has logged."""

from collections.abc import Mapping

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import Strategy

from lightning_soups.logged import Logged
from lightning_soups.score import Mode, Score


class Monitor:
    """A logged metric and its direction, which may be known only when it has been logged.

    Args:
        name: The metric.
        mode: Its direction; None takes it from the logged ``torchmetrics.Metric``.
        strategy: Makes all processes see the same value.
    """

    def __init__(self, name: str, mode: Mode | None, strategy: Strategy) -> None:
        self.name = name
        self.mode = mode
        self._strategy = strategy

    def known_mode(self) -> Mode:
        """The direction of the metric.

        Raises:
            MisconfigurationException: It is not known.
        """
        if self.mode is None:
            raise MisconfigurationException(
                f"Whether a larger {self.name!r} is better is not known: it was logged as a plain number, or is not"
                " recorded. Pass mode='max' or mode='min', or log a torchmetrics.Metric."
            )
        return self.mode

    def score(self, logged: Mapping[str, Logged]) -> Score:
        """The value of the metric.

        Args:
            logged: All that a pass has logged.

        Raises:
            MisconfigurationException: It was not logged, or its direction is not known.
        """
        if self.name not in logged:
            raise MisconfigurationException(
                f"`monitor={self.name!r}` was not logged in validation. Logged once per epoch were:"
                f" {sorted(logged)}."
                + (
                    " Choose one of them, or log it in validation_step."
                    if logged
                    else " Log it in validation_step, and make sure that the held-out dataloaders have samples."
                )
            )
        self.mode = self.mode or logged[self.name].mode
        # a metric may be told not to gather; ranks that decided differently would wait for each other forever
        return Score(self._strategy.broadcast(logged[self.name].value), self.known_mode())
