"""SoupTrainer: Lightning's Trainer with two more entry points, ``cook`` and ``study``."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups import outputs
from lightning_soups.adapters import validate_adapters
from lightning_soups.bad_ingredients import OnBadIngredient, settle, validate_on_bad_ingredient
from lightning_soups.cooking import Cook, file_name
from lightning_soups.evaluation.batch_norm_setup import BatchNormOptions
from lightning_soups.evaluation.cache import validate_cache_batches
from lightning_soups.evaluation.journal import forget_journal
from lightning_soups.evaluation.kept_loop import JobResult, KeptLoop
from lightning_soups.evaluation.module_state import unchanged
from lightning_soups.evaluation.replay_measurer import WhatToReport
from lightning_soups.evaluation.session import HeldOutQuestions, recorded_monitor
from lightning_soups.files import check_writable
from lightning_soups.ingredients import Ingredients, find_ingredients
from lightning_soups.loggers import log_study
from lightning_soups.other_name import refuse_other_name
from lightning_soups.paths import any_path
from lightning_soups.recipes import GreedySoup, Recipe
from lightning_soups.score import Mode, validate_mode
from lightning_soups.soup import Soup
from lightning_soups.studies import Study, StudyResult
from lightning_soups.studying import Choose, Measure, Measured, result_of, save
from lightning_soups.weights import WeightNames

_NAMED = 8  # ingredients in the line that says which were left out


class SoupTrainer(Trainer):
    """A Lightning ``Trainer`` that can also cook and study. It takes what any ``Trainer`` takes."""

    def cook(
        self,
        model: LightningModule | None = None,
        dataloaders: EVAL_DATALOADERS | LightningDataModule | None = None,
        datamodule: LightningDataModule | None = None,
        train_dataloaders: TRAIN_DATALOADERS | None = None,
        *,
        ingredients: list[str] | str | os.PathLike[str] | Ingredients,
        where: str | None = None,
        recipe: Recipe = GreedySoup(),  # noqa: B008  recipes are immutable, and jsonargparse shows the default
        initialization: str | os.PathLike[str] | None = None,
        weights: WeightNames | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        output: str | os.PathLike[str] | None = None,
        cache_batches: Literal["auto", "device", "host", "off"] = "auto",
        early_rejection: bool = True,
        batch_norm: Literal["average", "recalculate", "recalculate_final"] | None = None,
        batch_norm_batches: int = 50,
        adapters: Literal["updates", "factors"] = "updates",
        on_bad_ingredient: Literal["error", "skip"] = "error",
    ) -> Soup:
        """Make one better model from recorded ingredients.

        The recipe asks what mixtures of the ingredients score on the held-out data, which are the validation
        dataloaders; each question is one pass of Lightning's own validate loop, entered once for the whole recipe.
        The module is handed back as it came: the soup is in the saved checkpoint.

        Args:
            model: The module that the ingredients are checkpoints of. By default the one from the previous call.
            dataloaders: Held-out dataloaders, one or several, or a datamodule.
            datamodule: A datamodule whose ``val_dataloader`` is the held-out data.
            train_dataloaders: Training dataloaders, which only ``batch_norm`` needs, when there is no datamodule.
            ingredients: Where the ingredients are: a soup directory that ``SoupCallback`` wrote to, a glob such as
                ``runs/*/best.ckpt``, or a list of checkpoints.
            where: A condition on what was recorded, such as ``val_acc > 0.9 and lr < 1e-3``, to use only the
                ingredients of which it is true; see ``Ingredients.where``.
            recipe: How to choose: ``GreedySoup``, ``UniformSoup``, ``PrunedSoup``, ``LearnedSoup``, ``WiseFT``,
                ``ModelStock``, or your own subclass of ``Recipe``.
            initialization: A checkpoint of the weights that all runs started from, which some recipes need. By default
                the recorded one.
            weights: Which tensors of the ingredients to mix (``include`` and ``exclude``, such as ``backbone.*``), and
                what they are called in the module when that cannot be told (``rename``). What is left out keeps the
                values that the module has.
            monitor: The logged metric to choose by. By default the one that the ingredients were recorded with.
            mode: ``max`` when a larger value is better, ``min`` when a smaller one is. By default as recorded, or as
                the logged ``torchmetrics.Metric`` declares.
            output: Where to save the soup. By default ``soups/<recipe>.ckpt`` in the ingredients' directory. The name
                decides the format: ``.ckpt`` is a Lightning checkpoint, which alone ``load_from_checkpoint`` and
                ``--ckpt_path`` take; ``.pt`` and ``.pth`` a plain state dict; ``.safetensors``; and no suffix, or a
                ``/`` at the end, a Hugging Face folder with a model card.
            cache_batches: Where the held-out batches of the first pass are kept for all later ones: on the
                accelerator (``device``), in host memory (``host``), on the accelerator if they fit there and else in
                host memory (``auto``), or nowhere (``off``: every pass reads and decodes them again). At most 40 % of
                the memory that is free there is used.
            early_rejection: Whether to end the evaluation of a candidate as soon as it provably cannot reach the score
                to beat, which does not change what is chosen. It works for torchmetrics' accuracy, precision, recall,
                F-scores and relatives, mean errors, and logged numbers that are never negative with mode ``min``.
            batch_norm: What to do about running statistics of BatchNorm layers, which do not mix. ``recalculate``: for
                every mixture that is scored they are computed anew on training batches, which go through
                ``validation_step``. ``recalculate_final``: for the chosen soup only. Then the soup is scored with
                averaged statistics as well, and the better ones are kept. ``average``: they are averaged like weights.
                By default ``recalculate`` when there are such layers and training data, else ``average``.
            batch_norm_batches: How many training batches to compute them on.
            adapters: What is averaged when the ingredients are LoRA adapters: their ``updates`` of the base weights,
                which is exact, or their ``factors`` one by one, as ordinary weights are, which is not.
            on_bad_ingredient: What to do about ingredients that cannot be used: unreadable or changed since they were
                recorded, NaN or infinite weights, another architecture, no finite recorded score, another
                initialization where the recipe would not notice. ``error`` refuses to cook and lists them all;
                ``skip`` leaves them out and says so, in the soup, too. Copies of another ingredient are always left
                out.

        Returns:
            The soup, with its scores, its trace and the path it was saved to.

        Raises:
            BadIngredientError: Ingredients cannot be used, and ``on_bad_ingredient`` is ``error``, or none is left.
            ValueError: There are no ingredients, or none of which ``where`` is true, or ``output`` cannot be written,
                has an unknown suffix, or is a folder that was not made for a soup.
            MisconfigurationException: The ingredients do not fit the module, ``monitor`` is not logged, its ``mode``
                is not known, an option is none of its choices, there is no held-out data, or running statistics cannot
                be recalculated although ``batch_norm`` asks for it.
        """
        refuse_other_name(model, dataloaders, datamodule)
        module = self._module(model, "cook")
        if not isinstance(recipe, Recipe):
            raise MisconfigurationException(f"`recipe` must be a Recipe such as GreedySoup(), got {recipe!r}.")
        options = BatchNormOptions(batch_norm, batch_norm_batches, train_dataloaders)
        policy = validate_on_bad_ingredient(on_bad_ingredient)
        found = _select(find_ingredients(ingredients, initialization), where)
        questions = replace(
            _questions(found, monitor, mode, early_rejection, weights, policy, recipe.tests_each),
            batch_norm=options,
            adapters=validate_adapters(adapters),
        )
        job = Cook(recipe, questions, _output(output, found, recipe, module))
        with unchanged(module):
            soup = self._inside("validate", job, cache_batches, module, dataloaders, datamodule)
        assert isinstance(soup, Soup)
        return soup

    def study(
        self,
        model: LightningModule | None = None,
        dataloaders: EVAL_DATALOADERS | LightningDataModule | None = None,
        datamodule: LightningDataModule | None = None,
        test_dataloaders: EVAL_DATALOADERS | None = None,
        *,
        study: Study,
        ingredients: list[str] | str | os.PathLike[str] | Ingredients,
        where: str | None = None,
        initialization: str | os.PathLike[str] | None = None,
        weights: WeightNames | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        metric: str | None = None,
        metric_mode: Literal["min", "max"] | None = None,
        names: list[str] | None = None,
        in_distribution: list[str] | None = None,
        outputs_of: str = "",
        output: str | os.PathLike[str] | None = None,
        cache_batches: Literal["auto", "device", "host", "off"] = "auto",
        early_rejection: bool = True,
        on_bad_ingredient: Literal["error", "skip"] = "error",
    ) -> StudyResult:
        """Find out whether, why and how far soups help on recorded ingredients.

        What a study chooses is chosen on the held-out data, the validation dataloaders. What it reports is measured
        afterwards on the test dataloaders, by the module's own ``test_step``. It ends in a table (JSON and CSV) and a
        figure (PNG and SVG).

        Args:
            model: The module that the ingredients are checkpoints of. By default the one from the previous call.
            dataloaders: Held-out dataloaders, one or several, or a datamodule.
            datamodule: A datamodule whose ``val_dataloader`` is the held-out data and whose ``test_dataloader`` is the
                test data.
            test_dataloaders: Test dataloaders, one or several, when there is no datamodule.
            study: What to find out, such as ``Interpolation()``, or your own subclass of ``Study``.
            ingredients: Where the ingredients are: a soup directory that ``SoupCallback`` wrote to, a glob such as
                ``runs/*/best.ckpt``, or a list of checkpoints.
            where: A condition on what was recorded, to use only the ingredients of which it is true, see ``cook``.
            initialization: A checkpoint of the weights that all runs started from. By default the recorded one.
            weights: See ``cook``.
            monitor: The held-out metric to choose by. By default the one that the ingredients were recorded with.
            mode: ``max`` when a larger value is better, ``min`` when a smaller one is. By default as recorded, or as
                the logged ``torchmetrics.Metric`` declares.
            metric: The logged test metric to report. By default the counterpart of the monitor: ``test_acc`` for
                ``val_acc``. It may be logged as ``test_acc/<dataset>``, which names the datasets.
            metric_mode: Whether more (``max``) or less (``min``) of ``metric`` is better. By default what the logged
                ``torchmetrics.Metric`` declares, or as for the monitor when it is its counterpart.
            names: Names of the test dataloaders, in their order. Without them, metrics that are logged at the end of
                the epoch as ``test_acc/<dataset>`` come in alphabetical order.
            in_distribution: Which of the test datasets are like the training data; the others count as shifted. By
                default the first one.
            outputs_of: The submodule whose outputs (logits, usually) ensembles average. By default those of the
                module's own ``forward``.
            output: Where to save the results: a path without suffix. By default ``studies/<study>`` in the ingredients'
                directory.
            cache_batches: Where batches are kept between passes, see ``cook``.
            early_rejection: Whether candidates that provably cannot win are rejected early, see ``cook``.
            on_bad_ingredient: What to do about ingredients that cannot be used: ``error`` refuses them, ``skip`` leaves
                them out, see ``cook``. All that they hold is checked before the study begins.

        Returns:
            The table, what it means, and where it comes from.

        Raises:
            BadIngredientError: Ingredients cannot be used, and ``on_bad_ingredient`` is ``error``, or none is left.
            ValueError: There are no ingredients, or none of which ``where`` is true, or ``output`` cannot be written.
            MisconfigurationException: See ``cook``; or ``metric`` is not logged for each test dataloader, or names do
                not fit.
        """
        refuse_other_name(model, dataloaders, datamodule)
        module = self._module(model, "study")
        if not isinstance(study, Study):
            raise MisconfigurationException(f"`study` must be a Study such as Interpolation(), got {study!r}.")
        policy = validate_on_bad_ingredient(on_bad_ingredient)
        found = _select(find_ingredients(ingredients, initialization), where)
        questions = replace(
            _questions(found, monitor, mode, early_rejection, weights, policy), takes_diverged=study.takes_diverged
        )
        default = found.directory / "studies" / file_name(study)
        stem = default if output is None else any_path(output, "output")
        check_writable(stem, "output")
        what = WhatToReport(metric, _mode(metric_mode), _tuple(names), _tuple(in_distribution), outputs_of)
        choose = Choose(study, questions, stem)
        with unchanged(module):
            chosen = self._inside("validate", choose, cache_batches, module, dataloaders, datamodule)
        with unchanged(module):  # adapters need the weights that it came with, for both
            if not study.uses_test_data:
                measured = Measured.without_test_data(study, chosen)
            else:
                if test_dataloaders is not None:
                    datamodule = None
                elif isinstance(dataloaders, LightningDataModule):
                    datamodule = dataloaders
                measure = Measure(study, what, chosen)
                measured = self._inside("test", measure, cache_batches, module, test_dataloaders, datamodule)
        result = result_of(study, chosen, measured)
        if self.is_global_zero:
            save(study, result, stem)
            forget_journal(stem)
            log_study(self, file_name(study), study, result)
        return replace(result, path=stem.with_name(f"{stem.name}.json"))

    def _module(self, model: LightningModule | None, method: str) -> LightningModule:
        module = model if model is not None else self.lightning_module
        if module is None:
            raise MisconfigurationException(
                f"`SoupTrainer.{method}()` needs a `model`: there is none from a previous call."
            )
        return module

    def _inside(
        self,
        stage: Literal["validate", "test"],
        job: Callable[[KeptLoop], Any],
        cache_batches: str,
        module: LightningModule,
        dataloaders: EVAL_DATALOADERS | LightningDataModule | None,
        datamodule: LightningDataModule | None,
    ) -> Any:
        """Do a job inside a kept loop; returns what it does."""
        kept = KeptLoop(self, job, validate_cache_batches(cache_batches), stage)
        name, enter = (f"{stage}_loop", self.validate if stage == "validate" else self.test)
        lightning_loop = getattr(self, name)
        setattr(self, name, kept)
        try:
            (done,) = enter(module, dataloaders, datamodule=datamodule, verbose=False)
        finally:
            setattr(self, name, lightning_loop)
        assert isinstance(done, JobResult)
        return done.value


def _select(found: Ingredients, where: str | None) -> Ingredients:
    if where is None or not found:
        return found
    selected = found.where(where)
    left_out = [ingredient.name for ingredient in found if ingredient not in selected]
    if not selected:
        raise ValueError(f"`where={where!r}` is true of none of the {len(found)} ingredients.")
    names = ", ".join(left_out[:_NAMED]) + (", …" if len(left_out) > _NAMED else "")
    which = f": {names}" if left_out else ""
    rank_zero_info(f"where={where!r} left out {len(left_out)} of {len(found)} ingredients{which}.")
    return selected


def _questions(
    found: Ingredients,
    monitor: str | None,
    mode: str | None,
    early_rejection: bool,
    weights: WeightNames | None,
    on_bad_ingredient: OnBadIngredient,
    tests_each: bool = True,
) -> HeldOutQuestions:
    if not found:
        settle(found.left_out, on_bad_ingredient, left=0)
        raise ValueError("There are no ingredients to cook with.")
    if on_bad_ingredient == "error" and tests_each:
        _warn_about_initializations(found)
    return HeldOutQuestions(
        ingredients=found,
        monitor=monitor if monitor is not None else recorded_monitor(found),
        mode=_mode(mode),
        early_rejection=early_rejection,
        selection=weights or WeightNames(),
        on_bad_ingredient=on_bad_ingredient,
        tests_each=tests_each,
        monitor_of_most=monitor is None,
    )


def _mode(mode: str | None) -> Mode | None:
    return None if mode is None else validate_mode(mode)


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _warn_about_initializations(ingredients: Ingredients) -> None:
    initializations = {ingredient.initialization for ingredient in ingredients} - {None}
    if len(initializations) > 1:
        rank_zero_warn(
            f"The ingredients start from {len(initializations)} different initializations. Averaging works when all"
            " runs start from the same weights, the head included; others usually lie in another basin and make a"
            " soup worse. A greedy soup leaves them out; a uniform soup does not."
        )


def _output(
    output: str | os.PathLike[str] | None, ingredients: Ingredients, recipe: Recipe, module: LightningModule
) -> str:
    if output is None:
        output = str(ingredients.directory / "soups" / f"{file_name(recipe)}.ckpt")
    outputs.check(output, module)
    ingredients.refuse_to_replace(any_path(output, "output"))
    check_writable(any_path(output, "output"), "output")
    return os.fspath(output)  # as it was written: a separator at the end means a folder
