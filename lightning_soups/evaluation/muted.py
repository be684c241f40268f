"""Keeping single passes out of the user's loggers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger


class MutedLogger(Logger):
    """Stands in for a user's logger: knows its names, folders and other values, and logs nothing.

    Its ``experiment`` takes whatever it is told, as that of any of Lightning's loggers does on the other processes.

    Args:
        logger: The user's.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self.experiment = DummyLogger().experiment

    @property
    def name(self) -> str | None:
        """That of the user's logger."""
        return self._logger.name

    @property
    def version(self) -> int | str | None:
        """That of the user's logger."""
        return self._logger.version

    @property
    def root_dir(self) -> str | None:
        """That of the user's logger."""
        return self._logger.root_dir

    @property
    def log_dir(self) -> str | None:
        """That of the user's logger."""
        return self._logger.log_dir

    @property
    def save_dir(self) -> str | None:
        """Where ``trainer.log_dir`` is, which takes ``log_dir`` for it only with loggers of these two classes."""
        own = self._logger
        return own.log_dir if isinstance(own, (CSVLogger, TensorBoardLogger)) else own.save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._logger, name)
        return _do_nothing if callable(value) else value


@contextmanager
def muted(trainer: Trainer) -> Iterator[None]:
    """Whatever is logged inside goes to no logger; it still reaches callbacks and ``trainer.callback_metrics``."""
    loggers = trainer.loggers
    trainer.loggers = [MutedLogger(logger) for logger in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
