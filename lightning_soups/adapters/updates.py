"""An adapter as the mixer sees it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_soups.weights.adapters import Factors, update
from lightning_soups.weights.averaging import StateDict


@dataclass(frozen=True)
class AdaptedWeight:
    """A weight that adapters change.

    Args:
        base: Its value without them.
        transposed: Whether it is stored as (in, out).
        layer: What its layer is called in an adapter's file.
    """

    base: Tensor
    transposed: bool
    layer: str


class AdapterUpdates(Mapping[str, Any]):
    """An ingredient that is an adapter: its update of every adapted weight, and its other tensors.

    The updates are as large as the weights, and computed when they are asked for, in float64.

    Args:
        weights: All weights that some ingredient adapts; those that this one leaves alone have an update of zero.
        factors: By the names of those that it adapts.
        others: What is averaged as it is, by its name in the module.
    """

    def __init__(self, weights: Mapping[str, AdaptedWeight], factors: Mapping[str, Factors], others: StateDict) -> None:
        self._weights = weights
        self.factors = factors
        self.others = others

    def __getitem__(self, name: str) -> Any:
        if name in self.others:
            return self.others[name]
        weight = self._weights[name]
        if name in self.factors:
            return update(self.factors[name], weight.transposed)
        return torch.zeros(weight.base.shape, dtype=torch.float64)

    def in_the_file(self) -> dict[str, Any]:
        """All that was read, which takes no computing: two factors and a scaling a layer, and the other tensors."""
        parts = {name: {"A": own.a, "B": own.b, "scaling": own.scaling} for name, own in self.factors.items()}
        return {**{f"{name}.{key}": value for name, own in parts.items() for key, value in own.items()}, **self.others}

    def __iter__(self) -> Iterator[str]:
        yield from self._weights
        yield from self.others

    def __len__(self) -> int:
        return len(self._weights) + len(self.others)


def parts_of(
    name: str, adapters: Sequence[AdapterUpdates], coefficients: Sequence[float]
) -> tuple[list[Factors], list[float]]:
    """The updates that there are of one weight, and their coefficients."""
    adapting = [
        (one.factors[name], own) for one, own in zip(adapters, coefficients, strict=True) if name in one.factors
    ]
    return [factors for factors, _ in adapting], [own for _, own in adapting]
