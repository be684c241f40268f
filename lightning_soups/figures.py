"""One look for all figures: colours, sizes, and how they are saved. Needs the ``report`` extra (matplotlib)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_soups.files import replacing
from lightning_soups.paths import AnyPath

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


def save_figure(figure: Figure, stem: AnyPath) -> None:
    """Write ``<stem>.png`` and ``<stem>.svg``, each atomically."""
    with matplotlib.rc_context(cast(Any, _STYLE)):
        for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
            with replacing(stem.with_name(stem.name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
