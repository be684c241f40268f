"""What a soup is made of: coefficients over ingredients."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from lightning_soups.ingredient import Ingredient


class Mixture:
    r"""Coefficients :math:`\lambda_i` over ingredients, :math:`\theta = \sum_i \lambda_i \theta_i`. Immutable.

    The initialization can be a member like any other (``ingredients.initialization``). A mixture by layer has other
    coefficients for some tensors.

    Two mixtures are equal when they give the same ingredients the same coefficients, in whatever order; the order in
    which ingredients were added is kept for display.

    Args:
        coefficients: One finite number per ingredient.
        layers: By the name of a module or tensor, such as ``network.1`` or ``network.1.weight``, the coefficients of
            all tensors in it; the longest name that fits a tensor counts. Each needs the same ingredients as
            ``coefficients``, which are those of all other tensors.

    Raises:
        ValueError: No ingredient, a coefficient that is not finite, or a layer with other ingredients.
    """

    def __init__(
        self,
        coefficients: Mapping[Ingredient, float],
        layers: Mapping[str, Mapping[Ingredient, float]] | None = None,
    ) -> None:
        if not coefficients:
            raise ValueError("A mixture needs at least one ingredient, got none.")
        self._coefficients = _checked(coefficients)
        self._layers: dict[str, dict[Ingredient, float]] = {}
        for layer, own in (layers or {}).items():
            if own.keys() != coefficients.keys():
                names = sorted(ingredient.name for ingredient in own.keys() ^ coefficients.keys())
                raise ValueError(
                    f"Layer {layer!r} of a mixture needs the same ingredients as the rest; differing: {names}."
                )
            self._layers[layer] = _checked({ingredient: own[ingredient] for ingredient in coefficients})

    @classmethod
    def uniform(cls, ingredients: Iterable[Ingredient]) -> "Mixture":
        """The plain average of some ingredients (Wortsman et al. 2022, arXiv:2203.05482, section 2).

        Args:
            ingredients: One or more, each once.

        Raises:
            ValueError: No ingredient, or one that is listed twice.
        """
        members = list(ingredients)
        if twice := sorted(member.name for member, count in Counter(members).items() if count > 1):
            raise ValueError(f"Each ingredient can be in a uniform mixture once; listed more than once: {twice}.")
        return cls(dict.fromkeys(members, 1 / max(len(members), 1)))

    @property
    def is_uniform(self) -> bool:
        """Whether it is the plain average of its members."""
        equal = all(coefficient == 1 / len(self) for coefficient in self._coefficients.values())
        return equal and not self._layers

    def add(self, ingredient: Ingredient) -> "Mixture":
        """The uniform mixture of the same members and one more.

        Raises:
            ValueError: This mixture is not uniform, or already has the ingredient.
        """
        if not self.is_uniform:
            raise ValueError(f"Only a uniform mixture can be extended by a member; this one is {self}.")
        return Mixture.uniform([*self, ingredient])

    def remove(self, ingredient: Ingredient) -> "Mixture":
        """The uniform mixture of the same members but one.

        Raises:
            ValueError: This mixture is not uniform, has not got the ingredient, or has nothing else.
        """
        if not self.is_uniform or ingredient not in self:
            raise ValueError(f"Only a member of a uniform mixture can be removed, not {ingredient.name!r} of {self}.")
        return Mixture.uniform(member for member in self if member != ingredient)

    def interpolate(self, other: "Mixture", share: float) -> "Mixture":
        r"""The mixture :math:`(1 - \alpha)\,\theta + \alpha\,\theta'` of this one and another.

        Args:
            other: The mixture at the other end, :math:`\theta'`.
            share: :math:`\alpha`: 0 gives this mixture, 1 the other one; numbers outside of [0, 1] extrapolate.
        """
        if share in (0, 1):
            return other if share else self
        members = dict.fromkeys([*self, *other])
        layers = dict.fromkeys([*self._layers, *other._layers])

        def between(own: Mapping[Ingredient, float], others: Mapping[Ingredient, float]) -> dict[Ingredient, float]:
            return {one: (1 - share) * own.get(one, 0.0) + share * others.get(one, 0.0) for one in members}

        return Mixture(
            between(self._coefficients, other._coefficients),
            {layer: between(self.coefficients_of(layer), other.coefficients_of(layer)) for layer in layers},
        )

    def tie(self, tied: Mapping[str, str]) -> "Mixture":
        """The same mixture, with the same coefficients for all names of a tensor that has several.

        Args:
            tied: Names of tensors that are another one, and the name of that one.
        """
        if not self._layers:
            return self
        return Mixture(
            self._coefficients, {**self._layers, **{name: self.coefficients_of(one) for name, one in tied.items()}}
        )

    @property
    def coefficients(self) -> dict[Ingredient, float]:
        """A copy of the coefficients, in the order in which the ingredients were added."""
        return dict(self._coefficients)

    @property
    def layers(self) -> dict[str, dict[Ingredient, float]]:
        """A copy of the coefficients of layers that have their own."""
        return {layer: dict(own) for layer, own in self._layers.items()}

    def coefficients_of(self, tensor: str) -> dict[Ingredient, float]:
        """The coefficients that a tensor, or a whole module, is mixed with.

        Args:
            tensor: Its name, such as ``network.1.weight``.
        """
        name = tensor
        while name:
            if name in self._layers:
                return dict(self._layers[name])
            name = name.rpartition(".")[0]
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
        return isinstance(other, Mixture) and (self._coefficients, self._layers) == (other._coefficients, other._layers)

    def __hash__(self) -> int:
        return hash((frozenset(self._coefficients.items()), frozenset(self._layers)))

    def __repr__(self) -> str:
        parts = ", ".join(f"{ingredient.name}: {value:.4g}" for ingredient, value in self._coefficients.items())
        layers = f", {len(self._layers)} layers with their own" if self._layers else ""
        return f"Mixture({{{parts}}}{layers})"


def _checked(coefficients: Mapping[Ingredient, float]) -> dict[Ingredient, float]:
    for ingredient, coefficient in coefficients.items():
        if not math.isfinite(coefficient):
            raise ValueError(f"The coefficient of {ingredient.name!r} must be a finite number, got {coefficient}.")
    return {ingredient: float(coefficient) for ingredient, coefficient in coefficients.items()}
