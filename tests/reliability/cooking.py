"""Rounds in which a cook is killed, and what must hold of its output and of the next attempt."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_soups import Ingredients, Soup
from lightning_soups.evaluation.journal import journal_of
from lightning_soups.mixture import Mixture
from tests.helpers import mean, reference_greedy
from tests.reliability import processes
from tests.reliability.reading import readable
from tests.reliability.victims import BATCH, MODULES, NOTED, SAVED, Cooking, Fit, Ordered, cook, described, fit

# with which the greedy soup has several members, and leaves some out
LEARNING_RATES = {"plain": (0.01, 0.3, 0.015, 0.02, 0.5, 0.1), "normalized": (0.02, 0.05, 0.1, 0.5, 0.2, 1.5)}


class Kitchen:
    """Ingredients that cooks are killed over: a directory that :class:`Fit` has filled.

    Args:
        module: A key of ``MODULES``.
        scratch: A folder for it.
    """

    def __init__(self, module: str, scratch: Path) -> None:
        self.module, self.soups = module, scratch / "soups"
        for number, lr in enumerate(LEARNING_RATES[module]):
            case = Fit(lr, module, top_k=1, epochs=3, run=f"run-{number}")
            outcome = processes.run(fit, case, self.soups, scratch / "told", scratch / f"training-{number}")
            if outcome.error:
                raise RuntimeError(outcome.error)
        self.content = _content(self.soups)


class Cooked:
    """Kills a cook, looks at what is left, and cooks again.

    Args:
        case: The cook.
        kitchen: Its ingredients.
        scratch: A folder for what an undisturbed cook leaves.
    """

    def __init__(self, case: Cooking, kitchen: Kitchen, scratch: Path) -> None:
        self.name = case.name
        self._case, self._kitchen = case, kitchen
        self._earlier: dict[str, Any] | None = None
        self._first = scratch / "first"
        shutil.copytree(kitchen.soups, self._first / "soups")
        if case.before:
            older = replace(case, recipe="greedy" if case.recipe == "uniform" else "uniform")
            self._earlier = _well(processes.run(cook, older, self._first / "soups", scratch / "work")).value
        folder = scratch / "undisturbed"
        self.prepare(folder)
        outcome = _well(self.victim(folder))
        self.steps, self.seconds, self._wanted = outcome.steps, outcome.seconds, outcome.value
        self._undisturbed = folder
        # what a kill may cost: the question that was being answered, and a pass to compare the others with again; a
        # step of learning, with the loss that is kept back, takes less than a pass; the statistics of the soup
        (work,) = _work(folder)
        longest = max(map(len, work.replace(SAVED, NOTED).split(NOTED)))
        statistics = len(Ordered(batch_size=16).train_dataloader()) if case.module == "normalized" else 0
        self._lost = (2 + (case.recipe == "learned")) * longest + statistics
        self._names = set(_content(folder / "soups"))
        if wrong := _well(processes.run(self._check_against_plain_loops, folder)).value:
            raise AssertionError(f"{self.name}, undisturbed: {wrong}")

    def prepare(self, folder: Path) -> None:
        """Make the folder of a round."""
        shutil.copytree(self._first, folder)

    def victim(self, folder: Path, kill: processes.Kill | None = None) -> processes.Outcome:
        """Cook, or go on cooking."""
        soups = folder / "soups"
        return processes.run(cook, self._case, soups, folder / "work", root=soups, kill=kill)

    def check(self, folder: Path) -> list[str]:
        """What is wrong after a kill."""
        found = self._look(folder)
        path = folder / "soups" / "soups" / self._case.output
        ended = not found and path.exists() and self._complete(path) and not journal_of(path).exists()
        if ended and _same(described(Soup.load(path)), self._wanted):
            (folder / "work").write_text("")  # it was done: what runs next is another cook
        return found

    def _look(self, folder: Path) -> list[str]:
        soups = folder / "soups"
        found = readable(soups)
        content = _content(soups)
        found += [
            f"{name} was an ingredient's and has changed or gone"
            for name, value in self._kitchen.content.items()
            if content.get(name) != value
        ]
        path = soups / "soups" / self._case.output
        if not path.exists() or not self._complete(path):
            if self._earlier is not None and path.suffix != ".pt":
                found.append(f"the earlier soup {path} is lost")
            return found
        soup = described(Soup.load(path))
        if not (_same(soup, self._wanted) or (self._earlier is not None and _same(soup, self._earlier))):
            found.append(f"{path} is neither the new soup nor an earlier one: {soup}")
        return found

    def check_resumed(self, folder: Path, value: Any) -> list[str]:
        """What is wrong when the cook has gone on to its end."""
        found = self._look(folder)
        if not _same(value, self._wanted):
            found += [
                f"{name} after resuming: {value[name]}, undisturbed: {expected}"
                for name, expected in self._wanted.items()
                if value[name] != expected
            ]
        path = folder / "soups" / "soups" / self._case.output
        if not path.exists():
            return [*found, "there is no output"]
        if not _same(described(Soup.load(path)), self._wanted):
            found.append(f"the output is another soup than the undisturbed one: {described(Soup.load(path))}")
        if surplus := set(_content(folder / "soups")) ^ self._names:
            found.append(f"leftovers or losses after resuming: {sorted(surplus)}")
        return [*found, *self._check_against_plain_loops(folder), *self._check_work(folder)]

    def _complete(self, path: Path) -> bool:
        """Whether all files of an output are there; a ``.pt`` is complete when the file beside it is."""
        return path.suffix != ".pt" or path.with_name(f"{path.name}.json").exists()

    def _check_work(self, folder: Path) -> list[str]:
        """No finished evaluation is made again: all processes together have finished what one would have."""
        found = []
        lines, (once,) = _work(folder), _work(self._undisturbed)
        for what, character in (("evaluations", NOTED), ("states of the recipe", SAVED)):
            finished = [line.count(character) for line in lines]
            if sum(finished) > once.count(character):
                found.append(f"{finished} {what} were finished, undisturbed {once.count(character)}")
        seen, allowed = [line.count(BATCH) for line in lines], once.count(BATCH) + (len(lines) - 1) * self._lost
        if sum(seen) > allowed:
            found.append(f"{seen} batches were seen, undisturbed {once.count(BATCH)}: at most {allowed} are needed")
        return found

    def _check_against_plain_loops(self, folder: Path) -> list[str]:
        """Design invariants 1, 2 and 3, each against a loop of its own."""
        path = folder / "soups" / "soups" / self._case.output
        soup, found = Soup.load(path), []
        weights = soup.state_dict()
        ingredients = list(Ingredients.load(folder / "soups"))
        singles = [_weights(one.path) for one in ingredients]
        if soup.score.value != pytest.approx(score := self._evaluate(weights), abs=1e-6):
            found.append(f"the score {soup.score.value} is not what a plain loop finds: {score}")
        recalculated = (
            ("running_mean", "running_var", "num_batches_tracked") if soup.batch_norm == "recalculated" else ()
        )
        statistics = [name for name in weights if name.endswith(recalculated)]
        coefficients = soup.mixture.coefficients
        members = [one for one in ingredients if one in coefficients]
        chosen = [singles[ingredients.index(one)] for one in members]
        if soup.mixture == Mixture.uniform(members):
            expected = mean(chosen)
        else:
            expected = _weighted(chosen, [coefficients[one] for one in members])
        for name, tensor in weights.items():
            if name not in statistics and not torch.equal(tensor, expected[name]):
                found.append(f"{name} is not the average of the members, rounded once")
        if self._case.recipe == "greedy" and not statistics:
            numbers, scores = reference_greedy(singles, self._evaluate)
            if [ingredients[number] for number in numbers] != list(soup.ingredients):
                found.append(f"greedy chose {soup.ingredients}, the reference {numbers}")
            if any(soup.score.value < single - 1e-6 for single in scores[: len(singles)]):
                found.append("the greedy soup is worse than the best ingredient")
        return found

    def _evaluate(self, state_dict: dict[str, Tensor]) -> float:
        module = MODULES[self._case.module]()
        module.load_state_dict(state_dict)
        module.eval()
        inputs, labels = Ordered().val_dataloader().dataset.tensors
        with torch.no_grad():
            return (module(inputs).argmax(dim=1) == labels).double().mean().item()


def _weighted(members: Sequence[dict[str, Tensor]], coefficients: Sequence[float]) -> dict[str, Tensor]:
    result = {}
    for name, first in members[0].items():
        if first.is_floating_point():
            terms = [c * one[name].double() for c, one in zip(coefficients, members, strict=True)]
            result[name] = torch.stack(terms).sum(dim=0).to(first.dtype)
        else:
            result[name] = first
    return result


def _same(soup: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare soups; how a resumed cook rejects a candidate, early or not, may differ, but never what it decides."""
    same_rows = len(soup["asked"]) == len(other["asked"]) and all(
        one[:-1] == another[:-1] and (one[-1] == another[-1] or None in (one[-1], another[-1]))
        for one, another in zip(soup["asked"], other["asked"], strict=True)
    )
    return same_rows and all(soup[name] == other[name] for name in soup.keys() & other.keys() - {"asked"})


def _work(folder: Path) -> list[str]:
    return (folder / "work").read_text().split("\n")[1:]


def _weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True, map_location="cpu")["state_dict"]


def _content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _well(outcome: processes.Outcome) -> processes.Outcome:
    if outcome.error:
        raise RuntimeError(f"What was not disturbed failed:\n{outcome.error}")
    return outcome


def cooks(scratch: Path, only: str = "") -> Sequence[Cooked]:
    """All scenarios of cooking whose names have a text in them: the recipes, formats, an earlier soup or none."""
    cases = [
        Cooking("greedy", "soup.ckpt"),
        Cooking("greedy", "soup.safetensors", "normalized", before=True),
        Cooking("pruned", "soup.pt", before=True),
        Cooking("learned", "soup.ckpt", before=True),
        Cooking("uniform", "soup", before=True),
        Cooking("uniform", "soup", before=True, exchange=False),
        Cooking("greedy", "soup", "normalized", options=(("batch_norm", "recalculate_final"),)),
    ]
    cases = [case for case in cases if only in case.name]
    kitchens = {name: Kitchen(name, scratch / name) for name in {case.module for case in cases}}
    return [Cooked(case, kitchens[case.module], scratch / case.name) for case in cases]
