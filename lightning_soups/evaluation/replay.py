"""The evaluator that replays Lightning's validate loop."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_soups.bad_ingredients import BadIngredientError, OnBadIngredient, settle
from lightning_soups.evaluation.answer import Answer, Meter
from lightning_soups.evaluation.batch_norm import RunningStatistics
from lightning_soups.evaluation.batch_norm_setup import BatchNormOptions, same_layers, set_up
from lightning_soups.evaluation.cache import caveats_about_changes
from lightning_soups.evaluation.context import data_context
from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.journal import Journal
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.known import KnownAnswers
from lightning_soups.evaluation.learner import Learner
from lightning_soups.evaluation.live_mixture import LiveMixture
from lightning_soups.evaluation.monitor import Monitor
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.recorded import agree, best_recorded_first, exact_scores
from lightning_soups.evaluation.rejection import EarlyRejection
from lightning_soups.evaluation.replay_learner import ReplayLearner
from lightning_soups.evaluation.sharded_module import is_sharded
from lightning_soups.evaluation.staging import Staging
from lightning_soups.ingredient import INITIALIZATION, Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.logged import Logged
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode, Score
from lightning_soups.trace import Question


class ReplayEvaluator(Evaluator):
    """Writes each mixture into the live module and makes the passes of the kept validate loop that it takes to answer.

    No mixture is evaluated twice, and what was recorded is not evaluated again where that is the same.

    Args:
        loop: The kept loop, running.
        progress: Told of every question, batch and answer.
        ingredients: What mixtures may be made of.
        monitor: The logged metric that is the score.
        mode: The direction of ``monitor``; None takes it from the logged ``torchmetrics.Metric``.
        early_rejection: Whether to end a pass once it provably cannot reach the score to beat.
        staging: Reads ingredients ahead.
        mixer: Opens and mixes ingredients.
        journal: Keeps what is found out.
        context: What answers depend on besides the mixture, the data and the metric.
        batch_norm: What to do about running statistics; None averages them.
        on_bad_ingredient: Whether to refuse ingredients whose content turns out to be damaged, or to leave them out.

    Attributes:
        ingredients: What mixtures may be made of; fewer after some were left out.
        trace: What was asked, in order.
        caveats: Why scores may not be exact, in words for the user.
        on_answer: Called with every question that was answered, on every process; when set.
    """

    def __init__(
        self,
        loop: KeptLoop,
        progress: RecipeProgress,
        ingredients: Ingredients,
        monitor: str,
        mode: Mode | None,
        *,
        early_rejection: bool,
        mixer: Mixer,
        staging: Staging,
        journal: Journal,
        context: Mapping[str, str],
        batch_norm: BatchNormOptions | None = None,
        on_bad_ingredient: OnBadIngredient = "error",
    ) -> None:
        self.trace: list[Question] = []
        self.caveats = list(loop.source.caveats)
        self.on_answer: Callable[[Question], None] | None = None
        self.ingredients = ingredients
        self._on_bad_ingredient = on_bad_ingredient
        self._told: dict[Mixture, Question] = {}
        self._loop = loop
        self._progress = progress
        self._monitor = Monitor(monitor, mode, loop.trainer.strategy)
        self._mixer = mixer
        self._journal = journal
        self._live = LiveMixture(loop, mixer, staging)
        self._passes = EarlyRejection(loop, monitor, early_rejection)
        self._known = KnownAnswers(self._monitor, journal)
        self._incumbent: Score | None = None
        self._batch_norm = batch_norm
        asked = {"the monitor": f"{monitor} {mode}", "early rejection": str(early_rejection)}
        self._context = {**context, **asked}
        self._looked = self._begun = False

    @property
    def mode(self) -> Mode | None:
        """The direction of the monitored metric; None while it is not known."""
        return self._monitor.mode

    def begin(self) -> None:
        """Get ready for questions; every process must call this first, and again after :meth:`leave_out`."""
        self._live.expect(list(self.ingredients))
        if self._begun:
            return
        if self._batch_norm is not None:
            self._live.statistics = set_up(
                self._batch_norm, self._loop, self._mixer, self.ingredients, self._live.write
            )
        self._journal.begin(lambda: {**self._context, **data_context(self._loop, self._live.statistics)})
        self.caveats = list(dict.fromkeys([*self.caveats, *self._journal.caveats]))
        self._looked |= self._journal.resumes  # two readings of the data gave the same
        self._begun = True

    def leave_out(self, error: BadIngredientError) -> None:
        """Go on without ingredients that turned out to be damaged, before they were used; full answers stay.

        Raises:
            BadIngredientError: The policy is to refuse, none is left, or what is damaged is the initialization.
        """
        ingredients = self.ingredients.without(error.bad)
        if len(self.ingredients) - len(ingredients) < len(error.bad):
            raise error
        settle(error.bad, self._on_bad_ingredient, len(ingredients))
        self._told |= {row.mixture: row for row in self.trace if not row.cached}
        self.trace = []
        self._known.recorded.clear()
        if self._batch_norm is not None and not same_layers(
            self._live.statistics, self._loop, self._mixer, ingredients
        ):
            self._begun = False  # what is left has the same statistics in more layers: other mixtures than before
            for known in (self._known.full, self._known.below, self._told):
                known.clear()
        for one in set(self.ingredients) - set(ingredients):
            self._mixer.close(one)
        self.ingredients = ingredients

    def score(self, mixture: Mixture, beat: Score | None = None, label: str = "") -> Score:
        """See :meth:`Evaluator.score`."""
        self._check(mixture)
        meter = Meter(self._loop)
        score = self._known.score(mixture, beat)
        if score is not None:
            accepted, early = None if beat is None else score >= beat, score is self._known.below.get(mixture)
            if mixture in self._told:  # it was evaluated before an ingredient had to be left out
                self.trace.append(replace(self._told.pop(mixture), accepted=accepted, label=label))
            else:
                self._note(meter.question(mixture, score, accepted, cached=True, early=early, label=label))
            return score
        recalled = self._known.recall(mixture, beat, label)
        if recalled is not None:
            row, metrics = recalled
        else:
            score, metrics = self._evaluate(mixture, beat)
            accepted = None if beat is None else score >= beat
            row = meter.question(mixture, score, accepted, early=metrics is None, label=label)
            self._known.write_down(row, metrics)
        self._known.remember(mixture, row.score, metrics)
        if metrics is not None and (self._incumbent is None or row.score >= (beat or self._incumbent)):
            self._incumbent = row.score
            if recalled is None:
                self._passes.set_incumbent()
        self._note(row)
        return row.score

    def rank(self, ingredients: Ingredients, as_recorded: bool = False) -> list[Ingredient]:
        """See :meth:`Evaluator.rank`.

        Recorded scores are used when all ingredients have one of this monitor that is over the whole held-out data,
        and evaluating the best of them gives every metric that was recorded with it; else all are evaluated.
        """
        ranked = (
            best_recorded_first(ingredients, self._monitor.name, self._monitor.known_mode())
            if as_recorded
            else self._rank_as_recorded(ingredients)
        )
        if ranked is None:
            scores = {ingredient: self.score(Mixture.uniform([ingredient])) for ingredient in ingredients}
            ranked = sorted(ingredients, key=scores.__getitem__, reverse=True)
        self._live.expect(ranked)
        return ranked

    def metrics(self, mixture: Mixture, label: str = "") -> dict[str, float]:
        """See :meth:`Evaluator.metrics`."""
        if mixture not in self._known.full:
            self.score(mixture, label=label)
        if mixture not in self._known.full:  # it was ranked as recorded
            self._known.recorded.pop(mixture)
            self.score(mixture, label=label)
        return self._known.full[mixture][1]

    def inner_products(self, ingredients: Sequence[Ingredient], origin: Ingredient) -> dict[str, Tensor]:
        """See :meth:`Evaluator.inner_products`; every process measures for itself, and gets the same."""
        self._live.check([*ingredients, origin])
        recorded = self._mixer.state_dict(origin)  # which may lack a frozen part
        names = [name for name, _ in self._loop.trainer.lightning_module.named_parameters() if name in recorded]
        if not names:
            raise MisconfigurationException(
                "There is nothing to measure directions by: the ingredients, or what `weights` leaves of them, have"
                " none of the module's parameters."
            )
        return self._mixer.inner_products(ingredients, origin, names)

    def tied_parameters(self) -> dict[str, str]:
        """See :meth:`Evaluator.tied_parameters`."""
        first: dict[int, str] = {}
        named = self._loop.trainer.lightning_module.named_parameters(remove_duplicate=False)
        names = {name: first.setdefault(id(parameter), name) for name, parameter in named}
        return {name: one for name, one in names.items() if name != one}

    def learner(self, loss: str, batch_size: int, validation_share: float, seed: int) -> Learner:
        """See :meth:`Evaluator.learner`."""
        if is_sharded(self._loop.trainer.lightning_module):
            raise MisconfigurationException(
                "Learned soups need the gradients of whole parameters, and this module's are sharded. Cook on one"
                " device or with DDP."
            )
        self._live.check(self.ingredients)
        if self._loop.samples_in_pass == 0:
            self._passes.answer(partial(self._live.prepare, Mixture.uniform(self.ingredients)), None)
        recorded = self._mixer.state_dict(self.ingredients[0])
        split = (batch_size, validation_share, seed)
        return ReplayLearner(self._loop, self._mixer, recorded.keys(), self._live.write, loss, *split)

    def load_state(self, key: str) -> dict[str, Any] | None:
        """See :meth:`Evaluator.load_state`."""
        return self._journal.load_state(key, self.ingredients)

    def save_state(self, key: str, state: dict[str, Any]) -> None:
        """See :meth:`Evaluator.save_state`."""
        self._journal.save_state(key, self.ingredients, state)

    def forget_state(self) -> None:
        """The recipe has finished and its soup is saved: nothing is left to resume."""
        self._journal.forget()

    def answer(self, mixture: Mixture) -> Answer:
        """All about the mixture that a recipe chose; it is evaluated unless that was done before.

        Where running statistics can be recalculated, it is scored with averaged ones as well; the better are served.

        Raises:
            MisconfigurationException: It is no mixture of the given ingredients, or its score is NaN or the worst there
                is, such as an infinite loss.
        """
        self._check(mixture)
        self._live.check(mixture)  # of what an interrupted cook has found, perhaps for the first time
        metrics = self.metrics(mixture)
        answer = Answer(self._known.full[mixture][0], metrics)
        if self._live.statistics is not None and self._live.statistics.concern(mixture):
            answer = self._better_statistics(self._live.statistics, mixture, answer)
        value, worst = answer.score.value, -math.inf if answer.score.mode == "max" else math.inf
        if math.isnan(value) or value == worst:
            scores = "NaN" if math.isnan(value) else str(value)
            raise MisconfigurationException(
                f"The chosen mixture of {len(mixture)} ingredients scores {scores} by {self._monitor.name!r}: nothing"
                " is saved."
            )
        return answer

    def take_rejections_back(self, why: str) -> None:
        """Forget which candidates were rejected early; full answers stay."""
        self.trace = [row for row in self.trace if not row.early]
        self._known.below.clear()
        caveat = f"Candidates had been rejected early, but {why}. The recipe was started again without rejecting early."
        self._journal.withdraw_rejections(caveat)
        self._add_caveat(caveat)

    def _check(self, mixture: object) -> None:
        if not isinstance(mixture, Mixture):
            raise MisconfigurationException(f"A recipe must ask about and return a Mixture, got {mixture!r}.")
        foreign = [member for member in mixture if member not in self.ingredients]
        foreign = [
            member for member in foreign if member.run != INITIALIZATION or member != self.ingredients.initialization
        ]
        if foreign:
            names = [member.name for member in foreign]
            raise MisconfigurationException(f"The recipe mixes ingredients that it was not given: {names}.")

    def _rank_as_recorded(self, ingredients: Ingredients) -> list[Ingredient] | None:
        recorded = exact_scores(ingredients, self._monitor.name, self._monitor.mode)
        if recorded is None:
            return None
        ranked = sorted(ingredients, key=recorded.__getitem__, reverse=True)
        self._live.expect(ranked)
        if not agree(ranked[0].metrics, self.metrics(Mixture.uniform(ranked[:1]))):
            self._known.recorded.clear()
            rank_zero_info(
                f"Evaluating {ranked[0].name!r} again gave other values than were recorded with it, so all ingredients"
                " are evaluated: the held-out data, the precision or the module may have changed."
            )
            return None
        self._known.recorded.update({Mixture.uniform([ingredient]): score for ingredient, score in recorded.items()})
        for ingredient in ranked[1:]:
            self.score(Mixture.uniform([ingredient]))
        return ranked

    def _evaluate(self, mixture: Mixture, beat: Score | None) -> tuple[Score, dict[str, float] | None]:
        """Returns the score and every metric; or a bound, and None, when the mixture cannot reach ``beat``."""
        self._live.check(mixture)
        result = self._passes.answer(partial(self._live.prepare, mixture), beat)
        if isinstance(result, Score):
            if self._live.statistics is not None:
                self._live.statistics.forget(mixture)
            return result, None
        if not self._looked:
            self._looked = True
            self._look_for_changes()
        return self._monitor.score(result), _values(result)

    def _better_statistics(self, statistics: RunningStatistics, mixture: Mixture, known: Answer) -> Answer:
        """Score a mixture with the other kind of statistics, too; recalculated ones are served in a draw."""
        other_kind = "averaged" if statistics.every else "recalculated"
        recalled = self._known.recall(mixture, None, "", other_kind)
        if recalled is None:
            meter = Meter(self._loop)
            self._live.prepare(mixture, recalculate=not statistics.every)
            logged = self._loop.one_pass()
            recalled = meter.question(mixture, self._monitor.score(logged), None), _values(logged)
            self._known.write_down(*recalled, other_kind)
        row, metrics = recalled
        other = Answer(row.score, metrics or {})
        recalculated, averaged = (known, other) if statistics.every else (other, known)
        better = recalculated.score >= averaged.score
        for answer, kind, kept in ((averaged, "averaged", not better), (recalculated, "recalculated", better)):
            again = Meter(self._loop).question(mixture, answer.score, None, cached=True)
            self._note(replace(again if answer is known else row, accepted=kept, label=f"soup, statistics {kind}"))
        if better:
            if not statistics.knows(mixture):
                self._live.prepare(mixture, recalculate=True)
            return replace(recalculated, batch_norm="recalculated", statistics=statistics.of(mixture))
        return replace(averaged, batch_norm="averaged")

    def _look_for_changes(self) -> None:
        """After the first pass: would another one see other data?"""
        if self._loop.trainer.is_global_zero:  # who saves the soup; the others would only compete for the cores
            for caveat in caveats_about_changes(self._loop.loaders or []):
                self._add_caveat(caveat)

    def _add_caveat(self, text: str) -> None:
        self.caveats.append(text)
        rank_zero_warn(text)

    def _note(self, row: Question) -> None:
        self.trace.append(row)
        whole = len(self.trace) * self._loop.samples_in_pass
        self._progress.answer(row, saved=max(0.0, 1 - self._loop.samples / whole) if whole else 0.0)
        if self.on_answer is not None:
            self.on_answer(row)


def _values(logged: Mapping[str, Logged]) -> dict[str, float]:
    return {name: one.value for name, one in logged.items()}
