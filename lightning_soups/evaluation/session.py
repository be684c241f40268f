"""Setting an evaluator up inside a kept loop, and asking it again when a shortcut had to be given up."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import Strategy

from lightning_soups.adapters import AdapterAverage, adapted_module
from lightning_soups.bad_ingredients import BadIngredientError, OnBadIngredient
from lightning_soups.checking import ContentChecks
from lightning_soups.evaluation.batch_norm_setup import BatchNormOptions
from lightning_soups.evaluation.context import module_context
from lightning_soups.evaluation.journal import Journal, journal_of
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.rejection import BoundWithdrawnError
from lightning_soups.evaluation.replay import ReplayEvaluator
from lightning_soups.evaluation.sharded_module import is_sharded
from lightning_soups.evaluation.staging import Staging
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixing import Mixer
from lightning_soups.paths import AnyPath
from lightning_soups.score import Mode
from lightning_soups.weights import WeightNames

_T = TypeVar("_T")


@dataclass(frozen=True)
class HeldOutQuestions:
    """What an evaluator is told: which ingredients to score, and by what. Picklable, for strategies that spawn.

    Args:
        ingredients: What mixtures may be made of.
        monitor: The logged metric that is the score.
        mode: Its direction; None for the recorded one, or what the logged metric declares.
        early_rejection: Whether candidates that provably cannot win are rejected early.
        adapters: How ingredients that are adapters are averaged.
        batch_norm: What to do about running statistics; None averages them.
        selection: Which tensors of the ingredients are mixed, and what they are called.
        on_bad_ingredient: Whether to refuse ingredients that cannot be used, or to leave them out.
        tests_each: Whether what asks finds out by itself which ingredients started from other weights.
        takes_diverged: Whether what asks is about NaN and infinity as well.
        monitor_of_most: Whether ``monitor`` is what most ingredients were recorded by, and not what the user said.
    """

    ingredients: Ingredients
    monitor: str
    mode: Mode | None
    early_rejection: bool
    adapters: AdapterAverage = "updates"
    batch_norm: BatchNormOptions | None = None
    selection: WeightNames = field(default_factory=WeightNames)
    on_bad_ingredient: OnBadIngredient = "error"
    tests_each: bool = True
    takes_diverged: bool = False
    monitor_of_most: bool = False

    def shared(self, strategy: Strategy) -> "HeldOutQuestions":
        """The same for all processes: each has listed the ingredients itself, and runs may be recording meanwhile."""
        return replace(self, ingredients=strategy.broadcast(self.ingredients))

    def mixer(self, loop: KeptLoop, checks: ContentChecks | None = None) -> Mixer:
        """What opens and mixes these ingredients; to be made before anything is written into the live module.

        Args:
            loop: The kept loop, running.
            checks: Remembers which ingredients were checked before.

        Raises:
            MisconfigurationException: Adapters, or the selection, cannot be used with this module or strategy.
        """
        adapted = adapted_module(loop.trainer, self.ingredients, self.adapters)
        if adapted is not None and self.selection != WeightNames():
            raise MisconfigurationException(
                f"Adapters are mixed as a whole, so `weights` cannot select or rename their tensors: {self.selection}."
            )
        if (self.selection.include or self.selection.exclude) and is_sharded(loop.trainer.lightning_module):
            raise MisconfigurationException(
                "`weights` cannot leave tensors out of the mixtures of a sharded module, of which no process has the"
                f" whole values that it would keep: {self.selection}. Cook on one device or with DDP."
            )
        checks = checks or ContentChecks(finite=not self.takes_diverged)
        return Mixer(adapted, self.selection, loop.trainer.lightning_module, checks)

    @contextmanager
    def evaluator(self, loop: KeptLoop, mixer: Mixer, name: str, output: AnyPath) -> Iterator[ReplayEvaluator]:
        """Set an evaluator up.

        Args:
            loop: The kept loop, running.
            mixer: Opens and mixes ingredients.
            name: Of the recipe or study, for the progress bar.
            output: What is being made; the journal is beside it.
        """
        trainer = loop.trainer
        pin = trainer.strategy.root_device.type == "cuda"
        progress = RecipeProgress(trainer, name, len(self.ingredients) - 1)
        mixed = mixer.names_and_shapes(self.ingredients[0]).keys() if mixer.holds_weights else ()
        context = module_context(loop, mixed)
        context["how ingredients are mixed"] = f"{self.adapters} {asdict(self.selection)}"
        journal = Journal(journal_of(output), trainer.strategy, mixer.checks.content)
        with progress, Staging(mixer, pin) as staging:
            loop.progress = progress
            evaluator = ReplayEvaluator(
                loop,
                progress,
                self.ingredients,
                self.monitor,
                self.mode or self._recorded_mode(),
                early_rejection=self.early_rejection,
                mixer=mixer,
                staging=staging,
                journal=journal,
                context=context,
                batch_norm=self.batch_norm,
                on_bad_ingredient=self.on_bad_ingredient,
            )
            try:
                yield evaluator
            except BaseException:
                journal.say_what_is_left()
                raise

    def _recorded_mode(self) -> Mode | None:
        modes = {ingredient.mode for ingredient in self.ingredients if ingredient.monitor == self.monitor}
        if len(modes) > 1:
            raise MisconfigurationException(
                f"The ingredients were recorded with different modes of {self.monitor!r}: {sorted(map(str, modes))}."
                " Pass `mode`."
            )
        return modes.pop() if modes else None


def ask(evaluator: ReplayEvaluator, questions: Callable[[Ingredients, ReplayEvaluator], _T]) -> _T:
    """Let a recipe or study ask; again from the start when what it was told or given turns out to be unfounded.

    That is an early rejection, or an ingredient whose content is damaged; what was answered stays answered.

    Raises:
        BadIngredientError: An ingredient is damaged, and the policy is to refuse, or it is none that can be left out.
    """
    while True:
        try:
            evaluator.begin()
            return questions(evaluator.ingredients, evaluator)
        except BoundWithdrawnError as error:
            evaluator.take_rejections_back(str(error))
        except BadIngredientError as error:
            evaluator.leave_out(error)


def recorded_monitor(ingredients: Ingredients) -> str:
    """The metric that most ingredients were recorded with.

    Raises:
        MisconfigurationException: There is none, or as many were recorded with another one.
    """
    counts = Counter(ingredient.monitor for ingredient in ingredients if ingredient.monitor is not None)
    if not counts:
        raise MisconfigurationException(
            "These ingredients have no record that names a monitored metric. Pass `monitor`, for example"
            " monitor='val_acc'."
        )
    (monitor, most), *others = counts.most_common()
    if others and others[0][1] == most:
        raise MisconfigurationException(
            f"The ingredients were recorded with different monitored metrics: {sorted(counts)}. Pass `monitor`."
        )
    return monitor
