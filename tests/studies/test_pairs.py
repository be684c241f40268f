"""Choosing and grouping pairs, and correlations, against scipy."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy import stats

from lightning_soups import Ingredient, Ingredients
from lightning_soups.ingredients import run_names
from lightning_soups.studies.pairs import (
    advantage,
    by_group,
    choose_pairs,
    correlation,
    group_pairs,
    not_recorded,
    rank_correlation,
)


def made(*values: object, name: str = "lr") -> Ingredients:
    return Ingredients(
        Ingredient(Path(f"{place}.ckpt"), f"run-{place}", hyperparameters={} if value is None else {name: value})
        for place, value in enumerate(values)
    )


def test_pairs_are_all_or_drawn_by_the_seed() -> None:
    found = made(*range(8))
    everything = choose_pairs(found, 28, seed=0)
    assert len(set(everything)) == 28
    some = choose_pairs(found, 10, seed=0)
    assert some == choose_pairs(found, 10, seed=0) != choose_pairs(found, 10, seed=1)
    assert len(set(some)) == 10
    assert set(some) < set(everything)
    with pytest.raises(ValueError, match="at least two ingredients, got 1"):
        choose_pairs(found[:1], 10, seed=0)


def test_runs_with_several_checkpoints_are_told_apart() -> None:
    found = Ingredients([Ingredient(Path(f"{name}.ckpt"), run) for name, run in (("a", "x"), ("b", "x"), ("c", "y"))])
    assert list(run_names(found).values()) == ["x/a", "x/b", "y"]


def test_few_numbers_are_groups_of_their_own() -> None:
    grouped = group_pairs(choose_pairs(made(0.1, 0.1, 0.2), 9, 0), "lr", 3, by_value=True)
    assert grouped.labels == ["0.1", "0.2", "0.2"]
    assert grouped.larger == [0.1, 0.2, 0.2]
    assert grouped.order == ["0.1", "0.2"]
    assert grouped.title == "larger lr of the pair"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_many_numbers_are_divided_into_parts_of_equal_size(count: int) -> None:
    found = made(*range(60))
    neighbours = list(zip(found[::2], found[1::2], strict=True))  # the larger ones are 1, 3, …, 59
    grouped = group_pairs(neighbours, "lr", count, by_value=True)
    sizes = [grouped.labels.count(label) for label in grouped.order]
    assert sizes == [30 // count] * count
    assert (grouped.order[0].split("–")[0], grouped.order[-1].split("–")[1]) == ("1", "59")
    largest = [(found[0], found[59]), (found[59], found[1])]
    assert group_pairs(largest, "lr", count, by_value=True).order == ["59"]


def test_words_are_the_same_or_different() -> None:
    pairs = choose_pairs(made("adam", "adam", "sgd", None), 9, 0)
    grouped = group_pairs(pairs, "lr", 3, by_value=False)
    assert grouped.labels == ["same", "different", "not recorded", "different", "not recorded", "not recorded"]
    assert grouped.order == ["same", "different", "not recorded"]
    assert grouped.larger == [None] * 6
    assert group_pairs(pairs, "lr", 3, by_value=True).order == ["adam", "different", "not recorded"]
    flags = group_pairs(choose_pairs(made(True, False, True), 9, 0), "lr", 3, by_value=True)
    assert flags.labels == ["different", "True", "different"]


def test_what_was_not_recorded_is_a_group_and_is_said() -> None:
    pairs = choose_pairs(made(0.1, 0.2, None), 9, 0)
    grouped = group_pairs(pairs, "lr", 3, by_value=True)
    assert grouped.labels == ["0.2", "not recorded", "not recorded"]
    assert grouped.larger == [0.2, None, None]
    assert not not_recorded(pairs, "lr")
    (sentence,) = not_recorded(pairs, "momentum")
    assert "'momentum' was not recorded" in sentence
    assert "['lr']" in sentence
    assert group_pairs(pairs, "momentum", 3, by_value=True).order == ["not recorded"]


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipys(seed: int) -> None:
    numbers = random.Random(seed)
    first = [float(numbers.randint(0, 6)) for _ in range(40)]  # with many ties
    second = [value**3 + numbers.gauss(0, 40) for value in first]
    points = list(zip(first, second, strict=True))
    assert correlation(points) == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
    assert rank_correlation(points) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert rank_correlation([(math.nan, 1.0), *points]) == rank_correlation(points)
    assert correlation([(1.0, math.nan), *points]) == correlation(points)


@pytest.mark.parametrize("points", [[], [(1, 1), (2, 2)], [(1, 1), (1, 2), (1, 3)], [(math.nan, 1)] * 4])
def test_too_few_points_have_no_correlation(points: Sequence[tuple[float, float]]) -> None:
    assert math.isnan(correlation(points))
    assert math.isnan(rank_correlation(points))


def test_each_group_has_its_coefficient() -> None:
    points = {"a": [(1.0, 1.0), (2.0, 4.0), (3.0, 9.0)], "b": [(1.0, 2.0)]}
    assert by_group(points, rank_correlation) == "a: 1.00 (3 pairs), b: unknown (1 pair)"


def test_an_advantage_is_positive_where_the_first_is_better_and_no_rounding() -> None:
    assert advantage(0.9, 0.8, "max") == pytest.approx(0.1)
    assert advantage(0.9, 0.8, "min") == pytest.approx(-0.1)
    assert advantage(0.9, 0.9 + 1e-8, "min") == 0
    assert advantage(0.0, 0.0, "max") == 0
    assert math.isnan(advantage(math.nan, 0.5, "max"))
