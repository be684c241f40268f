"""The live module that adapters belong to: which of its tensors they mean."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_soups.weights.adapter_folders import PREFIX
from lightning_soups.weights.adapter_names import Pair, factor_name, other_method

# peft puts its layers in the place of others, which go on below them
_SAVED = re.compile(r"\bmodules_to_save\.[^.]+\.")
_WRAPPED = re.compile(r"\bbase_layer\.")


class Host:
    """Finds tensors of a module by the names that adapters have for them. It is read as duck-typed: peft is not needed.

    Args:
        module: Holds the base model, as it is or with LoRA layers in it.

    Attributes:
        tensors: All parameters and buffers, by all of their names.
        lora: By their names, the LoRA layers.

    Raises:
        MisconfigurationException: Its own adapters are merged, or of another kind than plain LoRA.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module = module
        tensors = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        self.tensors: dict[str, Tensor] = {name: tensor for some in tensors for name, tensor in some}
        self.lora = {name: layer for name, layer in module.named_modules() if _is_lora(layer)}
        if (method := other_method(self.tensors)) is not None:
            raise MisconfigurationException(
                f"The {type(module).__name__} has adapters of {method}. Only plain LoRA can be averaged by its updates."
            )
        if merged := sorted(name for name, layer in self.lora.items() if getattr(layer, "merged", False)):
            raise MisconfigurationException(
                f"Adapters are merged into weights of the {type(module).__name__}, which are not those of the base any"
                f" more: {merged[:3]}. Call `unmerge_adapter()` of the PeftModel first."
            )
        self._same: dict[int, list[str]] = {}
        self._names: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            self._same.setdefault(id(tensor), []).append(name)
            if factor_name(name) is None and "original_module" not in name.split("."):
                self._names.setdefault(_plain_name(name), name)

    def root(self, layers: Iterable[str], where: str) -> str:
        """Say where in the module the base model of an adapter is: what its names begin with.

        Args:
            layers: Names of layers in the base model.
            where: What to call the adapter in an error.

        Raises:
            ValueError: It is not there, or several times.
        """
        weights = [f"{layer}.weight" for layer in layers]
        first = weights[0]
        candidates = [name.removesuffix(first) for name in self._names if f".{name}".endswith(f".{first}")]
        fitting = [root for root in candidates if all(root + weight in self._names for weight in weights)]
        different = {id(self.tensors[self._names[root + first]]): root for root in reversed(fitting)}
        kind = type(self.module).__name__
        if not different:
            missing = [weight for weight in weights if not any(root + weight in self._names for root in candidates)]
            raise ValueError(
                f"{where} does not fit the {kind}, which has no module with all the layers that it adapts; not found:"
                f" {missing or weights}. Pass a module that holds the base model that the adapter was trained on."
            )
        if len(different) > 1:
            raise ValueError(
                f"{where} fits the {kind} in several places: {sorted(different.values())}. Pass a module that holds"
                " the base model once."
            )
        return next(iter(different.values()))

    def tensor_name(self, root: str, name: str, where: str) -> str:
        """The name in the module of a tensor that an adapter's file has.

        Raises:
            ValueError: The module has no such tensor.
        """
        plain = root + re.sub(r"\b(modules_to_save|base_layer)\.", "", name)
        if plain not in self._names:
            raise ValueError(f"{where} has a tensor {name!r} that the {type(self.module).__name__} lacks.")
        return self._names[plain]

    def weight_name(self, layer: str, where: str) -> str:
        """The name of the weight that a layer's update is added to.

        Raises:
            ValueError: The layer has no weight of its own, or shares it with another layer.
        """
        name = self._names.get(_plain_name(f"{layer}.weight"))
        if name is None or not self.tensors[name].is_floating_point():
            kind = "none" if name is None else f"one of dtype {self.tensors[name].dtype}"
            raise ValueError(
                f"{where} adapts {layer!r}, which needs a floating-point weight; the {type(self.module).__name__} has"
                f" {kind}. Quantized bases and layers with several weights in one are not supported."
            )
        owner = self._owner(name)
        for other in self.names_of(name):
            if self._owner(other) is not owner:
                raise ValueError(
                    f"{where} adapts {name!r}, which is tied to {other!r}: merged into it, an update would change both."
                )
        return name

    def names_of(self, name: str) -> list[str]:
        """All names of a parameter or buffer."""
        return self._same[id(self.tensors[name])]

    def is_transposed(self, name: str) -> bool:
        """Whether a weight is stored as (in, out).

        peft decides it by the type too: of what it can adapt, only the Conv1D of transformers is stored so.
        """
        return type(self._owner(name)).__name__ == "Conv1D"

    def scaling(self, layer: str, pair: Pair, where: str) -> float:
        """What a LoRA layer of the module multiplies its product of factors by, which no checkpoint says.

        Raises:
            ValueError: There is no such LoRA layer, or it has another adapter, or another rank.
        """
        how = "Pass the module that the checkpoints are of, or adapter folders, which say their scaling."
        found = self.lora.get(layer)
        if found is None:
            raise ValueError(
                f"{where} has LoRA factors of {layer!r}, which is no LoRA layer of the {type(self.module).__name__},"
                f" so their scaling is not known. {how}"
            )
        scalings: Mapping[str, float] = found.scaling
        ranks: Mapping[str, int] = found.r
        if list(scalings) != [pair.adapter]:
            raise ValueError(
                f"{where} has an adapter named {pair.adapter!r} in {layer!r}, the {type(self.module).__name__} has"
                f" {list(scalings)}. Both need the same one."
            )
        assert pair.adapter is not None
        if (rank := ranks[pair.adapter]) != len(pair.a):
            raise ValueError(
                f"{where} has the rank {len(pair.a)} in {layer!r}, the {type(self.module).__name__} has {rank}, so"
                f" the scaling is not known. {how}"
            )
        return float(scalings[pair.adapter])

    def config(self) -> dict[str, Any] | None:
        """The config of the module's own adapter, as peft has it; None when there is not just one."""
        configs = [configs for _, configs in self._configs()[:1]]
        if not configs or len(configs[0]) != 1:
            return None
        (config,) = configs[0].values()
        plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=_plain))
        return plain

    def is_trained(self, name: str) -> bool:
        """Whether a tensor is a parameter that is not frozen."""
        return name in self.tensors and self.tensors[name].requires_grad

    def in_a_file(self, name: str) -> str | None:
        """What an adapter's file calls a layer or tensor of the module; None outside of what peft wraps."""
        for root, _ in self._configs()[:1]:
            if name.startswith(root):
                return _SAVED.sub("", name.removeprefix(root).removeprefix(PREFIX))
        return None

    def _configs(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            (f"{name}." if name else "", found)
            for name, module in self.module.named_modules()
            if isinstance(found := getattr(module, "peft_config", None), dict)
        ]

    def _owner(self, name: str) -> nn.Module:
        return self.module.get_submodule(name.rpartition(".")[0])


def _plain_name(name: str) -> str:
    """What a tensor is called in the base model without peft."""
    return _WRAPPED.sub("", _SAVED.sub("", name))


def _plain(value: object) -> object:
    """Sets, which peft's configs have, as lists."""
    return sorted(value) if isinstance(value, set) else str(value)


def _is_lora(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("base_layer", "scaling", "lora_A", "lora_B", "r"))
