"""Lightning's validate loop, entered once and replayed for every question."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.data import extract_batch_size

from lightning_soups.evaluation.exact_data import ExactSource
from lightning_soups.logged import Logged, logged_in_epoch, synced_in_every_batch


class KeptLoop(_EvaluationLoop):
    """A validate loop that does a job instead of one pass; the job may ask for as many passes as it likes.

    The strategy, the model on its device, the dataloaders and the hooks stay set up between passes. Set it as
    ``trainer.validate_loop`` and call ``trainer.validate``: everything around the loop (launching processes, moving
    the model, calling callbacks, cleaning up after an error) is Lightning's own.

    Lightning's loop is private. What is relied on: ``run`` makes one pass and is called once by the trainer,
    ``setup_data`` fills ``_combined_loader``, ``_store_dataloader_outputs`` is called at the end of each dataloader,
    and the logged results are there until ``_on_evaluation_end``.

    Args:
        trainer: The trainer to run in.
        job: Called once, on every process, with this loop; it must be picklable for spawning strategies.

    Attributes:
        samples: How many samples this process evaluated in the last pass.
        on_batch: Called after every batch, when set.
    """

    def __init__(self, trainer: Trainer, job: "Callable[[KeptLoop], Any]") -> None:
        inference_mode = trainer.validate_loop.inference_mode
        super().__init__(
            trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, verbose=False, inference_mode=inference_mode
        )
        self._data_source = ExactSource(trainer, self._data_source.name)
        self._job = job
        self._logged: dict[str, Logged] = {}
        self._uneven = False
        self.samples = 0
        self.on_batch: Callable[[], None] | None = None

    def run(self) -> list[Any]:
        """Do the job; what it returns comes back from ``trainer.validate`` as the only element of a list."""
        self.setup_data()
        if self.skip:
            raise MisconfigurationException(
                "There is no held-out data to score with: the validation dataloaders are empty, or the trainer has"
                " limit_val_batches=0."
            )
        return [self._job(self)]

    def one_pass(self) -> dict[str, Logged]:
        """Validate the module as it is now.

        Returns:
            Every metric logged once per epoch, by the names that ``trainer.callback_metrics`` uses, the same on all
            processes.
        """
        self._logged, self.samples = {}, 0
        super().run()
        return self._logged

    @property
    def batches(self) -> int:
        """How many batches this process evaluated in the last pass."""
        return int(self.batch_progress.current.completed)

    @property
    def batches_in_pass(self) -> float:
        """How many batches a full pass has on this process; infinite when the loaders do not say."""
        return sum(self.max_batches)

    def setup_data(self) -> None:
        """Request and set up the dataloaders in the first pass only."""
        if self._combined_loader is None:
            super().setup_data()
            self._uneven = self._combined_loader is not None and not self._same_batches_everywhere()

    def _evaluation_step(self, batch: Any, *args: Any, **kwargs: Any) -> None:
        super()._evaluation_step(batch, *args, **kwargs)
        if self._uneven and (names := synced_in_every_batch(self.trainer)):
            self.trainer.strategy.barrier()  # all raise: none may leave while another is inside this batch's collective
            raise MisconfigurationException(
                f"{names} are gathered over processes in every batch, but the held-out samples do not divide evenly"
                " among the processes, so the last batch would wait forever. Log them with on_step=False."
            )
        with suppress(MisconfigurationException):  # a batch without tensors has no size
            self.samples += extract_batch_size(batch)
        if self.on_batch is not None:
            self.on_batch()

    def _store_dataloader_outputs(self) -> None:
        self._read_logged()  # before the parent computes, which would make them inexact
        super()._store_dataloader_outputs()

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        self._read_logged()  # what hooks at the end of the epoch have logged, before the parent resets everything
        super()._on_evaluation_end(*args, **kwargs)

    def _read_logged(self) -> None:
        self._logged.update(logged_in_epoch(self.trainer, known=self._logged))

    def _same_batches_everywhere(self) -> bool:
        strategy = self.trainer.strategy
        own = torch.tensor(self.max_batches, dtype=torch.float32, device=strategy.root_device)
        everyone = strategy.all_gather(own).reshape(-1, len(own))
        return bool((everyone == own).all())
