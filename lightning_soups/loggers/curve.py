"""The figure of a recipe: what its candidates scored, in the order in which it asked. Needs matplotlib."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_soups.figures import COLORS, panels
from lightning_soups.soup import Soup
from lightning_soups.trace import Question, leading


def draw_curve(soup: Soup) -> Figure:
    """Draw every question of a soup's trace, and the best score so far.

    Args:
        soup: A cooked soup.
    """
    asked = [row for row in soup.trace if not row.is_left_out]
    numbered = list(enumerate(asked, start=1))
    kinds = [
        ("nothing to beat", "o", "#9A9A9A", [pair for pair in numbered if pair[1].accepted is None]),
        ("kept", "o", COLORS[0], [pair for pair in numbered if pair[1].accepted]),
        ("left out", "x", COLORS[1], [pair for pair in numbered if pair[1].accepted is False and not pair[1].early]),
        (
            "left out early: no better than",
            "v" if soup.score.mode == "max" else "^",
            "#E69F00",
            [pair for pair in numbered if pair[1].early],
        ),
    ]
    with panels(width=7.2, height=4.0) as (figure, (axis,)):
        best: Question | None = None
        so_far = [best.score.value if (best := leading(best, row)) else float("nan") for row in asked]
        axis.step(range(1, len(so_far) + 1), so_far, where="post", color=COLORS[2], label="best so far")
        for label, marker, color, pairs in kinds:
            if pairs:
                numbers, scores = zip(*((number, row.score.value) for number, row in pairs), strict=True)
                axis.plot(numbers, scores, linestyle="", marker=marker, color=color, label=label)
        axis.set(title=soup.recipe, xlabel="question", ylabel=soup.monitor)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize="small")
    return figure
