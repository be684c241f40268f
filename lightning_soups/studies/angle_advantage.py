"""Does averaging two models gain more when they went in different directions?"""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredients import Ingredients, run_names
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import at_least_one
from lightning_soups.studies.pairs import (
    NOT_RECORDED,
    Groups,
    Pair,
    Point,
    advantage,
    by_group,
    choose_pairs,
    group_pairs,
    not_recorded,
    rank_correlation,
    shown,
)
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study
from lightning_soups.weights import angles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PARTS = 3  # of numbers in the conclusions: small, medium and large
_UNRELATED = 0.1  # a rank correlation nearer to 0 is called none
_WIDE = 3  # numbers that differ by this factor get a logarithmic scale
_GAIN = "gain"


class _Plan(NamedTuple):
    pairs: list[Pair]
    angles: list[float]


@final
class AngleAdvantage(Study):
    r"""How much two ingredients gain from being averaged, against the angle between the ways that they went.

    The angle, seen from the initialization, is :math:`\varphi = \arccos \frac{\langle \theta_1 - \theta_0, \theta_2 -
    \theta_0 \rangle}{\|\theta_1 - \theta_0\| \|\theta_2 - \theta_0\|}` over all parameters; the gain is
    :math:`m(\frac{\theta_1 + \theta_2}{2}) - \frac{m(\theta_1) + m(\theta_2)}{2}` of the test metric :math:`m`, with
    its sign turned where less is better, so that a positive gain is always good.

    Source: Wortsman et al., Model soups, ICML 2022, section 3, arXiv:2203.05482.

    Args:
        color_by: A recorded hyperparameter. Of numbers the larger one of a pair gives the colour; anything else is the
            same in both runs, or different.
        max_pairs: How many pairs to measure; when there are more, they are drawn at random.
        seed: Decides which.

    Raises:
        ValueError: ``max_pairs`` is less than 1.
    """

    def __init__(self, color_by: str = "lr", max_pairs: int = 200, seed: int = 0) -> None:
        self._color_by = color_by
        self._max_pairs = at_least_one(max_pairs, "max_pairs")
        self._seed = seed

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> _Plan:
        """Choose pairs and measure their angles; nothing is evaluated."""
        pairs = choose_pairs(ingredients, self._max_pairs, self._seed)
        products = evaluator.inner_products(ingredients, ingredients.initialization)
        between = angles(torch.stack(list(products.values())).sum(dim=0)).tolist()
        place = {ingredient: index for index, ingredient in enumerate(ingredients)}
        return _Plan(pairs, [between[place[one]][place[other]] for one, other in pairs])

    def measure(self, plan: _Plan, measurer: Measurer) -> Findings:
        """Measure the ingredients, then the average of each pair."""
        names = run_names(itertools.chain.from_iterable(plan.pairs))
        single = {one: measurer.measure(Mixture.uniform([one]), name) for one, name in names.items()}
        grouped = group_pairs(plan.pairs, self._color_by, _PARTS, by_value=False)
        rows: list[dict[str, Cell]] = []
        for pair, angle, group, larger in zip(plan.pairs, plan.angles, grouped.labels, grouped.larger, strict=True):
            one, other = pair
            soup = measurer.measure(Mixture.uniform(pair), f"{names[one]} and {names[other]}")
            gains = {
                name: advantage(value, (single[one][name] + single[other][name]) / 2, measurer.mode)
                for name, value in soup.items()
            }
            row: dict[str, Cell] = {"first": names[one], "second": names[other], "angle": angle, "group": group}
            row[_larger(self._color_by)] = larger
            rows.append({**row, **{f"{_GAIN} {name}": gain for name, gain in on_datasets(gains, measurer).items()}})
        conclusions = [*not_recorded(plan.pairs, self._color_by), *_conclusions(rows, grouped, measurer)]
        return Findings(rows, conclusions, details={"title": grouped.title})

    def draw(self, result: StudyResult) -> "Figure":
        """Gain against angle, a panel for each group of datasets, coloured by the hyperparameter."""
        from lightning_soups.figures import panels

        maps = groups(result)
        with panels(columns=len(maps)) as (figure, axes):
            for axis, (column, title) in zip(axes, maps, strict=True):
                axis.axhline(0, color="#9A9A9A", linewidth=1)
                colored = _scatter(axis, result.rows, f"{_GAIN} {column}", _larger(result.options["color_by"]))
                axis.set(title=title, xlabel="angle seen from the initialization, in degrees")
            axes[0].set_ylabel(f"gain of the average in {result.metric}")
            if colored is not None:
                bar = figure.colorbar(colored, ax=axes, label=result.details["title"], format="{x:.3g}")
                bar.set_ticks([colored.norm.inverse(part / 4) for part in range(5)])
                bar.minorticks_off()
            handles, labels = axes[0].get_legend_handles_labels()
            if handles:
                place: dict[str, Any] = {"loc": "outside lower center", "ncols": 2 * len(axes)}
                figure.legend(handles, labels, title=result.details["title"], **place)
        return figure


def _larger(hyperparameter: str) -> str:
    return f"larger {hyperparameter}"


def _scatter(axis: "Axes", rows: Sequence[Mapping[str, Cell]], column: str, larger: str) -> Any:
    """Draw pairs; returns what a colour bar is made of where colours are numbers."""
    from matplotlib.colors import LogNorm, Normalize

    from lightning_soups.figures import COLORS, MODEL_STYLE

    def draw(these: Sequence[Mapping[str, Cell]], **style: Any) -> Any:
        found, gains = ([number(row, key) for row in these] for key in ("angle", column))
        return axis.scatter(found, gains, s=26, edgecolors="white", linewidths=0.4, **style)

    unknown = [row for row in rows if row["group"] == NOT_RECORDED]
    if unknown:
        draw(unknown, color=MODEL_STYLE["ingredient"][0], label=NOT_RECORDED)
    colored = [row for row in rows if row[larger] is not None]
    if colored:
        values = [number(row, larger) for row in colored]
        low, high = min(values), max(values)
        scale = LogNorm(low, high) if 0 < _WIDE * low <= high else Normalize(low, high)
        return draw(colored, c=values, cmap="viridis", norm=scale)
    kinds = sorted({str(row["group"]) for row in rows} - {NOT_RECORDED})
    for kind, color in zip(kinds, COLORS, strict=False):
        draw([row for row in rows if row["group"] == kind], color=color, label=kind)
    return None


def _conclusions(rows: Sequence[Mapping[str, Cell]], grouped: Groups, measurer: Measurer) -> list[str]:
    sentences = []
    for column, title in groups(measurer):
        points: dict[str, list[Point]] = {group: [] for group in grouped.order}
        for row in rows:
            if math.isfinite(gain := number(row, f"{_GAIN} {column}")):
                points[str(row["group"])].append((number(row, "angle"), gain))
        points = {group: within for group, within in points.items() if within}
        everything = [point for within in points.values() for point in within]
        if not everything:
            sentences.append(f"{title}: {measurer.metric} is NaN or infinite in every pair, so there are no gains.")
            continue
        gains, found = [gain for _, gain in everything], rank_correlation(everything)
        sentences.append(
            f"{title}: {sum(gain > 0 for gain in gains)} of {len(gains)} averages are better than the mean of their two"
            f" models; the mean gain is {fmean(gains):.4f}. Rank correlation of angle and gain: {shown(found)},"
            f" {_in_words(found)}."
        )
        if len(points) > 1:
            sentences[-1] += f" By {grouped.title}, {by_group(points, rank_correlation)}."
        if left_out := len(rows) - len(gains):
            pairs = f"{left_out} more pair{'s' * (left_out != 1)}"
            sentences[-1] += f" Left out: {pairs}, where {measurer.metric} is NaN or infinite."
    return sentences


def _in_words(coefficient: float) -> str:
    if math.isnan(coefficient):
        return "because there are too few different pairs"
    if abs(coefficient) < _UNRELATED:
        return "so angles say nothing about gains"
    return f"so averages gain {'more' if coefficient > 0 else 'less'} at larger angles"
