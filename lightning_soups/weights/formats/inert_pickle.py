"""Looking through a pickle without running it: what it names, what it would call, and how much memory it declares.

``torch.load(weights_only=True)`` calls only what is on torch's list, but believes what files say of sizes, and Python's
own unpickler calls anything. Here every name stands for an object that only keeps what it is given.
"""

import pickle
from collections.abc import Callable
from typing import IO, Any, ClassVar

_OPCODES_THAT_ALLOCATE = (pickle.BYTEARRAY8[0],)  # before it is known whether the bytes are there


class Inert:
    """Keeps what it is given, whatever a pickle does with it."""

    def __init__(self, *arguments: object, **more: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Take part of a list."""

    def extend(self, items: object) -> None:
        """Take part of a list."""

    def add(self, item: object) -> None:
        """Take part of a set."""


# The unpickler in C puts aside memory for as many objects as a file says there are; the one in Python, which is private
# (tests/test_lightning_internals.py guards it), keeps them in a dictionary.
class InertUnpickler(pickle._Unpickler):
    """Unpickles stand-ins.

    Args:
        file: At the beginning of a pickle.
        stand_in: Gives the stand-in for a module's name, or raises an exception to refuse it.
        storage: Called with what a pickle says of data outside of it.
    """

    dispatch: ClassVar = {
        code: handle for code, handle in pickle._Unpickler.dispatch.items() if code not in _OPCODES_THAT_ALLOCATE
    }

    def __init__(
        self,
        file: IO[bytes],
        stand_in: Callable[[str, str], Any],
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file)
        self._stand_in = stand_in
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Give a stand-in instead of what has this name."""
        return self._stand_in(module, name)

    def get_extension(self, code: int) -> None:
        """Refuse numbers that stand for names on one machine only."""
        raise pickle.UnpicklingError(f"unsupported extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Note data that are outside of the pickle."""
        if self._storage is None:
            raise pickle.UnpicklingError("unsupported persistent id")
        return self._storage(pid)
