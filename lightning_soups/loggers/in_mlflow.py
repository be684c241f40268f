"""Tables and figures in MLflow: artifacts of the run, which its page shows."""

from typing import TYPE_CHECKING

from lightning.pytorch.loggers import MLFlowLogger

from lightning_soups.loggers.display import Display
from lightning_soups.loggers.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MLflowDisplay(Display):
    """Keeps tables as CSV files, figures as PNG files.

    Args:
        logger: The user's.
    """

    def __init__(self, logger: MLFlowLogger) -> None:
        self._client, self._run = logger.experiment, logger.run_id

    def table(self, name: str, table: Table) -> None:
        """See :meth:`Display.table`."""
        self._client.log_text(self._run, table.to_csv(), f"{name}.csv")

    def figure(self, name: str, figure: "Figure") -> None:
        """See :meth:`Display.figure`."""
        self._client.log_figure(self._run, figure, f"{name}.png")
