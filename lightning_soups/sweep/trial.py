"""One fit of a sweep, as its parts see it. Imports neither Optuna nor Lightning."""

from dataclasses import dataclass
from typing import Any

from lightning_soups.score import Score


class UnrunnableError(Exception):
    """A fault that every trial would run into, so the sweep stops instead of noting it N times."""


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
