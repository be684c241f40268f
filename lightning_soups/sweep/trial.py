"""One fit of a sweep, as its parts see it. Imports neither Optuna nor Lightning."""

from dataclasses import dataclass
from typing import Any

from lightning_soups.score import Score


class UnrunnableError(Exception):
    """A fault that every trial would run into, so the sweep stops instead of noting it N times."""


def trial_seed(base_seed: int, number: int) -> int:
    """The seed of a trial: sweeps with neighbouring base seeds share none, up to 1,000 trials each.

    Returns:
        A number that ``seed_everything`` takes, below 2³².
    """
    return (1000 * base_seed + number) % 2**32


@dataclass(frozen=True)
class Trial:
    """One fit of a sweep.

    Args:
        number: Counts all trials of the sweep, from 0, those of earlier invocations included.
        parameters: What was drawn for it.
        score: The best score it recorded; None when it failed.
        error: Why it failed; None when it did not.
        seconds: How long it took.
    """

    number: int
    parameters: dict[str, Any]
    score: Score | None
    error: str | None
    seconds: float
