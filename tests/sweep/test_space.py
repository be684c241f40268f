import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_soups.sweep.space import parse_grid, parse_space


def test_every_kind() -> None:
    space = parse_space(
        {
            "lr": {"log_uniform": ["1e-3", 1e-2]},
            "wd": {"uniform": [0, 0.1]},
            "epochs": {"integer": [2, 6]},
            "width": {"integer": [8, 32, 8]},
            "act": {"categorical": ["relu", None, True]},
        }
    )
    assert space == {
        "lr": FloatDistribution(1e-3, 1e-2, log=True),
        "wd": FloatDistribution(0, 0.1),
        "epochs": IntDistribution(2, 6),
        "width": IntDistribution(8, 32, step=8),
        "act": CategoricalDistribution(["relu", None, True]),
    }


def test_a_grid_lists_the_values() -> None:
    space = parse_space({"a": {"integer": [1, 5, 2]}, "b": {"categorical": ["x", "y"]}})
    assert parse_grid(space) == {"a": [1, 3, 5], "b": ["x", "y"]}
    with pytest.raises(ValueError, match=r"'lr' a continuous range.*categorical"):
        parse_grid(parse_space({"lr": {"uniform": [0, 1]}}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "`space` is empty"),
        ({"lr": [1, 2]}, r"'lr' the value \[1, 2\].*log_uniform: \[low, high\]"),
        ({"lr": {"loguniform": [1, 2]}}, "'loguniform'"),
        ({"lr": {"uniform": [1, 2], "integer": [1, 2]}}, "none of"),
        ({"lr": {"uniform": 3}}, "none of"),
        ({"lr": {"uniform": [1]}}, "none of"),
        ({"lr": {"uniform": [1, 2, 3]}}, "none of"),
        ({"lr": {"uniform": [2, 1]}}, "low must not exceed high"),
        ({"lr": {"log_uniform": [0, 1]}}, "above 0"),
        ({"lr": {"uniform": ["a", 1]}}, "bound that is not a number: 'a'"),
        ({"lr": {"uniform": [0, float("inf")]}}, "not a number: inf"),
        ({"n": {"integer": [1, 2.5]}}, "not of whole numbers"),
        ({"n": {"integer": [1, 5, 0]}}, "not of whole numbers"),
        ({"n": {"categorical": []}}, "no choices"),
    ],
)
def test_mistakes_are_quoted(space: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_space(space)
