"""The record of what a recipe asked."""

from dataclasses import dataclass

from lightning_soups.mixture import Mixture
from lightning_soups.score import Score


@dataclass(frozen=True)
class Question:
    """One question that a recipe asked and its answer: a row of a soup's trace.

    Args:
        mixture: What was asked about.
        score: Its held-out score. For an answer that came early, the best that the candidate could still have reached,
            which is less than what it had to beat.
        accepted: Whether it reached the score it had to beat; None when it had none to beat.
        batches: Batches evaluated for the answer, on all processes together.
        samples: Samples evaluated for the answer, on all processes together.
        seconds: Wall time.
        cached: Whether the answer was known already (asked before, or recorded), so that nothing was evaluated.
        early: Whether the candidate was rejected before all samples were evaluated, because it provably could not reach
            the score to beat.
        label: What the recipe calls the mixture; empty when its members say it all.
    """

    mixture: Mixture
    score: Score
    accepted: bool | None
    batches: int
    samples: int
    seconds: float
    cached: bool
    early: bool = False
    label: str = ""
