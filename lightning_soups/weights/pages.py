"""Giving back the memory of file pages that are mapped and have been read."""

import bisect
import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lightning_soups.weights.reading import weight_files

_SHARE = 0.25  # of one file's size may be in memory at a time, of all files together
_AROUND = 1 << 21  # Linux maps up to 2 MiB around what is read
_DELETED = " (deleted)"  # what Linux adds to the names of files that are gone but mapped
_SMALL = 1 << 26  # files that are smaller than this all together may stay


class MappedPages:
    """The pages of freshly mapped files, which :meth:`release` takes out of this process's memory.

    A page that is needed again is mapped again from the file, so nothing is lost; files with pages that were written
    to are therefore left alone. Only Linux says which memory is mapped from which file. Elsewhere nothing is
    released, and pages stay until the system needs their memory.

    Args:
        paths: Checkpoints, mapped already: files or folders.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._mappings: list[tuple[int, int]] = []
        self._used: dict[int, int] = {}
        smaps = Path("/proc/self/smaps")
        if sys.platform != "linux" or not smaps.exists():
            return
        self._madvise = ctypes.CDLL(None).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        files = [file for path in paths for file in weight_files(path)]
        self._mappings = _unwritten(smaps.read_text(errors="surrogateescape"), set(map(os.path.realpath, files)))
        sizes = [stop - start for start, stop in self._mappings]  # files may have been deleted since
        if sum(sizes) <= _SMALL:
            self._mappings = []
        # giving pages back one by one costs more than reading them: rather all of a file's at once, now and then; but
        # what is mapped around each read must not add up over many files
        share = int(_SHARE * max(sizes, default=0) / max(1, len(files)))
        self._limit = share if share >= 2 * _AROUND else 0

    def release(self, tensor: Tensor) -> None:
        """Say that a tensor has been read; every now and then its file's pages are given back.

        Args:
            tensor: A CPU tensor, or a piece of one. It can still be read afterwards.
        """
        index = bisect.bisect_right(self._mappings, (tensor.data_ptr(), sys.maxsize)) - 1
        if index < 0 or tensor.data_ptr() >= self._mappings[index][1]:
            return
        self._used[index] = self._used.get(index, 0) + tensor.numel() * tensor.element_size()
        if self._used[index] >= self._limit:
            self._used[index] = 0
            start, stop = self._mappings[index]
            self._madvise(start, stop - start, mmap.MADV_DONTNEED)


def _unwritten(smaps: str, paths: set[str]) -> list[tuple[int, int]]:
    """Address ranges that map one of the files and hold no page of their own."""
    found: list[tuple[int, int]] = []
    current: tuple[int, int] | None = None
    for line in smaps.splitlines():
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):
            start, stop = (int(address, 16) for address in name.split("-"))
            current = (start, stop) if len(values) == 5 and values[4].removesuffix(_DELETED) in paths else None
        elif name == "Anonymous:" and current is not None and values[0] == "0":
            found.append(current)
    return sorted(found)
