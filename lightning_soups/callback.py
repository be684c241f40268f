"""SoupCallback: records ingredients while runs train."""

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.nn.parameter import is_lazy

from lightning_soups import records
from lightning_soups.agreed import agreed
from lightning_soups.checkpointing import save_initialization, save_validated_weights
from lightning_soups.leftovers import clean_soup_directory
from lightning_soups.logged import Logged, logged_in_epoch
from lightning_soups.other_name import refuse_other_version
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.run_facts import every_metric, every_sample_once, hyperparameters
from lightning_soups.run_folder import RunFolder, discard_unrecorded, withdraw
from lightning_soups.safe_names import safe_name
from lightning_soups.score import Mode, Score, validate_mode
from lightning_soups.weights import fingerprint


class SoupCallback(Callback):
    """Record the best checkpoints of a run as ingredients for a model soup.

    Give every run of a sweep this callback with the same ``dirpath``. Any number of runs, processes and machines can
    write to one directory at the same time: each run has a folder of its own and each record is a file of its own,
    written atomically after its checkpoint. A better checkpoint is on the disk before a worse one is deleted, so there
    must be room for one more than are kept.

    Args:
        dirpath: The soup directory, for example ``soups/digits``, or a URL such as ``s3://bucket/soups/digits``.
        monitor: The logged metric that ranks checkpoints, for example ``val_acc``. It must be logged once per epoch
            (``on_epoch=True``, the default in ``validation_step``) before ``on_train_epoch_end``, where this callback
            decides.
        mode: ``max`` when larger is better, ``min`` when smaller is. By default taken from the logged
            ``torchmetrics.Metric``, which declares it.
        save_top_k: How many of the run's best checkpoints to keep; -1 keeps one per evaluation.
        run: Name of the run. By default the time and a random suffix. A name that is taken gets a number.
        save_initialization: Whether to save the weights the run starts from, once per distinct initialization.

    Attributes:
        more_hyperparameters: Recorded beside the module's and the datamodule's; a sweep puts here what it drew, by
            config key.

    Raises:
        ValueError: An argument has an impossible value.
        MisconfigurationException: During ``fit``: ``monitor`` was never logged, or ``mode`` cannot be inferred.
        WriteError: During ``fit``, on all processes: a checkpoint or its record cannot be written, because the disk is
            full, for example. As with Lightning's ``ModelCheckpoint`` the fit ends; what was recorded before stays,
            and a fit that resumes from a training checkpoint goes on recording the same run.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str,
        mode: Literal["min", "max"] | None = None,
        save_top_k: int = 1,
        run: str | None = None,
        save_initialization: bool = True,
    ) -> None:
        super().__init__()
        if not monitor:
            raise ValueError(f"`monitor` must name a logged metric such as 'val_acc', got {monitor!r}.")
        if save_top_k < -1 or save_top_k == 0:
            raise ValueError(f"`save_top_k` must be at least 1, or -1 to keep all, got {save_top_k}.")
        self.dirpath = any_path(dirpath, "dirpath")
        self.monitor = monitor
        self.mode: Mode | None = None if mode is None else validate_mode(mode)
        self.save_top_k = save_top_k
        self.run = run
        self.save_initialization = save_initialization
        self.more_hyperparameters: dict[str, Any] = {}
        self._folder: RunFolder | None = None
        self._initialization: str | None = None
        self._loaded_state: dict[str, Any] | None = None
        self._seen: Literal["nowhere", "validation", "training"] = "nowhere"
        self._validated = False
        self._dry_run = False
        self._at_initialization = False

    @property
    def state_key(self) -> str:
        """Several callbacks may record one run, with different monitors or directories."""
        return f"{type(self).__qualname__}[dirpath={self.dirpath.as_posix()},monitor={self.monitor}]"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs to go on recording the same run."""
        run = None if self._folder is None else self._folder.path.name
        return {"run": run, "initialization": self._initialization}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the run that a training checkpoint belongs to, in case a fit resumes from it."""
        self._loaded_state = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the run, or take up the one that is resumed."""
        refuse_other_version(trainer)
        self._at_initialization = False
        self._dry_run = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # Trainer sets it dynamically
        if self._dry_run:
            return
        self._seen, self._validated = "nowhere", False
        loaded, self._loaded_state = self._loaded_state, None
        resumes = trainer.ckpt_path is not None
        runs = self.dirpath / "runs"
        if trainer.is_global_zero and isinstance(self.dirpath, Path):
            clean_soup_directory(self.dirpath)
        if resumes and loaded is not None and loaded["run"] is not None:
            self._folder = RunFolder(runs / safe_name(loaded["run"]), self.monitor, self.save_top_k)
            self._initialization = loaded["initialization"]
            if trainer.is_global_zero:
                self._folder.discard_unrecorded()
            return
        name = self.run or RunFolder.unique_name(f"{datetime.now():%Y%m%d-%H%M%S}")
        own_claim = agreed(trainer.strategy, lambda: RunFolder.claim(runs, name) if trainer.is_global_zero else runs)
        self._folder = RunFolder(trainer.strategy.broadcast(own_claim), self.monitor, self.save_top_k)
        self._initialization = None  # when resuming from elsewhere, nobody knows where the fit started
        self._at_initialization = not resumes

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the first step: fingerprint the initialization and save it if nobody has.

        Only now have the module's own hooks, which may load weights, and the sanity check, which completes lazy
        modules, run.
        """
        if not self._at_initialization:
            return
        self._at_initialization = False
        if any(map(is_lazy, pl_module.parameters())):
            return
        state_dict = trainer.strategy.lightning_module_state_dict()
        own = fingerprint(state_dict) if trainer.is_global_zero else None
        self._initialization = trainer.strategy.broadcast(own)
        if self.save_initialization:
            path = self.dirpath / records.INITIALIZATIONS / f"{self._initialization}.ckpt"
            if not trainer.strategy.broadcast(agreed(trainer.strategy, path.exists)):
                save_initialization(trainer, state_dict, path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Consider the weights that were just validated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not self._dry_run:
            self._validated = True
            self._consider(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Consider the weights when the monitored metric is one of the training loop."""
        if self._dry_run:
            return
        if not self._validated and trainer.enable_validation:
            return  # validation may log a metric of the same name, which is the one that counts
        if self._seen != "validation":
            self._consider(trainer, pl_module, "training")
        self._check_that_monitor_was_logged(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when a whole fit has left nothing to cook with."""
        if self._dry_run:
            return
        assert self._folder is not None
        if len(self._folder):
            return
        unvalidated = trainer.enable_validation and not self._validated
        if not unvalidated:
            self._check_that_monitor_was_logged(trainer)
        reason = "validation never ran" if unvalidated else f"{self.monitor!r} was never a finite number"
        rank_zero_warn(f"SoupCallback recorded nothing for run {self._folder.path.name!r}: {reason}.")

    def _consider(self, trainer: Trainer, pl_module: LightningModule, loop: Literal["validation", "training"]) -> None:
        logged = logged_in_epoch(trainer)
        if self.monitor not in logged:
            return
        self._seen = loop
        metrics = every_metric(trainer, logged)
        score = Score(logged[self.monitor].value, self._resolve_mode(logged[self.monitor]))
        assert self._folder is not None
        moment = trainer.current_epoch, trainer.global_step
        if not trainer.strategy.broadcast(self._folder.wants(score) and not self._folder.has_found(*moment, score)):
            return
        path = self._folder.checkpoint_path(*moment)

        def finish() -> None:
            """Record the checkpoint, which is on the disk; then delete those that it drives out."""
            if trainer.is_global_zero:
                self._write_record(trainer, pl_module, path, score, metrics, saved.sha256)
                for worse in surplus:
                    withdraw(worse)

        try:
            saved = save_validated_weights(trainer, path)
            surplus = self._folder.keep(path, score)
            agreed(trainer.strategy, finish)
        except BaseException:
            if trainer.is_global_zero:
                discard_unrecorded(path)
            raise
        _warn_about(saved.refused)

    def _resolve_mode(self, logged: Logged) -> Mode:
        mode = self.mode or logged.mode
        if mode is None:
            raise MisconfigurationException(
                f"SoupCallback cannot tell whether a larger {self.monitor!r} is better: it was logged as a plain"
                " number. Pass mode='max' or mode='min', or log a torchmetrics.Metric."
            )
        return mode

    def _write_record(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        path: AnyPath,
        score: Score,
        metrics: dict[str, float],
        sha256: str | None,
    ) -> None:
        records.write_record(
            path.with_suffix(records.SUFFIX),
            {
                "checkpoint": path.name,
                "sha256": sha256,
                "run": path.parent.name,
                "monitor": self.monitor,
                "mode": score.mode,
                "metrics": metrics,
                "hyperparameters": hyperparameters(trainer, pl_module, self.more_hyperparameters),
                "initialization": self._initialization,
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "devices": trainer.world_size,
                "exact": self._seen == "validation" and every_sample_once(trainer),
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        )

    def _check_that_monitor_was_logged(self, trainer: Trainer) -> None:
        if self._seen != "nowhere":
            return
        available = sorted(trainer.callback_metrics)
        hint = f" {self.monitor!r} was logged with on_epoch=False." if self.monitor in available else ""
        raise MisconfigurationException(
            f"SoupCallback(monitor={self.monitor!r}): no such metric was logged once per epoch.{hint} Logged were:"
            f" {available}. Choose one of them as `monitor`, or log it with self.log({self.monitor!r}, ...,"
            " on_epoch=True)."
        )


def _warn_about(refused: Sequence[str]) -> None:
    if refused:
        rank_zero_warn(
            f"The checkpoints of this run hold objects that cannot be read safely, so cooking will refuse them:"
            f" {', '.join(refused)}. Keep them out of the hyperparameters, for example with"
            " self.save_hyperparameters(ignore=[...])."
        )
