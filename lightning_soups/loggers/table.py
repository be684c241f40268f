"""Tables as loggers take them: Markdown, CSV, or columns and cells."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from lightning_soups.studies.result import Cell


class Table(NamedTuple):
    """A table.

    Args:
        columns: Their headings.
        rows: Cells, as many as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def typed_rows(self) -> list[list[Cell]]:
        """The rows, with text in every column that does not hold only numbers, or only truth values."""
        columns = [_of_one_type(column) for column in zip(*self.rows, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)

    def to_csv(self) -> str:
        """The table as CSV, with all digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return text.getvalue()


def _of_one_type(column: Sequence[Cell]) -> Sequence[Cell]:
    known = [cell for cell in column if cell is not None]
    if all(isinstance(cell, bool) for cell in known):
        return column
    if any(isinstance(cell, (bool, str)) for cell in known):
        return [None if cell is None else str(cell) for cell in column]
    return column


def _markdown(cell: Cell) -> str:
    if cell is None:
        return ""
    text = f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
