"""The record of what a recipe asked."""

import math
from dataclasses import dataclass

from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode, Score

_LEFT_OUT = "left out: "


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

    @property
    def is_left_out(self) -> bool:
        """Whether this is no question, but says which ingredient could not be used, and why."""
        return self.label.startswith(_LEFT_OUT) and self.cached and math.isnan(self.score.value)


def left_out_row(one: LeftOut, mode: Mode) -> Question:
    """What a trace says of an ingredient that could not be used.

    Args:
        one: The ingredient.
        mode: Of the other scores.
    """
    mixture = Mixture.uniform([Ingredient(one.path, one.run)])
    return Question(mixture, Score(math.nan, mode), False, 0, 0, 0.0, cached=True, label=_LEFT_OUT + one.reason)


def leading(best: Question | None, row: Question) -> Question | None:
    """The question with the best score so far; one that was accepted also replaces an equally good one.

    Args:
        best: The best before; None when there is none.
        row: The next question; one whose answer came early has no score of its own.
    """
    if row.early:
        return best
    if best is None or row.score > best.score or (row.accepted and row.score >= best.score):
        return row
    return best
