"""The contract of a place that shows more than numbers."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from lightning_soups.loggers.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Display(ABC):
    """Shows in one logger what Lightning's ``Logger`` has no method for: tables and figures.

    Names are like ``soup/greedy/members``; no two things have the same.
    """

    @abstractmethod
    def table(self, name: str, table: Table) -> None:
        """Show a table.

        Args:
            name: What to call it.
            table: The table.
        """

    @abstractmethod
    def figure(self, name: str, figure: "Figure") -> None:
        """Show a figure.

        Args:
            name: What to call it.
            figure: The figure.
        """
