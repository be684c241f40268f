"""What a file of ``torch.save`` holds once it is read, checked before anything else walks through it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_DEEPEST = 100  # what is nested deeper makes copying it and writing it as JSON fail
_ROOM, _TIMES = 1 << 26, 4
_FEWEST = 1 << 20  # values that any file may have
_OWN = ("grad_fn", "__dict__")


def may_claim(size: int) -> int:
    """Bytes that all tensors of a file may claim together: four times its own, as they may share memory, and 64 MiB."""
    return _TIMES * size + _ROOM


def check_content(content: Any, size: int) -> None:
    """Refuse what is small on disk and without end, or without bounds, in memory.

    A list may hold another one many times over, and itself, so what is counted is what a walk through all of it meets.

    Args:
        content: What was read.
        size: Bytes of the file.

    Raises:
        ValueError: It is nested too deep, a walk through it meets more values than the file has bytes, tensors without
            memory of their own claim much more than that, or have attributes in place of a tensor's own.
    """
    most = max(_FEWEST, size)
    level, count, claimed = [content], 1, 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                claimed += _check_tensor(value)
                continue
            for item in _items(value):
                count += 1
                if count > most:
                    raise ValueError(f"its {size} bytes unfold into more than {most} values")
                if not isinstance(item, (str, bytes, int, float, type(None))):
                    below.append(item)
        if claimed > may_claim(size):
            raise ValueError(f"its tensors claim {claimed} bytes of memory, and the file has {size}")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested deeper than {_DEEPEST}, or holds itself")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif (attributes := getattr(value, "__dict__", None)) and not isinstance(value, type):
        yield from attributes.values()


def _check_tensor(tensor: Tensor) -> int:
    """Bytes that it claims without having them in the file, where this is not known from its storage."""
    own = [name for name in vars(tensor) if name not in _OWN and hasattr(Tensor, name)]
    if own or tensor._backward_hooks:
        raise ValueError(f"it has a tensor whose {(own or ['hooks'])[0]!r} is replaced")
    claimed = tensor.numel() * tensor.element_size()
    try:
        held = tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):  # sparse ones, and wrappers around nothing
        held = 0
    return 0 if tensor.device.type != "meta" and claimed <= held else claimed
