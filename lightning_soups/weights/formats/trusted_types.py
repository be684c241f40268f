"""Which of the types that a user told torch to trust count here: those that hold data, and those that do not act.

``torch.serialization.add_safe_globals`` is for the whole process. What somebody allowed for a file of their own must
not let a stranger's file start a program, so functions and classes of Python itself count only where they hold data.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch

_HOLD_DATA = {
    "argparse": {"Namespace"},
    "builtins": {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object"}
    | {"range", "set", "slice", "str", "tuple"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "types": {"MappingProxyType", "SimpleNamespace"},
    "uuid": {"UUID"},
    "zoneinfo": {"ZoneInfo"},
}
_lock = RLock()


@contextmanager
def only_data_is_trusted() -> Iterator[None]:
    """Inside, torch does not trust what could act, whatever ``add_safe_globals`` was told before."""
    with _lock:
        allowed = torch.serialization.get_safe_globals()
        refused = [one for one in allowed if not _is_harmless(one)]
        if not refused:
            yield
            return
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([one for one in allowed if one not in refused])
        try:
            yield
        finally:
            torch.serialization.add_safe_globals(refused)


def _is_harmless(allowed: Any) -> bool:
    thing = allowed[0] if isinstance(allowed, tuple) else allowed
    module, name = str(getattr(thing, "__module__", "")), str(getattr(thing, "__qualname__", ""))
    top = module.partition(".")[0].removeprefix("_")
    if module in ("torch", "numpy") or top not in sys.stdlib_module_names | {"posix", "nt", "builtins"}:
        return True
    return isinstance(thing, type) and name in _HOLD_DATA.get(top, ())
