"""Mixtures of adapters: a base, and the sum of updates to it."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_soups.adapters.host import Host
from lightning_soups.adapters.summed import AdapterFile, adapter_file
from lightning_soups.adapters.updates import AdaptedWeight, AdapterUpdates, parts_of
from lightning_soups.ingredient import INITIALIZATION, Ingredient
from lightning_soups.local_copies import local_copy
from lightning_soups.opening import is_adapter, open_checkpoint
from lightning_soups.records import SUMMED_KEY
from lightning_soups.weights import average
from lightning_soups.weights.adapter_folders import read_adapter, scaling
from lightning_soups.weights.adapter_names import factor_name, other_method, paired
from lightning_soups.weights.adapters import Factors, merged, update_shape
from lightning_soups.weights.averaging import StateDict, differences, write_average
from lightning_soups.weights.chunks import Release
from lightning_soups.weights.pages import MappedPages


class AdaptedModule:
    r"""A live module and the adapters that were opened for it. Made before anything is written into the module.

    A mixture makes :math:`W_0 + \sum_i \lambda_i \Delta W_i` of an adapted weight, and :math:`\sum_i \lambda_i t_i` of
    every other tensor that the ingredients have. LoRA factors that the module has itself become zero. :math:`W_0` is
    the ingredients' own where they have it, and otherwise the module's.

    Args:
        module: Holds the base model, as it is or with LoRA layers in it.

    Raises:
        MisconfigurationException: See :class:`Host`.
    """

    def __init__(self, module: LightningModule) -> None:
        self._host = Host(module)
        self._weights: dict[str, AdaptedWeight] = {}
        self._first: AdapterUpdates | None = None
        self._file: AdapterFile | None = None

    def open(self, ingredient: Ingredient) -> dict[str, Any]:
        """Open an adapter folder, or a Lightning checkpoint of a module with LoRA layers.

        Returns:
            A Lightning checkpoint whose ``state_dict`` is :class:`AdapterUpdates`.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: It cannot be read safely, is no plain LoRA adapter, or does not fit the module or the others.
        """
        where = repr(str(ingredient.path))
        files = [local_copy(ingredient.path)]
        if is_adapter(ingredient.path):
            config, tensors = read_adapter(files[0])
            checkpoint = self._shell()
        else:
            checkpoint, files = open_checkpoint(ingredient.path)
            config, tensors = None, checkpoint["state_dict"]
            if (method := other_method(tensors)) is not None:
                raise ValueError(f"{where} has adapters of {method}. Only plain LoRA can be averaged by its updates.")
        pairs, rest = paired(tensors)
        if not pairs:
            raise ValueError(
                f"{where} holds no LoRA factors, but others do. Adapters can only be mixed with adapters of the same"
                " base, such as one that was saved before training."
            )
        host = self._host
        root = "" if config is None else host.root(pairs, where)
        if config is None and (missing := sorted(host.lora.keys() - pairs.keys())):
            raise ValueError(f"{where} has no LoRA factors of layers in which the module has some: {missing}.")
        in_module = {name if config is None else host.tensor_name(root, name, where): name for name in rest}
        others = {name: rest[called] for name, called in in_module.items()}
        factors: dict[str, Factors] = {}
        release = MappedPages(files).release
        for layer, pair in pairs.items():
            own = host.scaling(layer, pair, where) if config is None else scaling(config, layer, len(pair.a))
            name = host.weight_name(root + layer, where)
            factors[name] = Factors(pair.a, pair.b, own, pair.embedding)
            in_a_file = (host.in_a_file(layer) or layer) if config is None else layer
            self._adapt(name, factors[name], others.pop(name, None), in_a_file, where, release)
        if self._first is None:
            self._file = adapter_file(host, config, {name: in_module[name] for name in others})
        elif ingredient.run == INITIALIZATION:  # it is recorded with what is frozen, ingredients perhaps without
            others = {name: value for name, value in others.items() if name in self._first.others}
        updates = AdapterUpdates(self._weights, factors, others)
        self._first = self._first or updates
        if problems := differences(self._first.others, others):
            raise ValueError(f"{where} does not fit the adapters before it:\n" + "\n".join(problems))
        return {**checkpoint, "state_dict": updates}

    def mix(
        self,
        members: Sequence[StateDict],
        coefficients: Sequence[float],
        by_name: Mapping[str, Sequence[float]],
        release: Release,
    ) -> dict[str, Any]:
        """Mix adapters; the arguments are those of :func:`~lightning_soups.weights.average`.

        Args:
            members: What :meth:`open` gave.
            coefficients: One a member.
            by_name: Those of tensors that have their own.
            release: Called with what has been read.

        Returns:
            The ``state_dict`` of the whole module, and the same as one adapter under :data:`SUMMED_KEY`.
        """
        adapters = _adapters(members)
        others = average([one.others for one in adapters], coefficients, by_name, release)
        own = (adapters, coefficients, by_name)
        changed = {**others, **dict(self._zeros()), **dict(self._merged(*own))}
        state_dict = {
            name: value.detach().cpu() if isinstance(value, Tensor) else value
            for name, value in self._host.module.state_dict().items()
        }
        for name, value in changed.items():
            aliases = self._host.names_of(name) if name in self._host.tensors else []
            state_dict.update({one: value for one in aliases if one in state_dict})
            state_dict[name] = value
        summed = None if self._file is None else self._file.contents(self._weights, *own, others)
        return {"state_dict": state_dict, SUMMED_KEY: summed}

    def write(
        self,
        out: Mapping[str, Tensor],
        members: Sequence[StateDict],
        coefficients: Sequence[float],
        by_name: Mapping[str, Sequence[float]],
        device: torch.device,
        release: Release,
    ) -> None:
        """Write into the live module what differs between mixtures, one tensor at a time; see :meth:`mix`.

        Args:
            out: The module's tensors.
            members: What :meth:`open` gave.
            coefficients: One a member.
            by_name: Those of tensors that have their own.
            device: Where to compute; it must support float64.
            release: Called with what has been read.
        """
        adapters = _adapters(members)
        write_average(out, [one.others for one in adapters], coefficients, by_name, device, release)
        with torch.no_grad():
            for values in (self._zeros(), self._merged(adapters, coefficients, by_name, device)):
                for name, value in values:
                    out[name].copy_(value)

    def _shell(self) -> dict[str, Any]:
        """What a checkpoint has beside its weights, for ingredients that are none."""
        hyperparameters = dict(self._host.module.hparams)
        return {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("lightning"),
            **({"hyper_parameters": hyperparameters} if hyperparameters else {}),
        }

    def _adapt(
        self, name: str, factors: Factors, base: Tensor | None, layer: str, where: str, release: Release
    ) -> None:
        """Remember an adapted weight; refuse factors that do not fit it, and another base than the others'."""
        transposed = self._host.is_transposed(name)
        known = self._weights.get(name)
        if known is None:
            # a copy, for mixtures will be written to where it is
            value = self._host.tensors[name].detach().to("cpu", copy=True) if base is None else base
            known = self._weights[name] = AdaptedWeight(value, transposed, layer)
        if (shape := update_shape(factors, transposed)) != tuple(known.base.shape):
            raise ValueError(
                f"{where} changes {name!r} by an update of the shape {shape}, which has {tuple(known.base.shape)}."
            )
        if base is None or base is known.base:
            return
        same = torch.equal(base.to(known.base.dtype), known.base)
        release(base)
        if not same:
            raise ValueError(
                f"{where} has another base than the ingredients before it: {name!r} differs. Updates can only be"
                " averaged when they are to the same weights."
            )

    def _merged(
        self,
        adapters: Sequence[AdapterUpdates],
        coefficients: Sequence[float],
        by_name: Mapping[str, Sequence[float]],
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._weights.items():
            parts = parts_of(name, adapters, by_name.get(name, coefficients))
            yield name, merged(weight.base, *parts, weight.transposed, device)

    def _zeros(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._host.tensors.items():
            if (read := factor_name(name)) is not None and read.factor == "B":
                yield name, torch.zeros(tensor.shape, dtype=tensor.dtype)


def _adapters(members: Sequence[StateDict]) -> list[AdapterUpdates]:
    adapters = [member for member in members if isinstance(member, AdapterUpdates)]
    assert len(adapters) == len(members)
    return adapters
