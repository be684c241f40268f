"""Why a soup collapsed: which ingredients do not belong together."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

import torch

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients, run_names
from lightning_soups.mixture import Mixture
from lightning_soups.opening import open_checkpoint
from lightning_soups.recipes.recipe import at_least_one
from lightning_soups.studies.result import StudyResult
from lightning_soups.studies.rows import HELD_OUT, number
from lightning_soups.studies.study import Findings, Study
from lightning_soups.studies.suspects import (
    Look,
    about_directions,
    about_starts,
    about_statistics,
    about_suspects,
    find_suspects,
)
from lightning_soups.weights import angles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEEP = "keep"
_DIGITS = 7  # metrics are float32
_LONGEST = 24  # characters that a figure has room for
_ANGLES, _DISTANCES = "angle seen from the start, degrees", "distance"


@final
class Diagnosis(Study):
    r"""Which ingredients belong together, which to leave out, and why.

    Averaging works within one basin of low loss. Ingredients usually share one if they started from the same weights,
    head included, and did not go too far. So this study asks, on the held-out data alone:

    - Did all start from the same weights, as far as recorded?
    - How far did each go, :math:`\|\theta_i - \theta_0\|` over all parameters, and in which direction? Where
      :math:`\theta_0` is not known, distances are from the best ingredient.
    - Is there a barrier on the way :math:`(1 - \alpha)\,\theta_1 + \alpha\,\theta_i` from the best ingredient: how far
      does the score fall below the chord between the two ends?
    - Is its score much worse than the others', or NaN?

    Source: barriers: Frankle et al., Linear mode connectivity, ICML 2020, arXiv:1912.05671, where less than 2 % counts
    as none, and, below the chord, Entezari et al., ICLR 2022, arXiv:2110.06296; fine-tuned models share a basin:
    Neyshabur et al., NeurIPS 2020, arXiv:2008.11687; batch normalization in averages: Izmailov et al., UAI 2018,
    arXiv:1803.05407.

    Args:
        points: How many points of each way to score, evenly spaced between the ends.
        barrier: How far below the chord counts as a barrier, relative to the best ingredient's score.
        far: How many times the median distance counts as far, and how many times the median loss of score as weak.

    Raises:
        ValueError: ``points`` is less than 1, ``barrier`` is negative, or ``far`` is not more than 1.
    """

    uses_test_data: ClassVar[bool] = False
    takes_diverged: ClassVar[bool] = True

    def __init__(self, points: int = 9, barrier: float = 0.02, far: float = 3.0) -> None:
        if not (math.isfinite(barrier) and barrier >= 0):
            raise ValueError(f"`barrier` must be 0 or a positive number such as 0.02, got {barrier}.")
        if not (math.isfinite(far) and far > 1):
            raise ValueError(f"`far` must be a number above 1 such as 3, got {far}.")
        self._points = at_least_one(points, "points")
        self._barrier = barrier
        self._far = far

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> Findings:
        """Look at each ingredient.

        Raises:
            ValueError: There are less than two.
        """
        if len(ingredients) < 2:
            raise ValueError(f"A diagnosis compares ingredients: it needs at least two, got {len(ingredients)}.")
        ranked = evaluator.rank(ingredients)
        best, names = ranked[0], run_names(ingredients)
        try:
            origin, missing = ingredients.initialization, []
        except ValueError as error:
            origin, missing = best, [f"Distances are from the best ingredient, {names[best]}. {error}"]
        gram = torch.stack(list(evaluator.inner_products(ranked, origin).values())).sum(dim=0)
        lengths = gram.diagonal().sqrt()
        between = (lengths[:, None] ** 2 + lengths**2 - gram - gram.T).clamp(min=0).sqrt()
        looks = []
        for one, length in zip(ranked, lengths.tolist(), strict=True):
            score = float(evaluator.score(Mixture.uniform([one]), label=names[one]))
            way = (0.0, 0.0) if one == best else self._barrier_between(best, one, evaluator, names[one])
            looks.append(Look(names[one], score, one.initialization, length, *way))
        limit = round(self._barrier * abs(looks[0].score), _DIGITS)
        suspects = find_suspects(looks, limit, self._far)
        seen = between if missing else angles(gram)
        rows = [
            {
                "ingredient": look.name,
                HELD_OUT: look.score,
                "start": None if look.start is None else look.start[:8],
                "from start": None if missing else look.distance,
                "from best": float(between[0, place]),
                "angle to best": None if missing else float(seen[0, place]),
                "barrier": look.barrier,
                "at α": look.share if look.barrier else None,
                "verdict": f"leave out: {', '.join(reasons)}" if reasons else _KEEP,
            }
            for place, (look, reasons) in enumerate(zip(looks, suspects, strict=True))
        ]
        kept = [one for one, reasons in zip(ranked, suspects, strict=True) if not reasons]
        conclusions = [
            about_starts(looks),
            *missing,
            *([] if missing else about_directions(looks, seen)),
            *about_suspects(looks, suspects),
            _about_soups(ranked, kept, evaluator),
            *about_statistics(open_checkpoint(best.path).content["state_dict"]),
        ]
        details = {"between": seen.tolist(), "kind": _DISTANCES if missing else _ANGLES, "limit": limit}
        return Findings(rows, conclusions, {"kept": Mixture.uniform(kept)}, details)

    def measure(self, plan: Findings, measurer: Measurer) -> Findings:
        """Everything was found on the held-out data."""
        return plan

    def draw(self, result: StudyResult) -> "Figure":
        """Angles or distances between ingredients as a heat map, and the barrier to each one beside it."""
        import matplotlib

        from lightning_soups.figures import COLORS, panels

        names = [_short(str(row["ingredient"])) for row in result.rows]
        places = range(len(names))
        size = min(9.0, max(4.0, 220 / len(names)))
        with panels(columns=2, width=6.0, height=min(9.0, 3.0 + 0.2 * len(names))) as (figure, (heat, bars)):
            numbers = [[math.nan if cell is None else cell for cell in row] for row in result.details["between"]]
            for place in places:  # an ingredient and itself: nothing to see, and far from all other numbers
                numbers[place][place] = math.nan
            image = heat.imshow(
                numbers, cmap=matplotlib.colormaps["cividis"].with_extremes(bad="#E4E4E4"), aspect="auto"
            )
            heat.grid(False)
            heat.set_xticks(places, names, rotation=90, fontsize=size)
            heat.set_yticks(places, names, fontsize=size)
            figure.colorbar(image, ax=heat, label=result.details["kind"])
            heat.set_title("between ingredients, best first")
            barriers = [number(row, "barrier") for row in result.rows]
            colors = [COLORS[0] if row["verdict"] == _KEEP else COLORS[1] for row in result.rows]
            bars.barh(places, barriers, color=colors)
            for place, row in enumerate(result.rows):
                if row["verdict"] != _KEEP:
                    bars.annotate(
                        str(row["verdict"]).removeprefix("leave out: "),
                        (0.0 if math.isnan(barriers[place]) else barriers[place], place),
                        xytext=(4, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=size,
                        color=COLORS[1],
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                    )
            bars.axvline(result.details["limit"], color="#9A9A9A", linestyle="--")
            bars.set_ylim(*heat.get_ylim())
            bars.set_yticks(places, names, fontsize=size)
            side = "below" if result.mode == "max" else "above"
            bars.set(title="barrier on the way from the best ingredient")
            bars.set_xlabel(f"{result.monitor} {side} the chord; dashed: what counts as a barrier")
            bars.margins(x=0.3)
        return figure

    def _barrier_between(
        self, start: Ingredient, end: Ingredient, evaluator: Evaluator, name: str
    ) -> tuple[float, float]:
        """How far the score falls below the chord between two ingredients at most, and at which α."""
        ends = [Mixture.uniform([one]) for one in (start, end)]
        first, last = (evaluator.score(one) for one in ends)
        highest = 0.0, 0.0
        for step in range(1, self._points + 1):
            alpha = step / (self._points + 1)
            score = evaluator.score(ends[0].interpolate(ends[1], alpha), label=f"{name}, α = {alpha:.2g}")
            fall = (1 - alpha) * float(first) + alpha * float(last) - float(score)
            fall = fall if score.mode == "max" else -fall
            if math.isnan(fall):
                return math.nan, alpha
            highest = max(highest, (round(fall, _DIGITS), alpha))
        return highest


def _short(name: str) -> str:
    """Both ends of a name, as long as there is room for."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}"


def _about_soups(ranked: Sequence[Ingredient], kept: Sequence[Ingredient], evaluator: Evaluator) -> str:
    best, everything = (evaluator.score(Mixture.uniform(some)) for some in (ranked[:1], ranked))
    told = (
        f"On the held-out data the best ingredient scores {float(best):.4f}, the uniform soup of all"
        f" {float(everything):.4f}"
    )
    left = best
    if 1 < len(kept) < len(ranked):
        left = evaluator.score(Mixture.uniform(kept), label="uniform, of those to keep")
        told += f", that of the {len(kept)} to keep {float(left):.4f}"
    if len(kept) < len(ranked) and everything > left:
        told += (
            ". So leaving ingredients out makes the uniform soup worse here, whatever speaks against them: let a greedy"
            " soup decide"
        )
    return f"{told}."
