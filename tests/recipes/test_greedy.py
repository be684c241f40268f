"""The greedy recipe and its options against a plain loop over a table of scores."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_soups import GreedySoup, UniformSoup
from tests.recipes.table import Table, ingredients, names

SCORES = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.6, "bc": 0.9, "bcd": 0.92, "abcd": 0.91, "bd": 0.95, "abd": 0.96}
SCORES |= {"ab": 0.8, "abc": 0.1, "cd": 0.1}


def value(members: str) -> float:
    return SCORES["".join(sorted(members))]


def cook(recipe: GreedySoup, mode: str = "max") -> tuple[str, list[str]]:
    sign = 1 if mode == "max" else -1
    table = Table(lambda members: sign * value(members), mode)
    recorded = [0.5, 0.6, 0.9, 0.7] if mode == "max" else [0.5, 0.4, 0.1, 0.3]
    return names(recipe.cook(ingredients(recorded, mode), table)), table.asked


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    ("options", "soup", "asked"),
    [
        ({}, "bcd", ["b", "bc", "bcd", "bcda"]),  # a tie is kept, as published
        ({"strict": True}, "bda", ["b", "bc", "bd", "bda"]),
        ({"min_delta": 0.04}, "bd", ["b", "bc", "bd", "bda"]),
        ({"min_delta": 0.06}, "b", ["b", "bc", "bd", "ba"]),
        ({"strict": True, "sweeps": 2}, "bda", ["b", "bc", "bd", "bda", "bdac"]),  # c is tried again
        ({"max_members": 2}, "bc", ["b", "bc"]),
        ({"max_members": 1}, "b", ["b"]),
        ({"order": "recorded"}, "cb", ["c", "cd", "cb", "cba"]),
    ],
)
def test_options(options: dict, soup: str, asked: list[str], mode: str) -> None:
    assert cook(GreedySoup(**options), mode) == (soup, asked)


def test_random_order_starts_from_any_and_depends_on_the_seed_only() -> None:
    found = ingredients([None] * 6)
    soups = {}
    for seed in range(20):
        for _ in range(2):
            table = Table(lambda members: 1.0)
            soup = names(GreedySoup(order="random", seed=seed).cook(found, table))
            assert soups.setdefault(seed, soup) == soup
        expected = list("abcdef")
        random.Random(seed).shuffle(expected)
        assert soup == "".join(expected)
    assert len({soup[0] for soup in soups.values()}) > 3


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5), min_size=1), st.randoms(), st.booleans())
def test_every_sweep_follows_the_plain_loop(singles: dict[str, int], randomness: random.Random, strict: bool) -> None:
    """Random tables with many ties; the reference is written out anew."""
    order = "".join(sorted(singles))
    known: dict[str, float] = dict(singles)

    def lookup(members: str) -> float:
        return known.setdefault("".join(sorted(members)), float(randomness.randint(0, 5)))

    table = Table(lookup)
    found = ingredients([0.0] * len(order))
    renamed = {chr(97 + number): name for number, name in enumerate(order)}
    table.value = lambda members: lookup("".join(renamed[member] for member in members))
    got = GreedySoup(strict=strict, sweeps=3).cook(found, table)

    best_first = sorted(order, key=lambda one: -known[one])  # stable
    soup, rest = best_first[0], best_first[1:]
    for _ in range(3):
        again = ""
        for one in rest:
            gain = lookup(soup + one) - lookup(soup)
            if gain > 0 or (gain == 0 and not strict):
                soup += one
            else:
                again += one
        rest = list(again)
    assert "".join(renamed[one] for one in names(got)) == soup


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`min_delta` must be 0 or a positive number, got -0\.1"):
        GreedySoup(min_delta=-0.1)
    with pytest.raises(ValueError, match=r"`order` must be one of \['held-out', 'random', 'recorded'\], got 'best'"):
        GreedySoup(order="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`sweeps` must be at least 1, got 0"):
        GreedySoup(sweeps=0)
    with pytest.raises(ValueError, match="`max_members` must be at least 1, got 0"):
        GreedySoup(max_members=0)
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        UniformSoup(top_k=0)


def test_uniform_of_the_best() -> None:
    table = Table({"a": 0.1, "b": 0.3, "c": 0.2}.__getitem__)
    found = ingredients([None, None, None])
    assert names(UniformSoup(top_k=2).cook(found, table)) == "bc"
    assert names(UniformSoup(top_k=9).cook(found, table)) == "bca"
    assert names(UniformSoup().cook(found, table)) == "abc"
    assert UniformSoup(top_k=2).options == {"top_k": 2}
