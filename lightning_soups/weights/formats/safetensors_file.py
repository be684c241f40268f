"""Safetensors files: read as views of the mapped file, written one tensor at a time."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Open a safetensors file; its tensors are views of the mapped file.

    Raises:
        ValueError: It is no safetensors file, or it is cut off: the library compares its header with its size.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # it is no dictionary
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a safetensors file: {error}.") from error


def write_safetensors(
    path: Path, layout: Mapping[str, tuple[torch.dtype, Sequence[int]]], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a safetensors file, tensor by tensor, so that never more than one has to be in memory.

    The library's own writer needs all of them at once. Format: https://github.com/huggingface/safetensors#format

    Args:
        path: The file to create.
        layout: Name, dtype and shape of all tensors, in the order of the file. Large numbers first keeps them aligned.
        tensors: The names and tensors, in the same order, on CPU.

    Raises:
        ValueError: The format has no such dtype.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in layout.items():
        if dtype not in _DTYPES:
            raise ValueError(f"{name!r} has dtype {dtype}, which safetensors files cannot hold.")
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            dtype, shape = layout[name]
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, tuple(shape)), name
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor  # before the next one is made
        assert file.tell() == 8 + len(text) + end
