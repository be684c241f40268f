"""What loggers get of a recipe: its questions as curves, then the soup."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from lightning_soups.ingredients import run_names
from lightning_soups.loggers.destinations import Destinations
from lightning_soups.loggers.table import Table
from lightning_soups.mixture import Mixture
from lightning_soups.soup import Soup
from lightning_soups.studies.result import Cell
from lightning_soups.tables import trace_lines, varied_hyperparameters
from lightning_soups.trace import Question, leading
from lightning_soups.where import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CookLog:
    """Logs one recipe to the user's loggers. Of several processes the first one logs.

    Args:
        trainer: Whose loggers.
        name: Of the recipe, for the names of what is logged: ``cook/<name>/…`` and ``soup/<name>/…``.
        monitor: The metric that scores are values of.
    """

    def __init__(self, trainer: Trainer, name: str, monitor: str) -> None:
        self._to = Destinations(trainer)
        self._name = name
        self._monitor = monitor
        self._best: Question | None = None
        self._questions = 0
        self._samples = 0

    def options(self, recipe: str, options: Mapping[str, Any], ingredients: int) -> None:
        """Log what the recipe was told.

        Args:
            recipe: The name of its class.
            options: Its options.
            ingredients: How many it can choose from.
        """
        told = {"recipe": recipe, "monitor": self._monitor, "ingredients": ingredients, "options": dict(options)}
        self._to.options(f"cook/{self._name}", told)

    def answer(self, row: Question) -> None:
        """Log one row: the candidate's score, unless it was rejected before it had one, and how far the recipe is."""
        self._best = leading(self._best, row)
        self._questions += 1
        self._samples += row.samples
        numbers: dict[str, float] = {"samples": self._samples}
        if not row.early:
            numbers[self._monitor] = row.score.value
        if self._best is not None:
            numbers |= {"best": self._best.score.value, "members": len(self._best.mixture)}
        self._to.numbers(
            {f"cook/{self._name}/{key}": value for key, value in numbers.items()}, self._questions, "questions"
        )

    def soup(self, soup: Soup) -> None:
        """Log the soup, which is saved: metrics, tables, the curve as a figure, and the checkpoint itself."""
        prefix = f"soup/{self._name}"
        metrics = {f"{prefix}/{key}": value for key, value in soup.metrics.items()}
        self._to.numbers(metrics, self._questions, "the soup's metrics")
        self._to.table(f"{prefix}/overview", _overview(soup))
        self._to.table(f"{prefix}/members", _members(soup))
        if soup.mixture.layers:
            self._to.table(f"{prefix}/layers", _layers(soup))
        self._to.table(f"{prefix}/questions", _questions(soup))
        self._to.figure(f"{prefix}/curve", lambda: _curve(soup))
        assert soup.path is not None
        self._to.checkpoint(soup.path, soup.monitor, soup.score)


def _curve(soup: Soup) -> "Figure":
    from lightning_soups.loggers.curve import draw_curve

    return draw_curve(soup)


def _overview(soup: Soup) -> Table:
    members = f"{sum(member in soup.candidates for member in soup.ingredients)} of {len(soup.candidates)} ingredients"
    known: list[tuple[str, str]] = [
        ("recipe", soup.recipe),
        *((f"option {key}", str(value)) for key, value in soup.options.items()),
        (soup.monitor, str(soup.score)),
        ("members", members),
        ("questions", str(sum(not row.is_left_out for row in soup.trace))),
        ("samples evaluated", str(sum(row.samples for row in soup.trace))),
        ("checkpoint", str(soup.path)),
        *(("left out", f"{one.path}: {one.reason}") for one in soup.left_out),
        *(("caveat", text) for text in soup.caveats),
    ]
    return Table(["what", "value"], known)


def _members(soup: Soup) -> Table:
    scores = {row.mixture: row.score.value for row in soup.trace if not row.early}
    varied = varied_hyperparameters(soup.ingredients)
    names = run_names(soup.ingredients)
    rows: list[list[Cell]] = [
        [
            names[member],
            coefficient,
            scores.get(Mixture.uniform([member]), member.metrics.get(soup.monitor)),
            *(_plain(flat(member.hyperparameters).get(key)) for key in varied),
            str(member.path),
        ]
        for member, coefficient in soup.mixture.coefficients.items()
    ]
    return Table(["member", "coefficient", f"{soup.monitor} alone", *varied, "checkpoint"], rows)


def _layers(soup: Soup) -> Table:
    rows: list[list[Cell]] = [[layer, *own.values()] for layer, own in soup.mixture.layers.items()]
    return Table(["layer", *run_names(soup.mixture).values()], rows)


def _questions(soup: Soup) -> Table:
    """Numbers that can be plotted: the score of an answer that came early is in a column of its own."""
    bound = "at most" if soup.score.mode == "max" else "at least"
    rows: list[list[Cell]] = [
        [
            number,
            asked,
            None if row.early or row.is_left_out else row.score.value,
            row.score.value if row.early else None,
            verdict,
            row.samples,
            round(row.seconds, 3),
        ]
        for number, (row, asked, _, verdict, _) in enumerate(trace_lines(soup.trace), start=1)
    ]
    return Table(["question", "asked about", soup.monitor, bound, "answer", "samples", "seconds"], rows)


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
