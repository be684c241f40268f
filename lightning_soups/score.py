"""A held-out score that knows which direction is better."""

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["min", "max"]


def validate_mode(mode: str) -> Mode:
    """Return ``mode`` unchanged, or say which values it may have.

    Raises:
        ValueError: ``mode`` is neither ``"min"`` nor ``"max"``.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}.")
    return mode  # type: ignore[return-value]


@functools.total_ordering
@dataclass(frozen=True)
class Score:
    """The value of the monitored metric; ``a > b`` reads "a is better than b", whatever the mode.

    NaN is worse than every number and never passes ``>=``, so a diverged candidate is not accepted and sorts last.

    Args:
        value: The metric's value.
        mode: ``"max"`` when larger is better, ``"min"`` when smaller is.

    Raises:
        ValueError: ``mode`` is neither.
    """

    value: float
    mode: Mode

    def __post_init__(self) -> None:
        validate_mode(self.mode)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.6g}"

    def __lt__(self, other: "Score") -> bool:
        return self._merit(other) < other._merit(self)

    def __ge__(self, other: "Score") -> bool:
        return not math.isnan(self.value) and self._merit(other) >= other._merit(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and self._merit(other) == other._merit(self)

    def __hash__(self) -> int:
        return hash((None if math.isnan(self.value) else self.value, self.mode))

    def _merit(self, other: "Score") -> float:
        assert self.mode == other.mode, "scores of different modes cannot be compared"
        if math.isnan(self.value):
            return -math.inf
        return self.value if self.mode == "max" else -self.value
