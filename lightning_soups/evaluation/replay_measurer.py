"""The measurer that replays Lightning's test loop."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed
from torchmetrics import Metric

from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.live_weights import LiveWeights
from lightning_soups.evaluation.log_spy import LogSpy
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.evaluation.module_state import UnsavedState
from lightning_soups.evaluation.outputs import Outputs, OutputTap
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.regroup import Batches, nothing, regroup
from lightning_soups.evaluation.reported import Reported
from lightning_soups.evaluation.staging import Staging
from lightning_soups.logged import Logged
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode

_SAME = 1e-4  # relative; a mean over samples against the mean over batches, in float32


@dataclass(frozen=True)
class WhatToReport:
    """What a user says about the test data. Picklable.

    Args:
        metric: The logged test metric to report; None for the counterpart of the monitor.
        names: Names of the test dataloaders; None for those in the logged names, or numbers.
        in_distribution: Which of them are like the training data; None for the first one.
        outputs_of: The submodule whose outputs ensembles average; empty for the module's own ``forward``.
    """

    metric: str | None = None
    names: tuple[str, ...] | None = None
    in_distribution: tuple[str, ...] | None = None
    outputs_of: str = ""


class ReplayMeasurer(Measurer):
    """Writes each mixture into the live module and makes a pass of the kept test loop. No model is measured twice.

    Args:
        loop: The kept loop, running.
        progress: Told of every model.
        mixer: Opens and mixes ingredients.
        staging: Reads ingredients ahead.
        what: What to report.
        monitor: The held-out metric that choices were made by.
        mode: Its direction, if known.
        first: Any model, to find out what is logged.

    Raises:
        MisconfigurationException: The metric is not logged, its direction is not known, or names do not fit.
    """

    def __init__(
        self,
        loop: KeptLoop,
        progress: RecipeProgress,
        mixer: Mixer,
        staging: Staging,
        what: WhatToReport,
        monitor: str,
        mode: Mode | None,
        first: Mixture,
    ) -> None:
        self._loop = loop
        self._progress = progress
        self._weights = LiveWeights(loop.trainer, mixer, staging)
        self._unsaved = UnsavedState(loop.trainer.lightning_module)
        self._what = what
        self._tap: OutputTap | None = None
        self._outputs: dict[tuple[Mixture, bool], Outputs] = {}
        loop.before_reading = staging.wait
        logged = self._pass(first)
        self._reported = Reported(logged, loop.dataloaders, what.metric, monitor, what.names)
        self._names = self._reported.logged_names(logged)
        self._known = {first: self._reported.values(logged)}
        self.metric, self.datasets = self._reported.metric, self._reported.datasets
        known_mode = self._reported.mode or mode
        if known_mode is None:
            raise MisconfigurationException(
                f"Whether a larger {self.metric!r} is better is not known: it was logged as a plain number. Pass"
                " mode='max' or mode='min', or log a torchmetrics.Metric."
            )
        self.mode = known_mode
        self.in_distribution = what.in_distribution or self.datasets[:1]
        if unknown := sorted(set(self.in_distribution) - set(self.datasets)):
            raise MisconfigurationException(
                f"`in_distribution` names no test dataset: {unknown}. There are: {list(self.datasets)}."
            )
        self.shifted = tuple(name for name in self.datasets if name not in self.in_distribution)

    def measure(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        """See :meth:`Measurer.measure`."""
        if mixture not in self._known:
            self._known[mixture] = self._reported.values(self._pass(mixture))
        self._progress.measured(label or f"mixture of {len(mixture)}")
        return dict(self._known[mixture])

    def ensemble(self, members: Mapping[Mixture, float], label: str = "") -> dict[str, float]:
        """See :meth:`Measurer.ensemble`; each member is evaluated once, whatever the number of ensembles."""
        logged = self._pass(next(iter(members)), within=self._playing(members, single=False))
        self._progress.measured(label or f"ensemble of {len(members)}")
        return self._reported.values(logged)

    def per_sample(self, model: Mixture | Mapping[Mixture, float]) -> dict[str, Tensor | None]:
        """See :meth:`Measurer.per_sample`: a pass in batches of one sample."""
        if isinstance(model, Mixture):
            mixture, whole = model, self.measure(model)
            within: AbstractContextManager[Any] = nullcontext()
        else:
            mixture, whole = next(iter(model)), self.ensemble(model)
            within = self._playing(model, single=True)
        spy, module = LogSpy(self._loop.trainer.lightning_module), self._loop.trainer.lightning_module
        values: list[list[float]] = [[] for _ in self.datasets]

        def note(dataloader: int, batch: int, rows: int) -> bool:
            values[dataloader].append(_own_value(spy.values.pop(self._names[dataloader], math.nan)))
            self._unsaved.restore(module)  # metrics start afresh for every sample
            return False

        with spy():
            self._pass(mixture, within=within, after_batch=note, part=self._one_by_one())
        found: dict[str, Tensor | None] = {}
        for name, own in zip(self.datasets, values, strict=True):
            gathered = torch.tensor(_from_all_processes(own), dtype=torch.float64)
            same = len(gathered) and math.isclose(float(gathered.mean()), whole[name], rel_tol=_SAME, abs_tol=_SAME)
            found[name] = gathered if same else None
        return found

    def _playing(self, members: Mapping[Mixture, float], single: bool) -> AbstractContextManager[Any]:
        if self._tap is None:
            self._tap = OutputTap(self._loop.trainer.lightning_module, self._what.outputs_of)
        for member in members:
            if (member, single) not in self._outputs:
                part = self._one_by_one() if single else None
                with self._tap.record() as outputs:
                    logged = self._pass(member, part=part)
                self._outputs[member, single] = outputs
                if not single:
                    self._known[member] = self._reported.values(logged)
        recorded = [self._outputs[member, single] for member in members]
        return self._tap.play(recorded, list(members.values()), self._loop.trainer.strategy.root_device)

    def _pass(
        self,
        mixture: Mixture,
        within: AbstractContextManager[Any] | None = None,
        after_batch: Callable[[int, int, int], bool] | None = None,
        part: Sequence[Batches] | None = None,
    ) -> dict[str, Logged]:
        self._unsaved.restore(self._loop.trainer.lightning_module)
        self._weights.write(mixture)
        with within or nullcontext():
            return self._loop.one_pass(part, after_batch)

    def _one_by_one(self) -> list[Batches]:
        parts = []
        for loader, rows in zip(self._loop.loaders or [], self._loop.rows, strict=False):
            source = regroup(loader, rows)
            parts.append(nothing() if source is None else source([[row] for row in range(rows)]))
        return parts


def _own_value(logged: Any) -> float:
    """The value of one sample: of a number as it was logged, of a metric what this process has seen since its reset."""
    if not isinstance(logged, Metric):
        return float(logged)
    gathers, logged.sync_on_compute = logged.sync_on_compute, False
    try:
        value = logged.compute()
    finally:
        logged.sync_on_compute = gathers
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else math.nan


def _from_all_processes(own: list[float]) -> list[float]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    everyone: list[list[float]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, own)
    return [value for values in everyone for value in values]
