"""What a record says of the run, gathered from a trainer."""

import os
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_soups import records
from lightning_soups.logged import Logged


def every_metric(trainer: Trainer, logged: dict[str, Logged]) -> dict[str, float]:
    """Every scalar metric, those that the active loop has logged exact over all processes.

    Every process must call this: ``callback_metrics`` may compute, and so gather, what was just logged.
    """
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if value.numel() == 1}
    return {**metrics, **{name: value.value for name, value in logged.items()}}


def hyperparameters(trainer: Trainer, pl_module: LightningModule, more: dict[str, Any]) -> dict[str, Any]:
    """The module's and the datamodule's, the two that Lightning keeps elsewhere, and those that a sweep drew."""
    known: dict[str, Any] = {"max_epochs": trainer.max_epochs}
    if "PL_GLOBAL_SEED" in os.environ:  # where seed_everything leaves it for worker processes
        known["seed_everything"] = int(os.environ["PL_GLOBAL_SEED"])
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        known.update(datamodule.hparams)
    known.update(pl_module.hparams)
    for key, value in more.items():
        if known.get(key.rpartition(".")[2]) != value:
            known[key.replace(".init_args.", ".")] = value
    return records.plain_hyperparameters(known)


def every_sample_once(trainer: Trainer) -> bool:
    """Whether a fit validates on the whole held-out data, each sample once.

    On several processes Lightning's sampler repeats samples so that all get equally many.
    """
    overfits = trainer.overfit_batches != 0  # type: ignore[attr-defined]  # Trainer sets it dynamically
    return trainer.world_size == 1 and trainer.limit_val_batches == 1.0 and not overfits
