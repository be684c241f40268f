"""Files of ``torch.save``: Lightning checkpoints, plain state dicts, and training scripts' checkpoints around them."""

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_soups.weights.formats.contents import check_content
from lightning_soups.weights.formats.torch_scan import ZIP, scan
from lightning_soups.weights.formats.trusted_types import only_data_is_trusted

# Where training scripts put the weights, in the order in which they are looked for.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")

# A file that has one of these beside its `state_dict` is Lightning's.
_LIGHTNING_KEYS = ("pytorch-lightning_version", "global_step", "hyper_parameters")
_PROGRESS_KEYS = ("epoch", "global_step")
_NAMESPACE = "argparse.Namespace"


def read_torch(path: Path) -> dict[str, Any]:
    """Open a file of ``torch.save``, memory-mapped unless it is in the format of torch before 1.6.

    Args:
        path: A Lightning checkpoint, a state dict, or a dictionary with a state dict under one of
            :data:`WEIGHT_KEYS`.

    Returns:
        All of a Lightning checkpoint; of others the ``"state_dict"`` and, where they are whole numbers, ``"epoch"``
        and ``"global_step"``.

    Raises:
        ValueError: It cannot be read safely, or holds no state dict.
    """
    content = load_safely(path)
    if is_lightning(content):
        return dict(content)
    weights = _weights(content)
    if weights is None:
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{str(path)!r} holds no weights that can be used: it has no 'state_dict' dictionary, is no dictionary of"
            f" tensors, and has none under {', '.join(map(repr, WEIGHT_KEYS[1:]))}. It holds: {found}."
        )
    progress = {key: content[key] for key in _PROGRESS_KEYS if type(content.get(key)) is int}
    return {"state_dict": weights, **progress}


def is_lightning(content: Any) -> bool:
    """Whether the content of a file is a Lightning checkpoint."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("state_dict"), dict)
        and any(key in content for key in _LIGHTNING_KEYS)
    )


def load_safely(path: Path) -> Any:
    """Read a file of ``torch.save`` with ``weights_only=True`` onto the CPU.

    Raises:
        ValueError: It is damaged, or needs more than tensors and plain values; the message names the types.
    """
    try:
        with path.open("rb") as file:
            # only zip files can be mapped; what torch before 1.6 wrote is read into memory
            mapped = file.read(len(ZIP)) == ZIP
        with only_data_is_trusted():
            content = _load(path, mapped)
            check_content(content, path.stat().st_size)
            return content
    except pickle.UnpicklingError as error:
        with only_data_is_trusted():
            types = _refused_types(path, error)
        if types == [_NAMESPACE]:
            content = _with_arguments(path, mapped)
            if not is_lightning(content):  # Lightning's are handed on whole, into soups
                return content
        raise ValueError(_refusal(path, types)) from error
    except Exception as error:  # bytes that are no pickle fail in any way there is
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint: {error}") from error


def load_part(file: IO[bytes], size: int) -> Any:
    """Read what ``torch.save`` wrote into a part of a file, as :func:`load_safely` does.

    Args:
        file: Has only this part.
        size: Its length in bytes.

    Raises:
        Exception: It is damaged, or not safe; of any type.
    """
    scan(file, size)
    file.seek(0)
    with only_data_is_trusted():
        content = torch.load(file, map_location="cpu", weights_only=True)
    check_content(content, size)
    return content


def unsafe_types(path: str | os.PathLike[str]) -> list[str]:
    """Name the types in a torch file that :func:`~lightning_soups.weights.read_checkpoint` would refuse.

    Args:
        path: A ``.ckpt`` file.

    Returns:
        Sorted dotted names such as ``"pathlib.PosixPath"``; empty when the file is safe to read.
    """
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path)))


def _weights(content: Any) -> dict[str, Any] | None:
    if not isinstance(content, Mapping):
        return None
    for value in (content, *(content.get(key) for key in WEIGHT_KEYS)):
        if isinstance(value, Mapping) and _is_state_dict(value):
            return dict(value)
    return None


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(tensor, Tensor) for tensor in value.values()) and all(
        isinstance(name, str) and (isinstance(tensor, Tensor) or name.endswith("_extra_state"))
        for name, tensor in value.items()
    )


def _load(path: Path, mapped: bool) -> Any:
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            scan(file, size)
        except Exception as error:
            raise ValueError(f"{error or type(error).__name__}.") from error
    return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def _with_arguments(path: Path, mapped: bool) -> Any:
    """Read what a training script saved with its parsed arguments: a bag of attributes, which runs nothing."""
    with only_data_is_trusted(), torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    check_content(content, path.stat().st_size)
    return content


def _refused_types(path: Path, error: pickle.UnpicklingError) -> list[str]:
    try:
        return unsafe_types(path)
    except Exception:  # the old format, or bytes that are no checkpoint
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        return [name if "." in name else f"builtins.{name}" for name in names]


def _refusal(path: Path, types: list[str]) -> str:
    if not types:
        return f"{str(path)!r} cannot be read as a checkpoint: its contents are not a valid torch checkpoint."
    return (
        f"{str(path)!r} holds more than tensors and plain values, and unpickling it could run code. Types that were"
        f" refused: {', '.join(types)}. If you trust them, allow them first with"
        " torch.serialization.add_safe_globals([...]); else save a state dict instead of a whole module, and keep such"
        " objects out of the hyperparameters, for example with self.save_hyperparameters(ignore=[...])."
    )
