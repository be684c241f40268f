"""The way from one model to another."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.studies.choice import find_model
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import HELD_OUT, best_row, groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ALPHAS = tuple(round(0.05 * step, 2) for step in range(21))


class _Plan(NamedTuple):
    start: Mixture
    end: Mixture
    held_out: dict[float, float]


@final
class Interpolation(Study):
    r"""The metric along :math:`\theta_\alpha = (1 - \alpha)\,\theta_1 + \alpha\,\theta_2`.

    Where the curve lies above the chord between its ends, mixing gains more than the ends' average; where it lies
    above both ends, it beats both models. A deep valley says that the two lie in different basins. With ``start`` the
    initialization it is the path of WiSE-FT (arXiv:2109.01903).

    Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482; linear paths between networks: Frankle et al.,
    ICML 2020, arXiv:1912.05671.

    Args:
        start: The model at α = 0: ``initialization``, a rank by held-out score such as ``rank-1``, or a run.
        end: The model at α = 1.
        alphas: The points of the path.
        ensemble: Whether to measure the ensemble of the two models with the same weights at each α as well.

    Raises:
        ValueError: ``alphas`` holds less than two numbers, or one that is not finite.
    """

    def __init__(
        self, start: str = "rank-1", end: str = "rank-2", alphas: Sequence[float] = _ALPHAS, ensemble: bool = False
    ) -> None:
        if len(alphas) < 2 or not all(map(math.isfinite, alphas)):
            raise ValueError(f"`alphas` must be two or more finite numbers, got {list(alphas)}.")
        self._start = start
        self._end = end
        self._alphas = tuple(sorted(map(float, {*alphas, 0.0, 1.0})))
        self._ensemble = ensemble

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> _Plan:
        """Find the ends and score the path on the held-out data."""
        start, end = (find_model(name, ingredients, evaluator) for name in (self._start, self._end))
        if start == end:
            raise ValueError(
                f"A path needs two models, but {self._start!r} and {self._end!r} are the same: name another."
            )
        held_out = {
            alpha: float(evaluator.score(start.interpolate(end, alpha), label=f"α = {alpha:g}"))
            for alpha in self._alphas
        }
        return _Plan(start, end, held_out)

    def measure(self, plan: _Plan, measurer: Measurer) -> Findings:
        """Measure each point."""
        rows: list[dict[str, Cell]] = []
        for alpha in self._alphas:
            values = measurer.measure(plan.start.interpolate(plan.end, alpha), f"α = {alpha:g}")
            held_out = plan.held_out[alpha]
            rows.append({"alpha": alpha, "model": "weights", HELD_OUT: held_out, **on_datasets(values, measurer)})
        if self._ensemble:
            for alpha in self._alphas:
                values = measurer.ensemble({plan.start: 1 - alpha, plan.end: alpha}, f"ensemble, α = {alpha:g}")
                rows.append({"alpha": alpha, "model": "outputs", HELD_OUT: None, **on_datasets(values, measurer)})
        models = {"start": plan.start, "end": plan.end}
        return Findings(rows, _conclusions(rows, measurer), models)

    def draw(self, result: StudyResult) -> "Figure":
        """Metric against α, a panel for each group of datasets."""
        from lightning_soups.figures import COLORS, panels

        shown = groups(result)
        with panels(columns=len(shown)) as (figure, axes):
            for axis, (column, title) in zip(axes, shown, strict=True):
                for kind, color, label in (("weights", COLORS[0], "mixed weights"), ("outputs", COLORS[1], "ensemble")):
                    rows = [row for row in result.rows if row["model"] == kind]
                    if not rows:
                        continue
                    alphas, values = ([number(row, key) for row in rows] for key in ("alpha", column))
                    axis.plot(alphas, values, color=color, marker="o", markersize=3, label=label)
                    if kind == "weights":
                        ends = [values[alphas.index(0.0)], values[alphas.index(1.0)]]
                        axis.plot([0, 1], ends, "--", color="#9A9A9A", label="chord")
                axis.set(title=title, xlabel=f"α (0: {result.options['start']}, 1: {result.options['end']})")
            axes[0].set_ylabel(result.metric)
            axes[0].legend()
        return figure


def _conclusions(rows: Sequence[dict[str, Cell]], measurer: Measurer) -> list[str]:
    weights = [row for row in rows if row["model"] == "weights"]
    sentences = []
    for name in measurer.datasets:
        start, end = (number(row, name) for row in weights if row["alpha"] in (0.0, 1.0))
        best = best_row(weights, name, measurer.mode)
        better_end = (max if measurer.mode == "max" else min)(start, end)
        gain = abs(number(best, name) - better_end)
        if best["alpha"] in (0.0, 1.0) or gain == 0:
            sentences.append(f"{name}: no point of the path beats the better end, {better_end:.4f}.")
        else:
            sentences.append(
                f"{name}: the best point, α = {best['alpha']}, has {number(best, name):.4f}, {gain:.4f} better than the"
                f" better end."
            )
    return sentences
