"""Soup: a mixture that was served, with its scores, its trace and its weights on disk."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_soups.files import replacing
from lightning_soups.ingredients import Ingredient
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.records import SOUP_KEY, versions
from lightning_soups.score import Score
from lightning_soups.trace import Question
from lightning_soups.weights import read_checkpoint

_FORMAT = 2


class Soup:
    """The result of cooking. Saved, it is an ordinary Lightning checkpoint that also carries its provenance.

    Args:
        mixture: What the recipe served.
        score: Its held-out score.
        monitor: The metric that the score is a value of.
        metrics: Every metric that was logged when the mixture was evaluated.
        trace: What the recipe asked, in order.
        recipe: Name of the recipe's class.
        options: What the recipe was told.
        candidates: All the ingredients that the recipe could choose from.
        caveats: Why the scores may not be exact, in words; empty when they are.
        path: Where the soup is saved; None while it is not.
        batch_norm: Which running statistics of BatchNorm layers it was scored with and is saved with: those of its
            members ``averaged``, or ``recalculated`` on training batches; None when there was no choice.
        statistics: The recalculated ones, by name; they replace what would be averaged.
    """

    def __init__(
        self,
        mixture: Mixture,
        score: Score,
        *,
        monitor: str,
        metrics: Mapping[str, float],
        trace: Iterable[Question],
        recipe: str,
        options: Mapping[str, Any] | None = None,
        candidates: Iterable[Ingredient],
        caveats: Iterable[str] = (),
        path: Path | None = None,
        batch_norm: str | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.mixture = mixture
        self.score = score
        self.monitor = monitor
        self.metrics = dict(metrics)
        self.trace = tuple(trace)
        self.recipe = recipe
        self.options = dict(options or {})
        self.candidates = tuple(candidates)
        self.caveats = tuple(caveats)
        self.path = path
        self.batch_norm = batch_norm
        self._statistics = dict(statistics or {})

    @property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """The members of the soup, in the order in which they joined it."""
        return self.mixture.members

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights: read from :attr:`path` when saved, else averaged from the ingredients."""
        if self.path is not None:
            state_dict: dict[str, Tensor] = read_checkpoint(self.path)["state_dict"]
        else:
            state_dict = self._mixed()["state_dict"]
        return state_dict

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Lightning checkpoint, atomically; :attr:`path` then points to it.

        The ingredients are averaged, unless the soup is saved already: then the weights are those of :attr:`path`.

        Args:
            path: For example ``soup.ckpt``. An existing file is replaced. Folders are created.

        Raises:
            ValueError: An ingredient has gone, changed or cannot be read.
        """
        weights = self._mixed() if self.path is None else read_checkpoint(self.path)
        checkpoint = {**weights, SOUP_KEY: self._provenance()}
        path = Path(path)
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)
        self.path = path
        self._statistics.clear()  # they are in the file, and tensors do not outlive a spawned process

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Soup":
        """Read a soup's provenance from its checkpoint; the weights stay on disk until they are asked for.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a soup.
        """
        provenance = read_checkpoint(path).get(SOUP_KEY)
        if not isinstance(provenance, dict):
            raise ValueError(f"{str(path)!r} is a checkpoint but not a soup: it has no {SOUP_KEY!r} entry.")
        if provenance.get("format") != _FORMAT:
            raise ValueError(
                f"The soup {str(path)!r} has format {provenance.get('format')}; this version reads format {_FORMAT}."
                " Cook it again, or use the version of lightning-soups that wrote it."
            )
        candidates = [_ingredient(entry) for entry in provenance["candidates"]]
        known = [*candidates, *(_ingredient(entry) for entry in provenance["others"])]
        mode = provenance["mode"]
        return cls(
            _mixture(provenance["mixture"], known),
            Score(provenance["score"], mode),
            monitor=provenance["monitor"],
            metrics=provenance["metrics"],
            trace=[
                Question(**{**row, "mixture": _mixture(row["mixture"], known), "score": Score(row["score"], mode)})
                for row in provenance["trace"]
            ],
            recipe=provenance["recipe"],
            options=provenance["options"],
            candidates=candidates,
            caveats=provenance["caveats"],
            path=Path(path),
            batch_norm=provenance.get("batch_norm"),  # older soups have none
        )

    def __repr__(self) -> str:
        chosen = sum(member in self.candidates for member in self.mixture)
        share = f"{chosen} of {len(self.candidates)} ingredients"
        return f"Soup({self.recipe}, {share}, {self.monitor}={self.score})"

    def _mixed(self) -> dict[str, Any]:
        checkpoint = Mixer().mix(self.mixture)
        return {**checkpoint, "state_dict": {**checkpoint["state_dict"], **self._statistics}}

    def _provenance(self) -> dict[str, Any]:
        """Plain values only, so that the checkpoint loads with ``weights_only=True``."""
        mixtures = [self.mixture, *(row.mixture for row in self.trace)]
        others = [member for member in dict.fromkeys(itertools.chain(*mixtures)) if member not in self.candidates]
        index = {ingredient: number for number, ingredient in enumerate([*self.candidates, *others])}

        return {
            "format": _FORMAT,
            "recipe": self.recipe,
            "options": self.options,
            "monitor": self.monitor,
            "mode": self.score.mode,
            "score": self.score.value,
            "metrics": self.metrics,
            "candidates": [_entry(ingredient) for ingredient in self.candidates],
            "others": [_entry(ingredient) for ingredient in others],
            "mixture": _plain_mixture(self.mixture, index),
            "trace": [
                {**_fields(row), "mixture": _plain_mixture(row.mixture, index), "score": row.score.value}
                for row in self.trace
            ],
            "caveats": list(self.caveats),
            "batch_norm": self.batch_norm,
            "versions": versions(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def _plain_mixture(mixture: Mixture, index: Mapping[Ingredient, int]) -> dict[str, Any]:
    """Members as numbers, and their coefficients in the same order."""
    return {
        "members": [index[member] for member in mixture],
        "coefficients": list(mixture.coefficients.values()),
        "layers": {layer: list(own.values()) for layer, own in mixture.layers.items()},
    }


def _mixture(plain: Mapping[str, Any], known: Sequence[Ingredient]) -> Mixture:
    members = [known[number] for number in plain["members"]]
    layers = {layer: dict(zip(members, own, strict=True)) for layer, own in plain["layers"].items()}
    return Mixture(dict(zip(members, plain["coefficients"], strict=True)), layers)


def _fields(instance: Question | Ingredient) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in fields(instance)}


def _entry(ingredient: Ingredient) -> dict[str, Any]:
    return {**_fields(ingredient), "path": str(ingredient.path)}


def _ingredient(entry: dict[str, Any]) -> Ingredient:
    return Ingredient(**{**entry, "path": Path(entry["path"])})
