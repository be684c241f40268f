"""Writing an adapter folder."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_soups.files import replacing_all, to_json
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.weights.adapter_folders import CONFIG, PREFIX, SAFE


def write_adapter(
    folder: str | os.PathLike[str] | AnyPath, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write an adapter folder that ``PeftModel.from_pretrained(base, folder)`` reads.

    Args:
        folder: A path or URL, is created; its two files are replaced, both or none.
        config: What peft's config class holds, in JSON.
        tensors: By their names in the base model, such as ``encoder.0.lora_A.weight``.

    Raises:
        ValueError: There is a file of that name.
    """
    from safetensors.torch import save_file

    folder = any_path(folder, "folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"An adapter is a folder, but {str(folder)!r} is a file.")
    named = {f"{PREFIX}{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing_all(folder / SAFE, folder / CONFIG) as (weights, about):  # without a config there is no adapter
        save_file(named, weights, metadata={"format": "pt"})
        about.write_text(to_json(dict(config)), encoding="utf-8")
