"""The folder of one run: its best checkpoints, each with its record."""

import math
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups import records
from lightning_soups.durable import sync_folder
from lightning_soups.ingredient import Ingredient
from lightning_soups.paths import AnyPath, claim_folder, fresh, in_order
from lightning_soups.safe_names import safe_name
from lightning_soups.score import Score
from lightning_soups.write_errors import explained

_CHECKPOINT = re.compile(r"epoch=\d{3,}-step=\d{6,}(-\d+)?\.ckpt")


class RunFolder:
    """Keeps at most ``top_k`` checkpoints of a run, the best ones; knows those that are there already.

    Args:
        path: The run's folder, which need not exist yet.
        monitor: The metric that ranks checkpoints.
        top_k: How many to keep; -1 keeps all.
    """

    def __init__(self, path: AnyPath, monitor: str, top_k: int) -> None:
        self.path = path
        self._top_k = top_k
        self._kept: dict[AnyPath, Score] = {}
        self._found: set[tuple[int, int, Score]] = set()
        for record in in_order(fresh(path).glob(f"*{records.SUFFIX}")):
            try:
                found = Ingredient.from_record(record)
            except ValueError as error:
                rank_zero_warn(f"Left alone while resuming run {path.name!r}: {error}")
                continue
            if found.path != record.with_suffix(".ckpt"):
                continue  # not written by this class, so none to delete
            if found.monitor == monitor and found.score is not None:
                self._kept[found.path] = found.score
                self._found.add((found.epoch, found.step, found.score))

    @staticmethod
    def claim(runs: AnyPath, name: str) -> AnyPath:
        """Create a folder for a run; a name that is taken gets a number.

        Claiming is atomic, so two runs never share one.

        Raises:
            WriteError: The folder cannot be created.
        """
        wanted, number = safe_name(name), 1
        while True:
            folder = runs / (wanted if number == 1 else f"{wanted}-{number}")
            with explained(folder):
                claimed = claim_folder(folder)
            if claimed:
                return folder
            number += 1

    @staticmethod
    def unique_name(now: str) -> str:
        """A run name that no other process, on whatever machine, will choose."""
        return f"{now}-{uuid4().hex[:6]}"

    def __len__(self) -> int:
        return len(self._kept)

    def wants(self, score: Score) -> bool:
        """Whether a checkpoint with this score belongs to the best; an equal score does not replace an earlier one."""
        if not math.isfinite(score.value):
            return False
        full = self._top_k != -1 and len(self._kept) >= self._top_k
        return not full or score > min(self._kept.values())

    def has_found(self, epoch: int, step: int, score: Score) -> bool:
        """Whether this moment is in the folder since before: a run resumes from an earlier one than it had recorded."""
        return (epoch, step, score) in self._found

    def discard_unrecorded(self) -> None:
        """Delete checkpoints that lack a record, since a process died between writing or deleting one and the other."""
        for checkpoint in in_order(fresh(self.path).glob("*.ckpt")):
            if _CHECKPOINT.fullmatch(checkpoint.name):
                discard_unrecorded(checkpoint)

    def checkpoint_path(self, epoch: int, step: int) -> AnyPath:
        """Where the checkpoint of this moment goes.

        A run can come by the same epoch and step again, after resuming or under manual optimization; then the name gets
        a number and nothing is overwritten.
        """
        name, number = f"epoch={epoch:03d}-step={step:06d}", 1
        while (path := self.path / f"{name}{'' if number == 1 else f'-{number}'}.ckpt") in self._kept:
            number += 1
        return path

    def keep(self, path: AnyPath, score: Score) -> list[AnyPath]:
        """Note a new checkpoint.

        Returns:
            Those that it drives out, which :func:`withdraw` deletes.
        """
        self._kept[path] = score
        surplus: list[AnyPath] = []
        while self._top_k != -1 and len(self._kept) > self._top_k:
            worst = min(self._kept, key=self._kept.__getitem__)
            del self._kept[worst]
            surplus.append(worst)
        return surplus


def discard_unrecorded(checkpoint: AnyPath) -> None:
    """Delete a checkpoint that there is no record of, if that can be done: writing it, or its record, has failed."""
    with suppress(Exception):  # storage libraries raise errors of their own
        if not fresh(checkpoint.with_suffix(records.SUFFIX)).exists():
            checkpoint.unlink(missing_ok=True)


def withdraw(checkpoint: AnyPath) -> None:
    """Delete a checkpoint and its record, the record first: it must never describe what is not there.

    Raises:
        WriteError: They cannot be deleted.
    """
    record = checkpoint.with_suffix(records.SUFFIX)
    with explained(checkpoint, record):
        record.unlink(missing_ok=True)
        try:
            if isinstance(record, Path):
                sync_folder(record.parent)
        finally:
            checkpoint.unlink(missing_ok=True)
