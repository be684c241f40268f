"""Tables and figures in TensorBoard: its tabs "Text" and "Images"."""

from typing import TYPE_CHECKING

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_soups.loggers.display import Display
from lightning_soups.loggers.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoardDisplay(Display):
    """Shows tables as Markdown text, figures as images.

    Args:
        logger: The user's.
    """

    def __init__(self, logger: TensorBoardLogger) -> None:
        self._writer = logger.experiment

    def table(self, name: str, table: Table) -> None:
        """See :meth:`Display.table`."""
        self._writer.add_text(name, table.to_markdown())

    def figure(self, name: str, figure: "Figure") -> None:
        """See :meth:`Display.figure`."""
        self._writer.add_figure(name, figure)
