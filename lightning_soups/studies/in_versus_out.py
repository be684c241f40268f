"""In distribution against shifted data."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredient import INITIALIZATION
from lightning_soups.ingredients import Ingredients, run_names
from lightning_soups.mixture import Mixture
from lightning_soups.recipes import GreedySoup, LearnedSoup, Recipe, UniformSoup
from lightning_soups.score import Score
from lightning_soups.studies.cooked import BEST, Lineup, check_recipes, line_up
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import HELD_OUT, ID, OOD, best_row, groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INGREDIENT = "ingredient"
_MODEL, _ENSEMBLE = "model", "ensemble"


class _Plan(NamedTuple):
    ingredients: dict[str, Mixture]
    lineup: Lineup
    held_out: dict[str, float]
    best: str
    missing: list[str]


@final
class InVersusOut(Study):
    """Each ingredient, the initialization, soups and ensembles: in distribution against shifted data.

    Ingredients that are alike in distribution often differ under shift, and the best in distribution need not be the
    best under shift. Soups usually lie above and to the right of the cloud that the ingredients make.

    Source: Wortsman et al., Model soups, ICML 2022, figure 1, arXiv:2203.05482.

    Args:
        recipes: The soups to cook; None for the uniform, greedy and learned soup. What cannot be cooked is left out.

    Raises:
        ValueError: ``recipes`` is empty, or lists a recipe twice.
    """

    def __init__(self, recipes: Sequence[Recipe] | None = None) -> None:
        self._recipes = check_recipes((UniformSoup(), GreedySoup(), LearnedSoup()) if recipes is None else recipes)

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> _Plan:
        """Cook the soups."""
        lineup = line_up(self._recipes, ingredients, evaluator)
        names = run_names(ingredients)
        models = {names[one]: Mixture.uniform([one]) for one in ingredients}
        best = names[lineup.models[BEST].members[0]]
        missing = list(lineup.left_out)
        try:
            lineup.models[INITIALIZATION] = Mixture.uniform([ingredients.initialization])
        except ValueError as error:
            missing.append(f"Left out: the initialization. {error}")
        scored = {**models, **lineup.models}
        held_out = {name: float(evaluator.score(model, label=name)) for name, model in scored.items()}
        return _Plan(models, lineup, held_out, best, missing)

    def measure(self, plan: _Plan, measurer: Measurer) -> Findings:
        """Measure each.

        Raises:
            ValueError: No test dataset is shifted.
        """
        if not measurer.shifted:
            raise ValueError(
                f"This study sets shifted test data against others, but all test datasets are in distribution:"
                f" {list(measurer.datasets)}. Add test dataloaders of shifted data, or say with `in_distribution` which"
                " datasets are like the training data."
            )
        rows: list[dict[str, Cell]] = []

        def add(name: str, kind: str, members: int, values: Mapping[str, float]) -> None:
            held_out = {"members": members, HELD_OUT: plan.held_out.get(name) if kind != _ENSEMBLE else None}
            rows.append({"model": name, "kind": kind, **held_out, **on_datasets(values, measurer)})

        for name, mixture in plan.lineup.models.items():
            add(name, _MODEL, len(mixture), measurer.measure(mixture, name))
        for name, members in plan.lineup.ensembles.items():
            add(name, _ENSEMBLE, len(members), measurer.ensemble(members, name))
        for name, mixture in plan.ingredients.items():
            add(name, _INGREDIENT, 1, measurer.measure(mixture, name))
        conclusions = [*_conclusions(rows, plan.best, measurer), *plan.missing]
        return Findings(rows, conclusions, {**plan.lineup.models, **plan.ingredients})

    def draw(self, result: StudyResult) -> "Figure":
        """Shifted against in distribution, a point for each model."""
        from lightning_soups.figures import COLORS, MODEL_STYLE, panels

        spare = iter(zip([*COLORS[1:], *COLORS], "^<>h8dvPX" * 2, strict=False))
        with panels(width=7.2, height=4.6) as (figure, (axis,)):
            for kind in (_INGREDIENT, _MODEL, _ENSEMBLE):
                for row in (row for row in result.rows if row["kind"] == kind):
                    name = str(row["model"])
                    single = kind == _INGREDIENT
                    color, marker = MODEL_STYLE.get(_INGREDIENT if single else name.split(" of ")[0]) or next(spare)
                    hollow = kind == _ENSEMBLE and name != next(
                        other["model"] for other in result.rows if other["kind"] == _ENSEMBLE
                    )
                    axis.scatter(
                        number(row, ID),
                        number(row, OOD),
                        s=24 if single else 220 if marker == "*" else 110,
                        marker=marker,
                        facecolors="none" if hollow else color,
                        edgecolors=color if hollow or single else "white",
                        linewidths=1.6 if hollow else 0.6,
                        alpha=0.6 if single else 1.0,
                        zorder=2 if single else 4 if kind == _MODEL else 3,
                        label=None if single else name,
                    )
            axis.scatter([], [], s=24, color=MODEL_STYLE[_INGREDIENT][0], alpha=0.6, label="single ingredients")
            (_, inside), (_, outside) = groups(result)
            axis.set(xlabel=f"{result.metric}, {inside}", ylabel=f"{result.metric}, {outside}")
            axis.set_title("up and to the right is better")
            if result.mode == "min":
                axis.invert_xaxis()
                axis.invert_yaxis()
            figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
        return figure


def _conclusions(rows: Sequence[dict[str, Cell]], best: str, measurer: Measurer) -> list[str]:
    (_, inside), (_, outside) = groups(measurer)
    singles = [row for row in rows if row["kind"] == _INGREDIENT]
    own = next(row for row in singles if row["model"] == best)
    first = best_row(singles, OOD, measurer.mode)
    begin = f"The best single model on the held-out data, {best}, has {number(own, OOD):.4f} under shift"
    if number(first, OOD) == number(own, OOD):
        sentences = [f"{begin}, which no other ingredient beats."]
    else:
        more = sum(_beats(row, own, [OOD], measurer) for row in singles)
        sentences = [
            f"{begin}; {more} of the other {len(singles) - 1} ingredients do better there, the best of them"
            f" {first['model']} with {number(first, OOD):.4f} (which only shifted data tell)."
        ]
    models = [row for row in rows if row["kind"] == _MODEL]
    for row in models:
        if row["model"] in (BEST, INITIALIZATION):
            continue
        gains = [number(row, column) - number(own, column) for column in (ID, OOD)]
        both = sum(_beats(row, other, [ID, OOD], measurer) for other in singles)
        sentences.append(
            f"The {row['model']} against the best single model: {gains[0]:+.4f} in {inside}, {gains[1]:+.4f} in"
            f" {outside}. It beats {both} of {len(singles)} ingredients in both."
        )
    front = [str(row["model"]) for row in models if not any(_dominates(other, row, measurer) for other in rows)]
    one_set = [row for row in rows if row["kind"] != _ENSEMBLE]
    cheap = [str(row["model"]) for row in one_set if not any(_dominates(other, row, measurer) for other in one_set)]
    cheap = list(dict.fromkeys(name for name in cheap if name != best or BEST not in cheap))
    sentences.append(
        f"Pareto-best of the models that cost one forward pass (none is as good in both and better in one):"
        f" {', '.join(cheap)}."
    )
    beaten = sorted(set(cheap) - set(front) - {str(row["model"]) for row in singles})
    if beaten:
        sentences.append(f"Of these an ensemble, which costs a pass for each member, beats: {', '.join(beaten)}.")
    return sentences


def _beats(row: Mapping[str, Cell], other: Mapping[str, Cell], columns: Sequence[str], measurer: Measurer) -> bool:
    return all(
        Score(number(row, column), measurer.mode) > Score(number(other, column), measurer.mode) for column in columns
    )


def _dominates(row: Mapping[str, Cell], other: Mapping[str, Cell], measurer: Measurer) -> bool:
    """Whether a model is at least as good in both ways, and better in one."""
    return not any(_beats(other, row, [column], measurer) for column in (ID, OOD)) and any(
        _beats(row, other, [column], measurer) for column in (ID, OOD)
    )
