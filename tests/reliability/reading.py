"""What readers make of a soup directory after a kill: they never fail, and never take a leftover for anything."""

import contextlib
import io
from pathlib import Path

from lightning_soups import Ingredients, Soup
from lightning_soups.listing import list_ingredients
from lightning_soups.outputs import soups_in
from lightning_soups.records import find_records
from lightning_soups.report import write_report

TEMPORARY = ".tmp"


def readable(soups: Path) -> list[str]:
    """Read a directory in every way there is.

    Returns:
        What went wrong.
    """
    found: list[str] = []
    records = find_records(soups)
    taken: list[Path] = list(records)
    if records:
        try:
            taken += [one.path for one in Ingredients.load(soups)]
            list_ingredients(str(soups))
        except Exception as error:
            found.append(f"what is left cannot be listed: {type(error).__name__}: {error}")
    served = soups_in(soups / "soups")
    taken += served
    for path in served:
        if path.suffix in (".pt", ".pth") and not path.with_name(f"{path.name}.json").exists():
            continue  # killed between the two files: a state dict of no soup
        try:
            Soup.load(path).state_dict()
        except Exception as error:
            found.append(f"the soup {path} is not whole: {type(error).__name__}: {error}")
    if records or served:
        page = soups.parent / "report.html"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                write_report(str(soups), output=str(page))
        except Exception as error:
            found.append(f"the report fails: {type(error).__name__}: {error}")
        else:
            if TEMPORARY in page.read_text(encoding="utf-8"):
                found.append("the report names a file that was being written")
    found += [f"the leftover {path} is taken for something" for path in taken if path.name.endswith(TEMPORARY)]
    return found
