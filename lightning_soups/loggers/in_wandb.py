"""Tables and figures in Weights & Biases."""

from typing import TYPE_CHECKING

from lightning.pytorch.loggers import WandbLogger

from lightning_soups.loggers.display import Display
from lightning_soups.loggers.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WandbDisplay(Display):
    """Shows tables as ``wandb.Table``, figures as images.

    Args:
        logger: The user's.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def table(self, name: str, table: Table) -> None:
        """See :meth:`Display.table`."""
        self._logger.log_table(name, columns=list(table.columns), data=table.typed_rows)

    def figure(self, name: str, figure: "Figure") -> None:
        """See :meth:`Display.figure`."""
        self._logger.log_image(name, [figure])
