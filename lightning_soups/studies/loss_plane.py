"""The landscape around three models."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.ingredient import INITIALIZATION
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode
from lightning_soups.studies.choice import find_model
from lightning_soups.studies.plane import Shares, plane_through
from lightning_soups.studies.result import Cell, StudyResult
from lightning_soups.studies.rows import HELD_OUT, best_row, groups, number, on_datasets
from lightning_soups.studies.study import Findings, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.4  # of a panel, in inches
_LEVELS = 12
_GRID, _SOUP = "grid", "uniform soup"
_SHARES = ("lambda 0", "lambda 1", "lambda 2")
_CORNERS: tuple[Shares, ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1 / 3, 1 / 3, 1 / 3))


class _Plan(NamedTuple):
    models: dict[str, Mixture]
    rows: list[dict[str, Cell]]
    details: dict[str, Any]


@final
class LossPlane(Study):
    r"""Held-out loss and test error on the plane through three models.

    With :math:`u_1 = \theta_1 - \theta_0` and :math:`u_2` the part of :math:`\theta_2 - \theta_0` that is orthogonal to
    it, each point is :math:`\theta_0 + x\,u_1 / \|u_1\| + y\,u_2 / \|u_2\|`: a mixture of the three models, with
    coefficients :math:`\lambda_i` that sum to 1. Where models lie around the bottom of a basin, their average is nearer
    to it than any of them.

    Source: Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, NeurIPS 2018,
    arXiv:1802.10026; of fine-tuned models Wortsman et al., Model soups, ICML 2022, figure 2, arXiv:2203.05482.

    Args:
        origin: The model at (0, 0): ``initialization``, a rank by held-out score such as ``rank-1``, or a run.
        first: The model on the horizontal axis.
        second: The third model.
        resolution: Points along each axis. Each point is evaluated on the held-out and on the test data.
        margin: Room around the triangle, as a share of its larger extent.
        loss: The logged held-out number to show. Where it is not logged, that is the monitored metric.

    Raises:
        ValueError: ``resolution`` is less than 2, or ``margin`` is negative or not finite.
    """

    def __init__(
        self,
        origin: str = INITIALIZATION,
        first: str = "rank-1",
        second: str = "rank-2",
        resolution: int = 11,
        margin: float = 0.25,
        loss: str = "val_loss",
    ) -> None:
        if resolution < 2:
            raise ValueError(f"`resolution` must be at least 2 points along each axis, got {resolution}.")
        if not 0 <= margin < math.inf:
            raise ValueError(f"`margin` must be a finite number of 0 or more, got {margin}.")
        self._origin = origin
        self._first = first
        self._second = second
        self._resolution = resolution
        self._margin = margin
        self._loss = loss

    def choose(self, ingredients: Ingredients, evaluator: Evaluator) -> _Plan:
        """Find the models and evaluate the plane on the held-out data."""
        names = (self._origin, self._first, self._second)
        models = {name: find_model(name, ingredients, evaluator) for name in names}
        plane = plane_through(models, evaluator)
        points = [
            (name, *plane.position(shares), shares) for name, shares in zip((*names, _SOUP), _CORNERS, strict=True)
        ]
        points += [(_GRID, x, y, plane.shares(x, y)) for x, y in plane.grid(self._resolution, self._margin)]
        rows: list[dict[str, Cell]] = []
        shown: dict[str, Any] = {"held_out": self._loss, "held_out_mode": "min"}
        for name, x, y, shares in points:
            row: dict[str, Cell] = {"point": name, "x": x, "y": y, **dict(zip(_SHARES, shares, strict=True))}
            mixture, label = _mixed(models, row), _label(row)
            value = evaluator.metrics(mixture, label).get(self._loss)
            if value is None:
                score = evaluator.score(mixture, label=label)
                value, shown = score.value, {"held_out": None, "held_out_mode": score.mode}
            rows.append({**row, HELD_OUT: value})
        return _Plan(models, rows, shown)

    def measure(self, plan: _Plan, measurer: Measurer) -> Findings:
        """Measure each point."""
        rows = [
            {**row, **on_datasets(measurer.measure(_mixed(plan.models, row), _label(row)), measurer)}
            for row in plan.rows
        ]
        soup = next(_mixed(plan.models, row) for row in rows if row["point"] == _SOUP)
        return Findings(rows, self._conclusions(rows, plan, measurer), {**plan.models, _SOUP: soup}, plan.details)

    def draw(self, result: StudyResult) -> "Figure":
        """Contours of the held-out loss, then of the test error in each group of datasets."""
        from lightning_soups.figures import MODEL_STYLE, panels

        held_out, mode = result.details["held_out"] or result.monitor, result.details["held_out_mode"]
        maps = [(HELD_OUT, "held-out data", held_out, mode)]
        maps += [(column, title, result.metric, result.mode) for column, title in groups(result)]
        grid = [row for row in result.rows if row["point"] == _GRID]
        corners = [row for row in result.rows if row["point"] != _GRID]
        styles = {INITIALIZATION: MODEL_STYLE[INITIALIZATION], "rank-1": MODEL_STYLE["best single"]}
        styles[_SOUP] = (MODEL_STYLE[_SOUP][0], "*")
        width, height = (number(grid[-1], key) - number(grid[0], key) for key in ("x", "y"))
        with panels(columns=len(maps), width=_WIDTH, height=_WIDTH * min(height / width, 2) + 1.7) as (figure, axes):
            for axis, (column, title, metric, direction) in zip(axes, maps, strict=True):
                _contours(axis, grid, column, metric, direction)
                for row, own in zip(corners, "o^v*", strict=True):  # ingredients differ in nothing but the marker
                    color, marker = styles.get(str(row["point"]), (MODEL_STYLE["ingredient"][0], own))
                    size = 260 if marker == "*" else 110
                    style: dict[str, Any] = {"color": color, "marker": marker, "edgecolors": "white", "zorder": 3}
                    axis.scatter(number(row, "x"), number(row, "y"), s=size, label=str(row["point"]), **style)
                axis.set(title=title, xlabel="distance of parameters", aspect="equal")
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure

    def _conclusions(self, rows: Sequence[Mapping[str, Cell]], plan: _Plan, measurer: Measurer) -> list[str]:
        best = best_row(rows, HELD_OUT, plan.details["held_out_mode"])
        shares = [f"{number(best, share):.2f} of {name}" for share, name in zip(_SHARES, plan.models, strict=True)]

        def compared(column: str) -> str:
            corners = [f"{row['point']} {number(row, column):.4f}" for row in rows if row["point"] != _GRID]
            return f"{number(best, column):.4f} there; {', '.join(corners)}."

        sentences = []
        shown = plan.details["held_out"]
        if shown is None:
            sentences.append(
                f"{self._loss!r} is not logged in validation, so held-out numbers are the monitored metric."
            )
            shown = "value"
        where = f"The best held-out {shown} of {len(rows)} points of the plane is at {', '.join(shares)}"
        sentences.append(f"{where}: {compared(HELD_OUT)}")
        return sentences + [f"{title}, {measurer.metric}: {compared(column)}" for column, title in groups(measurer)]


def _mixed(models: Mapping[str, Mixture], row: Mapping[str, Cell]) -> Mixture:
    """The mixture of the models at a point."""
    base, first, second = models.values()
    # half of twice as far along each edge: this way no point of the plane needs a division
    along, across = (number(row, share) for share in _SHARES[1:])
    return base.interpolate(first, 2 * along).interpolate(base.interpolate(second, 2 * across), 0.5)


def _label(row: Mapping[str, Cell]) -> str:
    return str(row["point"]) if row["point"] != _GRID else f"({number(row, 'x'):.3g}, {number(row, 'y'):.3g})"


def _contours(axis: "Axes", grid: Sequence[Mapping[str, Cell]], column: str, metric: str, mode: Mode) -> None:
    """Filled contours, dark where models are good; as rates of errors where the metric is a rate of successes."""
    from matplotlib.colors import BoundaryNorm

    values = [number(row, column) for row in grid]
    known = [value for value in values if math.isfinite(value)] or [0.0]
    if mode == "max" and min(known) >= 0 and max(known) <= 1:
        values, known = [1 - value for value in values], [1 - value for value in known]
        metric, mode = f"1 − {metric}", "min"
    elif mode == "max":
        metric = f"{metric} (more is better)"
    best, worst = (min(known), max(known)) if mode == "min" else (max(known), min(known))
    # squares, because around its minimum a loss grows with the square of the distance
    steps = [best + ((worst - best) or 1.0) * (step / _LEVELS) ** 2 for step in range(_LEVELS + 1)]
    levels = sorted(steps)
    xs, ys = (list(dict.fromkeys(number(row, key) for row in grid)) for key in ("x", "y"))
    field = [values[start : start + len(xs)] for start in range(0, len(values), len(xs))]
    cmap, norm = "viridis" if mode == "min" else "viridis_r", BoundaryNorm(levels, 256)
    filled = axis.contourf(xs, ys, field, levels=levels, cmap=cmap, norm=norm)
    axis.contour(xs, ys, field, levels=levels[1:-1], colors="white", linewidths=0.5)
    axis.grid(False)
    assert axis.figure is not None
    bar = axis.figure.colorbar(filled, ax=axis, location="bottom", spacing="uniform", label=metric, format="{x:.3g}")
    bar.set_ticks(levels[::3])
