"""What a soup is made of: coefficients over ingredients."""

import math
from collections.abc import Iterable, Iterator, Mapping

from lightning_soups.ingredients import Ingredient


class Mixture:
    r"""Coefficients :math:`\lambda_i` over ingredients, :math:`\theta = \sum_i \lambda_i \theta_i`. Immutable.

    Two mixtures are equal when they give the same ingredients the same coefficients, in whatever order; the order in
    which ingredients were added is kept for display.

    Args:
        coefficients: One finite number per ingredient.

    Raises:
        ValueError: No ingredient, or a coefficient that is not finite.
    """

    def __init__(self, coefficients: Mapping[Ingredient, float]) -> None:
        if not coefficients:
            raise ValueError("A mixture needs at least one ingredient, got none.")
        for ingredient, coefficient in coefficients.items():
            if not math.isfinite(coefficient):
                raise ValueError(f"The coefficient of {ingredient.name!r} must be a finite number, got {coefficient}.")
        self._coefficients = {ingredient: float(coefficient) for ingredient, coefficient in coefficients.items()}

    @classmethod
    def uniform(cls, ingredients: Iterable[Ingredient]) -> "Mixture":
        """The plain average of some ingredients (Wortsman et al. 2022, arXiv:2203.05482, section 2).

        Args:
            ingredients: One or more, each once.

        Raises:
            ValueError: No ingredient, or one that is listed twice.
        """
        members = list(ingredients)
        twice = sorted({member.name for member in members if members.count(member) > 1})
        if twice:
            raise ValueError(f"Each ingredient can be in a uniform mixture once; listed more than once: {twice}.")
        return cls(dict.fromkeys(members, 1 / max(len(members), 1)))

    def add(self, ingredient: Ingredient) -> "Mixture":
        """The uniform mixture of the same members and one more.

        Raises:
            ValueError: This mixture is not uniform, or already has the ingredient.
        """
        if len(set(self._coefficients.values())) > 1:
            raise ValueError(f"Only a uniform mixture can be extended by a member; this one is {self}.")
        return Mixture.uniform([*self, ingredient])

    @property
    def coefficients(self) -> dict[Ingredient, float]:
        """A copy of the coefficients, in the order in which the ingredients were added."""
        return dict(self._coefficients)

    @property
    def members(self) -> tuple[Ingredient, ...]:
        """The ingredients, in the order in which they were added."""
        return tuple(self._coefficients)

    def __iter__(self) -> Iterator[Ingredient]:
        return iter(self._coefficients)

    def __len__(self) -> int:
        return len(self._coefficients)

    def __contains__(self, ingredient: object) -> bool:
        return ingredient in self._coefficients

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and self._coefficients == other._coefficients

    def __hash__(self) -> int:
        return hash(frozenset(self._coefficients.items()))

    def __repr__(self) -> str:
        parts = ", ".join(f"{ingredient.name}: {value:.4g}" for ingredient, value in self._coefficients.items())
        return f"Mixture({{{parts}}})"
