"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_soups.ingredient import INITIALIZATION, Ingredient
from lightning_soups.ingredients import run_names
from lightning_soups.mixture import Mixture
from lightning_soups.records import varied_names
from lightning_soups.soup import Soup
from lightning_soups.studies.result import Cell, StudyResult, columns
from lightning_soups.trace import Question
from lightning_soups.visible import visible
from lightning_soups.where import flat

REACH = {"max": "≤", "min": "≥"}  # before the best that a candidate could still have reached
_STUDY_ROWS = 40
_SHORT = 20  # characters: words in a study's table that are not broken into lines


class TraceLine(NamedTuple):
    """A question and its answer in words.

    Args:
        question: The question itself.
        asked: What it was about.
        score: The score; for an answer that came early, what was out of reach.
        verdict: What came of it.
        samples: How many were evaluated for the answer.
    """

    question: Question
    asked: str
    score: str
    verdict: str
    samples: str


def make_console() -> Console:
    """A console for tables; output that goes to a file or a pipe gets room for them."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def plain_table(title: str) -> Table:
    """An empty table with few lines, so that many columns fit into 80 characters."""
    justified: dict[str, Any] = {"title_justify": "left", "caption_justify": "left"}
    # a title may be longer than the table is wide
    line = Text(visible(title), style="bold", no_wrap=True, overflow="ignore")
    return Table(title=line if title else None, box=SIMPLE_HEAD, padding=0, show_edge=False, **justified)


def ingredients_table(
    ingredients: Sequence[Ingredient], title: str, mixture: Mixture | None = None, metrics: Sequence[str] = ()
) -> Table:
    """List ingredients with their recorded score and the hyperparameters in which they differ.

    Args:
        ingredients: In the order to show.
        title: The heading.
        mixture: What they are members of, to show coefficients that are not equal.
        metrics: Which metrics to show besides the monitored one.
    """
    coefficients = mixture.coefficients if mixture is not None and not mixture.is_uniform else None
    monitors = {ingredient.monitor for ingredient in ingredients if ingredient.monitor is not None}
    shown = [*sorted(monitors), *(name for name in metrics if name not in monitors)]
    varied = varied_hyperparameters(ingredients)
    table = plain_table(title)
    table.add_column("#", justify="right")
    table.add_column("ingredient", no_wrap=True)
    if coefficients is not None:
        table.add_column("coefficient", justify="right", no_wrap=True)
    for metric in shown:
        table.add_column(cell(metric), justify="right", no_wrap=True)
    for name in varied:
        heading = cell(name.replace(".init_args.", "."), broken_at="_")
        table.add_column(heading, justify="right", no_wrap=True)
    names = run_names(ingredients)
    for number, ingredient in enumerate(ingredients, start=1):
        scores = [show_score(ingredient.metrics.get(metric)) for metric in shown]
        hyperparameters = flat(ingredient.hyperparameters)
        values = [show_value(hyperparameters.get(name)) for name in varied]
        coefficient = [] if coefficients is None else [f"{coefficients[ingredient]:.4f}"]
        table.add_row(*map(cell, [str(number), names[ingredient], *coefficient, *scores, *values]))
    return table


def trace_table(soup: Soup) -> Table:
    """Show what a recipe asked, in order: each candidate and whether it was kept.

    Questions about single ingredients that were asked to rank them share one line.

    Args:
        soup: A cooked soup.
    """
    table = plain_table(f"{soup.recipe}: what it asked, in order")
    table.caption = f"{sum(row.samples for row in soup.trace)} samples evaluated for these questions"
    if any(row.early for row in soup.trace):
        table.caption += f"\n{REACH[soup.score.mode]}: left out early, more was out of reach"
    table.add_column("asked about", no_wrap=True)
    table.add_column(cell(soup.monitor), justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("samples", justify="right", no_wrap=True)
    singles = _ranking(soup.trace)
    if singles:
        scores = sorted((row.score for row in singles), reverse=True)
        best, worst = (show_score(score.value) for score in (scores[0], scores[-1]))
        recorded = any(row.cached for row in singles)
        verdict = "ranked as recorded" if recorded else "ranked"
        samples = str(sum(row.samples for row in singles))
        table.add_row(f"{len(singles)} single ingredients", f"{best} to {worst}", verdict, samples)
    for line in trace_lines(soup.trace)[len(singles) :]:
        if line.question.is_left_out:
            continue  # the reason takes more room than a table has
        table.add_row(*map(cell, line[1:]), style="green" if line.question.accepted else None)
    return table


def trace_lines(trace: Sequence[Question]) -> list[TraceLine]:
    """Put every question of a trace in words.

    Args:
        trace: What a recipe asked, in order.
    """
    singles = _ranking(trace)
    names = run_names(member for row in trace for member in row.mixture)
    lines = []
    kept: set[Ingredient] = set()
    for number, row in enumerate(trace):
        if row.is_left_out:
            lines.append(TraceLine(row, names[row.mixture.members[0]], "-", row.label, "-"))
            continue
        if number < len(singles):
            asked, verdict = names[row.mixture.members[0]], "ranked as recorded" if row.cached else "ranked"
        else:
            asked = _asked(row, kept, names)
            verdict = {None: "" if row.label else "start", True: "kept", False: "left out"}[row.accepted]
            if row.accepted is not False:
                kept = set(row.mixture)
        score = f"{REACH[row.score.mode]} " if row.early else ""
        samples = "known" if row.cached else str(row.samples)
        lines.append(TraceLine(row, asked, score + show_score(row.score.value), verdict, samples))
    return lines


def study_table(result: StudyResult) -> Table:
    """The first rows of a study's table; columns of words are aligned left."""
    table = plain_table(f"{result.study}: {result.metric}" + (" on test data" if result.datasets else ""))
    names = columns(result.rows)
    for name in names:
        is_number = any(isinstance(row.get(name), (int, float)) for row in result.rows)
        whole = not is_number and all(len(str(row.get(name))) <= _SHORT for row in result.rows)
        table.add_column(cell(name), justify="right" if is_number else "left", overflow="fold", no_wrap=whole)
    for row in result.rows[:_STUDY_ROWS]:
        table.add_row(*(cell(_shown(row.get(name))) for name in names))
    if len(result.rows) > _STUDY_ROWS:
        table.caption = f"… and {len(result.rows) - _STUDY_ROWS} more rows, which the CSV file has"
    return table


def cell(text: str, broken_at: str | None = None) -> Text:
    """Text that is neither markup nor an order to the terminal.

    Args:
        text: From a file.
        broken_at: What becomes the end of a line.
    """
    shown = visible(text)
    return Text(shown if broken_at is None else shown.replace(broken_at, "\n"))


def _shown(value: Cell) -> str:
    return show_score(value) if isinstance(value, float) and not value.is_integer() else show_value(value)


def _ranking(trace: Sequence[Question]) -> list[Question]:
    """The questions at the start of a trace that are each about another single ingredient."""
    singles: dict[Mixture, Question] = {}
    for row in trace:
        if len(row.mixture) > 1 or row.accepted is not None or row.mixture in singles:
            break
        singles[row.mixture] = row
    return list(singles.values())


def _asked(row: Question, kept: set[Ingredient], names: Mapping[Ingredient, str]) -> str:
    new = [names[ingredient] for ingredient in row.mixture if ingredient not in kept]
    if row.label:
        return row.label
    if len(row.mixture) == 1:
        return names[row.mixture.members[0]]
    return f"{len(kept)} kept + {new[0]}" if len(new) == 1 else f"mixture of {len(row.mixture)}"


def varied_hyperparameters(ingredients: Sequence[Ingredient]) -> list[str]:
    """The names of the hyperparameters in which ingredients differ."""
    return varied_names([flat(one.hyperparameters) for one in ingredients if one.run != INITIALIZATION])


def show_score(value: float | None) -> str:
    """A metric with enough digits to tell close ones apart."""
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.4g}"


def show_value(value: Any) -> str:
    """A metric or hyperparameter in a few characters."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
