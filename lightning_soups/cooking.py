"""What a trainer does to cook: follow a recipe inside the kept loop, and save the soup."""

import re
from dataclasses import dataclass

from lightning_soups.agreed import agreed
from lightning_soups.evaluation.admission import admit
from lightning_soups.evaluation.answer import Answer
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.replay import ReplayEvaluator
from lightning_soups.evaluation.session import HeldOutQuestions, ask
from lightning_soups.ingredients import Ingredients
from lightning_soups.lock import on_rank_zero, sole_writer
from lightning_soups.loggers import CookLog
from lightning_soups.mixture import Mixture
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.recipes import Recipe
from lightning_soups.safe_names import safe_name
from lightning_soups.soup import Soup
from lightning_soups.studies import Study
from lightning_soups.trace import left_out_row


@dataclass(frozen=True)
class Cook:
    """What runs inside the kept loop, on every process; picklable for strategies that spawn.

    Args:
        recipe: How to choose.
        questions: Which ingredients, and the score to choose by.
        output: The file or folder to create; a separator at its end makes it a folder.
    """

    recipe: Recipe
    questions: HeldOutQuestions
    output: str

    def __call__(self, loop: KeptLoop) -> Soup:
        """Cook and save."""
        path = any_path(self.output, "output")
        with on_rank_zero(loop.trainer.strategy, sole_writer(path)):
            return self._cook(loop, path)

    def _cook(self, loop: KeptLoop, path: AnyPath) -> Soup:
        trainer, name = loop.trainer, self.recipe.name
        log = CookLog(trainer, file_name(self.recipe), self.questions.monitor)
        questions, mixer = admit(self.questions, loop)
        log.options(name, self.recipe.options, len(questions.ingredients))
        with questions.evaluator(loop, mixer, name, path) as evaluator:
            evaluator.on_answer = log.answer
            mixture, answer = ask(evaluator, self._answered)
        left_out = evaluator.ingredients.left_out
        soup = Soup(
            mixture,
            answer.score,
            monitor=questions.monitor,
            metrics=answer.metrics,
            trace=[*evaluator.trace, *(left_out_row(one, answer.score.mode) for one in left_out)],
            recipe=name,
            options=self.recipe.options,
            candidates=evaluator.ingredients,
            left_out=left_out,
            caveats=evaluator.caveats,
            batch_norm=answer.batch_norm,
            statistics=answer.statistics,
            weights=questions.selection,
        )

        def save() -> None:
            if trainer.is_global_zero:
                soup.save(self.output, trainer.lightning_module, mixer=mixer)

        agreed(trainer.strategy, save)
        soup.path = path
        evaluator.forget_state()
        log.soup(soup)  # last, so that neither the soup nor the other processes have to wait for it
        return soup

    def _answered(self, ingredients: Ingredients, evaluator: ReplayEvaluator) -> tuple[Mixture, Answer]:
        """Cook, and have what was chosen answered too: for some recipes that is the first use of its members."""
        mixture = self.recipe.cook(ingredients, evaluator)
        return mixture, evaluator.answer(mixture)


def file_name(thing: Recipe | Study) -> str:
    """``GreedySoup()`` becomes ``greedy``, ``LossPlane()`` becomes ``loss_plane``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(thing).__name__).lower()
    return safe_name((words.removesuffix("_soup") if isinstance(thing, Recipe) else words) or words)
