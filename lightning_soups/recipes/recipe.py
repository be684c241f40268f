"""The contract of a recipe."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture


class Recipe(ABC):
    """An algorithm that chooses a mixture of ingredients.

    Subclass it and implement :meth:`cook`; the subclass then works from Python, YAML and the command line like the
    recipes that ship with the package. ``__init__`` parameters become command line options.

    Attributes:
        tests_each: Whether no ingredient gets into the soup, or stays in it, without a score that says so. Such a
            recipe finds out by itself which ingredients started from other weights; others are not given any.
    """

    tests_each: ClassVar[bool] = False

    @abstractmethod
    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Choose a mixture.

        On several processes every process runs this method with the same answers from the evaluator, so it must
        decide the same everywhere: seed what is random.

        Args:
            ingredients: At least one, in the order that breaks ties.
            evaluator: Answers what a mixture scores on the held-out data.

        Returns:
            The mixture to serve.
        """

    @property
    def name(self) -> str:
        """What to call the recipe in tables and records."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """What the recipe was told, for the record; recipes within it with their own options."""
        return options_of(self)


def options_of(told: object) -> dict[str, Any]:
    """What a recipe or study was told: its attributes, as JSON holds them."""
    return {key.lstrip("_"): _plain(value) for key, value in vars(told).items()}


def at_least_one(value: int, parameter: str) -> int:
    """Return ``value`` unchanged, or say that it must be 1 or more.

    Raises:
        ValueError: It is less than 1.
    """
    if value < 1:
        raise ValueError(f"`{parameter}` must be at least 1, got {value}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        return {"recipe": value.name, **value.options}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
