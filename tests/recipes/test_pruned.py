"""The pruned soup against a plain loop."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_soups import PrunedSoup
from tests.recipes.table import Table, ingredients, names


def test_members_go_worst_first_while_the_score_does_not_fall() -> None:
    scores = {"a": 0.1, "b": 0.3, "c": 0.2, "abc": 0.5, "bc": 0.5, "ab": 0.9, "ac": 0.9}
    table = Table(lambda members: scores[members])
    assert names(PrunedSoup().cook(ingredients([None] * 3), table)) == "bc"  # a tie is dropped; then nothing helps
    assert table.asked == ["abc", "bc", "b", "c"]
    table.asked.clear()
    PrunedSoup(sweeps=5).cook(ingredients([None] * 3), table)
    assert table.asked == ["abc", "bc", "b", "c", "b", "c"]  # the second sweep drops nothing, so there is no third


@given(st.integers(1, 5), st.integers(1, 3), st.randoms())
def test_random_tables(count: int, sweeps: int, randomness: random.Random) -> None:
    known: dict[str, int] = {}

    def lookup(members: str) -> int:
        return known.setdefault("".join(sorted(members)), randomness.randint(0, 4))

    soup = names(PrunedSoup(sweeps=sweeps).cook(ingredients([None] * count), Table(lookup)))
    order = "abcde"[:count]
    worst_first = sorted(order, key=lambda one: -lookup(one))[::-1]
    expected = order
    for _ in range(sweeps):
        for one in worst_first:
            rest = expected.replace(one, "")
            if one in expected and rest and lookup(rest) >= lookup(expected):
                expected = rest
    assert soup == expected


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="`sweeps` must be at least 1, got -1"):
        PrunedSoup(sweeps=-1)
