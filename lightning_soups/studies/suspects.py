"""Which ingredients look as if they did not belong with the best one, in words."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

START, DIVERGED, FAR, BARRIER, WEAK = "other start", "diverged", "far", "barrier", "weak"
_MEANING = {
    START: "started from other weights than the best ingredient, so it most likely lies in another basin",
    DIVERGED: "its weights or scores are NaN or infinite, so every average with it is, too",
    FAR: "went much farther than the others, usually because of a large learning rate or many steps",
    BARRIER: "on the straight way from the best ingredient the score falls, so the two lie in different basins",
    WEAK: "scores much worse than the others, so it mostly pulls an average down",
}


class Look(NamedTuple):
    """What was seen of an ingredient.

    Args:
        name: What to call it.
        score: On the held-out data.
        start: Fingerprint of the weights that it started from; None where unknown.
        distance: How far it is from there, or from the best ingredient.
        barrier: How far the score falls below the chord on the way from the best ingredient; NaN where it is NaN.
        share: At which α it falls farthest.
    """

    name: str
    score: float
    start: str | None
    distance: float
    barrier: float
    share: float


def find_suspects(looks: Sequence[Look], barrier: float, far: float) -> list[dict[str, str]]:
    """Say what speaks against each ingredient.

    Args:
        looks: Ingredients, the best one first; nothing speaks against that.
        barrier: What counts as a barrier, in the units of the score.
        far: How many times the median distance counts as far, and how many times the median loss of score as weak.

    Returns:
        For each ingredient the reasons, by their short names, with the numbers behind them.
    """
    best, *others = looks
    distances = [look.distance for look in others if math.isfinite(look.distance)]
    lost = {look.name: abs(best.score - look.score) for look in others if math.isfinite(look.score)}
    usual, usually_lost = (median(found) if found else math.nan for found in (distances, list(lost.values())))
    suspects: list[dict[str, str]] = [{}]
    for look in others:
        reasons: dict[str, str] = {}
        if None not in (look.start, best.start) and look.start != best.start:
            reasons[START] = f"from {str(look.start)[:8]}"
        seen = {"score": look.score, "distance": look.distance, "barrier": look.barrier}
        if broken := [f"{what} {value}" for what, value in seen.items() if not math.isfinite(value)]:
            reasons[DIVERGED] = ", ".join(broken)
        else:
            if look.barrier > barrier:
                reasons[BARRIER] = f"by {look.barrier:.4f} at α = {look.share:g}"
            if look.distance > far * usual:
                reasons[FAR] = f"{look.distance / usual:.1f} times the median distance"
        if lost.get(look.name, 0.0) > max(barrier, far * usually_lost):
            reasons[WEAK] = f"{look.score:.4f}"
        suspects.append(reasons)
    return suspects


def about_starts(looks: Sequence[Look]) -> str:
    """A sentence on what the ingredients started from."""
    counts = Counter(look.start for look in looks)
    unknown = counts.pop(None, 0)
    if not counts:
        return "What the ingredients started from was not recorded: make sure that it was the same for all."
    groups = [f"{count} from {str(start)[:8]}" for start, count in counts.most_common()]
    if len(counts) == 1 and not unknown:
        return f"All ingredients started from the same weights: {groups[0]}."
    if unknown:
        groups.append(f"{unknown} not recorded")
    if len(counts) == 1:
        return f"What the ingredients started from is only partly known: {', '.join(groups)}."
    return (
        f"The ingredients started from {len(counts)} different initializations: {', '.join(groups)}. Only runs from"
        " the same weights, head included, average well: cook each group on its own."
    )


def about_directions(looks: Sequence[Look], angles: Tensor) -> list[str]:
    """A sentence on where ingredients went from where they started; none if no two went anywhere.

    Args:
        looks: N ingredients.
        angles: Between every two of them, in degrees, shape (N, N).
    """
    lengths = [look.distance for look in looks if math.isfinite(look.distance)]
    between = angles[tuple(torch.triu_indices(len(angles), len(angles), offset=1))]
    between = between[between.isfinite()]
    if not len(between):
        return []
    return [
        f"They went {min(lengths):.3g} to {max(lengths):.3g} far from there (median {median(lengths):.3g}), in"
        f" directions that are {float(between.min()):.0f}° to {float(between.max()):.0f}° apart (median"
        f" {float(between.median()):.0f}°)."
    ]


def about_suspects(looks: Sequence[Look], suspects: Sequence[Mapping[str, str]]) -> list[str]:
    """Sentences on what to leave out and why."""
    sentences = []
    for reason, meaning in _MEANING.items():
        named = [f"{look.name} ({own[reason]})" for look, own in zip(looks, suspects, strict=True) if reason in own]
        if named:
            sentences.append(f"Leave out: {reason} ({meaning}): {', '.join(named)}.")
    if not sentences:
        return ["No ingredient stands out: nothing speaks against averaging all of them."]
    if sum(not own for own in suspects) == 1:
        sentences.append(
            f"Nothing is left to average with the best ingredient, {looks[0].name}. Check that every run loads the same"
            " pretrained weights, head included, and try smaller learning rates."
        )
    return sentences


def about_statistics(names: Iterable[str]) -> list[str]:
    """A sentence on batch normalization, if there is any; whose statistics do not fit averaged weights.

    Args:
        names: Of all tensors of a checkpoint.
    """
    found = [name for name in names if name.endswith("running_mean")]  # torch's name, which others have taken over
    if not found:
        return []
    return [
        f"The checkpoints hold running statistics of batch normalization ({len(found)} layers, the first is"
        f" {found[0]!r}). Those of a mixture are averages and often do not fit averaged weights, so a barrier may come"
        " from them alone: estimate them anew on training data before giving up on a soup."
    ]
