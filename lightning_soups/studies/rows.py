"""What the tables of all studies have in common."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.score import Mode
from lightning_soups.studies.result import Cell, StudyResult

HELD_OUT = "held-out"
ID = "mean in-distribution"
OOD = "mean shifted"
# what columns of studies are called, which a dataset would overwrite
_TAKEN = {HELD_OUT, ID, OOD, "model", "kind", "members", "order", "k", "alpha", "first", "second", "group", "point"}


def on_datasets(values: Mapping[str, float], measurer: Measurer) -> dict[str, Cell]:
    """The columns for a model's test metric: each dataset, then the means over those that are alike.

    Args:
        values: The metric on each dataset.
        measurer: Knows which datasets are in distribution.

    Raises:
        ValueError: A dataset is named like another column.
    """
    if taken := sorted(_TAKEN.intersection(measurer.datasets)):
        raise ValueError(f"Test datasets cannot be called {taken}, as columns of the table are: give other `names`.")
    row: dict[str, Cell] = {name: values[name] for name in (*measurer.in_distribution, *measurer.shifted)}
    row[ID] = fmean(values[name] for name in measurer.in_distribution)
    if measurer.shifted:
        row[OOD] = fmean(values[name] for name in measurer.shifted)
    return row


def groups(found: StudyResult | Measurer) -> list[tuple[str, str]]:
    """The panels of a figure: the column of each group of datasets, and what to call it.

    Args:
        found: Knows which datasets are in distribution.
    """
    count = len(found.in_distribution)
    name = f"mean of {count} datasets in distribution" if count > 1 else f"{found.in_distribution[0]} (in distribution)"
    panels = [(ID, name)]
    if found.shifted:
        count = len(found.shifted)
        panels.append((OOD, f"mean of {count} shifted datasets" if count > 1 else f"{found.shifted[0]} (shifted)"))
    return panels


def number(row: Mapping[str, Cell], column: str) -> float:
    """A cell that holds a number; NaN for an empty one."""
    value = row.get(column)
    return float(value) if isinstance(value, (int, float)) else float("nan")


def best_row(rows: Sequence[Mapping[str, Cell]], column: str, mode: Mode) -> Mapping[str, Cell]:
    """The row with the best value in a column; the first of equal ones, and one without a value only if all are."""
    known = [row for row in rows if not math.isnan(number(row, column))]
    return (max if mode == "max" else min)(known or rows, key=lambda row: number(row, column))
