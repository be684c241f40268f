"""A soup of adapters as one adapter of the summed rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_soups.adapters.host import Host
from lightning_soups.adapters.updates import AdaptedWeight, AdapterUpdates, parts_of
from lightning_soups.weights.adapter_folders import check_config, factor_tensors, starts_from_base, summed_config
from lightning_soups.weights.adapters import summed_adapter
from lightning_soups.weights.averaging import StateDict


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's folder says beside the factors.

    Args:
        config: Of one of the ingredients, or of the module's own adapter.
        others: By the names in the module of the other tensors that belong to it, their names in the file.
        left_out: What is trained and mixed too, but has no place in it.
    """

    config: Mapping[str, Any]
    others: Mapping[str, str]
    left_out: Sequence[str]

    def contents(
        self,
        weights: Mapping[str, AdaptedWeight],
        adapters: Sequence[AdapterUpdates],
        coefficients: Sequence[float],
        by_name: Mapping[str, Sequence[float]],
        others: StateDict,
    ) -> dict[str, Any]:
        """Sum adapters into one.

        Args:
            weights: What they adapt.
            adapters: The members.
            coefficients: One a member.
            by_name: Those of tensors that have their own.
            others: Averages of the other tensors.

        Returns:
            Plain values and tensors: the ``config``, the ``state_dict`` and the names that are ``left_out``.
        """
        tensors: dict[str, Tensor] = {called: others[name] for name, called in self.others.items()}
        ranks: dict[str, int] = {}
        for name, weight in weights.items():
            factors, own = parts_of(name, adapters, by_name.get(name, coefficients))
            if factors:
                summed = summed_adapter(factors, own)
                tensors.update(factor_tensors(weight.layer, summed))
                ranks[weight.layer] = len(summed.a)
        return {"config": summed_config(self.config, ranks), "state_dict": tensors, "left_out": list(self.left_out)}


def adapter_file(host: Host, config: Mapping[str, Any] | None, others: Mapping[str, str]) -> AdapterFile | None:
    """Find out what an adapter's folder has to say.

    Args:
        host: The module.
        config: Of the first ingredient, if it is such a folder; None when it is a checkpoint of the module.
        others: The other tensors by their names in the module, and what the ingredient calls them.

    Returns:
        None where nothing says how to write an adapter that fits the base.

    Raises:
        ValueError: The module's own adapter is no plain LoRA.
    """
    if config is not None:
        return AdapterFile(config, others, ())
    own = host.config()
    if own is None:
        return None
    check_config(own, f"The adapter of the {type(host.module).__name__}")
    if not starts_from_base(own):
        return None
    trained_biases = own.get("bias", "none") != "none"
    in_file: dict[str, str] = {}
    for name in others:
        is_bias = trained_biases and name.endswith("bias") and host.is_trained(name)
        called = host.in_a_file(name)
        if called is not None and ("modules_to_save" in name.split(".") or is_bias):
            in_file[name] = called
    return AdapterFile(own, in_file, sorted(n for n in others if n not in in_file and host.is_trained(n)))
