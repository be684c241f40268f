"""Reading a checkpoint of any kind without running code from it and without copying it into memory."""

import os
from pathlib import Path
from typing import Any

from lightning_soups.weights.formats.distributed import consolidated, is_distributed, read_distributed
from lightning_soups.weights.formats.folder import model_file
from lightning_soups.weights.formats.safetensors_file import read_safetensors
from lightning_soups.weights.formats.sharded import INDEX_SUFFIX, files_of_index, is_piece, read_sharded
from lightning_soups.weights.formats.torch_file import read_torch, unsafe_types

__all__ = ["is_checkpoint_folder", "read_checkpoint", "unsafe_types", "weight_files"]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Open a checkpoint lazily and safely.

    The tensors are memory-mapped, so only the bytes that are used are read. Nothing but tensors and plain Python
    values is unpickled, so no code from the file can run. There are two exceptions to mapping: files that torch before
    1.6 wrote are read into memory, and distributed checkpoints are put together in a temporary file first, once a
    process (keep the result of :func:`~lightning_soups.weights.consolidate` to do so once for all).

    Args:
        path: A file: a Lightning checkpoint; a state dict of ``torch.save``, also under one of the keys
            ``state_dict``, ``model_state_dict``, ``model`` and ``module``; a ``.safetensors`` file; the ``.index.json``
            of a sharded one. Or a folder: of Hugging Face's ``save_pretrained``, or a distributed checkpoint of
            Lightning's strategies or of torch.

    Returns:
        ``"state_dict"`` maps names to CPU tensors backed by the file. Of a Lightning checkpoint all else is there too.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is not a checkpoint, holds no weights, is damaged, or needs more than tensors and plain values;
            the message names the types.
    """
    path = Path(path)
    if path.is_dir():
        if is_distributed(path):
            return read_distributed(path)
        return read_checkpoint(_model_file(path))
    if not path.is_file():
        where = "" if path.is_absolute() else f", seen from the current folder, {os.getcwd()!r}"
        raise FileNotFoundError(f"There is no checkpoint at {str(path)!r}{where}.")
    if is_piece(path):
        raise ValueError(f"{str(path)!r} is one of several files of a checkpoint: give its folder or its index.")
    if path.name.endswith(INDEX_SUFFIX):
        return {"state_dict": read_sharded(path)}
    if path.suffix == ".safetensors":
        return {"state_dict": read_safetensors(path)}
    return read_torch(path)


def is_checkpoint_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that :func:`read_checkpoint` can open: one model, or a distributed checkpoint."""
    path = Path(path)
    return path.is_dir() and (is_distributed(path) or model_file(path) is not None)


def weight_files(path: str | os.PathLike[str]) -> list[Path]:
    """List the files that the tensors of a checkpoint are mapped from.

    Args:
        path: See :func:`read_checkpoint`.

    Raises:
        ValueError: It is a folder that holds no checkpoint, or its index cannot be read.
    """
    path = Path(path)
    if is_distributed(path):
        return [consolidated(path)]
    if path.is_dir():
        path = _model_file(path)
    return files_of_index(path) if path.name.endswith(INDEX_SUFFIX) else [path]


def _model_file(folder: Path) -> Path:
    found = model_file(folder)
    if found is None:
        names = sorted(path.name for path in folder.iterdir())
        raise ValueError(
            f"The folder {str(folder)!r} holds no checkpoint: neither model.safetensors nor pytorch_model.bin, nor an"
            f" index of one, nor a single .safetensors file, nor the .metadata of a distributed checkpoint. It holds:"
            f" {names[:20]}."
        )
    return found
