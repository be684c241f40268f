"""What more models bring."""

import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients, run_names
from lightning_soups.mixture import Mixture
from lightning_soups.recipes import GreedySoup
from lightning_soups.recipes.recipe import at_least_one
from lightning_soups.score import Score
from lightning_soups.studies.cooked import BEST, ensemble_of
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import HELD_OUT, groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNIFORM, _GREEDY, _ENSEMBLE = "uniform soup", "greedy soup", "ensemble"


class _Step(NamedTuple):
    """The first k ingredients of an order, and what was made of them."""

    order: int
    first: tuple[Ingredient, ...]
    soups: dict[str, Mixture]
    held_out: dict[str, float]


@final
class NumberOfModels(Study):
    """How much the best single model, soups and the ensemble gain from more ingredients.

    The ingredients are put into random orders, as if a random search had found them one after the other. Of the first
    k in each order are measured: the one that is best on the held-out data, the uniform soup, the greedy soup, and the
    ensemble, which averages the outputs of all k and so costs k times as much at inference.

    Source: Wortsman et al., Model soups, ICML 2022, appendix on the number of models, arXiv:2203.05482.

    Args:
        orders: How many random orders.
        seed: Decides the orders.
        counts: Which numbers of ingredients k to look at; None for each from 1 to all, ``[1, 2, 4, 8, 16]`` takes less
            time. Numbers larger than that of the ingredients count as all.

    Raises:
        ValueError: ``orders`` or one of ``counts`` is less than 1, or ``counts`` is empty.
    """

    def __init__(self, orders: int = 5, seed: int = 0, counts: Sequence[int] | None = None) -> None:
        if counts is not None and not counts:
            raise ValueError("`counts` must hold one or more numbers of ingredients such as [1, 2, 4, 8], got none.")
        self._orders = at_least_one(orders, "orders")
        self._seed = seed
        self._counts = None if counts is None else tuple(sorted({at_least_one(k, "counts") for k in counts}))

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> list[_Step]:
        """Cook the first k of each order."""
        most = len(ingredients)
        counts = sorted({min(k, most) for k in self._counts or range(1, most + 1)})
        shuffle = random.Random(self._seed).sample
        steps = []
        for order in range(1, self._orders + 1):
            shuffled = shuffle(list(ingredients), most)
            for k in counts:
                first = Ingredients(shuffled[:k], ingredients.directory)
                soups = {
                    BEST: Mixture.uniform(evaluator.rank(first)[:1]),
                    _UNIFORM: Mixture.uniform(first),
                    _GREEDY: GreedySoup().cook(first, evaluator),
                }
                held_out = {name: float(evaluator.score(soup, label=name)) for name, soup in soups.items()}
                steps.append(_Step(order, tuple(first), soups, held_out))
        return steps

    def measure(self, plan: list[_Step], measurer: Measurer) -> Findings:
        """Measure each."""
        rows: list[dict[str, Cell]] = []
        ensembles: dict[frozenset[Ingredient], Mapping[str, float]] = {}
        for order, first, soups, held_out in plan:
            k = len(first)
            for name, soup in soups.items():
                values = on_datasets(measurer.measure(soup, f"{name} of {k}"), measurer)
                cells: dict[str, Cell] = {"members": len(soup), HELD_OUT: held_out[name], **values}
                rows.append({"order": order, "k": k, "model": name, **cells})
            members = frozenset(first)
            if members not in ensembles:
                ensembles[members] = measurer.ensemble(ensemble_of(Mixture.uniform(first)), f"ensemble of {k}")
            values = on_datasets(ensembles[members], measurer)
            rows.append({"order": order, "k": k, "model": _ENSEMBLE, "members": k, HELD_OUT: None, **values})
        whole = [step for step in plan if len(step.first) == max(len(other.first) for other in plan)]
        names = run_names(whole[0].first)
        greedy = {f"{_GREEDY}, order {step.order}, k = {len(step.first)}": step.soups[_GREEDY] for step in plan}
        details = {"orders": [[names[one] for one in step.first] for step in whole]}
        return Findings(rows, _conclusions(rows, measurer), greedy, details)

    def draw(self, result: StudyResult) -> "Figure":
        """Metric against the number of models: the mean over orders, each order faintly behind it."""
        from matplotlib.ticker import MaxNLocator

        from lightning_soups.figures import MODEL_STYLE, panels

        shown = groups(result)
        orders = sorted({number(row, "order") for row in result.rows})
        with panels(columns=len(shown)) as (figure, axes):
            for axis, (column, title) in zip(axes, shown, strict=True):
                for name in (BEST, _UNIFORM, _GREEDY, _ENSEMBLE):
                    color, marker = MODEL_STYLE[name]
                    rows = [row for row in result.rows if row["model"] == name]
                    for order in orders:
                        own = [row for row in rows if row["order"] == order]
                        points = [[number(row, key) for row in own] for key in ("k", column)]
                        axis.plot(*points, color=color, alpha=0.25, linewidth=0.8)
                    means = _means(rows, column)
                    axis.plot(list(means), list(means.values()), color=color, marker=marker, markersize=4, label=name)
                most = max(number(row, "k") for row in result.rows)
                axis.set(title=title, xlabel="number of models", xlim=(0.5, most + 0.5))
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes[0].set_ylabel(result.metric)
            many = f"mean of {len(orders)} random orders" if len(orders) > 1 else "one random order"
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, title=many)
        return figure


def _means(rows: Sequence[Mapping[str, Cell]], column: str) -> dict[float, float]:
    counts = sorted({number(row, "k") for row in rows})
    return {k: fmean(number(row, column) for row in rows if row["k"] == k) for k in counts}


def _conclusions(rows: Sequence[Mapping[str, Cell]], measurer: Measurer) -> list[str]:
    sentences = []
    for column, title in groups(measurer):
        of = {name: [row for row in rows if row["model"] == name] for name in (BEST, _UNIFORM, _GREEDY, _ENSEMBLE)}
        most = max(number(row, "k") for row in rows)
        pairs = [
            (Score(number(soup, column), measurer.mode), Score(number(best, column), measurer.mode))
            for soup, best in zip(of[_GREEDY], of[BEST], strict=True)
            if number(soup, "k") > 1
        ]
        if pairs:
            as_good = sum(soup >= best for soup, best in pairs)
            better = sum(soup > best for soup, best in pairs)
            sentences.append(
                f"{title}: of {len(pairs)} sets of two or more models the greedy soup is at least as good as the best"
                f" single one in {as_good} ({as_good / len(pairs):.0%}), better in {better}."
            )
        values = ", ".join(f"{name} {_means(own, column)[most]:.4f}" for name, own in of.items())
        sentences.append(f"{title}: with all {most:.0f} models {measurer.metric} is: {values}.")
    return sentences
