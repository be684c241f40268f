"""What a soup says of itself: of which kind each value has to be, before anything is made of it."""

from collections.abc import Mapping
from typing import Any

_TEXT, _NUMBER, _WHOLE, _FLAG = (str,), (int, float), (int,), (bool,)
_NOTHING = (type(None),)
_EACH = ""  # in the place of a key: all values of the mapping
_MIXTURE = {"members": [_WHOLE], "coefficients": [_NUMBER], "layers": {_EACH: [_NUMBER]}}
_INGREDIENT = {
    **dict.fromkeys(("path", "run"), _TEXT),
    **dict.fromkeys(("initialization", "monitor", "mode", "sha256"), _TEXT + _NOTHING),
    **dict.fromkeys(("epoch", "step"), _WHOLE),
    "metrics": {_EACH: _NUMBER},
    "hyperparameters": {},
    "exact": _FLAG,
}
_QUESTION = {
    "mixture": _MIXTURE,
    "score": _NUMBER,
    "accepted": _FLAG + _NOTHING,
    "label": _TEXT,
    "batches": _WHOLE,
    "samples": _WHOLE,
    "seconds": _NUMBER,
    "cached": _FLAG,
    "early": _FLAG,
}
_SOUP = {
    **dict.fromkeys(("recipe", "monitor", "mode", "created"), _TEXT),
    "score": _NUMBER,
    "metrics": {_EACH: _NUMBER},
    "options": {},
    "versions": {_EACH: _TEXT},
    "caveats": [_TEXT],
    "candidates": [_INGREDIENT],
    "others": [_INGREDIENT],
    "left_out": [{**dict.fromkeys(("path", "run", "reason"), _TEXT), "is_copy": _FLAG}],
    "mixture": _MIXTURE,
    "trace": [_QUESTION],
    "batch_norm": _TEXT + _NOTHING,
    "weights": {"include": [_TEXT], "exclude": [_TEXT], "rename": {_EACH: _TEXT}},
}


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Make sure that the values are of the kinds that they have to be; there may be more, or fewer, than are known.

    Raises:
        ValueError: One is of another kind; the message says where it is in the provenance, but not in which file.
    """
    _check(provenance, _SOUP, "")


def _check(value: Any, kind: Any, name: str) -> None:
    if isinstance(kind, tuple):
        fits = isinstance(value, kind) and (not isinstance(value, bool) or bool in kind)
    else:
        fits = isinstance(value, Mapping if isinstance(kind, Mapping) else (list, tuple))
    if not fits:
        raise ValueError(f"{name!r} cannot be {str(value)[:100]!r}")
    if isinstance(kind, Mapping):
        for key, item in value.items():
            if (own := kind.get(_EACH, kind.get(key))) is not None:
                _check(item, own, f"{name}.{key}".lstrip("."))
    elif isinstance(kind, list):
        for number, item in enumerate(value):
            _check(item, kind[0], f"{name}.{number}")
