"""The ``.metadata`` of a torch distributed checkpoint: a pickle, read without ever running code from it.

torch reads it with ``pickle.load``. Here every class that such a file names is exchanged for an inert one that only
keeps what it is given, and any other name is refused, so there is nothing a file could call.
"""

import collections
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_soups.weights.formats.file_names import is_plain_name
from lightning_soups.weights.formats.inert_pickle import Inert, InertUnpickler

METADATA = ".metadata"


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, and the bytes of a file that hold it as ``torch.save`` wrote it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a distributed checkpoint: the keys that lead to it, and the pieces that make it up."""

    keys: tuple[str, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def read_metadata(folder: Path) -> list[StoredTensor]:
    """List the tensors of a distributed checkpoint; entries that are no tensors are left out.

    Raises:
        ValueError: The metadata names anything but what torch writes, is damaged, describes tensors with missing
            pieces, or points outside the folder.
    """
    path = folder / METADATA
    try:
        # from memory, because to read from a file takes as much memory as the pickle asks for, whatever is there
        metadata = InertUnpickler(io.BytesIO(path.read_bytes()), _stand_in).load()
        keys = metadata.planner_data or {}
        places: dict[str, dict[tuple[int, ...], Any]] = collections.defaultdict(dict)
        for index, info in metadata.storage_data.items():
            if (offset := getattr(index, "offset", None)) is not None:  # bytes have none
                places[index.fqn][tuple(offset)] = info
        return [
            _stored_tensor(name, tuple(map(str, keys.get(name, (name,)))), entry, places[name])
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, _Tensor)
        ]
    except _RefusedError as error:
        raise ValueError(f"{str(path)!r} {error}") from error
    except Exception as error:  # bytes that are no pickle, or one of something else, fail in any way there is
        raise ValueError(f"{str(path)!r} cannot be read as the metadata of a checkpoint: {error!r}.") from error


class _RefusedError(Exception):
    """Why a file is refused, to follow its name."""


class _Tensor(Inert):
    """Stands for TensorStorageMetadata."""


_METADATA_MODULE = "torch.distributed.checkpoint.metadata"
_OLD_MODULE = "torch.distributed._shard.sharded_tensor.metadata"  # before torch 2.3
_STAND_INS: dict[tuple[str, str], Any] = {
    (_METADATA_MODULE, "Metadata"): Inert,
    (_METADATA_MODULE, "TensorStorageMetadata"): _Tensor,
    (_METADATA_MODULE, "BytesStorageMetadata"): Inert,
    (_METADATA_MODULE, "ChunkStorageMetadata"): Inert,
    (_METADATA_MODULE, "TensorProperties"): Inert,
    (_METADATA_MODULE, "MetadataIndex"): Inert,
    (_METADATA_MODULE, "StorageMeta"): Inert,
    (_METADATA_MODULE, "_MEM_FORMAT_ENCODING"): Inert,
    (_OLD_MODULE, "TensorProperties"): Inert,
    (_OLD_MODULE, "MEM_FORMAT_ENCODING"): Inert,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): Inert,
    ("torch.serialization", "_get_layout"): Inert,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{
        (module, name): Inert
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}


def _stand_in(module: str, name: str) -> Any:
    if (module, name) in _STAND_INS:
        return _STAND_INS[module, name]
    if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
        return dtype
    raise _RefusedError(
        f"is no metadata that torch writes: it names {module}.{name}, and reading it with torch could run code."
    )


def _stored_tensor(name: str, keys: tuple[str, ...], entry: Any, places: dict[tuple[int, ...], Any]) -> StoredTensor:
    dtype, shape = entry.properties.state[0], tuple(entry.size)
    assert isinstance(dtype, torch.dtype)
    pieces = {}
    for chunk in entry.chunks:
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        if math.prod(sizes):
            pieces[offsets] = _piece(name, offsets, sizes, places[offsets])
    _check(name, dtype, shape, list(pieces.values()))
    return StoredTensor(keys, dtype, shape, tuple(pieces.values()))


def _piece(name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], info: Any) -> Piece:
    if getattr(info, "transform_descriptors", None):
        raise _RefusedError(f"says that {name!r} is stored transformed: {info.transform_descriptors}.")
    file = info.relative_path
    if not is_plain_name(file):
        raise _RefusedError(f"points outside its folder: {file!r}.")
    return Piece(offsets, sizes, file, int(info.offset), int(info.length))


def _check(name: str, dtype: torch.dtype, shape: tuple[int, ...], pieces: list[Piece]) -> None:
    """Pieces have to tile the tensor, and their bytes have to be there before memory for them is."""
    inside = all(
        len(piece.offsets) == len(piece.sizes) == len(shape)
        and all(o >= 0 and s > 0 and o + s <= n for o, s, n in zip(piece.offsets, piece.sizes, shape, strict=True))
        for piece in pieces
    )
    # torch.Size.numel would overflow
    numbers = sum(math.prod(piece.sizes) for piece in pieces)
    held = all(p.start >= 0 and math.prod(p.sizes) * dtype.itemsize <= p.length for p in pieces)
    apart = not any(_overlap(one, other) for i, one in enumerate(pieces) for other in pieces[:i]) if inside else False
    if not (inside and held and apart and numbers == math.prod(shape)):
        raise _RefusedError(f"describes pieces of {name!r} that do not make up a tensor of shape {shape}.")


def _overlap(one: Piece, other: Piece) -> bool:
    return all(
        max(a, b) < min(a + n, b + m)
        for a, n, b, m in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )
