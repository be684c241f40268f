"""What the tables of all studies have in common."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.score import Mode
from lightning_soups.studies.result import Cell, StudyResult

HELD_OUT = "held-out"
ID = "mean in-distribution"
OOD = "mean shifted"


def on_datasets(values: Mapping[str, float], measurer: Measurer) -> dict[str, Cell]:
    """The columns for a model's test metric: each dataset, then the means over those that are alike.

    Args:
        values: The metric on each dataset.
        measurer: Knows which datasets are in distribution.
    """
    row: dict[str, Cell] = {name: values[name] for name in (*measurer.in_distribution, *measurer.shifted)}
    row[ID] = fmean(values[name] for name in measurer.in_distribution)
    if measurer.shifted:
        row[OOD] = fmean(values[name] for name in measurer.shifted)
    return row


def groups(result: StudyResult) -> list[tuple[str, str]]:
    """The panels of a figure: the column of each group of datasets, and what to call it."""
    found = [
        (ID, "in distribution" if len(result.in_distribution) > 1 else f"{result.in_distribution[0]} (in distribution)")
    ]
    if result.shifted:
        count = len(result.shifted)
        found.append((OOD, f"mean of {count} shifted datasets" if count > 1 else f"{result.shifted[0]} (shifted)"))
    return found


def number(row: Mapping[str, Cell], column: str) -> float:
    """A cell that holds a number; NaN for an empty one."""
    value = row.get(column)
    return float(value) if isinstance(value, (int, float)) else float("nan")


def best_row(rows: Sequence[Mapping[str, Cell]], column: str, mode: Mode) -> Mapping[str, Cell]:
    """The row with the best value in a column; the first of equal ones."""
    return (max if mode == "max" else min)(rows, key=lambda row: number(row, column))
