"""Rounds in which a fit that records is killed, and what must hold of the records afterwards."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightning_soups import Ingredients
from lightning_soups.records import find_records, read_record
from lightning_soups.weights import fingerprint
from tests.reliability import processes
from tests.reliability.reading import readable
from tests.reliability.victims import BEGUN, Fit, fit

Key = tuple[int, int]  # epoch and step


class Recording:
    """Kills a fit, looks at what is left, and resumes it as a preempted job is resumed.

    Args:
        case: The fit.
        scratch: A folder for what an undisturbed fit leaves.
        others: A run that is in the directory already; None for an empty directory.
    """

    def __init__(self, case: Fit, scratch: Path, others: Fit | None = None) -> None:
        self.name = case.name
        self._case = case
        self._others = scratch / "others"
        self._others.mkdir(parents=True)
        if others is not None:
            _well(processes.run(fit, others, self._others, scratch / "told others", scratch / "training others"))
        everything = scratch / "everything"
        _well(processes.run(fit, replace(case, top_k=-1), everything, scratch / "told all", scratch / "training all"))
        self._known = {
            (record["epoch"], record["step"]): (
                _of_validation(record["metrics"]),
                fingerprint(_weights(path.with_suffix(".ckpt"))),
            )
            for path in find_records(everything)
            for record in [read_record(path)]
        }
        assert len(self._known) == case.epochs
        folder = scratch / "undisturbed"
        self.prepare(folder)
        outcome = _well(self.victim(folder))
        self.steps, self.seconds = outcome.steps, outcome.seconds
        self._names = _names(folder / "soups")
        self._kept = self._records(folder / "soups")

    def prepare(self, folder: Path) -> None:
        """Make the folder of a round."""
        shutil.copytree(self._others, folder / "soups")

    def victim(self, folder: Path, kill: processes.Kill | None = None) -> processes.Outcome:
        """Fit, or go on fitting."""
        return processes.run(
            fit, self._case, folder / "soups", folder / "told", folder / "training", root=folder / "soups", kill=kill
        )

    def check(self, folder: Path) -> list[str]:
        """What is wrong after a kill."""
        soups = folder / "soups"
        found = [*self._intact(soups), *readable(soups), *self._check_told(folder)]
        return found

    def check_resumed(self, folder: Path, value: Any) -> list[str]:
        """What is wrong when the fit has gone on to its end."""
        soups = folder / "soups"
        found = self.check(folder)
        runs = sorted(path.name for path in (soups / "runs").iterdir() if path.name.startswith(self._case.run))
        again = _lines(folder).count([BEGUN])
        if len(runs) > again:
            found.append(f"{len(runs)} run folders of a fit that began {again} times: {runs}")
        left = self._records(soups, runs[-1])
        if left != self._kept:
            found.append(f"after resuming the run holds {left}, undisturbed {self._kept}")
        if again == 1 and (surplus := _names(soups) ^ self._names):
            found.append(f"leftovers or losses after resuming: {sorted(surplus)}")
        return found

    def _check_told(self, folder: Path) -> list[str]:
        """What had been validated and told of must be there, and nothing that cannot be."""
        lines = _lines(folder)
        if lines.count([BEGUN]) > 1:
            return []  # it started over, as a new run
        lines.remove([BEGUN])
        if not lines:
            return []
        found = [
            f"epoch {epoch} trained other weights than undisturbed: the check itself is broken"
            for epoch, step, mark in lines
            if self._known[int(epoch), int(step)][1] != mark
        ]
        last = max(int(line[0]) for line in lines)
        before, after = self._best(last), self._best(last + 1)
        present = set(self._records(folder / "soups"))
        if not (before <= present or after <= present):
            found.append(f"lost after epoch {last} had been told of: {sorted(present)} of {sorted(before)}")
        if surplus := present - (before | after):
            found.append(f"kept although others are better, after epoch {last}: {sorted(surplus)}")
        return found

    def _best(self, last: int) -> set[Key]:
        """The best checkpoints up to an epoch, by the rule: an equal score does not replace an earlier one."""
        past = sorted(key for key in self._known if key[0] <= last)
        best = sorted(past, key=lambda key: (-self._known[key][0]["val_acc"], key))
        return set(best if self._case.top_k == -1 else best[: self._case.top_k])

    def _records(self, soups: Path, run: str | None = None) -> list[Key]:
        records = [read_record(path) for path in find_records(soups)]
        return sorted((one["epoch"], one["step"]) for one in records if one["run"] == (run or self._case.run))

    def _intact(self, soups: Path) -> list[str]:
        """Every record is true of its checkpoint, every checkpoint is whole; the other run is as it was."""
        found = []
        for path in sorted(soups.glob("runs/*/*.json")):
            try:
                record = read_record(path)
            except ValueError as error:
                found.append(str(error))
                continue
            checkpoint = path.with_name(record["checkpoint"])
            if not checkpoint.is_file():
                found.append(f"{path} names a checkpoint that is not there")
            elif record["sha256"] != hashlib.sha256(checkpoint.read_bytes()).hexdigest():
                found.append(f"{path} has another hash than its checkpoint")
            elif record["run"].startswith(self._case.run):
                metrics, mark = self._known[record["epoch"], record["step"]]
                if _of_validation(record["metrics"]) != metrics:
                    found.append(f"{path} has other metrics than the fit had: {record['metrics']} for {metrics}")
                if fingerprint(_weights(checkpoint)) != mark:
                    found.append(f"{checkpoint} has other weights than the fit had")
        for checkpoint in [*soups.glob("runs/*/*.ckpt"), *soups.glob("initializations/*.ckpt")]:
            try:
                mark = fingerprint(_weights(checkpoint))
            except Exception as error:
                found.append(f"{checkpoint} is not whole: {error}")
                continue
            if checkpoint.parent.name == "initializations" and checkpoint.stem != mark:
                found.append(f"{checkpoint} has other weights than its name says: {mark}")
        for path in self._others.rglob("*"):
            if path.is_file() and (soups / path.relative_to(self._others)).read_bytes() != path.read_bytes():
                found.append(f"{path.relative_to(self._others)} of another run has changed")
        if find_records(soups):
            listed = {one.path for one in Ingredients.load(soups)}
            named = {path.with_name(read_record(path)["checkpoint"]) for path in find_records(soups)}
            if listed != named:
                found.append(f"ingredients that no record names: {sorted(map(str, listed ^ named))}")
        return found


def _lines(folder: Path) -> list[list[str]]:
    told = folder / "told"
    return [line.split() for line in told.read_text().splitlines()] if told.exists() else [[BEGUN]]


def _of_validation(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of training are of the last finished epoch, which a process that resumes has not seen."""
    return {name: value for name, value in metrics.items() if name.startswith("val")}


def _weights(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, map_location="cpu")["state_dict"]


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _well(outcome: processes.Outcome) -> processes.Outcome:
    if outcome.error:
        raise RuntimeError(f"What was not disturbed failed:\n{outcome.error}")
    return outcome


def recordings(scratch: Path, only: str = "") -> Sequence[Recording]:
    """All scenarios of recording whose names have a text in them."""
    cases = {
        Fit(): None,
        Fit(lr=0.1, top_k=-1): Fit(lr=0.3, run="another"),
        Fit(lr=0.3, module="normalized", top_k=1): None,
    }
    return [Recording(case, scratch / case.name, others) for case, others in cases.items() if only in case.name]
