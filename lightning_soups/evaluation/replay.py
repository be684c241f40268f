"""The evaluator that replays Lightning's validate loop."""

import math
import time

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.loop import KeptLoop
from lightning_soups.evaluation.module_state import UnsavedState
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.ingredients import Ingredient, Ingredients
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.score import Mode, Score
from lightning_soups.trace import Question


class ReplayEvaluator(Evaluator):
    """Writes each mixture into the live module and makes one pass of the kept validate loop.

    The same mixture is evaluated once. The weights that are scored are, bit for bit, those that a soup of the same
    mixture saves.

    Args:
        loop: The kept loop, running.
        progress: Told of every question, batch and answer.
        ingredients: What mixtures may be made of.
        monitor: The logged metric that is the score.
        mode: The direction of ``monitor``; None takes it from the logged ``torchmetrics.Metric``.
    """

    def __init__(
        self, loop: KeptLoop, progress: RecipeProgress, ingredients: Ingredients, monitor: str, mode: Mode | None
    ) -> None:
        self._ingredients = ingredients
        self.trace: list[Question] = []
        self._loop = loop
        self._progress = progress
        self._monitor = monitor
        self._mode = mode
        self._mixer = Mixer()
        self._unsaved = UnsavedState(loop.trainer.lightning_module)
        self._answers: dict[Mixture, tuple[Score, dict[str, float]]] = {}

    def score(self, mixture: Mixture, beat: Score | None = None) -> Score:
        """See :meth:`Evaluator.score`."""
        self._check(mixture)
        started = time.monotonic()
        cached = mixture in self._answers
        if not cached:
            self._progress.ask(self._loop.batches_in_pass)
            self._answers[mixture] = self._evaluate(mixture)
        score = self._answers[mixture][0]
        batches, samples = (0, 0) if cached else self._cost()
        accepted = None if beat is None else score >= beat
        row = Question(mixture, score, accepted, batches, samples, time.monotonic() - started, cached)
        self.trace.append(row)
        self._progress.answer(row)
        return score

    def rank(self, ingredients: Ingredients) -> list[Ingredient]:
        """See :meth:`Evaluator.rank`. Every ingredient is evaluated, so recorded scores need not be comparable."""
        scores = {ingredient: self.score(Mixture.uniform([ingredient])) for ingredient in ingredients}
        return sorted(ingredients, key=scores.__getitem__, reverse=True)

    def answer(self, mixture: Mixture) -> tuple[Score, dict[str, float]]:
        """The score and all metrics of a mixture; it is evaluated if no question was asked about it.

        Raises:
            MisconfigurationException: It is no mixture of the given ingredients, or its score is NaN.
        """
        self._check(mixture)
        if mixture not in self._answers:
            self.score(mixture)
        if math.isnan(self._answers[mixture][0].value):
            raise MisconfigurationException(
                f"The chosen mixture of {len(mixture)} ingredients scores NaN by {self._monitor!r}: nothing is saved."
            )
        return self._answers[mixture]

    def _check(self, mixture: object) -> None:
        if not isinstance(mixture, Mixture):
            raise MisconfigurationException(f"A recipe must ask about and return a Mixture, got {mixture!r}.")
        if foreign := [ingredient.name for ingredient in mixture if ingredient not in self._ingredients]:
            raise MisconfigurationException(f"The recipe mixes ingredients that it was not given: {foreign}.")

    def _evaluate(self, mixture: Mixture) -> tuple[Score, dict[str, float]]:
        self._unsaved.restore(self._loop.trainer.lightning_module)
        _write_into_module(self._loop.trainer, self._mixer, mixture)
        logged = self._loop.one_pass()
        if self._monitor not in logged:
            raise MisconfigurationException(
                f"`monitor={self._monitor!r}` was not logged in validation. Logged once per epoch were:"
                f" {sorted(logged)}. Choose one of them, or log it in validation_step."
            )
        self._mode = self._mode or logged[self._monitor].mode
        if self._mode is None:
            raise MisconfigurationException(
                f"Whether a larger {self._monitor!r} is better is not known: it was logged as a plain number. Pass"
                " mode='max' or mode='min', or log a torchmetrics.Metric."
            )
        # a metric may be told not to gather; ranks that decided differently would wait for each other forever
        value = self._loop.trainer.strategy.broadcast(logged[self._monitor].value)
        return Score(value, self._mode), {name: value.value for name, value in logged.items()}

    def _cost(self) -> tuple[int, int]:
        strategy = self._loop.trainer.strategy
        own = torch.tensor([self._loop.batches, self._loop.samples], device=strategy.root_device)
        batches, samples = strategy.all_gather(own).reshape(-1, 2).sum(dim=0).tolist()
        return int(batches), int(samples)


def _write_into_module(trainer: Trainer, mixer: Mixer, mixture: Mixture) -> None:
    """Load a mixture the way Lightning loads a checkpoint, hooks included."""
    module: LightningModule = trainer.lightning_module
    checkpoint = mixer.mix(mixture)
    module.on_load_checkpoint(checkpoint)
    try:
        trainer.strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
    except RuntimeError as error:  # torch lists the keys and both shapes
        names = [str(ingredient.path) for ingredient in mixture]
        raise MisconfigurationException(
            f"The ingredients {names} do not fit the {type(module).__name__} that was passed: {error}"
        ) from error
