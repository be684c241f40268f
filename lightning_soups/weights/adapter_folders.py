"""Adapter folders as peft writes and reads them: ``adapter_config.json`` and ``adapter_model.safetensors``."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_soups.weights.adapter_names import other_method
from lightning_soups.weights.adapters import Factors
from lightning_soups.weights.formats.plain_json import read_json
from lightning_soups.weights.formats.safetensors_file import read_safetensors
from lightning_soups.weights.formats.torch_file import load_safely

CONFIG, SAFE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in an adapter's file
_PICKLED = "adapter_model.bin"

# Options with which the update of a layer is something else than s B A, or is not all that was trained.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "LoRA with biases of its own",
    "layer_replication": "LoRA on replicated layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trainable tokens",
    "megatron_config": "LoRA on Megatron layers",
}
# Others, such as PiSSA, OLoRA and LoftQ, take the first update off the base weights.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


def is_adapter_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that holds an adapter."""
    return (Path(path) / CONFIG).is_file()


def read_adapter_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check what an adapter's config says.

    Args:
        folder: Holds ``adapter_config.json``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON, not of a LoRA adapter, or of a variant of LoRA whose updates are not s B A.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no adapter at {str(folder)!r}: it has no {CONFIG}.")
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {config!r}.")
    check_config(config, repr(str(path)))
    if not starts_from_base(config):
        raise ValueError(
            f"{str(path)!r} has init_lora_weights={config['init_lora_weights']!r}, which changes the base weights, so"
            " that its updates are not to the base. Save it as a plain adapter: peft's save_pretrained has an option"
            " for that, `path_initial_model_for_weight_conversion`."
        )
    return config


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse what cannot be averaged by its updates.

    Args:
        config: An adapter's config, as peft has it.
        where: What to call it in an error.

    Raises:
        ValueError: It is not of LoRA, or of a variant whose updates are not s B A; the message names the type.
    """
    if (kind := str(config.get("peft_type")).rpartition(".")[2]) != "LORA":
        raise ValueError(
            f"{where} has peft_type={kind!r}. Only adapters of the type 'LORA' can be averaged by their updates."
        )
    for option, name in _REFUSED.items():
        if config.get(option):
            raise ValueError(
                f"{where} is of {name}: {option}={config[option]!r}. Only plain LoRA can be averaged by its updates."
            )
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{where} needs a dictionary as alpha_pattern, got {patterns!r}.")
    for option, number in {"lora_alpha": config.get("lora_alpha"), **patterns}.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"{where} needs a finite number as the alpha of {option!r}, got {number!r}.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where} has {pattern!r} in alpha_pattern, no regular expression: {error}.") from error


def starts_from_base(config: Mapping[str, Any]) -> bool:
    """Whether the way an adapter begins leaves the base weights as they are; that of PiSSA, for example, does not."""
    return config.get("init_lora_weights") in _PLAIN_BEGINNINGS


def read_adapter(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Open an adapter folder lazily and safely: nothing in it is run.

    Args:
        folder: As ``PeftModel.save_pretrained`` writes it.

    Returns:
        The config, and tensors backed by the file by the names of the base model's layers, without
        ``base_model.model.``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file cannot be read safely, or the adapter is no plain LoRA.
    """
    config = read_adapter_config(folder)
    safe, pickled = Path(folder) / SAFE, Path(folder) / _PICKLED
    if safe.is_file():
        tensors: Any = read_safetensors(safe)
    elif pickled.is_file():
        tensors = load_safely(pickled)
        if not isinstance(tensors, dict) or not all(isinstance(one, Tensor) for one in tensors.values()):
            raise ValueError(f"{str(pickled)!r} must hold a dictionary of tensors, got {type(tensors).__name__}.")
    else:
        raise FileNotFoundError(f"The adapter {str(folder)!r} has neither {SAFE} nor {_PICKLED}.")
    if (method := other_method(tensors)) is not None:
        raise ValueError(f"The adapter {str(folder)!r} is of {method}. Only plain LoRA can be averaged by its updates.")
    return config, {str(name).removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def scaling(config: Mapping[str, Any], layer: str, rank: int) -> float:
    r"""What a layer's product of factors is multiplied by: :math:`\alpha / r`, or :math:`\alpha / \sqrt r` with rsLoRA.

    The square root is that of Kalajdzievski 2023, arXiv:2312.03732.

    Args:
        config: See :func:`check_config`. Its ``alpha_pattern`` has regular expressions for the ends of layers' names.
        layer: Its name in the base model.
        rank: Its own rank.
    """
    alpha = config["lora_alpha"]
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def summed_config(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The config of an adapter whose scaling is 1 everywhere.

    Args:
        config: Of one of the adapters that were summed; what does not concern the factors is kept.
        ranks: By the name of each layer in the base model.
    """
    most = max(ranks.values())
    own = {re.escape(layer): rank for layer, rank in ranks.items() if rank != most}
    choices = ("layers_to_transform", "layers_pattern", "exclude_modules")  # among the layers, which are named here
    return {
        **config,
        **{choice: None for choice in choices if choice in config},
        "r": most,
        "lora_alpha": most,
        "rank_pattern": own,
        "alpha_pattern": own,
        "target_modules": sorted(ranks),
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def factor_tensors(layer: str, factors: Factors) -> dict[str, Tensor]:
    """Name the factors of a layer as an adapter's file does, but for ``base_model.model.``."""
    names = ("lora_embedding_A", "lora_embedding_B") if factors.embedding else ("lora_A.weight", "lora_B.weight")
    return {f"{layer}.{name}": tensor for name, tensor in zip(names, (factors.a, factors.b), strict=True)}
