"""Which ingredients are checkpoints of one architecture, and which of them are copies."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.ingredient import Ingredient
from lightning_soups.weights.averaging import StateDict, differences, layout
from lightning_soups.weights.copies import same_weights

_SOME = 3  # differences that are named


def unlike(state_dicts: Mapping[Ingredient, StateDict], module_layout: frozenset[object]) -> list[LeftOut]:
    """Find ingredients of another architecture than the rest.

    Where some fit the module, those are right; else what most have in common is, and of equally many what the first
    one has. A tensor may have another floating-point dtype than elsewhere, but not be floating-point here and whole
    numbers there.

    Args:
        state_dicts: Of all ingredients, by the names that the module has for them.
        module_layout: That of the module; empty when it is not known.
    """
    groups: dict[frozenset[object], list[Ingredient]] = {}
    for ingredient, state_dict in state_dicts.items():
        groups.setdefault(layout(state_dict), []).append(ingredient)
    if len(groups) < 2:
        return []

    right = max(groups.items(), key=lambda pair: (bool(pair[0]) and pair[0] <= module_layout, len(pair[1])))[1]
    example = right[0]
    bad = []
    for group in groups.values():
        if group is not right:
            problems = [line.strip() for line in differences(state_dicts[example], state_dicts[group[0]])]
            more = f"; … and {len(problems) - _SOME} more" if len(problems) > _SOME else ""
            why = "; ".join(problems[:_SOME]) + more
            reason = f"its tensors and those of {str(example.path)!r} (the first) do not fit together: {why}"
            bad += [LeftOut(one.path, one.run, reason) for one in group]
    return bad


def copies(tensors: Mapping[Ingredient, Mapping[str, Any]]) -> list[LeftOut]:
    """Find ingredients with the weights of an earlier one."""
    ingredients = list(tensors)
    found = same_weights(list(tensors.values()))
    return [
        LeftOut(copy.path, copy.run, f"it has the same weights as {str(ingredients[first].path)!r}", is_copy=True)
        for copy, first in ((ingredients[place], first) for place, first in found.items())
    ]


def tell_dtypes(state_dicts: Mapping[Ingredient, StateDict]) -> None:
    """Say, where ingredients have different floating-point dtypes, which one a soup has."""
    kinds = Counter(_dtypes(state_dict) for state_dict in state_dicts.values())
    if len(kinds) > 1:
        counts = ", ".join(f"{count} in {names}" for names, count in kinds.most_common())
        rank_zero_warn(
            f"The ingredients have weights of different dtypes: {counts}. They are summed in float64; a soup has the"
            " dtype that its first member, in the order of their paths, has for each tensor."
        )


def _dtypes(state_dict: StateDict) -> str:
    floating = [one for one in state_dict.values() if isinstance(one, Tensor) and one.is_floating_point()]
    return " and ".join(sorted({str(one.dtype).removeprefix("torch.") for one in floating})) or "whole numbers"
