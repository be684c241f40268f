"""Soup: a mixture that was served, with its scores, its trace and its weights on disk."""

import itertools
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_soups import outputs
from lightning_soups.adapters import write_adapter
from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.outputs.provenance import check_provenance
from lightning_soups.paths import AnyPath, any_path, named_path
from lightning_soups.plain_soup import (
    fields_of,
    ingredient_of,
    mixture_of,
    plain_ingredient,
    plain_mixture,
    plain_question,
    plain_selection,
)
from lightning_soups.records import SOUP_KEY, SUMMED_KEY, versions
from lightning_soups.score import Score
from lightning_soups.trace import Question
from lightning_soups.weights import WeightNames
from lightning_soups.weights.tied import tied_names

_FORMAT = 2


class Soup:
    """The result of cooking. Saved, it is an ordinary checkpoint (of any format) that also carries its provenance.

    Args:
        mixture: What the recipe served.
        score: Its held-out score.
        monitor: The metric that the score is a value of.
        metrics: Every metric that was logged when the mixture was evaluated.
        trace: What the recipe asked, in order.
        recipe: Name of the recipe's class.
        options: What the recipe was told.
        candidates: All the ingredients that the recipe could choose from.
        left_out: Ingredients that could not be used, each with its path, run and the reason.
        caveats: Why the scores may not be exact, in words; empty when they are.
        path: Where the soup is saved; None while it is not.
        batch_norm: Which running statistics of BatchNorm layers it was scored with and is saved with: those of its
            members ``averaged``, or ``recalculated`` on training batches; None when there was no choice.
        statistics: The recalculated ones, by name; they replace what would be averaged.
        weights: Which tensors of the ingredients it is mixed of; None for all.
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
        left_out: Iterable[LeftOut] = (),
        caveats: Iterable[str] = (),
        path: AnyPath | None = None,
        batch_norm: str | None = None,
        statistics: Mapping[str, Tensor] | None = None,
        weights: WeightNames | None = None,
    ) -> None:
        self.mixture = mixture
        self.score = score
        self.monitor = monitor
        self.metrics = dict(metrics)
        self.trace = tuple(trace)
        self.recipe = recipe
        self.options = dict(options or {})
        self.candidates = tuple(candidates)
        self.left_out = tuple(left_out)
        self.caveats = tuple(caveats)
        self.path = path
        self.batch_norm = batch_norm
        self.weights = weights or WeightNames()
        self._statistics = dict(statistics or {})

    @property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """The members of the soup, in the order in which they joined it."""
        return self.mixture.members

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights: read from :attr:`path` when saved, else averaged from the ingredients."""
        state_dict: dict[str, Tensor] = self._weights()["state_dict"]
        return state_dict

    def save(
        self,
        path: str | os.PathLike[str] | AnyPath,
        module: nn.Module | None = None,
        submodule: str | None = None,
        mixer: Mixer | None = None,
    ) -> None:
        """Write the soup in the format that the path's name means; :attr:`path` then points to it.

        The ingredients are averaged, unless the soup is saved already: then the weights are those of :attr:`path`. Each
        format holds them bit for bit, and where they come from.

        - ``soup.ckpt``: a Lightning checkpoint, the only format for ``load_from_checkpoint`` and ``ckpt_path``.
        - ``soup.pt``, ``soup.pth``: a state dict for ``torch.load(weights_only=True)``; ``soup.pt.json`` beside it.
        - ``soup.safetensors``: the same for ``safetensors``; tied tensors once, no extra state that is no tensor.
        - ``soup`` or ``soup.v2/``: a Hugging Face folder for ``from_pretrained``, with a model card.

        Files are replaced atomically. Of folders only those are replaced that a soup was saved in.

        Args:
            path: Where to. Folders above it are created.
            module: What the ingredients are checkpoints of: its Hugging Face submodule, anything with a ``config`` and
                a ``save_pretrained`` that takes a ``state_dict``, writes the folder. Files do not need it.
            submodule: The name of that submodule, when there are several; by default the outermost.
            mixer: What averages the ingredients; by default one that knows no module. Adapters need one that does.

        Raises:
            BadIngredientError: An ingredient is not what was recorded any more, or holds NaN.
            ValueError: An ingredient has gone or cannot be read; the path's suffix is none of a format;
                something else is in the way; or the format cannot hold the weights.
        """
        outputs.check(path, module, submodule)
        checkpoint = {**self._weights(mixer), SOUP_KEY: self._provenance()}
        outputs.write(checkpoint, path, module, submodule, source=self.path)
        self.path = any_path(path, "path")
        self._statistics.clear()  # they are in the file, and tensors do not outlive a spawned process

    def save_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Write a soup of LoRA adapters as one adapter, which does what the soup does.

        Its rank is the sum of its members' ranks. ``PeftModel.from_pretrained(base, folder)`` reads it.

        Args:
            folder: Is created; an adapter that is there is replaced.

        Raises:
            ValueError: The soup is not saved, or no soup of adapters whose config is known.
        """
        summed = None if self.path is None else outputs.read(self.path).get(SUMMED_KEY)
        if not isinstance(summed, dict):
            raise ValueError(
                f"{self!r} cannot be written as an adapter: only a soup of plain LoRA adapters that is saved as"
                " .ckpt can, cooked with"
                " adapters='updates', of adapter folders or of modules that hold one PeftModel with one adapter."
            )
        if summed["left_out"]:
            rank_zero_warn(
                "An adapter folder holds what peft wraps. Trained outside of it, and left out of"
                f" {os.fspath(folder)!r}: {summed['left_out']}."
            )
        write_adapter(folder, summed["config"], summed["state_dict"])

    @classmethod
    def load(cls, path: str | os.PathLike[str] | AnyPath) -> "Soup":
        """Read what a soup in any format says of itself; the weights stay on disk until they are asked for.

        Args:
            path: A file or folder that a soup was saved to.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ValueError: It is not a soup.
        """
        path = any_path(path, "path")
        provenance = outputs.read_provenance(path)
        if provenance.get("format") != _FORMAT:
            raise ValueError(
                f"The soup {str(path)!r} has format {provenance.get('format')}; this version reads format {_FORMAT}."
                " Cook it again, or use the version of lightning-soups that wrote it."
            )
        try:
            check_provenance(provenance)
            return cls._from_provenance(provenance, path)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"What the soup {str(path)!r} says of itself cannot be used: {reason}") from error

    @classmethod
    def _from_provenance(cls, provenance: Mapping[str, Any], path: AnyPath) -> "Soup":
        candidates = [ingredient_of(entry) for entry in provenance["candidates"]]
        known = [*candidates, *(ingredient_of(entry) for entry in provenance["others"])]
        mode = provenance["mode"]
        return cls(
            mixture_of(provenance["mixture"], known),
            Score(provenance["score"], mode),
            monitor=provenance["monitor"],
            metrics=provenance["metrics"],
            trace=[
                Question(**{**row, "mixture": mixture_of(row["mixture"], known), "score": Score(row["score"], mode)})
                for row in provenance["trace"]
            ],
            recipe=provenance["recipe"],
            options=provenance["options"],
            candidates=candidates,
            left_out=[
                LeftOut(named_path(one["path"]), one["run"], one["reason"], one["is_copy"])
                for one in provenance.get("left_out", [])  # older soups have none
            ],
            caveats=provenance["caveats"],
            path=path,
            batch_norm=provenance.get("batch_norm"),  # older soups have none, nor a selection
            weights=WeightNames(**provenance.get("weights", {})),
        )

    def __repr__(self) -> str:
        chosen = sum(member in self.candidates for member in self.mixture)
        share = f"{chosen} of {len(self.candidates)} ingredients"
        return f"Soup({self.recipe}, {share}, {self.monitor}={self.score})"

    def _weights(self, mixer: Mixer | None = None) -> dict[str, Any]:
        """A checkpoint: the averaged weights, and what else the ingredients' checkpoints hold."""
        if self.path is not None:
            return outputs.read(self.path)
        checkpoint = (mixer or Mixer(selection=self.weights)).mix(self.mixture)
        weights = checkpoint["state_dict"]
        tied = tied_names(weights)  # a shared layer's statistics are recalculated under one of its names
        recalculated = {name: self._statistics.get(tied.get(name, name), value) for name, value in weights.items()}
        return {**checkpoint, "state_dict": {**recalculated, **self._statistics}}

    def _provenance(self) -> dict[str, Any]:
        """Plain values only, so that the checkpoint loads with ``weights_only=True``."""
        mixtures = [self.mixture, *(row.mixture for row in self.trace)]
        candidates = frozenset(self.candidates)
        others = [member for member in dict.fromkeys(itertools.chain(*mixtures)) if member not in candidates]
        index = {ingredient: number for number, ingredient in enumerate([*self.candidates, *others])}

        return {
            "format": _FORMAT,
            "recipe": self.recipe,
            "options": self.options,
            "monitor": self.monitor,
            "mode": self.score.mode,
            "score": self.score.value,
            "metrics": self.metrics,
            "candidates": [plain_ingredient(ingredient) for ingredient in self.candidates],
            "others": [plain_ingredient(ingredient) for ingredient in others],
            "left_out": [
                {"path": str(one.path), "run": one.run, "reason": one.reason, "is_copy": one.is_copy}
                for one in self.left_out
            ],
            "mixture": plain_mixture(self.mixture, index),
            "trace": [
                {**fields_of(row), "mixture": plain_question(row.mixture, index), "score": row.score.value}
                for row in self.trace
            ],
            "caveats": list(self.caveats),
            "batch_norm": self.batch_norm,
            "weights": plain_selection(self.weights),
            "versions": versions(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
