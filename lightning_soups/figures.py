"""One look for all figures: colours, sizes, and how they are saved. Needs the ``report`` extra (matplotlib)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision can tell apart: https://jfly.uni-koeln.de/color/
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MODEL_STYLE = {  # the same model looks the same in every figure: colour and marker
    "ingredient": ("#9A9A9A", "o"),
    "initialization": ("#000000", "s"),
    "best single": ("#E69F00", "D"),
    "uniform soup": ("#56B4E9", "p"),
    "greedy soup": ("#0072B2", "*"),
    "pruned soup": ("#CC79A7", "v"),
    "learned soup": ("#009E73", "P"),
    "ensemble": ("#D55E00", "X"),
}
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lightning-soups",  # the same figure gives the same file
}


@contextmanager
def panels(
    rows: int = 1, columns: int = 1, width: float = 4.6, height: float = 3.6
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Begin a figure in the house style; draw inside the block.

    Args:
        rows: Of panels.
        columns: Of panels.
        width: Of one panel, in inches.
        height: Of one panel, in inches.

    Yields:
        The figure and its panels, row by row.
    """
    with matplotlib.rc_context(cast(Any, _STYLE)):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        yield figure, list(grid.flat)


def write_figure(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure to a file that nobody reads yet.

    Args:
        figure: What to write.
        path: Where to, under whatever name.
        kind: ``png`` or ``svg``.
    """
    with matplotlib.rc_context(cast(Any, _STYLE)):
        figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
