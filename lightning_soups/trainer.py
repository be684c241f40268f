"""SoupTrainer: Lightning's Trainer with one more entry point, ``cook``."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.evaluation.cache import validate_cache_batches
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.module_state import unchanged
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.rejection import BoundWithdrawnError
from lightning_soups.evaluation.replay import ReplayEvaluator
from lightning_soups.evaluation.staging import Staging
from lightning_soups.files import local_path
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixing import Mixer
from lightning_soups.recipes import GreedySoup, Recipe
from lightning_soups.score import Mode, validate_mode
from lightning_soups.soup import Soup


class SoupTrainer(Trainer):
    """A Lightning ``Trainer`` that can also cook. It takes what any ``Trainer`` takes and changes nothing else."""

    def cook(
        self,
        model: LightningModule | None = None,
        dataloaders: EVAL_DATALOADERS | LightningDataModule | None = None,
        datamodule: LightningDataModule | None = None,
        *,
        ingredients: str | os.PathLike[str] | list[str] | Ingredients,
        recipe: Recipe = GreedySoup(),  # noqa: B008  recipes are immutable, and jsonargparse shows the default
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        output: str | os.PathLike[str] | None = None,
        cache_batches: Literal["auto", "device", "host", "off"] = "auto",
        early_rejection: bool = True,
    ) -> Soup:
        """Make one better model from recorded ingredients.

        The recipe asks what mixtures of the ingredients score on the held-out data, which are the validation
        dataloaders; each question is one pass of Lightning's own validate loop, entered once for the whole recipe.
        The module is handed back as it came: the soup is in the saved checkpoint.

        Args:
            model: The module that the ingredients are checkpoints of. By default the one from the previous call.
            dataloaders: Held-out dataloaders, one or several, or a datamodule.
            datamodule: A datamodule whose ``val_dataloader`` is the held-out data.
            ingredients: Where the ingredients are: a soup directory that ``SoupCallback`` wrote to, a glob such as
                ``runs/*/best.ckpt``, or a list of checkpoints.
            recipe: How to choose: ``GreedySoup``, ``UniformSoup`` or your own subclass of ``Recipe``.
            monitor: The logged metric to choose by. By default the one that the ingredients were recorded with.
            mode: ``max`` when a larger value is better, ``min`` when a smaller one is. By default as recorded, or as
                the logged ``torchmetrics.Metric`` declares.
            output: Where to save the soup. By default ``soups/<recipe>.ckpt`` in the ingredients' directory.
            cache_batches: Where the held-out batches of the first pass are kept for all later ones: on the
                accelerator (``device``), in host memory (``host``), on the accelerator if they fit there and else in
                host memory (``auto``), or nowhere (``off``: every pass reads and decodes them again). At most 40 % of
                the memory that is free there is used.
            early_rejection: Whether to end the evaluation of a candidate as soon as it provably cannot reach the score
                to beat, which does not change what is chosen. It works for torchmetrics' accuracy, precision, recall,
                F-scores and relatives, mean errors, and logged numbers that are never negative with mode ``min``.

        Returns:
            The soup, with its scores, its trace and the path it was saved to.

        Raises:
            ValueError: There are no ingredients, one cannot be read safely, or ``output`` is a folder or a URL.
            MisconfigurationException: The ingredients do not fit the module, ``monitor`` is not logged, its ``mode``
                is not known, ``cache_batches`` is none of its choices, or there is no held-out data.
        """
        module = model if model is not None else self.lightning_module
        if module is None:
            raise MisconfigurationException("`SoupTrainer.cook()` needs a `model`: there is none from a previous call.")
        if not isinstance(recipe, Recipe):
            raise MisconfigurationException(f"`recipe` must be a Recipe such as GreedySoup(), got {recipe!r}.")
        found = Ingredients.load(ingredients)
        if not found:
            raise ValueError("There are no ingredients to cook with.")
        _warn_about_initializations(found)
        job = _Cook(
            recipe=recipe,
            ingredients=found,
            monitor=monitor if monitor is not None else _recorded_monitor(found),
            mode=validate_mode(mode) if mode is not None else None,
            output=_output_path(output, found, recipe),
            early_rejection=early_rejection,
        )
        lightning_loop = self.validate_loop
        self.validate_loop = KeptLoop(self, job, validate_cache_batches(cache_batches))
        try:
            with unchanged(module):
                (soup,) = self.validate(module, dataloaders, datamodule=datamodule, verbose=False)
        finally:
            self.validate_loop = lightning_loop
        assert isinstance(soup, Soup)
        return soup


@dataclass(frozen=True)
class _Cook:
    """What runs inside the kept loop, on every process; picklable for strategies that spawn."""

    recipe: Recipe
    ingredients: Ingredients
    monitor: str
    mode: Mode | None
    output: Path
    early_rejection: bool

    def __call__(self, loop: KeptLoop) -> Soup:
        trainer, mixer = loop.trainer, Mixer()
        mixer.open_all(self.ingredients)
        pin = trainer.strategy.root_device.type == "cuda"
        name = type(self.recipe).__name__
        with RecipeProgress(trainer, name, len(self.ingredients) - 1) as progress, Staging(mixer, pin) as staging:
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
            )
            try:
                mixture = self.recipe.cook(self.ingredients, evaluator)
            except BoundWithdrawnError as error:
                evaluator.take_rejections_back(str(error))
                mixture = self.recipe.cook(self.ingredients, evaluator)
            score, metrics = evaluator.answer(mixture)
        soup = Soup(
            mixture,
            score,
            monitor=self.monitor,
            metrics=metrics,
            trace=evaluator.trace,
            recipe=name,
            candidates=self.ingredients,
            caveats=evaluator.caveats,
        )
        if trainer.is_global_zero:
            soup.save(self.output)
        soup.path = self.output
        trainer.strategy.barrier("SoupTrainer.cook")
        return soup

    def _recorded_mode(self) -> Mode | None:
        modes = {ingredient.mode for ingredient in self.ingredients if ingredient.monitor == self.monitor}
        if len(modes) > 1:
            raise MisconfigurationException(
                f"The ingredients were recorded with different modes of {self.monitor!r}: {sorted(map(str, modes))}."
                " Pass `mode`."
            )
        return modes.pop() if modes else None


def _recorded_monitor(ingredients: Ingredients) -> str:
    monitors = {ingredient.monitor for ingredient in ingredients if ingredient.monitor is not None}
    if not monitors:
        raise MisconfigurationException(
            "These ingredients have no record that names a monitored metric. Pass `monitor`, for example"
            " monitor='val_acc'."
        )
    if len(monitors) > 1:
        raise MisconfigurationException(
            f"The ingredients were recorded with different monitored metrics: {sorted(monitors)}. Pass `monitor`."
        )
    return monitors.pop()


def _warn_about_initializations(ingredients: Ingredients) -> None:
    initializations = {ingredient.initialization for ingredient in ingredients} - {None}
    if len(initializations) > 1:
        rank_zero_warn(
            f"The ingredients start from {len(initializations)} different initializations. Averaging works when all"
            " runs start from the same weights, the head included; others usually lie in another basin and make a"
            " soup worse. A greedy soup leaves them out; a uniform soup does not."
        )


def _output_path(output: str | os.PathLike[str] | None, ingredients: Ingredients, recipe: Recipe) -> Path:
    if output is None:
        return ingredients.directory / "soups" / f"{_file_name(recipe)}.ckpt"
    path = local_path(output, "output")
    if path.is_dir():
        raise ValueError(f"`output` must be a file such as 'soup.ckpt', got the folder {str(path)!r}.")
    return path


def _file_name(recipe: Recipe) -> str:
    """GreedySoup becomes ``greedy``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(recipe).__name__).lower()
    return words.removesuffix("_soup") or words
