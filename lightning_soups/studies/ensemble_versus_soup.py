"""Is averaging weights as good as averaging outputs?"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients, run_names
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import at_least_one
from lightning_soups.score import Mode
from lightning_soups.studies.pairs import (
    Groups,
    Pair,
    Point,
    advantage,
    by_group,
    choose_pairs,
    correlation,
    group_pairs,
    not_recorded,
)
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ALL = "all"
_SOUP, _ENSEMBLE = "soup", "ensemble"


class _Plan(NamedTuple):
    everything: Ingredients
    pairs: list[Pair]


@final
class EnsembleVersusSoup(Study):
    r"""The metric of soups, which average weights, against that of ensembles, which average outputs.

    For pairs :math:`\theta_1, \theta_2` and for all ingredients together, the uniform soup :math:`f(x,
    \frac{1}{N} \sum_i \theta_i)` is compared with the ensemble :math:`\frac{1}{N} \sum_i f(x, \theta_i)`, which needs
    N times as much computing wherever it is used. Where the two go together, a soup approximates the ensemble.

    Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482.

    Args:
        group_by: A recorded hyperparameter to group pairs by. Of numbers the larger one of a pair counts.
        groups: How many groups numbers are divided into, of about as many pairs each. Anything else is grouped by
            value, with one more group for pairs of different values.
        max_pairs: How many pairs to measure; when there are more, they are drawn at random.
        seed: Decides which.

    Raises:
        ValueError: ``groups`` or ``max_pairs`` is less than 1.
    """

    def __init__(self, group_by: str = "lr", groups: int = 3, max_pairs: int = 200, seed: int = 0) -> None:
        self._group_by = group_by
        self._groups = at_least_one(groups, "groups")
        self._max_pairs = at_least_one(max_pairs, "max_pairs")
        self._seed = seed

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> _Plan:
        """Choose pairs; nothing is evaluated."""
        return _Plan(ingredients, choose_pairs(ingredients, self._max_pairs, self._seed))

    def measure(self, plan: _Plan, measurer: Measurer) -> Findings:
        """Measure the soup and the ensemble of all ingredients, then of each pair."""
        names = run_names(itertools.chain.from_iterable(plan.pairs))
        grouped = group_pairs(plan.pairs, self._group_by, self._groups, by_value=True)
        rows = _both({"first": _ALL, "second": _ALL, "group": _ALL}, plan.everything, measurer)
        for pair, group in zip(plan.pairs, grouped.labels, strict=True):
            first, second = (names[one] for one in pair)
            rows += _both({"first": first, "second": second, "group": group}, pair, measurer)
        conclusions = not_recorded(plan.pairs, self._group_by)
        for column, title in groups(measurer):
            conclusions.append(_conclusion(_points(rows, column), title, grouped, measurer.mode))
        details = {"title": grouped.title, "groups": grouped.order}
        return Findings(rows, conclusions, {"soup of all": Mixture.uniform(plan.everything)}, details)

    def draw(self, result: StudyResult) -> "Figure":
        """Ensemble against soup, a panel for each group of datasets."""
        from lightning_soups.figures import COLORS, panels

        maps = groups(result)
        with panels(columns=len(maps), height=4.6) as (figure, axes):
            for axis, (column, title) in zip(axes, maps, strict=True):
                points = _points(result.rows, column)
                for group, color in zip(result.details["groups"], itertools.cycle(COLORS)):
                    soups, ensembles = zip(*points[group], strict=True)
                    axis.scatter(soups, ensembles, s=22, alpha=0.7, linewidths=0, color=color, label=group)
                (soup, ensemble), label = points[_ALL][0], f"all {len(result.ingredients)} ingredients"
                axis.scatter(
                    soup, ensemble, s=180, marker="*", color="black", edgecolors="white", zorder=3, label=label
                )
                values = [number(row, column) for row in result.rows]
                ends = [end(filter(math.isfinite, values), default=math.nan) for end in (min, max)]
                axis.plot(ends, ends, "--", color="#9A9A9A", zorder=1)
                axis.set(title=title, xlabel=f"{result.metric} of the soup", aspect="equal")
            axes[0].set_ylabel(f"{result.metric} of the ensemble")
            handles, labels = axes[0].get_legend_handles_labels()
            place: dict[str, Any] = {"loc": "outside lower center", "ncols": 2 * len(axes)}
            figure.legend(handles, labels, title=result.details["title"], **place)
        return figure


def _both(about: Mapping[str, Cell], members: Sequence[Ingredient], measurer: Measurer) -> list[dict[str, Cell]]:
    """The rows of a soup and of the ensemble of the same members."""
    label = f"{about['first']} and {about['second']}"
    soup = measurer.measure(Mixture.uniform(members), f"soup, {label}")
    weights = {Mixture.uniform([member]): 1 / len(members) for member in members}
    ensemble = measurer.ensemble(weights, f"ensemble, {label}")
    return [
        {**about, "model": model, **on_datasets(values, measurer)}
        for model, values in ((_SOUP, soup), (_ENSEMBLE, ensemble))
    ]


def _points(rows: Sequence[Mapping[str, Cell]], column: str) -> dict[str, list[Point]]:
    """The metric of soup and ensemble, by group."""
    points: dict[str, list[Point]] = {}
    for soup, ensemble in zip(rows[::2], rows[1::2], strict=True):
        points.setdefault(str(soup["group"]), []).append((number(soup, column), number(ensemble, column)))
    return points


def _conclusion(points: Mapping[str, list[Point]], title: str, grouped: Groups, mode: Mode) -> str:
    pairs = {group: points[group] for group in grouped.order}
    gains = [advantage(soup, ensemble, mode) for within in pairs.values() for soup, ensemble in within]
    wins, losses = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
    soup, ensemble = points[_ALL][0]
    return (
        f"{title}: of {len(gains)} pairs the soup is better in {wins}, the ensemble in {losses}. The soup of all"
        f" ingredients has {soup:.4f}, their ensemble {ensemble:.4f}. Correlation of soup and ensemble, by"
        f" {grouped.title}, {by_group(pairs, correlation)}."
    )
