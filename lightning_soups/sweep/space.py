"""The search space, as written in YAML."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

_FORMS = {
    "uniform": "[low, high]",
    "log_uniform": "[low, high]",
    "integer": "[low, high] or [low, high, step]",
    "categorical": "[choice, choice, ...]",
}


def parse_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Turn ``{key: {kind: values}}`` into Optuna distributions.

    Args:
        space: Config keys and what to draw for them, for example
            ``{"model.init_args.lr": {"log_uniform": [1e-3, 1e-2]}}``. Bounds are inclusive.

    Returns:
        One distribution per key, in the same order.

    Raises:
        ValueError: The space is empty, or an entry is not one of the known forms; the message quotes it.
    """
    if not space:
        raise ValueError("`space` is empty: name at least one config key to vary, such as 'model.init_args.lr'.")
    return {key: _parse(key, entry) for key, entry in space.items()}


def extreme_values(space: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """List, for every key, what a config has to accept: all choices, or both ends of a range."""
    return {
        key: list(distribution.choices)
        if isinstance(distribution, CategoricalDistribution)
        else [distribution.low, distribution.high]  # type: ignore[attr-defined]  # floats and integers have both
        for key, distribution in space.items()
    }


def parse_grid(space: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """List the values of every key, for a grid.

    Raises:
        ValueError: A key has a continuous range, which no grid can list.
    """
    grid: dict[str, list[Any]] = {}
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            grid[key] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            grid[key] = list(range(distribution.low, distribution.high + 1, distribution.step))
        else:
            raise ValueError(
                f"A grid needs listed values, but `space` gives {key!r} a continuous range. Use"
                " {categorical: [...]} for it, or sampler 'random'."
            )
    return grid


def _parse(key: str, entry: Any) -> BaseDistribution:
    forms = "; ".join(f"{{{kind}: {values}}}" for kind, values in _FORMS.items())
    problem = f"`space` gives {key!r} the value {entry!r}, which is none of: {forms}."
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(problem)
    kind, values = next(iter(entry.items()))
    if kind not in _FORMS or not isinstance(values, (list, tuple)):
        raise ValueError(problem)
    if kind == "categorical":
        if not values:
            raise ValueError(f"`space` gives {key!r} no choices.")
        return CategoricalDistribution(values)
    numbers = [_number(key, value) for value in values]
    if len(numbers) not in ((2, 3) if kind == "integer" else (2,)):
        raise ValueError(problem)
    low, high = numbers[:2]
    if low > high or (kind == "log_uniform" and low <= 0):
        raise ValueError(
            f"`space` gives {key!r} the range {list(values)!r}: low must not exceed high, and a log_uniform range must"
            " be above 0."
        )
    if kind == "integer":
        if any(number != int(number) for number in numbers) or (len(numbers) == 3 and numbers[2] < 1):
            raise ValueError(f"`space` gives {key!r} an integer range that is not of whole numbers: {list(values)!r}.")
        return IntDistribution(int(low), int(high), step=int(numbers[2]) if len(numbers) == 3 else 1)
    return FloatDistribution(low, high, log=kind == "log_uniform")


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`space` gives {key!r} a bound that is not a number: {value!r}.")
    return number
