"""Being told to stop: by SIGTERM, as schedulers do before they kill, or by SLURM's signal before the time is over."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_info

_STATUS = 143  # with which shells say that a process ended by SIGTERM


def stop_if_told(trainer: Trainer) -> None:
    """End if SIGTERM came; Lightning looks after every batch but the last of a pass, of which there may be one.

    Raises:
        SIGTERMException: The signal came.
    """
    if trainer.received_sigterm:
        raise SIGTERMException


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Let a cook be ended by signals, to be continued from its journal."""
    with _without_requeue_checkpoint(trainer):
        try:
            yield
        except SIGTERMException as error:
            error.code = _STATUS  # Lightning's own says 0, which schedulers take for success
            raise


@contextmanager
def _without_requeue_checkpoint(trainer: Trainer) -> Iterator[None]:
    """Let SLURM requeue the job as Lightning does, but without a checkpoint of whatever candidate is evaluated then.

    A later fit in the same folder would take that for its own. What a cook has found out is in its journal.
    """
    environment = trainer._accelerator_connector.cluster_environment  # private: what detected SLURM is nowhere else
    if not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue):
        yield
        return

    def save_checkpoint(*args: Any, **kwargs: Any) -> None:
        rank_zero_info("No checkpoint is saved: the cook that is requeued continues from its journal.")

    trainer.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    try:
        yield
    finally:
        del trainer.save_checkpoint
