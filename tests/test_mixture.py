import math
from pathlib import Path

import pytest

from lightning_soups import Ingredient, Mixture

A, B, C = (Ingredient(Path(f"{run}/epoch=1.ckpt"), run) for run in "abc")


def test_uniform_and_add() -> None:
    mixture = Mixture.uniform([A, B])
    assert mixture.coefficients == {A: 0.5, B: 0.5}
    assert mixture.add(C).coefficients == {A: 1 / 3, B: 1 / 3, C: 1 / 3}
    assert mixture.members == (A, B)
    assert len(mixture) == 2
    assert C not in mixture


def test_equality_ignores_order_and_metadata() -> None:
    assert Mixture.uniform([A, B]) == Mixture.uniform([B, A])
    assert hash(Mixture.uniform([A, B])) == hash(Mixture.uniform([B, A]))
    assert Mixture({A: 0.4, B: 0.6}) != Mixture.uniform([A, B])
    assert Ingredient(A.path, "renamed", metrics={"x": 1.0}) == A


def test_it_cannot_be_changed_from_outside() -> None:
    mixture = Mixture.uniform([A])
    mixture.coefficients[B] = 1.0
    assert mixture.members == (A,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture.uniform([]), "at least one"),
        (lambda: Mixture.uniform([A, A]), "more than once.*a/epoch=1"),
        (lambda: Mixture.uniform([A]).add(A), "more than once"),
        (lambda: Mixture({A: math.nan}), "finite number, got nan"),
        (lambda: Mixture({A: 0.3, B: 0.7}).add(C), "Only a uniform mixture"),
    ],
)
def test_impossible_mixtures_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
