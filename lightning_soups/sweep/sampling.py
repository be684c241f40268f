"""What a trial runs with: what was left for it, or what a sampler draws."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial


class Given(BaseSampler):
    """Gives the values that are there already; another sampler draws the others.

    Args:
        values: By config key.
        sampler: Draws the rest.
    """

    def __init__(self, values: Mapping[str, Any], sampler: BaseSampler) -> None:
        self._values = values
        self._sampler = sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one key."""
        if param_name in self._values:
            return self._values[param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def draw(trial: optuna.Trial, space: Mapping[str, BaseDistribution]) -> None:
    """Let a trial draw a value for every key, in the order of the space."""
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(key, distribution.choices)
        elif isinstance(distribution, IntDistribution):
            trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step)
        else:
            assert isinstance(distribution, FloatDistribution)
            trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
