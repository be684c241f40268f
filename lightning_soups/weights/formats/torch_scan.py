"""What a file of ``torch.save`` declares, checked before torch reads it: torch takes memory on the file's word.

Nothing is run, see :mod:`~lightning_soups.weights.formats.inert_pickle`.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any, cast

import torch

from lightning_soups.weights.formats.contents import may_claim
from lightning_soups.weights.formats.inert_pickle import Inert, InertUnpickler

ZIP = b"PK\x03\x04"
_END = b"PK\x05\x06"  # of a zip file, 22 bytes before its last one when it has no comment
_MAGIC = 0x1950A86A20F9469CFC6C  # what files of torch before 1.6 begin with, after which come its version and sizes
_PROTOCOL = 1001
_ITEMSIZES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "Typed": 1,
    "Untyped": 1,
    "QInt32": 4,
    "QInt8": 1,
    "QUInt8": 1,
    "QUInt4x2": 1,
    "QUInt2x4": 1,
}
_VIEWS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")  # of storages

Error = pickle.UnpicklingError


def scan(file: IO[bytes], size: int) -> None:
    """Refuse a file that declares more than it holds.

    Tensors may share memory, also with themselves (``expand``), but all of them together may not claim more than four
    times the bytes of the file and 64 MiB: they are as large as they claim once they are averaged.

    Args:
        file: At its beginning.
        size: Its length in bytes.

    Raises:
        Exception: It is damaged, or lies about sizes; of any type.
    """
    beginning = file.read(len(ZIP))
    file.seek(0)
    if beginning == ZIP:
        _scan_zip(file, size)
    else:
        _scan_old(file, size)


class _Storage(Inert):
    """A storage with its size in bytes."""

    def __init__(self, key: object, itemsize: int, nbytes: int) -> None:
        super().__init__()
        self.key, self.itemsize, self.nbytes = key, itemsize, nbytes


class _Kind:
    """A type of storages; nothing calls it in files that torch writes."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class _Declared:
    """What a pickle of torch declares.

    Args:
        size: Bytes of the file.
        held: How many bytes the file has for the storage of a name; None when that is not known.
    """

    def __init__(self, size: int, held: Callable[[str], int] | None) -> None:
        self._held = held
        self._size = size
        self._storages: dict[object, int] = {}
        self._left = size
        self._tensors: set[object] = set()
        self._claimed = 0

    def stand_in(self, module: str, name: str) -> Any:
        """See :class:`InertUnpickler`."""
        if module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage"):
            return _Kind(_ITEMSIZES[name.removesuffix("Storage")])
        if module.partition(".")[0] == "torch" and name.endswith("Tensor"):
            return _NoArguments
        if (module, name) in (("builtins", "bytearray"), ("__builtin__", "bytearray")):
            return _NoNumber
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module == "torch._utils" and name in _VIEWS:
            return self._tensor
        return _call if (module, name) == ("torch._tensor", "_rebuild_from_type_v2") else Inert

    def storage(self, pid: Any) -> Any:
        """See :class:`InertUnpickler`."""
        if not isinstance(pid, tuple) or len(pid) < 5 or not isinstance(pid[1], _Kind):
            return Inert  # the class of a module with its source code, or what torch refuses as well
        _, kind, key, _, numel = pid[:5]
        nbytes = _whole(numel) * kind.itemsize
        held = self._held(str(key)) if self._held is not None else self._storages.get(key, self._left)
        if nbytes > held:
            raise Error(f"its storage {key!r} is declared with {nbytes} bytes, and the file has {held} for it")
        if self._held is None and key not in self._storages:
            self._storages[key] = nbytes
            self._left -= nbytes
        return _Storage(key, kind.itemsize, nbytes)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: object) -> Inert:
        """Note a tensor that is a view of a storage."""
        shape, strides = _numbers(shape), _numbers(strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise Error("it has a tensor that torch would not write")
        dtypes = [one for one in more if isinstance(one, torch.dtype)]
        itemsize = dtypes[0].itemsize if dtypes else storage.itemsize
        if count := math.prod(shape):
            last = _whole(offset) + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
            if (last + 1) * itemsize > storage.nbytes:
                raise Error(
                    f"it has a tensor of the shape {shape} that reaches beyond the {storage.nbytes} bytes of it"
                )
            if (place := (storage.key, _whole(offset), shape, strides)) not in self._tensors:
                self._tensors.add(place)
                self._claimed += count * itemsize
            if self._claimed > may_claim(self._size):
                raise Error(f"its tensors claim {self._claimed} bytes of memory, and it has {self._size} itself")
        return Inert()


def _call(function: Any, cls: Any, arguments: Any, state: Any) -> Any:
    return function(*arguments)


class _NoArguments(Inert):
    def __new__(cls, *arguments: object) -> "_NoArguments":
        if arguments:
            raise Error("it makes a tensor of a size that it names instead of the data that it holds")
        return super().__new__(cls)


class _NoNumber(Inert):
    def __new__(cls, *arguments: object) -> "_NoNumber":
        if any(not isinstance(one, (str, bytes, Inert)) for one in arguments):
            raise Error("it asks for memory of a size that it names instead of the data that it holds")
        return super().__new__(cls)


def _scan_zip(file: IO[bytes], size: int) -> None:
    file.seek(-min(22, size), io.SEEK_END)
    end = file.read()
    if not end.startswith(_END) or size < 22:
        raise Error("it is cut off, or something follows it")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.casefold(): entry for entry in entries}  # as torch looks for them
        if len(names) < len(entries) or min(entry.header_offset for entry in entries) != 0:
            raise Error("its table of contents is none that torch writes")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise Error(
                    f"{entry.filename!r} in it is compressed, which torch never does: {entry.compress_size} bytes would"
                    f" become {entry.file_size}"
                )
        if sum(entry.file_size for entry in entries) > size:
            raise Error("its table of contents lists more bytes than it has")
        top = entries[0].filename.partition("/")[0]

        def held(key: str) -> int:
            entry = names.get(f"{top}/data/{key}".casefold())
            return 0 if entry is None else entry.file_size

        declared = _Declared(size, held)
        with archive.open(names[f"{top}/data.pkl".casefold()]) as pickled:
            InertUnpickler(io.BytesIO(pickled.read()), declared.stand_in, declared.storage).load()
    file.seek(0)


class _NoMoreThanThereIs:
    """A file that puts no memory aside for bytes that it has not got, however many a pickle asks for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, max(0, self._size - self._file.tell())))

    def readline(self) -> bytes:
        return self._file.readline()


def _scan_old(file: IO[bytes], size: int) -> None:
    declared, bounded = _Declared(size, None), cast(IO[bytes], _NoMoreThanThereIs(file, size))

    def load() -> Any:
        return InertUnpickler(bounded, declared.stand_in, declared.storage).load()

    if load() != _MAGIC or load() != _PROTOCOL:
        raise Error("it does not begin as files of torch do")
    load()  # sizes of numbers where it was written
    load()
    file.seek(0)


def _numbers(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, Inert):  # torch.Size
        shape = next(iter(shape.arguments), ())
    if not isinstance(shape, (tuple, list)):
        raise Error("it has a shape that is none")
    return tuple(map(_whole, shape))


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise Error(f"it declares {type(number).__name__} where a number from 0 has to be")
    return number
