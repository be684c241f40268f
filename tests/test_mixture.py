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


def test_remove_gives_the_uniform_mixture_of_the_others() -> None:
    assert Mixture.uniform([A, B, C]).remove(B) == Mixture.uniform([A, C])
    for mixture, gone in ((Mixture({A: 0.3, B: 0.7}), A), (Mixture.uniform([A, B]), C)):
        with pytest.raises(ValueError, match="Only a member of a uniform mixture can be removed"):
            mixture.remove(gone)
    with pytest.raises(ValueError, match="at least one"):
        Mixture.uniform([A]).remove(A)


def test_only_coefficients_of_one_by_n_are_uniform() -> None:
    assert Mixture({A: 1 / 3, B: 1 / 3, C: 1 / 3}).is_uniform
    assert not Mixture({A: 0.3, B: 0.3}).is_uniform
    assert not Mixture({A: 0.5, B: 0.5}, {"head": {A: 0.5, B: 0.5}}).is_uniform


def test_the_longest_name_that_fits_a_tensor_counts() -> None:
    layers = {"net": {A: 0.2, B: 0.8}, "net.1.weight": {A: 0.0, B: 1.0}, "ne": {A: 9.0, B: 9.0}}
    mixture = Mixture({A: 0.5, B: 0.5}, layers)
    assert mixture.coefficients_of("net.1.weight") == {A: 0.0, B: 1.0}
    assert mixture.coefficients_of("net.1.bias") == {A: 0.2, B: 0.8}
    assert mixture.coefficients_of("net") == {A: 0.2, B: 0.8}
    assert mixture.coefficients_of("network.1") == mixture.coefficients_of("head") == {A: 0.5, B: 0.5}
    assert mixture != Mixture({A: 0.5, B: 0.5})
    assert mixture == Mixture({B: 0.5, A: 0.5}, dict(reversed(layers.items())))
    assert hash(mixture) == hash(Mixture({B: 0.5, A: 0.5}, dict(reversed(layers.items()))))
    mixture.layers["net"][A] = 7.0
    assert mixture.coefficients_of("net") == {A: 0.2, B: 0.8}
    with pytest.raises(ValueError, match=r"Layer 'net' of a mixture needs the same ingredients.*\['b/epoch=1'\]"):
        Mixture({A: 1.0, B: 0.0}, {"net": {A: 1.0}})
    with pytest.raises(ValueError, match="finite number, got inf"):
        Mixture({A: 1.0}, {"net": {A: math.inf}})


def test_interpolation_of_every_coefficient() -> None:
    start = Mixture({A: 1.0}, {"net": {A: 0.5}})
    end = Mixture({A: 0.5, B: 0.5}, {"net.1": {A: 0.0, B: 2.0}})
    assert start.interpolate(end, 0) is start
    assert start.interpolate(end, 1) is end
    middle = start.interpolate(end, 0.25)
    assert middle.coefficients == {A: 0.875, B: 0.125}
    assert middle.coefficients_of("net.0.weight") == {A: 0.75 * 0.5 + 0.125, B: 0.125}
    assert middle.coefficients_of("net.1.weight") == {A: 0.375, B: 0.5}
    beyond = start.interpolate(end, 1.5)
    assert beyond.coefficients == {A: 0.25, B: 0.75}


def test_names_of_one_tensor_are_tied() -> None:
    mixture = Mixture({A: 0.5, B: 0.5}, {"enc": {A: 0.2, B: 0.8}, "dec": {A: 1.0, B: 0.0}})
    tied = mixture.tie({"dec.weight": "enc.weight"})
    assert tied.coefficients_of("dec.weight") == {A: 0.2, B: 0.8}
    assert tied.coefficients_of("dec.bias") == {A: 1.0, B: 0.0}
    assert Mixture.uniform([A, B]).tie({"dec.weight": "enc.weight"}) == Mixture.uniform([A, B])
