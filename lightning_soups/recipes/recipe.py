"""The contract of a recipe."""

from abc import ABC, abstractmethod

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture


class Recipe(ABC):
    """An algorithm that chooses a mixture of ingredients.

    Subclass it and implement :meth:`cook`; the subclass then works from Python, YAML and the command line like the
    recipes that ship with the package. ``__init__`` parameters become command line options.
    """

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
