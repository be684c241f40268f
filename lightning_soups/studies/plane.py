"""Coordinates on the plane through three models."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.mixture import Mixture

_FLAT = 1e-10  # squared sine of the angle at the origin, below which rounding decides where the plane lies

Shares = tuple[float, float, float]


class Plane(NamedTuple):
    r"""Where three models lie on their plane: :math:`\theta_0` at (0, 0), the others at (length, 0), (across, height).

    The unit is the distance of parameters. Positions come from Gram-Schmidt, as in Garipov et al., NeurIPS 2018,
    arXiv:1802.10026.
    """

    length: float
    across: float
    height: float

    def shares(self, x: float, y: float) -> Shares:
        """The coefficients of the models at a point; they sum to 1."""
        second = y / self.height
        first = (x - second * self.across) / self.length
        return 1 - first - second, first, second

    def position(self, shares: Shares) -> tuple[float, float]:
        """The point that coefficients which sum to 1 stand for."""
        return shares[1] * self.length + shares[2] * self.across, shares[2] * self.height

    def grid(self, resolution: int, margin: float) -> list[tuple[float, float]]:
        """Points around the triangle, row by row.

        Args:
            resolution: Points along each axis.
            margin: Room on each side, as a share of the triangle's larger extent.
        """
        left, right = min(0.0, self.across), max(self.length, self.across)
        room = margin * max(right - left, self.height)
        xs = torch.linspace(left - room, right + room, resolution, dtype=torch.float64).tolist()
        ys = torch.linspace(-room, self.height + room, resolution, dtype=torch.float64).tolist()
        return [(x, y) for y in ys for x in xs]


def plane_through(models: Mapping[str, Mixture], evaluator: Evaluator) -> Plane:
    """Find where models lie, from the inner products of their members.

    Args:
        models: By what users call them, three mixtures whose coefficients sum to 1.
        evaluator: Knows inner products.

    Raises:
        ValueError: The models lie on one line, or some of them are the same.
    """
    base, *ends = (model.coefficients for model in models.values())
    # where members are measured from does not matter: only differences of models count
    zero, *members = dict.fromkeys(member for model in models.values() for member in model)
    if len(models) == 3 and members:
        gram = torch.stack(list(evaluator.inner_products(members, zero).values())).sum(dim=0)
        moves = [[end.get(member, 0.0) - base.get(member, 0.0) for member in members] for end in ends]
        coefficients = torch.tensor(moves, dtype=torch.float64)
        (first, between), (_, second) = (coefficients @ gram @ coefficients.T).tolist()
        if first > 0 and first * second - between**2 > _FLAT * first * second:
            across = between / first**0.5
            return Plane(first**0.5, across, (second - across**2) ** 0.5)
    raise ValueError(f"A plane needs three models that do not lie on one line, got {list(models)}: name others.")
