"""What to do about BatchNorm: what the user says, what there is, and whether it works."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_soups.evaluation.batch_norm import RunningStatistics
from lightning_soups.evaluation.cache import CachedLoader
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import on_all_processes
from lightning_soups.evaluation.training_batches import TrainingBatches, training_loader
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.weights.batch_norm import differing, tracking_layers

BatchNorm = Literal["average", "recalculate", "recalculate_final"]
_WHAT_TO_DO = (
    "Give training data whose batches `validation_step` takes: a datamodule, or `train_dataloaders`."
    " batch_norm='average' averages the statistics instead, which often makes a soup much worse than its ingredients."
)


@dataclass(frozen=True)
class BatchNormOptions:
    """What a user says about BatchNorm. Picklable if the dataloaders are.

    Args:
        batch_norm: Whether to average running statistics or to recalculate them; None to find out.
        batches: How many training batches to recalculate them on.
        train_dataloaders: Where these come from; None for the datamodule, or the module if there is none.

    Raises:
        MisconfigurationException: A value is none of its choices.
    """

    batch_norm: BatchNorm | None
    batches: int
    train_dataloaders: Any

    def __post_init__(self) -> None:
        if self.batch_norm is not None and self.batch_norm not in get_args(BatchNorm):
            raise MisconfigurationException(
                f"`batch_norm` must be one of {list(get_args(BatchNorm))} or None, got {self.batch_norm!r}."
            )
        if type(self.batches) is not int or self.batches < 1:
            raise MisconfigurationException(
                f"`batch_norm_batches` must be a positive whole number of training batches, got {self.batches!r}."
            )


def set_up(
    options: BatchNormOptions,
    loop: KeptLoop,
    mixer: Mixer,
    ingredients: Ingredients,
    write: Callable[[Mixture], None],
) -> RunningStatistics | None:
    """Find out what to do about BatchNorm, say it, and try it out.

    Args:
        options: What the user says.
        loop: The kept loop, running.
        mixer: Opens ingredients.
        ingredients: What mixtures are made of.
        write: Makes the live module a mixture.

    Returns:
        What recalculates statistics; None when they are averaged.

    Raises:
        MisconfigurationException: The user asks for what cannot be done.
    """
    if options.batch_norm == "average":
        return None
    module = loop.trainer.lightning_module
    layers = tracking_layers(module)
    changing = _changing(layers, mixer, ingredients)
    if not changing:
        if options.batch_norm is not None:
            why = "it has no BatchNorm layers that keep any"
            if layers:
                why = "all ingredients have the same ones, or `weights` leaves them out"
            raise MisconfigurationException(
                f"`batch_norm={options.batch_norm!r}` recalculates running statistics of {type(module).__name__}, but"
                f" {why}. Leave `batch_norm` out."
            )
        return None
    write(Mixture.uniform(ingredients[:1]))
    recorded, every = mixer.state_dict(ingredients[0]), options.batch_norm != "recalculate_final"
    found, problem, cause = None, "there are no training batches", None
    try:
        batches = _training_batches(options, loop)
        if batches is not None:
            own = {name: layers[name] for name in changing}
            found = RunningStatistics(loop, own, batches, recorded, every)
            found.recalculate()
            if len(found.unused) == len(own):
                found, problem = None, "`validation_step` uses none of them in a way that would count a batch"
    except Exception as error:  # whatever a user's setup, dataset or step raises on training data
        found, problem, cause = None, f"trying it raised {type(error).__name__}: {error}", error
    if not on_all_processes(loop, found is not None):
        problem = (
            f"The running statistics of {len(changing)} BatchNorm layers cannot be recalculated on training batches:"
            f" {problem.rstrip('.')}. {_WHAT_TO_DO}"
        )
        if options.batch_norm is not None:
            raise MisconfigurationException(problem) from cause
        rank_zero_warn(problem)
        return None
    assert found is not None
    if options.batch_norm is None:
        rank_zero_info(
            f"The running statistics of {len(changing)} BatchNorm layers, which do not mix, are recalculated on"
            f" {len(found)} training batches before a mixture is scored (batch_norm='recalculate')."
        )
    if found.unused:
        rank_zero_warn(
            f"`validation_step` does not use these BatchNorm layers, whose statistics are averaged: {found.unused}."
        )
    return found


def same_layers(statistics: RunningStatistics | None, loop: KeptLoop, mixer: Mixer, ingredients: Ingredients) -> bool:
    """Whether :func:`set_up` would recalculate the same layers' statistics for fewer ingredients."""
    if statistics is None:
        return True
    return _changing(tracking_layers(loop.trainer.lightning_module), mixer, ingredients) == statistics.names


def _changing(layers: Mapping[str, Any], mixer: Mixer, ingredients: Ingredients) -> list[str]:
    return differing(layers, map(mixer.names_and_shapes, _to_mix(ingredients))) if layers else []


def _to_mix(ingredients: Ingredients) -> Iterator[Ingredient]:
    """The ingredients and, when it is known, what they started from."""
    yield from ingredients
    with suppress(ValueError):
        yield ingredients.initialization


def _training_batches(options: BatchNormOptions, loop: KeptLoop) -> CachedLoader | None:
    loaders = training_loader(loop.trainer, options.train_dataloaders)
    if loaders is None:
        return None
    batches = TrainingBatches(loaders, options.batches, loop.trainer.limit_train_batches)
    return loop.cached(batches, len(batches), "training") if len(batches) else None
