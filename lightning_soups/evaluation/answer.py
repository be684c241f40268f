"""What is known of a mixture, and what it took to know it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import gather
from lightning_soups.mixture import Mixture
from lightning_soups.score import Score
from lightning_soups.trace import Question


@dataclass(frozen=True)
class Answer:
    """All about a mixture that is to be served.

    Args:
        score: Its held-out score.
        metrics: Every metric that was logged.
        batch_norm: Which running statistics it was scored with; None when there was no choice.
        statistics: The recalculated ones, by name.
    """

    score: Score
    metrics: Mapping[str, float]
    batch_norm: Literal["averaged", "recalculated"] | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


class Meter:
    """Counts what a loop does from now on.

    Args:
        loop: The kept loop, running.
    """

    def __init__(self, loop: KeptLoop) -> None:
        self._loop = loop
        self._started, self._batches, self._samples = time.monotonic(), loop.batches, loop.samples

    def question(
        self,
        mixture: Mixture,
        score: Score,
        accepted: bool | None,
        *,
        cached: bool = False,
        early: bool = False,
        label: str = "",
    ) -> Question:
        """A row of the trace; every process must call this. See :class:`~lightning_soups.trace.Question`."""
        batches, samples = 0, 0
        if not cached:
            own: list[float] = [self._loop.batches - self._batches, self._loop.samples - self._samples]
            batches, samples = map(int, gather(self._loop, own).sum(dim=0).tolist())
        seconds = time.monotonic() - self._started
        return Question(mixture, score, accepted, batches, samples, seconds, cached, early=early, label=label)
