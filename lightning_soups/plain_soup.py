"""The parts of a soup as plain values, which its provenance is made of, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lightning_soups.ingredient import Ingredient
from lightning_soups.mixture import Mixture
from lightning_soups.paths import named_path
from lightning_soups.trace import Question
from lightning_soups.weights import WeightNames


def plain_selection(weights: WeightNames) -> dict[str, Any]:
    """Which tensors a soup is mixed of."""
    return {"include": list(weights.include), "exclude": list(weights.exclude), "rename": dict(weights.rename)}


def plain_mixture(mixture: Mixture, index: Mapping[Ingredient, int]) -> dict[str, Any]:
    """Members as numbers, and their coefficients in the same order."""
    return {
        "members": [index[member] for member in mixture],
        "coefficients": list(mixture.coefficients.values()),
        "layers": {layer: list(own.values()) for layer, own in mixture.layers.items()},
    }


def plain_question(mixture: Mixture, index: Mapping[Ingredient, int]) -> dict[str, Any]:
    """The same without the coefficients of a uniform mixture: a thousand ingredients make half a million of them."""
    plain = plain_mixture(mixture, index)
    return {**plain, "coefficients": []} if mixture.is_uniform else plain


def mixture_of(plain: Mapping[str, Any], known: Sequence[Ingredient]) -> Mixture:
    """The mixture that :func:`plain_mixture` or :func:`plain_question` has described."""
    members = [known[number] for number in plain["members"]]
    layers = {layer: dict(zip(members, own, strict=True)) for layer, own in plain["layers"].items()}
    coefficients = plain["coefficients"] or [1 / len(members)] * len(members)
    return Mixture(dict(zip(members, coefficients, strict=True)), layers)


def fields_of(instance: Question | Ingredient) -> dict[str, Any]:
    """The fields of a dataclass, as they are."""
    return {field.name: getattr(instance, field.name) for field in fields(instance)}


def plain_ingredient(ingredient: Ingredient) -> dict[str, Any]:
    """All that is known of an ingredient."""
    return {**fields_of(ingredient), "path": str(ingredient.path)}


def ingredient_of(entry: dict[str, Any]) -> Ingredient:
    """The ingredient that was described. Nothing of it is opened, nor does it have to be there."""
    return Ingredient(**{**entry, "path": named_path(entry["path"])})
