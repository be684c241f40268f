"""Folders of ``torch.distributed.checkpoint``: pieces of tensors in several files, put together in one file."""

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from lightning_soups.weights.formats.dcp_metadata import METADATA, StoredTensor, read_metadata
from lightning_soups.weights.formats.safetensors_file import read_safetensors, write_safetensors
from lightning_soups.weights.formats.torch_file import WEIGHT_KEYS, load_part, load_safely

_REST = "meta.pt"  # where Lightning puts all that is neither weights nor optimizer state

_put_together: dict[tuple[str, int, int], Path] = {}
_scratch: list["tempfile.TemporaryDirectory[str]"] = []


def is_distributed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that ``torch.distributed.checkpoint`` wrote."""
    return (Path(path) / METADATA).is_file()


def consolidate(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Put the weights of a distributed checkpoint together in one safetensors file.

    Tensors are written one at a time, so about the largest one is in memory. What is no tensor is left out; see
    :func:`read_rest`.

    Args:
        folder: A folder of FSDP's sharded or ModelParallelStrategy's checkpoints, or of
            ``torch.distributed.checkpoint.save``.
        out: The file to write. When anything fails it is incomplete: write to a temporary name first.

    Raises:
        ValueError: The folder holds no weights, is damaged, or its metadata names anything but what torch writes.
        OSError: ``out`` cannot be written, for example because the disk is full.
    """
    folder = Path(folder)
    weights = _weights(folder)
    layout = {name: (stored.dtype, stored.shape) for name, stored in weights.items()}
    write_safetensors(Path(out), layout, _tensors(folder, weights))


def read_rest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what Lightning keeps beside the weights of a distributed checkpoint.

    Args:
        folder: A distributed checkpoint.

    Returns:
        Hyperparameters, epoch, step and whatever a Lightning checkpoint has; empty when Lightning did not write it.

    Raises:
        ValueError: It needs more than tensors and plain values; the message names the types.
    """
    path = Path(folder) / _REST
    rest = load_safely(path) if path.is_file() else {}
    if not isinstance(rest, dict):
        raise ValueError(f"{str(path)!r} must hold a dictionary, got {type(rest).__name__}.")
    return rest


def read_distributed(folder: Path) -> dict[str, Any]:
    """Open a distributed checkpoint; see :func:`consolidated`."""
    return {**read_rest(folder), "state_dict": read_safetensors(consolidated(folder))}


def consolidated(folder: Path) -> Path:
    """Put a distributed checkpoint together in the folder for temporary files, once a process.

    Args:
        folder: A distributed checkpoint.

    Returns:
        A safetensors file that is deleted when the process ends.

    Raises:
        ValueError: See :func:`consolidate`; or there is no room for it.
    """
    status = (folder / METADATA).stat()
    key = (os.path.realpath(folder), status.st_mtime_ns, status.st_size)
    if key not in _put_together:
        if not _scratch:
            _scratch.append(tempfile.TemporaryDirectory(prefix="lightning-soups-", ignore_cleanup_errors=True))
        out = Path(_scratch[0].name, f"{len(_put_together)}.safetensors")
        try:
            consolidate(folder, out)
        except OSError as error:
            out.unlink(missing_ok=True)
            raise ValueError(
                f"The distributed checkpoint {str(folder)!r} could not be put together in {str(out.parent)!r}: {error}."
                " Set the environment variable TMPDIR to a folder on a disk with more room."
            ) from error
        _put_together[key] = out
    return _put_together[key]


def _weights(folder: Path) -> dict[str, StoredTensor]:
    """The model's tensors by name, without optimizer states and without the key that the model was saved under."""
    stored = read_metadata(folder)
    under = {one.keys[:-1] for one in stored}
    prefixes = [prefix for key in WEIGHT_KEYS for prefix in sorted(under, key=len) if prefix[-1:] == (key,)]
    prefixes += [()] if under == {()} else []
    if not prefixes:
        found = sorted({one.keys[0] for one in stored})
        raise ValueError(
            f"The distributed checkpoint {str(folder)!r} holds no weights under {', '.join(map(repr, WEIGHT_KEYS))},"
            f" and is no plain state dict. It holds: {found[:20]}."
        )
    chosen = {one.keys[-1]: one for one in stored if one.keys[:-1] == prefixes[0]}
    _check_sizes(folder, chosen)
    # the largest numbers first, so that all are aligned in the file
    return dict(sorted(chosen.items(), key=lambda item: -item[1].dtype.itemsize))


def _check_sizes(folder: Path, weights: Mapping[str, StoredTensor]) -> None:
    """Pieces must be in their files, and no more bytes than these have: else little on disk could become anything."""
    pieces = [(name, piece) for name, stored in weights.items() for piece in stored.pieces]
    files = {piece.file for _, piece in pieces if (folder / piece.file).is_file()}
    sizes = {file: (folder / file).stat().st_size for file in files}
    for name, piece in pieces:
        if piece.file in sizes and piece.start + piece.length > sizes[piece.file]:
            raise ValueError(
                f"The distributed checkpoint {str(folder)!r} is damaged: {name!r} cannot be read from {piece.file!r},"
                f" which ends before the {piece.length} bytes that should begin at {piece.start}."
            )
    if sum(piece.length for _, piece in pieces if piece.file in sizes) > sum(sizes.values()):
        raise ValueError(f"The distributed checkpoint {str(folder)!r} names the same bytes for several tensors.")


def _tensors(folder: Path, weights: dict[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_open(folder, name))
            for name in sorted({piece.file for stored in weights.values() for piece in stored.pieces})
        }
        for name, stored in weights.items():
            yield name, _tensor(name, stored, files, folder)


def _open(folder: Path, name: str) -> IO[bytes]:
    try:
        return (folder / name).open("rb")
    except FileNotFoundError as error:
        raise ValueError(f"The distributed checkpoint {str(folder)!r} lacks its file {name!r}.") from error


def _tensor(name: str, stored: StoredTensor, files: dict[str, IO[bytes]], folder: Path) -> Tensor:
    whole: Tensor | None = None
    for piece in stored.pieces:
        window = _Window(files[piece.file], piece.start, piece.length)
        try:
            part = load_part(cast(IO[bytes], io.BufferedReader(window)), piece.length)
        except Exception as error:  # damaged bytes fail in any way there is
            raise ValueError(
                f"The distributed checkpoint {str(folder)!r} is damaged: {name!r} cannot be read from"
                f" {piece.file!r}: {error}"
            ) from error
        if not isinstance(part, Tensor) or part.dtype != stored.dtype or tuple(part.shape) != piece.sizes:
            raise ValueError(f"The distributed checkpoint {str(folder)!r} holds a piece of {name!r} that does not fit.")
        if len(stored.pieces) == 1:
            return part.detach()
        if whole is None:
            whole = torch.empty(stored.shape, dtype=stored.dtype)
        _box(whole, piece.offsets, piece.sizes).copy_(part.detach())
    return torch.empty(stored.shape, dtype=stored.dtype) if whole is None else whole


class _Window(io.RawIOBase):
    """Some bytes of a file as a file of their own, so that they need not be read into memory twice."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view[: max(0, self._length - self._at)])  # type: ignore[attr-defined]
        self._at += count
        return int(count)


def _box(tensor: Tensor, offsets: Iterable[int], sizes: Iterable[int]) -> Tensor:
    for dimension, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(dimension, offset, size)
    return tensor
