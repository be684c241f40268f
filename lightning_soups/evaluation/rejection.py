"""Certified early rejection: a pass ends as soon as the candidate provably cannot reach the score to beat."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_soups.evaluation.bounds import Bound
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import MonitoredSums, on_all_processes
from lightning_soups.evaluation.order import Watch
from lightning_soups.evaluation.pass_record import BatchRecord, losses_explain, outcomes_in
from lightning_soups.evaluation.probe import Probe
from lightning_soups.logged import Logged
from lightning_soups.score import Score


class BoundWithdrawnError(Exception):
    """What a bound relies on turned out not to hold, after candidates had been rejected by it; says what."""


class EarlyRejection:
    """Makes the passes that answer a question, none longer than the answer needs.

    Without a score to beat that is one full pass, in the loader's own order and batches. With one there are two
    chances to end early, both certain (:mod:`lightning_soups.evaluation.bounds`):

    1. A *probe* (:mod:`lightning_soups.evaluation.probe`): hard samples first. Only for metrics whose sums are over
       samples, and after a check that regrouping samples leaves the sums as they are.
    2. The full pass itself, after each of its batches.

    Only full passes give scores, so those that recipes compare are the same as without early rejection.

    Args:
        loop: The kept loop, running.
        monitor: The logged metric that is the score.
        enabled: False makes full passes only.
    """

    def __init__(self, loop: KeptLoop, monitor: str, enabled: bool) -> None:
        self._enabled = enabled and loop.loaders is not None
        self._loop = loop
        self._monitor = monitor
        self._monitored = MonitoredSums(loop, monitor)
        self._watch = Watch(loop.trainer.lightning_module)
        self._total: Tensor | None = None
        self._probe: Probe | None = None
        self._records: list[BatchRecord] = []
        self._beat: Score | None = None
        self._reach: Score | None = None
        self._withdrawn = False
        self._rejected = 0

    def answer(self, prepare: Callable[[], None], beat: Score | None) -> dict[str, Logged] | Score:
        """Evaluate a candidate.

        Args:
            prepare: Makes the module the candidate; called before every pass, because steps may change the module.
            beat: The score to reach, if there is one.

        Returns:
            Everything that a full pass logged. Or, when the module cannot reach ``beat``, the best score that it could
            still have reached.

        Raises:
            BoundWithdrawnError: What was rejected so far has to be asked again.
        """
        self._beat, self._reach = beat, None
        if self._can_reject() and self._probe is not None and self._probe.ready:
            self._probe.run(prepare, self._hopeless)
        if self._reach is None:
            logged = self._full_pass(prepare)
            if self._reach is None:
                return logged
        self._rejected += 1
        return self._reach

    def set_incumbent(self) -> None:
        """The module of the last full pass is the one to beat from now on: what it got wrong comes first."""
        if self._probe is not None and self._probe.difficulty is not None:
            outcomes = outcomes_in(self._records, self._monitored.dataloader)
            if outcomes is not None and len(outcomes.wrong) == len(self._probe.difficulty):
                self._probe.difficulty.set_incumbent(outcomes)

    def _can_reject(self) -> bool:
        bound, beat = self._monitored.bound, self._beat
        return bound is not None and beat is not None and self._total is not None and bound.mode == beat.mode

    def _full_pass(self, prepare: Callable[[], None]) -> dict[str, Logged]:
        self._records = []
        self._monitored.begin()
        prepare()
        if not self._enabled:
            return self._loop.one_pass()
        with self._watch():
            logged = self._loop.one_pass(after_batch=self._after_batch)
        self._learn(prepare, logged)
        return logged

    def _after_batch(self, dataloader: int, batch: int, rows: int) -> bool:
        if self._monitored.bound is None and not self._withdrawn:
            self._monitored.find()
        self._monitored.read(dataloader)
        outcomes = self._watch.take(rows, self._monitored.metric)
        self._records.append(BatchRecord(dataloader, rows, outcomes, self._monitored.own))
        common = self._loop.common_batches
        # after the last batch there is nothing left to save
        worth_it = batch + (dataloader == len(common) - 1) < common[dataloader]
        return self._can_reject() and worth_it and self._hopeless()

    def _hopeless(self) -> bool:
        """Whether the sums of all processes rule the score to beat out."""
        bound, beat, total = self._monitored.bound, self._beat, self._total
        assert bound is not None
        assert beat is not None
        assert total is not None
        sums, fell = self._monitored.over_processes(like=total)
        best = bound.best_possible(sums, total)
        if fell or (math.isnan(best) and not sums.isnan().any()):
            return False
        slack = bound.rounding * max(abs(best), abs(beat.value))
        if Score(best + slack if beat.mode == "max" else best - slack, beat.mode) >= beat:
            return False
        self._reach = Score(best, beat.mode)
        return True

    def _learn(self, prepare: Callable[[], None], logged: dict[str, Logged]) -> None:
        """After a full pass: note what was hard, and check what the bound relies on."""
        outcomes = outcomes_in(self._records, self._monitored.dataloader)
        if self._probe is not None and self._probe.difficulty is not None and outcomes is not None:
            self._probe.difficulty.note(torch.arange(len(outcomes.wrong)), outcomes)
        bound = self._monitored.bound
        able = not self._loop.cut_short and bound is not None and self._monitored.own is not None
        if not on_all_processes(self._loop, able and not math.isnan(logged[self._monitor].value)):
            return
        assert bound is not None
        total, fell = self._monitored.over_processes()
        why = self._why_not(bound, total, fell, logged[self._monitor].value)
        if why is not None:
            self._monitored.bound, self._withdrawn = None, True
            if self._rejected:
                raise BoundWithdrawnError(why)
        elif self._total is None:
            self._total = total
            if bound.of_samples:
                self._probe = Probe(self._loop, self._watch, self._monitored, self._records)
                self._probe.check(prepare, self._records)

    def _why_not(self, bound: Bound, total: Tensor, fell: bool, value: float) -> str | None:
        """Why a full pass speaks against the bound; None when it does not."""
        if bound.observed:
            explained = on_all_processes(self._loop, losses_explain(self._records, self._monitored.dataloader))
            explained, bound.of_samples = explained or not bound.of_samples, explained
            if not explained:
                return f"{self._monitor!r} was a mean of the samples' losses until then and is something else now"
        if fell:
            return f"{self._monitor!r} was never negative until then and is now"
        if self._total is not None and not torch.equal(bound.fixed(total), bound.fixed(self._total)):
            return "the held-out data were other ones in a later pass"
        if not math.isclose(bound.best_possible(total, total), value, rel_tol=1e-5, abs_tol=1e-12):
            return f"{self._monitor!r} is more than what is logged in validation_step"
        return None
