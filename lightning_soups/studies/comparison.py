"""All recipes side by side, with how sure one can be."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredients import Ingredients
from lightning_soups.recipes import GreedySoup, LearnedSoup, ModelStock, PrunedSoup, Recipe, UniformSoup, WiseFT
from lightning_soups.recipes.recipe import at_least_one
from lightning_soups.statistics import bootstrap_means, is_binary, mcnemar, percentile_interval
from lightning_soups.studies.cooked import BEST, Lineup, check_recipes, line_up
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import groups, number
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVEL = 0.95


class _Measured(NamedTuple):
    """What was found for a model."""

    members: int
    cost: int
    values: dict[str, float]
    samples: dict[str, Tensor | None]


@final
class Comparison(Study):
    """Soups of all recipes and ensembles against the best single ingredient, on every test dataset.

    Each difference has a 95 % interval from a paired bootstrap: test samples are drawn with replacement, the same ones
    for both models. Where a sample is either right or wrong there is the p value of McNemar's exact test as well, not
    corrected for the number of comparisons. Of a mean over datasets each dataset is drawn from independently; where
    datasets are versions of the same images, as synthetic shifts are, that makes the interval of their mean too narrow.

    Cost is the number of forward passes for one prediction: 1 for any soup, k for an ensemble of k.

    Source: Wortsman et al., Model soups, ICML 2022, section 3, arXiv:2203.05482; bootstrap: Efron, The Annals of
    Statistics 7(1), 1979; test: McNemar, Psychometrika 12(2), 1947.

    Args:
        recipes: The soups to cook; None for all recipes of the package with their defaults: uniform, greedy, pruned and
            learned soup, WiSE-FT and Model Stock. What cannot be cooked is left out.
        resamples: How often the bootstrap draws.
        seed: Decides what it draws.

    Raises:
        ValueError: ``recipes`` is empty, or lists a recipe twice; or ``resamples`` is less than 1.
    """

    def __init__(self, recipes: Sequence[Recipe] | None = None, resamples: int = 2000, seed: int = 0) -> None:
        everything = (UniformSoup(), GreedySoup(), PrunedSoup(), LearnedSoup(), WiseFT(), ModelStock())
        self._recipes = check_recipes(everything if recipes is None else recipes)
        self._resamples = at_least_one(resamples, "resamples")
        self._seed = seed

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> Lineup:
        """Cook the soups."""
        return line_up(self._recipes, ingredients, evaluator)

    def measure(self, plan: Lineup, measurer: Measurer) -> Findings:
        """Measure each model, sample by sample."""
        found: dict[str, _Measured] = {}
        for name, mixture in plan.models.items():
            samples = measurer.per_sample(mixture)  # this also measures, so that the next line costs nothing
            found[name] = _Measured(len(mixture), 1, measurer.measure(mixture, name), samples)
        for name, members in plan.ensembles.items():
            samples = measurer.per_sample(members)
            found[name] = _Measured(len(members), len(members), measurer.ensemble(members, name), samples)
        resampled = {
            dataset: self._resample({name: model.samples[dataset] for name, model in found.items()}, index)
            for index, dataset in enumerate(measurer.datasets)
        }
        rows: list[dict[str, Cell]] = []
        for title, datasets in _columns(measurer).items():
            for name, model in found.items():
                value, base = (fmean(one.values[dataset] for dataset in datasets) for one in (model, found[BEST]))
                row: dict[str, Cell] = {"dataset": title, "model": name, "value": value}
                row.update({"difference": value - base, "low": None, "high": None, "p value": None})
                drawn = [resampled[dataset].get(name) for dataset in datasets]
                if name != BEST and all(one is not None for one in drawn):
                    means = torch.stack([one for one in drawn if one is not None]).mean(dim=0)
                    row["low"], row["high"] = percentile_interval(means, _LEVEL)
                if name != BEST and len(datasets) == 1:
                    row["p value"] = _p_value(model.samples[datasets[0]], found[BEST].samples[datasets[0]])
                rows.append({**row, "members": model.members, "cost": model.cost})
        return Findings(rows, [*_conclusions(rows, measurer), *plan.left_out], plan.models)

    def draw(self, result: StudyResult) -> "Figure":
        """Differences to the best single model with their intervals, a panel for each dataset."""
        from matplotlib.ticker import MaxNLocator

        from lightning_soups.figures import MODEL_STYLE, panels

        rows = {(str(row["dataset"]), str(row["model"])): row for row in result.rows}
        datasets, models = ([*dict.fromkeys(key[place] for key in rows)] for place in (0, 1))
        models.remove(BEST)
        columns = min(3, len(datasets))
        size = {"width": 3.6, "height": 1.4 + 0.28 * len(models)}
        with panels(rows=math.ceil(len(datasets) / columns), columns=columns, **size) as (figure, axes):
            for place, (axis, dataset) in enumerate(zip(axes, datasets, strict=False)):
                axis.axvline(0, color="#9A9A9A", linewidth=1)
                for height, name in enumerate(reversed(models)):
                    row = rows[dataset, name]
                    color, marker = MODEL_STYLE.get(name.split(" of ")[0], ("#4A4A4A", "o"))
                    axis.hlines(height, number(row, "low"), number(row, "high"), color=color, linewidth=1.6)
                    axis.plot(number(row, "difference"), height, color=color, marker=marker, markersize=6)
                axis.set_yticks(range(len(models)), reversed(models) if place % columns == 0 else [""] * len(models))
                axis.set_title(f"{dataset}\nbest single {number(rows[dataset, BEST], 'value'):.4f}", fontsize=10)
                axis.xaxis.set_major_locator(MaxNLocator(4))
                axis.set_ylim(-0.6, len(models) - 0.4)
            for axis in axes[len(datasets) :]:
                axis.remove()
            better = "more" if result.mode == "max" else "less"
            figure.supxlabel(
                f"{result.metric} minus that of the best single model ({better} is better); lines: 95 % intervals"
            )
        return figure

    def _resample(self, samples: dict[str, Tensor | None], index: int) -> dict[str, Tensor]:
        """Mean differences to the best single model in each resample of a dataset, shape (B,), where they are known."""
        base = samples[BEST]
        known = {name: own for name, own in samples.items() if own is not None and base is not None}
        if base is None or not known:
            return {}
        differences = torch.stack([own - base for own in known.values()], dim=1)
        means = bootstrap_means(differences, self._resamples, self._seed + index)
        return dict(zip(known, means.T, strict=True))


def _columns(measurer: Measurer) -> dict[str, tuple[str, ...]]:
    """What is compared on: what matters most first, in distribution and the mean shift, then each other dataset."""
    found = {}
    for (_, title), datasets in zip(groups(measurer), (measurer.in_distribution, measurer.shifted), strict=False):
        found[title if len(datasets) > 1 else datasets[0]] = datasets
    return {**found, **{name: (name,) for name in measurer.datasets}}


def _p_value(first: Tensor | None, second: Tensor | None) -> float | None:
    if first is None or second is None or not (is_binary(first) and is_binary(second)):
        return None
    return mcnemar(first, second)


def _conclusions(rows: Sequence[dict[str, Cell]], measurer: Measurer) -> list[str]:
    sentences = []
    for title in list(_columns(measurer))[: len(groups(measurer))]:
        verdicts: dict[str, list[str]] = {"better than": [], "worse than": [], "no clear difference to": []}
        for row in rows:
            low, high, difference = (number(row, key) for key in ("low", "high", "difference"))
            if row["dataset"] != title or math.isnan(low):
                continue
            clear = low > 0 or high < 0
            better = (difference > 0) == (measurer.mode == "max")
            verdict = "no clear difference to" if not clear else "better than" if better else "worse than"
            verdicts[verdict].append(f"{row['model']} ({difference:+.4f}, {low:+.4f} to {high:+.4f})")
        told = [f"{verdict} the best single model: {', '.join(names)}" for verdict, names in verdicts.items() if names]
        sentences += [f"{title}: {'; '.join(told)}."] if told else []
    without = [row for row in rows if row["low"] is None and row["model"] != BEST]
    unknown = [str(row["dataset"]) for row in without if math.isfinite(number(row, "difference"))]
    if unknown:
        sentences.append(
            f"No intervals where {measurer.metric} is no mean over samples, or single samples cannot be told apart:"
            f" {', '.join(dict.fromkeys(unknown))}."
        )
    where: dict[str, list[str]] = {}
    for row in rows:
        if not math.isfinite(number(row, "value")):
            where.setdefault(str(row["model"]), []).append(str(row["dataset"]))
    if where:
        told = [f"{name} ({', '.join(datasets)})" for name, datasets in where.items()]
        sentences.append(f"No intervals for models whose {measurer.metric} is NaN or infinite: {', '.join(told)}.")
    if BEST in where:
        sentences[-1] += " Nothing can be compared with the best single model there."
    if any(row["low"] is not None for row in rows):
        sentences.append(
            "An interval says what other test samples would change, not what other training runs would: a new sweep may"
            " differ by more."
        )
    return sentences
