"""Whether ingredients are adapters, and how to average them."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.adapters.adapted import AdaptedModule
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.opening import is_adapter, open_checkpoint
from lightning_soups.paths import AnyPath
from lightning_soups.weights.adapter_names import factor_name, other_method

AdapterAverage = Literal["updates", "factors"]

_OF_SCALING = re.compile(r"lora.*alpha|^alpha$|rslora|scaling")


def validate_adapters(adapters: str) -> AdapterAverage:
    """Check a user's choice.

    Raises:
        MisconfigurationException: It is none of the choices.
    """
    for choice in get_args(AdapterAverage):
        if adapters == choice:
            return choice  # type: ignore[no-any-return]
    raise MisconfigurationException(f"`adapters` must be one of {list(get_args(AdapterAverage))}, got {adapters!r}.")


def adapted_module(trainer: Trainer, ingredients: Ingredients, adapters: AdapterAverage) -> AdaptedModule | None:
    """Prepare a module for mixtures of adapters, before anything is written into it.

    Args:
        trainer: Its module is set up, and as it came.
        ingredients: Adapter folders or Lightning checkpoints.
        adapters: Whether to average the updates, or the factors as if they were ordinary weights.

    Returns:
        None when the ingredients are ordinary weights, or to be treated as such.

    Raises:
        ValueError: The ingredients are adapters of another kind than plain LoRA.
        MisconfigurationException: Adapters cannot be used with this module, strategy or choice.
    """
    folders = [one for one in ingredients if is_adapter(one.path)]
    first, state_dict = _first_that_opens([one for one in ingredients if one not in folders])
    if folders and 2 * len(folders) < len(ingredients) and not any(map(factor_name, state_dict)):
        folders = []  # a few among checkpoints without any adapter, which they cannot be mixed with
    if not folders:
        method = other_method(state_dict)
        if method is None and not any(map(factor_name, state_dict)):
            return None
        if adapters == "factors":
            rank_zero_warn(
                "The factors of the ingredients' adapters are averaged one by one, because of adapters='factors'. The"
                " model that results is not the average of the ingredients: a mean of products B A is not the product"
                " of the means of B and A. adapters='updates' averages LoRA adapters exactly."
            )
            return None
        if method is not None:
            raise ValueError(
                f"{str(first)!r} has adapters of {method}. Only plain LoRA can be averaged by its"
                " updates; adapters='factors' averages the parts of any adapter one by one, which is not exact."
            )
        _warn_about_scalings(ingredients)
    elif adapters == "factors":
        raise MisconfigurationException(
            f"{str(folders[0].path)!r} is an adapter folder. adapters='factors' needs Lightning checkpoints of one"
            " module with LoRA layers; leave it out to average the updates of adapter folders."
        )
    if type(trainer.strategy).load_model_state_dict is not Strategy.load_model_state_dict:
        raise MisconfigurationException(
            f"Adapters cannot be cooked with {type(trainer.strategy).__name__}, which has no whole weights to merge"
            " them into. Use one device or DDP."
        )
    return AdaptedModule(trainer.lightning_module)


def _first_that_opens(ingredients: Iterable[Ingredient]) -> tuple[AnyPath | None, Mapping[str, Any]]:
    """The tensors of the first ingredient that can be read, which the others are judged with; perhaps none."""
    for one in ingredients:
        with suppress(ValueError, OSError):
            return one.path, open_checkpoint(one.path).content["state_dict"]
    return None, {}


def _warn_about_scalings(ingredients: Ingredients) -> None:
    """A checkpoint holds factors but not what their product is multiplied by."""
    names = {str(name) for one in ingredients for name in one.hyperparameters if _OF_SCALING.search(str(name).lower())}
    for name in sorted(names):
        values = {repr(one.hyperparameters.get(name)) for one in ingredients}
        if len(values) > 1:
            rank_zero_warn(
                f"The ingredients have different hyperparameters {name!r}: {sorted(values)}. Their checkpoints do not"
                " say how their LoRA updates are scaled, so all are scaled as in the module that was passed. If this"
                " is about the scaling, save the runs' adapters with peft's save_pretrained and cook the folders."
            )
