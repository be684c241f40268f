"""What ``cook`` and ``study`` print."""

from collections.abc import Sequence

from lightning_utilities.core.rank_zero import rank_zero_only
from rich.text import Text

from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.soup import Soup
from lightning_soups.studies import StudyResult
from lightning_soups.tables import cell, ingredients_table, make_console, show_score, study_table, trace_table


def is_ours(error: BaseException) -> bool:
    """Whether this package raised an error, whose text says enough; a user's own needs its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("lightning_soups.")


@rank_zero_only
def show_study(result: StudyResult) -> None:
    """Print a study's table and what it means."""
    console = make_console()
    console.print(study_table(result), "")
    for sentence in (*result.conclusions, *result.caveats):
        console.print(cell(f"• {sentence}"))
    assert result.path is not None
    written = [suffix for suffix in (".json", ".csv", ".png", ".svg") if result.path.with_suffix(suffix).exists()]
    console.print()
    console.print(cell(f"Saved to {result.path.with_suffix('')} ({', '.join(written)})"), soft_wrap=True)


def show_left_out(left_out: Sequence[LeftOut]) -> None:
    """Print which ingredients could not be used, and why; nothing when there are none."""
    console = make_console()
    if left_out:
        console.print(f"Left out: {len(left_out)}", style="bold")
        for one in left_out:
            console.print(cell(f"• {one.path}: {one.reason}"), soft_wrap=True)
        console.print("")


@rank_zero_only
def show_soup(soup: Soup) -> None:
    """Print what a recipe asked, and what the soup is made of."""
    console = make_console()
    console.print(trace_table(soup), "")
    chosen = [member for member in soup.ingredients if member in soup.candidates]
    if len(chosen) < len(soup.candidates) or not soup.mixture.is_uniform:
        title = f"What the soup is mixed of: {len(soup.ingredients)} members"
        layers = ", and other coefficients in some layers" if soup.mixture.layers else ""
        console.print(ingredients_table(soup.ingredients, title + layers, soup.mixture), "")
    show_left_out(soup.left_out)
    initialization = " and the initialization" if len(chosen) < len(soup.ingredients) else ""
    console.print(
        cell(f"{soup.recipe}: {len(chosen)} of {len(soup.candidates)} ingredients{initialization}, {soup.monitor} "),
        Text(show_score(soup.score.value), style="bold"),
        cell(f". Saved to {soup.path}"),
        sep="",
        soft_wrap=True,
    )
