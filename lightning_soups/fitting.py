"""Which tensors of ingredients are mixed, and where in the module they belong."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_soups.weights import WeightNames, fit
from lightning_soups.weights.averaging import layout
from lightning_soups.weights.kinds import odd, same_bytes
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

    def fit(
        self, state_dict: Mapping[str, Any], where: str, checkpoint: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Select tensors of an ingredient and give them the module's names.

        Args:
            state_dict: All of the ingredient.
            where: What to call it.
            checkpoint: What it is in. Where the module's ``on_load_checkpoint`` gives the tensors of a checkpoint their
                names, they stay as they are.

        Raises:
            ValueError: Nothing is selected, or two tensors would get one name.
        """
        self._found.update(dict.fromkeys(state_dict))
        try:
            selected = self._selection.apply(state_dict)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if self._renamed_by_module({**(checkpoint or {}), "state_dict": selected}):
            return selected
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
        result, values = dict(mixed), None
        for name in self._wanted:
            if name in mixed:
                continue
            if self._first.get(name) in mixed:
                result[name] = mixed[self._first[name]]
            elif self._selection.include or self._selection.exclude:
                values = values or _initialized(self._module)  # which is a collective where it is sharded
                if name in values:
                    result[name] = _copy(values[name])
        return result

    def _renamed_by_module(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether the names are not the module's, but become so in its ``on_load_checkpoint``."""
        module, wanted = self._module, set(self._wanted)
        if checkpoint["state_dict"].keys() <= wanted or not isinstance(module, LightningModule):
            return False
        if not is_overridden("on_load_checkpoint", module, LightningModule):
            return False
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        trial = {**deepcopy(rest), "state_dict": dict(checkpoint["state_dict"])}
        with suppress(Exception):  # whatever a user's hook raises, the names stay unknown
            module.on_load_checkpoint(trial)
            return bool(trial["state_dict"]) and trial["state_dict"].keys() <= wanted
        return False

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
    return isinstance(one, Tensor) and one.shape == other.shape and same_bytes(one, other.to(one.dtype))


def _copy(value: Any) -> Any:
    plain = isinstance(value, Tensor) and odd(value) is None
    return value.detach().cpu().clone() if plain else value


def _initialized(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.state_dict().items() if not is_lazy(value)}
