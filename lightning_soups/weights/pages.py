"""Giving back the memory of file pages that are mapped and have been read."""

import bisect
import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

# A page fault maps neighbours as well, as far as the page cache holds them in one piece: up to 2 MiB.
_NEIGHBOURS = 1 << 21


class MappedPages:
    """The pages of freshly mapped files, which :meth:`release` takes out of this process's memory.

    A page that is needed again is mapped again from the file, so nothing is lost; files with pages that were written
    to are therefore left alone. Only Linux says which memory is mapped from which file. Elsewhere nothing is
    released, and pages stay until the system needs their memory.

    Args:
        paths: The files, mapped already.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._mappings: list[tuple[int, int]] = []
        self._page = mmap.PAGESIZE
        smaps = Path("/proc/self/smaps")
        if sys.platform != "linux" or not smaps.exists():
            return
        self._madvise = ctypes.CDLL(None).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._mappings = _unwritten(smaps.read_text(errors="surrogateescape"), set(map(os.path.realpath, paths)))

    def release(self, tensor: Tensor) -> None:
        """Give back the pages under a tensor, if it lies in one of the files; it can still be read afterwards.

        Args:
            tensor: A CPU tensor; only contiguous ones are given back.
        """
        if not self._mappings or not tensor.is_contiguous():
            return
        start = tensor.data_ptr()
        stop = start + tensor.numel() * tensor.element_size()
        index = bisect.bisect_right(self._mappings, (start, sys.maxsize)) - 1
        if index < 0 or stop > self._mappings[index][1]:
            return
        lowest, highest = self._mappings[index]
        start = max(lowest, (start - _NEIGHBOURS) // self._page * self._page)
        self._madvise(start, min(highest, stop + _NEIGHBOURS) - start, mmap.MADV_DONTNEED)


def _unwritten(smaps: str, paths: set[str]) -> list[tuple[int, int]]:
    """Address ranges that map one of the files and hold no page of their own."""
    found: list[tuple[int, int]] = []
    current: tuple[int, int] | None = None
    for line in smaps.splitlines():
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):
            start, stop = (int(address, 16) for address in name.split("-"))
            current = (start, stop) if len(values) == 5 and values[4] in paths else None
        elif name == "Anonymous:" and current is not None and values[0] == "0":
            found.append(current)
    return sorted(found)
