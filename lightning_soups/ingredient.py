"""An ingredient: a recorded checkpoint, and what is known of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_soups import records
from lightning_soups.local_copies import local_copy
from lightning_soups.model_checkpoint import kept_for
from lightning_soups.opening import is_adapter, open_checkpoint
from lightning_soups.paths import AnyPath, leads_out
from lightning_soups.score import Mode, Score
from lightning_soups.weights.adapter_folders import read_adapter_config

INITIALIZATION = "initialization"  # the run of what is no ingredient but what ingredients started from
_FILE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")  # in a folder's name, `lr-0.1`, a dot means nothing


@dataclass(frozen=True)
class Ingredient:
    """One checkpoint of one run, with what was known when it was recorded. Immutable; equal when the path is equal.

    Args:
        path: The checkpoint, a file or a folder; a ``Path``, or a ``UPath`` for a URL.
        run: The run that wrote it.
        metrics: Every logged metric at that moment; those of training are of the last finished epoch.
        hyperparameters: The run's hyperparameters.
        initialization: Fingerprint of the weights the run started from; None when unknown.
        epoch: Index of the epoch, from 0.
        step: Number of optimizer steps taken.
        monitor: The metric that chose this checkpoint; None for a checkpoint without a record.
        mode: Whether more or less of ``monitor`` is better.
        exact: Whether ``metrics[monitor]`` is over the whole held-out data, each sample once.
        sha256: Hash of the checkpoint when it was recorded; None when there is no record, or one that is older.
    """

    path: AnyPath
    run: str = field(compare=False)
    metrics: Mapping[str, float] = field(compare=False, default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(compare=False, default_factory=dict)
    initialization: str | None = field(compare=False, default=None)
    epoch: int = field(compare=False, default=0)
    step: int = field(compare=False, default=0)
    monitor: str | None = field(compare=False, default=None)
    mode: Mode | None = field(compare=False, default=None)
    exact: bool = field(compare=False, default=False)
    sha256: str | None = field(compare=False, default=None)

    @property
    def place(self) -> tuple[str, ...]:
        """The parts of :attr:`path`, by which ingredients are put in order, local and remote ones alike."""
        return tuple(self.path.parts)

    @property
    def name(self) -> str:
        """A short unique label, ``run/epoch=012-step=000340``."""
        return f"{self.run}/{self.path.stem if self.path.suffix in _FILE_SUFFIXES else self.path.name}"

    @property
    def score(self) -> Score | None:
        """The recorded value of the monitored metric; None for a checkpoint without a record, or without that value."""
        if self.monitor is None or self.mode is None or self.monitor not in self.metrics:
            return None
        return Score(self.metrics[self.monitor], self.mode)

    @classmethod
    def from_record(cls, path: AnyPath) -> "Ingredient":
        """Read a JSON record written by :class:`~lightning_soups.SoupCallback`.

        Raises:
            ValueError: The file is not a record, or its checkpoint is not beside it.
        """
        ingredient = cls._described(path)
        if leads_out(ingredient.path, path.parent):
            raise ValueError(
                f"The record {str(path)!r} names {ingredient.path.name!r}, a link out of the soup directory. If you"
                f" trust it, list the checkpoint itself as an ingredient: {str(ingredient.path.resolve())!r}."
            )
        return ingredient

    @classmethod
    def _described(cls, path: AnyPath) -> "Ingredient":
        """What a record says of the checkpoint beside it."""
        record = records.read_record(path)
        checkpoint = path.with_name(record["checkpoint"])
        if not checkpoint.exists():
            raise ValueError(f"The record {str(path)!r} names a checkpoint that is missing: {str(checkpoint)!r}.")
        return cls(
            path=checkpoint,
            run=record["run"],
            sha256=record.get("sha256"),
            metrics={name: math.nan if value is None else value for name, value in record["metrics"].items()},
            **{key: record[key] for key in records.SHARED_FIELDS},
        )

    @classmethod
    def from_checkpoint(cls, path: AnyPath) -> "Ingredient":
        """Describe a checkpoint of any kind, from the record beside it when there is one.

        Without one, it has the metric that Lightning's ``ModelCheckpoint`` kept it for, if any.

        Raises:
            ValueError: It is not a checkpoint that can be read safely.
            FileNotFoundError: There is no such file or folder.
        """
        record = path.with_suffix(records.SUFFIX)
        if record != path and records.recorded_file(record) == path.name:
            return cls._described(record)
        if is_adapter(path):
            config = read_adapter_config(local_copy(path))
            told = records.plain_hyperparameters({key: config.get(key) for key in ("r", "lora_alpha", "use_rslora")})
            return cls(path=path, run=path.parent.name or ".", hyperparameters=told)
        checkpoint = open_checkpoint(path).content
        saved = checkpoint.get("hyper_parameters")
        kept = kept_for(checkpoint, path)
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent  # as loggers lay them out
        return cls(
            path=path,
            run=folder.name or ".",
            metrics={} if kept is None else {kept.monitor: kept.value},
            monitor=None if kept is None else kept.monitor,
            mode=None if kept is None else kept.mode,
            hyperparameters=records.plain_hyperparameters(saved if isinstance(saved, Mapping) else {}),
            epoch=_count(checkpoint.get("epoch")),
            step=_count(checkpoint.get("global_step")),
        )


def _count(value: Any) -> int:
    """A number from a checkpoint, which may hold anything there."""
    return value if type(value) is int else 0
