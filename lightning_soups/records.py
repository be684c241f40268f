"""The record: one JSON file beside each recorded checkpoint, and where records lie in a soup directory.

Layout of a soup directory::

    runs/<run>/epoch=012-step=000340.ckpt     weights-only Lightning checkpoint
    runs/<run>/epoch=012-step=000340.json     its record
    initializations/<fingerprint>.ckpt        the weights that runs started from
    soups/<recipe>.ckpt                       what was cooked (or another format, see ``outputs``)
    studies/<study>.json, .csv, .png, .svg    what studies found
    report.html                               the page about it all
"""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lightning_soups.files import write_json
from lightning_soups.paths import AnyPath, fresh, in_order
from lightning_soups.weights.formats.file_names import is_plain_name
from lightning_soups.weights.formats.plain_json import read_json

FORMAT = 1
SUFFIX = ".json"
PATTERN = f"runs/*/*{SUFFIX}"
INITIALIZATIONS = "initializations"
SOUP_KEY = "lightning_soups"  # what a soup's checkpoint holds beside its weights
SUMMED_KEY = "lightning_soups_adapter"  # and that of a soup of adapters, so that it can be written as one
SHARED_FIELDS = ("hyperparameters", "initialization", "epoch", "step", "monitor", "mode", "exact")
_FIELDS = {
    "format": int,
    "checkpoint": str,
    "run": str,
    "metrics": dict,
    "hyperparameters": dict,
    "initialization": (str, type(None)),
    "epoch": int,
    "step": int,
    "monitor": str,
    "mode": str,
    "exact": bool,
    "devices": int,
    "versions": dict,
}


def find_records(directory: AnyPath) -> list[AnyPath]:
    """List the records of a soup directory in the order of their paths."""
    return in_order(fresh(directory).glob(PATTERN))


def is_record(path: AnyPath) -> bool:
    """Whether a path is that of a record, and not of the index of a sharded checkpoint."""
    return path.suffix == SUFFIX and not path.name.endswith(f".index{SUFFIX}")


def recorded_file(path: AnyPath) -> str | None:
    """The name of the checkpoint that a record is of; None when the file is no record, but some other JSON or nothing.

    Whether the record is valid is not checked, see :func:`read_record`.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    named = content.get("checkpoint") if isinstance(content, dict) and "format" in content else None
    return named if isinstance(named, str) else None


def write_record(path: AnyPath, record: Mapping[str, Any]) -> None:
    """Write a record atomically, after its checkpoint; the versions in use are added.

    Args:
        path: ``<checkpoint>.json``.
        record: The fields of :class:`~lightning_soups.Ingredient` and ``devices``; ``checkpoint`` is a file name.
    """
    metrics = {name: value if math.isfinite(value) else None for name, value in record["metrics"].items()}
    write_json(path, {"format": FORMAT, **record, "metrics": metrics, "versions": versions()})


def read_record(path: AnyPath) -> dict[str, Any]:
    """Read and check a record.

    Raises:
        ValueError: The file is not JSON, lacks a field, has one of a wrong type, or points outside its folder.
    """
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"The record {str(path)!r} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"The record {str(path)!r} must hold a JSON object, got {type(record).__name__}.")
    for key, kind in _FIELDS.items():
        if key not in record or not isinstance(record[key], kind):  # type: ignore[arg-type]
            raise ValueError(f"The record {str(path)!r} has no valid {key!r}: {record.get(key)!r}.")
    if record["format"] != FORMAT:
        raise ValueError(
            f"The record {str(path)!r} has format {record['format']}; this version reads format {FORMAT}. Upgrade"
            " lightning-soups to read newer records."
        )
    if not isinstance(record.get("sha256"), (str, type(None))):  # older records have none
        raise ValueError(f"The record {str(path)!r} has no valid 'sha256': {record['sha256']!r}.")
    if not is_plain_name(record["checkpoint"]):
        raise ValueError(f"The record {str(path)!r} points outside its folder: {record['checkpoint']!r}.")
    if record["mode"] not in ("min", "max"):
        raise ValueError(f"The record {str(path)!r} has no valid 'mode': {record['mode']!r}.")
    for name, value in record["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise ValueError(f"The record {str(path)!r} is not valid: {name!r} must be a number, got {value!r}.")
    return record


def versions() -> dict[str, str]:
    """The versions that matter to reproduce a checkpoint."""
    packages = ("lightning-soups", "lightning", "torch", "torchmetrics")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def plain_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce hyperparameters to what JSON holds; anything else becomes its text.

    LightningCLI's own bookkeeping (names that start with an underscore) is left out.
    """
    return {str(key): _plain(value) for key, value in hyperparameters.items() if not str(key).startswith("_")}


def varied_names(hyperparameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the hyperparameters in which several runs differ."""
    names = dict.fromkeys(name for one in hyperparameters for name in one)
    return [name for name in names if len({repr(one.get(name)) for one in hyperparameters}) > 1]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return str(value)
