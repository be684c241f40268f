"""LoRA factors by the names that peft gives them, in a file and in a module."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

# As peft names them, in a file and in a module, which adds the adapter's name.
_NAME = re.compile(
    r"(?P<layer>.+)\.lora_(?:(?P<factor>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|embedding_(?P<embedding>[AB])(?:\.(?P<embedding_adapter>[^.]+))?)"
)

# What tells other methods, whose parts cannot be averaged one by one either: the factors multiply each other.
_OTHERS = {
    "lora_magnitude_vector": "DoRA",
    "lora_E": "AdaLoRA",
    "lora_diag": "KaSA",
    "hada_w1": "LoHa",
    "lokr_w": "LoKr",
    "oft_R": "OFT",
    "boft_": "BOFT",
    "vera_lambda": "VeRA",
    "trainable_tokens_delta": "trainable tokens",
}


class FactorName(NamedTuple):
    """What the name of a factor says.

    Args:
        layer: The layer that it adapts.
        factor: ``A`` or ``B``.
        adapter: The adapter's name; None in a file of one adapter.
        embedding: Whether the layer is an embedding, whose weight is stored transposed.
    """

    layer: str
    factor: str
    adapter: str | None
    embedding: bool


class Pair(NamedTuple):
    """The two factors of a layer as a state dict has them.

    Args:
        a: See :class:`~lightning_soups.weights.adapters.Factors`.
        b: See :class:`~lightning_soups.weights.adapters.Factors`.
        adapter: The adapter's name; None in a file of one adapter.
        embedding: See :class:`~lightning_soups.weights.adapters.Factors`.
    """

    a: Tensor
    b: Tensor
    adapter: str | None
    embedding: bool


def factor_name(name: str) -> FactorName | None:
    """Read the name of a tensor, such as ``X.lora_A.weight`` or ``X.lora_A.default.weight``; None for another one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    embedding = found["embedding"] is not None
    adapter = found["embedding_adapter"] if embedding else found["adapter"]
    return FactorName(found["layer"], found["embedding"] or found["factor"], adapter, embedding)


def other_method(state_dict: Mapping[str, object]) -> str | None:
    """Name a method of adaptation that is not plain LoRA and has parts in a state dict; None when there is none."""
    for name in state_dict:
        parts = name.split(".")
        for mark, method in _OTHERS.items():
            if any(part.startswith(mark) for part in parts):
                return method
        if ".lora_B." in name and parts[-1] == "bias":
            return "LoRA with lora_bias"
    return None


def paired(state_dict: Mapping[str, Any]) -> tuple[dict[str, Pair], dict[str, Any]]:
    """Sort the tensors of a state dict into LoRA factors and all others.

    Args:
        state_dict: Names and tensors, of a file or a module.

    Returns:
        By the name of the layer the two factors; and everything else, by its name.

    Raises:
        ValueError: A layer has one factor without the other, or factors of several adapters.
    """
    found: dict[str, dict[str, tuple[FactorName, Tensor]]] = {}
    others: dict[str, Any] = {}
    for name, tensor in state_dict.items():
        read = factor_name(name)
        if read is None:
            others[name] = tensor
            continue
        own = found.setdefault(read.layer, {})
        if read.factor in own:
            names = sorted(str(one.adapter) for one in (own[read.factor][0], read))
            raise ValueError(f"The layer {read.layer!r} has factors of several adapters, {names}; one can be used.")
        own[read.factor] = (read, tensor)
    pairs: dict[str, Pair] = {}
    for layer, own in found.items():
        if missing := {"A", "B"} - own.keys():
            raise ValueError(f"The layer {layer!r} has no LoRA factor {missing.pop()!r}.")
        (first, a), (second, b) = own["A"], own["B"]
        if first.adapter != second.adapter:
            raise ValueError(f"The factors of {layer!r} are of two adapters, {[first.adapter, second.adapter]}.")
        pairs[layer] = Pair(a, b, first.adapter, first.embedding)
    return pairs, others
