"""The loggers of a trainer, as places to send things to."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.local_copies import local_copy
from lightning_soups.loggers.display import Display
from lightning_soups.loggers.in_mlflow import MLflowDisplay
from lightning_soups.loggers.in_tensorboard import TensorBoardDisplay
from lightning_soups.loggers.in_wandb import WandbDisplay
from lightning_soups.loggers.table import Table
from lightning_soups.paths import AnyPath, is_local
from lightning_soups.score import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DISPLAYS: dict[type[Logger], Callable[[Any], Display]] = {
    TensorBoardLogger: TensorBoardDisplay,
    WandbLogger: WandbDisplay,
    MLFlowLogger: MLflowDisplay,
}


class Destinations:
    """The user's loggers, on the process that logs; none on the others.

    Each is on its own: one that raises is warned about and not asked for the same again, the others get everything.

    Args:
        trainer: Whose loggers.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._loggers = list(trainer.loggers) if trainer.is_global_zero else []
        self._given_up: set[tuple[int, str]] = set()

    def numbers(self, metrics: Mapping[str, float], step: int, what: str) -> None:
        """Log numbers.

        Args:
            metrics: By name.
            step: Where they are on the curve.
            what: To call them in a warning.
        """
        self._to_each(what, lambda logger: logger.log_metrics(dict(metrics), step=step))

    def options(self, name: str, options: Mapping[str, Any]) -> None:
        """Log options as hyperparameters, beside the module's.

        Args:
            name: Under which they are all together.
            options: What JSON holds.
        """

        def log(logger: Logger) -> None:
            # a run has one set of hyperparameters in TensorBoard, the first, and Lightning has logged the module's
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams({name: dict(options)})

        self._to_each("options", log)

    def table(self, name: str, table: Table) -> None:
        """Show a table where that is possible."""
        self._to_displays(name, lambda display: display.table(name, table))

    def figure(self, name: str, draw: "Callable[[], Figure]") -> None:
        """Show a figure where that is possible.

        Args:
            name: What to call it.
            draw: Draws it; whether matplotlib is installed is not asked before.
        """

        def show(display: Display) -> None:
            try:
                figure = draw()
            except ModuleNotFoundError:  # matplotlib is optional
                return
            display.figure(name, figure)

        self._to_displays(name, show)

    def checkpoint(self, path: AnyPath, monitor: str, score: Score) -> None:
        """Hand a checkpoint to the loggers that were told to log models, as Lightning's own callback does.

        Args:
            path: The checkpoint.
            monitor: What its score is a value of.
            score: The score.
        """
        # _log_model is private, of W&B and MLflow: a remote checkpoint is fetched only for who takes it
        if not is_local(path) and not any(getattr(logger, "_log_model", False) for logger in self._loggers):
            return
        local = local_copy(path)
        # with -1 loggers do not wait for better ones before they upload it
        callback = ModelCheckpoint(
            local.parent, monitor=monitor, mode=score.mode, save_top_k=-1, save_weights_only=True
        )
        callback.best_model_path = str(local)
        callback.best_model_score = torch.tensor(score.value, dtype=torch.float64)
        self._to_each("the checkpoint", lambda logger: logger.after_save_checkpoint(callback))

    def _to_displays(self, what: str, show: Callable[[Display], None]) -> None:
        def send(logger: Logger) -> None:
            for kind, display in _DISPLAYS.items():
                if isinstance(logger, kind):
                    show(display(logger))

        self._to_each(what, send)

    def _to_each(self, what: str, send: Callable[[Logger], None]) -> None:
        for index, logger in enumerate(self._loggers):
            if (index, what) in self._given_up:
                continue
            try:
                send(logger)
                logger.save()
            except Exception as error:  # whatever a logger raises, it must not cost the user the soup
                self._given_up.add((index, what))
                rank_zero_warn(f"{type(logger).__name__} could not log {what}, and goes without: {error!r}")
