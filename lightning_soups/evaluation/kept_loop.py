"""Lightning's validate or test loop, entered once and replayed for every question."""

import itertools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lightning_soups.evaluation.cache import CacheBatches, CachedLoader, MemoryBudget
from lightning_soups.evaluation.digest import Digest
from lightning_soups.evaluation.exact_sampler import ExactSource
from lightning_soups.evaluation.interruption import interruptible, stop_if_told
from lightning_soups.evaluation.kept_attributes import KeptAttributes
from lightning_soups.evaluation.muted import muted
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.regroup import Batches
from lightning_soups.evaluation.resample import in_batches
from lightning_soups.evaluation.sharded_module import is_sharded
from lightning_soups.evaluation.together import together
from lightning_soups.logged import Logged, logged_in_epoch, synced_in_every_batch

AfterBatch = Callable[[int, int, int], bool]
"""Given the index of the dataloader, of the batch in it, and the batch's rows, says whether to end the pass."""


class JobResult:
    """What a job returned; Lightning looks into lists and dataclasses that a loop returns, but not into this.

    Args:
        value: What the job returned.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class KeptLoop(_EvaluationLoop):
    """An evaluation loop that does a job instead of one pass; the job may ask for as many passes as it likes.

    The strategy, the model on its device, the dataloaders, their batches and the hooks stay set up between passes. Set
    it as ``trainer.validate_loop`` and call ``trainer.validate``, or the same with ``test``: everything around the loop
    (launching processes, moving the model, calling callbacks, cleaning up after an error) is Lightning's own.

    Lightning's loop is private. What is relied on: ``run`` makes one pass and is called once by the trainer,
    ``setup_data`` fills ``_combined_loader`` and ``_max_batches``, ``reset`` makes the iterator over the former,
    ``StopIteration`` in a step ends the pass, ``_on_evaluation_model_eval`` is called before its first batch and
    ``_store_dataloader_outputs`` at the end of each dataloader, and the logged results are there until
    ``_on_evaluation_end``.

    Args:
        trainer: The trainer to run in.
        job: Called once, on every process, with this loop; it must be picklable for spawning strategies.
        cache_batches: Where to keep batches, see :class:`~lightning_soups.evaluation.cache.MemoryBudget`.
        stage: Whether to replay validation or testing.

    Attributes:
        loaders: The dataloaders, which keep their batches; None when they are not visited one after another.
        batches: How many batches this process has evaluated, in all passes.
        samples: How many samples this process has evaluated, in all passes.
        cut_short: Whether the last pass did not see all the data, so that nothing of it was logged.
        common_batches: How many batches of each dataloader every process has.
        rows: How many samples each dataloader has on this process; empty before the first full pass.
        progress: Shows passes, when set.
        before_reading: Called before a dataloader is iterated, which may start worker processes; when set.
    """

    def __init__(
        self,
        trainer: Trainer,
        job: "Callable[[KeptLoop], Any]",
        cache_batches: CacheBatches,
        stage: Literal["validate", "test"] = "validate",
    ) -> None:
        inference_mode = trainer.validate_loop.inference_mode
        super().__init__(trainer, TrainerFn(stage), RunningStage(stage), verbose=False, inference_mode=inference_mode)
        self.source = ExactSource(trainer, self._data_source.name)
        self._data_source = self.source
        self._job = job
        self._cache_batches = cache_batches
        self._logged: dict[str, Logged] = {}
        self._replayed: CombinedLoader | None = None
        self._after_batch: AfterBatch | None = None
        self.loaders: list[CachedLoader] | None = None
        self.common_batches: list[float] = []
        self._uneven = False
        self.batches = 0
        self.samples = 0
        self.cut_short = False
        self.rows: list[int] = []
        self._seen_rows: list[int] = []
        self._gradients = False
        self._in_train_mode: Collection[nn.Module] = ()
        self.progress: RecipeProgress | None = None
        self.before_reading: Callable[[], None] | None = None

    @property
    def dataloaders(self) -> int:
        """How many dataloaders there are; those that are visited at the same time count as one."""
        return 1 if self.loaders is None else len(self.loaders)

    def run(self) -> list[Any]:
        """Do the job; what it returns comes back from ``trainer.validate``, as a list of one :class:`JobResult`."""
        with together(self.trainer):
            return self._run()

    def _run(self) -> list[Any]:
        self.setup_data()
        if self.skip:
            raise MisconfigurationException(
                f"There is no {'test' if self.trainer.testing else 'held-out'} data to score with: there are no"
                f" {self._trainer_fn.value} dataloaders, they are empty or cut to 0 batches by the trainer, or the"
                " module has no step for them."
            )
        with interruptible(self.trainer):
            return [JobResult(self._job(self))]

    @property
    def samples_in_pass(self) -> int:
        """How many samples a full pass has on this process; 0 before the first."""
        return sum(self.rows)

    def one_pass(
        self,
        part: Sequence[Batches] | None = None,
        after_batch: AfterBatch | None = None,
        gradients: bool = False,
        in_train_mode: Collection[nn.Module] = (),
    ) -> dict[str, Logged]:
        """Validate the module as it is now, without a word to the loggers.

        Args:
            part: Batches to visit instead of the held-out data, one iterable per dataloader.
            after_batch: Called after every batch; the pass ends there when it returns True. On several processes all
                have to return the same.
            gradients: Whether steps, and ``after_batch``, run with gradients.
            in_train_mode: Submodules that are in train mode in this pass; without their own submodules.

        Returns:
            Every metric logged once per epoch, by the names that ``trainer.callback_metrics`` uses, the same on all
            processes; nothing when the pass was cut short.
        """
        self._logged, self._after_batch, self.cut_short = {}, after_batch, part is not None
        whole, limits = self._replayed, self._max_batches
        if part is not None:
            self._replayed = CombinedLoader(list(part), "sequential")
            self._max_batches = [len(batches) for batches in part]
        if self.progress is not None:
            self.progress.begin_pass(sum(self._max_batches))
        self._seen_rows = [0] * self.dataloaders
        self._gradients, self._in_train_mode = gradients, in_train_mode
        inference_mode, self.inference_mode = self.inference_mode, self.inference_mode and not gradients
        kept = KeptAttributes([self.trainer.lightning_module, *self.trainer.callbacks])  # type: ignore[attr-defined]
        try:
            with muted(self.trainer):
                super().run()
        finally:
            self._replayed, self._max_batches = whole, limits
            self._gradients, self._in_train_mode, self.inference_mode = False, (), inference_mode
            if self.cut_short:
                kept.restore()
                self.trainer._logger_connector.reset_results()
        if not self.cut_short:
            self.rows = self._seen_rows
        return self._logged

    def setup_data(self) -> None:
        """Request and set up the dataloaders in the first pass only."""
        if self._combined_loader is not None:
            return
        super().setup_data()
        combined = self._combined_loader
        if combined is None:
            return
        self._even_out(combined)
        self._compare_processes()
        if combined._mode == "sequential":
            limits = zip(combined.flattened, self._max_batches, strict=True)
            self.loaders = [self.cached(loader, limit) for loader, limit in limits]
            self._replayed = CombinedLoader(self.loaders, "sequential")

    def cached(self, loader: Iterable[Any], limit: float, kind: str = "held-out") -> CachedLoader:
        """Let a dataloader keep its batches, as far as memory and ``cache_batches`` allow.

        Args:
            loader: Gives the batches.
            limit: How many are read.
            kind: What to call them.
        """
        budget = MemoryBudget(self.trainer, self._cache_batches, kind)
        return CachedLoader(loader, limit, budget, self._before_reading)

    def data_digests(self) -> list[str]:
        """What the held-out data of this process is, as a short text for each dataloader.

        It is read for that unless a pass has done so; where it is not kept, as in a pass over it.
        """
        if self.loaders is None:
            digest, most = Digest(), max(self._max_batches)
            assert self._combined_loader is not None
            for batch, _, _ in itertools.islice(self._combined_loader, None if math.isinf(most) else int(most)):
                digest.update(batch)
            return [str(digest)]
        for loader in self.loaders:
            if loader.digest is None:
                self._read(loader)
        return [str(loader.digest) for loader in self.loaders]

    def _read(self, loader: CachedLoader) -> None:
        """Read what a pass would, so that it is kept and its digest is known."""
        if self.progress is not None:
            self.progress.begin_pass(loader.limit)
        for _ in itertools.islice(loader, None if math.isinf(loader.limit) else int(loader.limit)):
            if self.progress is not None:
                self.progress.batch()

    def reset(self) -> None:
        """Start a pass, over the kept batches instead of the user's dataloaders, which stay visible to hooks."""
        users = self._combined_loader
        if self._replayed is not None:
            self._combined_loader = self._replayed
        try:
            super().reset()
        finally:
            self._combined_loader = users

    def on_run_end(self) -> list[Any]:
        """Finish a pass; one that was cut short logs nothing and calls no hooks, which would get a part of the data."""
        if not self.cut_short:
            return super().on_run_end()
        self._on_evaluation_model_train()
        return []

    def teardown(self) -> None:
        """Let go of the users' dataloaders, too."""
        super().teardown()
        if self._combined_loader is not None:
            self._combined_loader.reset()

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, *args: Any) -> None:
        with torch.enable_grad() if self._gradients else nullcontext():
            self._step_and_look(batch, batch_idx, dataloader_idx, *args)

    def _step_and_look(self, batch: Any, batch_idx: int, dataloader_idx: int, *args: Any) -> None:
        stop_if_told(self.trainer)
        super()._evaluation_step(batch, batch_idx, dataloader_idx, *args)
        if self._uneven and (names := synced_in_every_batch(self.trainer)):
            self.trainer.strategy.barrier()  # all raise: none may leave while another is inside this batch's collective
            raise MisconfigurationException(
                f"{names} are gathered over processes in every batch, but the held-out samples do not divide evenly"
                " among the processes, so the last batch would wait forever. Log them with on_step=False."
            )
        rows = _rows(batch)
        self.batches += 1
        self.samples += rows
        self._seen_rows[dataloader_idx if self.loaders is not None else 0] += rows
        if self.progress is not None:
            self.progress.batch()
        if self._after_batch is not None and self._after_batch(dataloader_idx, batch_idx, rows):
            self.cut_short = True
            raise StopIteration

    def _on_evaluation_model_eval(self) -> None:
        super()._on_evaluation_model_eval()
        for submodule in self._in_train_mode:
            submodule.training = True

    def _store_dataloader_outputs(self) -> None:
        if not self.cut_short:
            self._read_logged()  # before the parent computes, which would make them inexact
            super()._store_dataloader_outputs()

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        self._read_logged()  # what hooks at the end of the epoch have logged, before the parent resets everything
        super()._on_evaluation_end(*args, **kwargs)

    def _read_logged(self) -> None:
        self._logged.update(logged_in_epoch(self.trainer, known=self._logged))

    def _before_reading(self) -> None:
        if self.before_reading is not None:
            self.before_reading()

    def _compare_processes(self) -> None:
        strategy = self.trainer.strategy
        own = torch.tensor(self._max_batches, dtype=torch.float32, device=strategy.root_device)
        everyone = strategy.all_gather(own).reshape(-1, len(own))
        self.common_batches = everyone.amin(dim=0).tolist()
        self._uneven = bool((everyone != own).any())
        if self._uneven and is_sharded(strategy.model or self.trainer.lightning_module):
            raise MisconfigurationException(
                "The module's parameters are sharded, so each of its steps is a collective, but the processes have"
                f" {everyone.int().tolist()} batches of their held-out dataloaders, so the last would wait forever."
                " Give ordinary DataLoaders with a batch_size of 2 or more, without drop_last, or as many samples as"
                " divide evenly among the processes."
            )

    def _even_out(self, combined: CombinedLoader) -> None:
        """Let all processes have as many batches, where each step is a collective."""
        strategy = self.trainer.strategy
        if self.trainer.world_size == 1 or not is_sharded(strategy.model or self.trainer.lightning_module):
            return
        own = torch.tensor(self._max_batches, dtype=torch.float32, device=strategy.root_device)
        most = strategy.all_gather(own).reshape(-1, len(own)).amax(dim=0).tolist()
        loaders = combined.flattened
        for index, count in enumerate(most):
            if self._max_batches[index] != count:
                loaders[index] = in_batches(loaders[index], int(count))
                self._max_batches[index] = len(loaders[index])
        combined.flattened = loaders


def _rows(batch: Any) -> int:
    """How many samples a batch has, as Lightning counts them; 0 for a batch without tensors."""
    leaves, _ = tree_flatten(batch)
    if leaves and isinstance(leaves[0], Tensor):
        return len(leaves[0]) if leaves[0].ndim else 1
    # silencing resets what Python remembers of warnings it has shown, so it is left to unusual batches
    with suppress(MisconfigurationException), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes are ambiguous is of no interest to who gives batch_size
        return extract_batch_size(batch)
    return 0
