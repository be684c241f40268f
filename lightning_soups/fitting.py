"""Which tensors of ingredients are mixed, and where in the module they belong."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_soups.weights import WeightNames, fit
from lightning_soups.weights.averaging import layout
from lightning_soups.weights.tied import tied_names

_AS_THEY_ARE, _NONE = "the same names", "no rule"


class Fitting:
    """Selects and renames the tensors of ingredients, and completes mixtures with what the module has besides.

    Args:
        selection: Which tensors to use, and what to call them.
        module: What the ingredients are checkpoints of. Without one, all get the names of the first.

    Attributes:
        module_layout: Names, shapes and kinds of the module's tensors; empty without a module.
    """

    def __init__(self, selection: WeightNames, module: nn.Module | None = None) -> None:
        self._selection = selection
        self._module = module
        self._wanted: list[str] = [] if module is None else list(module.state_dict())
        initialized = {} if module is None else _initialized(module)
        self._first = tied_names(initialized)
        self.module_layout: frozenset[object] = layout(initialized)
        self._found: dict[str, None] = {}
        self._rules: set[str] = set()

    def fit(self, state_dict: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Select tensors of an ingredient and give them the module's names.

        Args:
            state_dict: All of the ingredient.
            where: What to call it.

        Raises:
            ValueError: Nothing is selected, or two tensors would get one name.
        """
        self._found.update(dict.fromkeys(state_dict))
        try:
            selected = self._selection.apply(state_dict)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        how = fit(selected, self._wanted or list(selected))
        self._wanted = self._wanted or list(selected)
        if how.rule not in self._rules and how.rule != _AS_THEY_ARE and not how.rule.startswith(_NONE):
            rank_zero_info(f"The tensors of {where} fit the module by {how.rule}.")
        self._rules.add(how.rule)
        return self._with_first_names({how.names[name]: value for name, value in selected.items()})

    def check(self) -> None:
        """Find typing mistakes in the selection, after all ingredients have been fitted.

        Raises:
            ValueError: A pattern or prefix matches nothing in any of them.
        """
        self._selection.check(self._found)

    def complete(self, mixed: dict[str, Any]) -> dict[str, Any]:
        """Add what the module has and a mixture lacks: more names of tied tensors, and what was left out on purpose.

        Args:
            mixed: The state dict of a mixture.

        Returns:
            The same with more names; what was left out has the values that the module has.
        """
        if self._module is None:
            return mixed
        result = dict(mixed)
        for name, value in _initialized(self._module).items():
            if name in mixed:
                continue
            if self._first.get(name) in mixed:
                result[name] = mixed[self._first[name]]
            elif self._selection.include or self._selection.exclude:
                result[name] = value.detach().cpu().clone() if isinstance(value, Tensor) else value
        return result

    def _with_first_names(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """Give what the module ties the first of its names, so that all kinds of files have the same ones.

        Some formats keep one name of a tied tensor, whichever. Copies that differ, which it did not save, stay.
        """
        result: dict[str, Any] = {}
        for name, value in fitted.items():
            first = self._first.get(name)
            if first is None or (first in fitted and not _equal(value, fitted[first])):
                result[name] = value
            elif first not in fitted:
                result[first] = value
        return result


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and torch.equal(one, other)


def _initialized(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.state_dict().items() if not is_lazy(value)}
