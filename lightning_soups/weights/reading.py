"""Reading a checkpoint without running code from it and without copying it into memory."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Open a Lightning checkpoint lazily and safely.

    The tensors are memory-mapped, so only the bytes that are used are read. Nothing but tensors and plain Python
    values is unpickled (``weights_only=True``), so no code from the file can run.

    Args:
        path: A ``.ckpt`` file that holds a ``state_dict``.

    Returns:
        The checkpoint's dictionary. Its ``"state_dict"`` maps names to CPU tensors backed by the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, holds no ``state_dict``, or needs more than tensors and plain
            values; the message names the types.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {str(path)!r}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path)) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"{str(path)!r} is not a Lightning checkpoint: it has no 'state_dict' dictionary. It holds: {found}."
        )
    return checkpoint


def unsafe_types(path: str | os.PathLike[str]) -> list[str]:
    """Name the types in a checkpoint that :func:`read_checkpoint` would refuse.

    Args:
        path: A ``.ckpt`` file.

    Returns:
        Sorted dotted names such as ``"pathlib.PosixPath"``; empty when the file is safe to read.
    """
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path)))


def _refusal(path: Path) -> str:
    try:
        types = unsafe_types(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError):
        types = []
    if not types:
        return f"{str(path)!r} cannot be read as a checkpoint: its contents are not a valid torch checkpoint."
    return (
        f"{str(path)!r} holds more than tensors and plain values, and unpickling it could run code. Types that were"
        f" refused: {', '.join(types)}. If you trust them, allow them first with"
        " torch.serialization.add_safe_globals([...]); else keep such objects out of the hyperparameters, for example"
        " with self.save_hyperparameters(ignore=[...])."
    )
