"""The measurer that replays Lightning's test loop."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from lightning_soups.evaluation.kept_loop import AfterBatch, KeptLoop
from lightning_soups.evaluation.live_weights import LiveWeights
from lightning_soups.evaluation.measurer import Measurer
from lightning_soups.evaluation.module_state import UnsavedState
from lightning_soups.evaluation.monitored import on_all_processes
from lightning_soups.evaluation.outputs import Outputs, OutputTap
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.regroup import Batches
from lightning_soups.evaluation.reported import Reported
from lightning_soups.evaluation.sample_values import OneByOne, SeenInPassing, in_fixed_order
from lightning_soups.evaluation.staging import Staging
from lightning_soups.logged import Logged
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode


@dataclass(frozen=True)
class WhatToReport:
    """What a user says about the test data. Picklable.

    Args:
        metric: The logged test metric to report; None for the counterpart of the monitor.
        metric_mode: Its direction; None for what it declares, or that of the monitor if it is its counterpart.
        names: Names of the test dataloaders; None for those in the logged names, or numbers.
        in_distribution: Which of them are like the training data; None for the first one.
        outputs_of: The submodule whose outputs ensembles average; empty for the module's own ``forward``.
    """

    metric: str | None = None
    metric_mode: Mode | None = None
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
        self._outputs: dict[Mixture, Outputs] = {}
        self._refuted: set[int] = set()  # by every model so far
        loop.before_reading = staging.wait
        logged = self._pass(first)
        self._reported = Reported(logged, loop.dataloaders, what.metric, monitor, what.names)
        self._names = self._reported.logged_names(logged)
        self._known = {first: self._reported.values(logged)}
        self.metric, self.datasets = self._reported.metric, self._reported.datasets
        known_mode = what.metric_mode or self._reported.mode or (mode if self._reported.like_monitor else None)
        if known_mode is None:
            raise MisconfigurationException(
                f"Whether a larger {self.metric!r} is better is not known: it was logged as a plain number. Pass"
                " `metric_mode`, 'max' or 'min', or log a torchmetrics.Metric."
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
        with self._playing(members):
            logged = self._pass(next(iter(members)))
        self._progress.measured(label or f"ensemble of {len(members)}")
        return self._reported.values(logged)

    def per_sample(self, model: Mixture | Mapping[Mixture, float]) -> dict[str, Tensor | None]:
        """See :meth:`Measurer.per_sample`: a full pass, and one in batches of one sample where that does not tell."""
        known = self._reported.of_known_loaders and self._loop.loaders is not None
        if not known or not in_fixed_order(self._loop):
            return dict.fromkeys(self.datasets)
        written = model if isinstance(model, Mixture) else next(iter(model))
        seen = SeenInPassing(self._loop, self._names, self._refuted)
        with nullcontext() if isinstance(model, Mixture) else self._playing(model), seen():
            whole = self._reported.values(self._pass(written, seen.after_batch))
        if isinstance(model, Mixture):
            self._known[model] = whole
        self._progress.measured("each sample")
        found = dict(zip(self.datasets, seen.values([whole[name] for name in self.datasets]), strict=True))
        if any(values is None for values in found.values()):
            single = OneByOne(
                self._loop, self._names, lambda: self._unsaved.restore(self._loop.trainer.lightning_module)
            )
            if on_all_processes(self._loop, self._measure_one_by_one(model, single, seen.batches)):
                for index, name in enumerate(self.datasets):
                    again = single.values(index, whole[name])
                    found[name] = again if found[name] is None else found[name]
        return found

    def _measure_one_by_one(
        self, model: Mixture | Mapping[Mixture, float], single: OneByOne, batches: Sequence[tuple[int, int]]
    ) -> bool:
        """Whether the module takes batches of one sample."""
        written = model if isinstance(model, Mixture) else next(iter(model))
        try:
            with nullcontext() if isinstance(model, Mixture) else self._playing(model, single, batches), single():
                self._pass(written, single.after_batch, single.parts())
        except Exception as error:  # whatever a step raises on batches of other sizes, it need not take them
            rank_zero_info(f"What single samples add to {self.metric!r} cannot be measured, because of: {error!r}")
            return False
        return True

    def _playing(
        self,
        members: Mapping[Mixture, float],
        single: OneByOne | None = None,
        batches: Sequence[tuple[int, int]] = (),
    ) -> AbstractContextManager[None]:
        """Put out what the members do on average: for whole batches, or for single samples of those batches."""
        if self._tap is None:
            if not in_fixed_order(self._loop):
                raise MisconfigurationException(
                    "An ensemble averages what its members put out for the same samples, but a test dataloader gives"
                    " other batches each time it is read: it shuffles, or changes samples at random. Use shuffle=False"
                    " and no random augmentation for test data, or let the batches be kept (cache_batches)."
                )
            self._tap = OutputTap(self._loop.trainer.lightning_module, self._what.outputs_of)
        for member in members:
            if member not in self._outputs:
                with self._tap.record() as outputs:
                    self._known[member] = self._reported.values(self._pass(member))
                self._outputs[member] = outputs
        recorded = [self._outputs[member] for member in members]
        if single is not None:
            recorded = [self._single(member, single, batches) for member in members]
        return self._tap.play(recorded, list(members.values()), self._loop.trainer.strategy.root_device)

    def _single(self, member: Mixture, single: OneByOne, batches: Sequence[tuple[int, int]]) -> Outputs:
        split = single.split(self._outputs[member], batches)
        if split is not None:
            return split
        assert self._tap is not None
        with self._tap.record() as outputs:
            self._pass(member, part=single.parts())
        return outputs

    def _pass(
        self, mixture: Mixture, after_batch: AfterBatch | None = None, part: Sequence[Batches] | None = None
    ) -> dict[str, Logged]:
        self._unsaved.restore(self._loop.trainer.lightning_module)
        self._weights.write(mixture)
        return self._loop.one_pass(part, after_batch)
