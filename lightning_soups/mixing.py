"""From a mixture to a checkpoint: opens ingredients and averages them."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_soups.adapters import AdaptedModule
from lightning_soups.fitting import Fitting
from lightning_soups.ingredients import INITIALIZATION, Ingredient
from lightning_soups.mixture import Mixture
from lightning_soups.opening import open_checkpoint
from lightning_soups.records import SOUP_KEY, SUMMED_KEY
from lightning_soups.weights import WeightNames, average, dots, inner_products
from lightning_soups.weights.averaging import StateDict, differences, write_average
from lightning_soups.weights.kinds import refuse_odd
from lightning_soups.weights.pages import MappedPages

# What belongs to one training run and means nothing for a mixture of several.
_TRAINING_STATE = (
    *("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "MixedPrecision"),
    *(SOUP_KEY, SUMMED_KEY),  # an ingredient may be a soup itself
    *("current_model_state", "averaging_state"),  # of WeightAveraging, as large as the weights
)


class Mixer:
    """Turns mixtures into checkpoints. Keeps opened ingredients memory-mapped, so asking again re-reads nothing.

    Args:
        adapted: Opens and mixes ingredients that are adapters; None when they are ordinary weights.
        selection: Which tensors of the ingredients to use, and what to call them.
        module: What they are checkpoints of; None when it is not known.
    """

    def __init__(
        self,
        adapted: AdaptedModule | None = None,
        selection: WeightNames | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self._adapted = adapted
        self._fitting = Fitting(selection or WeightNames(), module)
        self._opened: dict[Ingredient, dict[str, Any]] = {}
        self._files: list[Path] = []
        self._pages: tuple[int, MappedPages] | None = None
        self._warned_about_dtypes = False

    def mix(self, mixture: Mixture) -> dict[str, Any]:
        """Average a mixture's members.

        Members are summed in the order of their paths, so the same mixture gives the same bits however it came about.

        Args:
            mixture: What to mix.

        Returns:
            A Lightning checkpoint: the averaged ``state_dict`` and, from the first member that is not the
            initialization, the hyperparameters and whatever else its ``on_save_checkpoint`` put there.

        Raises:
            ValueError: A member cannot be read safely, or its tensors do not fit the others'.
        """
        # what on_load_checkpoint may ask for, which initializations were saved without
        first = min([*mixture, *self._opened], key=lambda member: member.run == INITIALIZATION)
        shell = {key: value for key, value in self._open(first).items() if key not in _TRAINING_STATE}
        arguments = (*self._arguments(mixture), self.release)
        if self._adapted is None:
            mixed = {"state_dict": self._fitting.complete(average(*arguments))}
        else:
            mixed = self._adapted.mix(*arguments)
        # a copy, because a module's on_load_checkpoint may take things out of it
        return {**deepcopy(shell), **mixed}

    def write(self, mixture: Mixture, out: Mapping[str, Tensor], device: torch.device) -> None:
        """Write a mixture's weights into tensors that exist, with the bits that :meth:`mix` gives.

        Args:
            mixture: What to mix.
            out: Where to write; it needs all names.
            device: Where to compute; it must support float64.

        Raises:
            ValueError: See :meth:`mix`.
        """
        writing = write_average if self._adapted is None else self._adapted.write
        writing(out, *self._arguments(mixture), device=device, release=self.release)

    def inner_products(
        self, ingredients: Sequence[Ingredient], origin: Ingredient, names: Iterable[str]
    ) -> dict[str, Tensor]:
        """See :func:`~lightning_soups.weights.inner_products`."""
        state_dicts = [self.state_dict(ingredient) for ingredient in ingredients]
        start = self.state_dict(origin)
        if self.holds_weights:
            return inner_products(state_dicts, start, names, self.release)
        result: dict[str, Tensor] = {}
        for name in names:  # updates are as large as their weights: of one weight at a time
            own = [{name: one[name]} for one in state_dicts]
            result.update(inner_products(own, {name: start[name]}, [name], self.release))
        return result

    def dots(self, direction: Mapping[str, Tensor], ingredients: Sequence[Ingredient]) -> dict[str, Tensor]:
        """See :func:`~lightning_soups.weights.dots`."""
        state_dicts = [self.state_dict(ingredient) for ingredient in ingredients]
        if self.holds_weights:
            return dots(direction, state_dicts, self.release)
        result: dict[str, Tensor] = {}
        for name, along in direction.items():
            result.update(dots({name: along}, [{name: one[name]} for one in state_dicts], self.release))
        return result

    def open_all(self, ingredients: Iterable[Ingredient]) -> None:
        """Open ingredients, so that one that cannot be used is found before any work is done.

        Raises:
            ValueError: One cannot be read safely, its tensors do not fit the first one's, or the selection matches
                nothing in any.
        """
        for ingredient in ingredients:
            self._open(ingredient)
        if self._adapted is None:
            self._fitting.check()

    @property
    def holds_weights(self) -> bool:
        """Whether ingredients are weights in files, and not adapters, whose updates are computed when asked for."""
        return self._adapted is None

    def state_dict(self, ingredient: Ingredient) -> StateDict:
        """An ingredient's own weights, memory-mapped; of an adapter its updates.

        Raises:
            ValueError: It cannot be read safely, or its tensors do not fit those of the ingredients opened before.
        """
        state_dict: StateDict = self._open(ingredient)["state_dict"]
        return state_dict

    def _arguments(self, mixture: Mixture) -> tuple[list[StateDict], list[float], dict[str, list[float]]]:
        """Members in the order of their paths, and their coefficients: in general, and of tensors with their own."""
        members = sorted(mixture, key=lambda ingredient: ingredient.place)
        state_dicts: list[StateDict] = [self.state_dict(member) for member in members]
        coefficients = mixture.coefficients
        general = [coefficients[member] for member in members]
        by_name: dict[str, list[float]] = {}
        if mixture.layers:
            for name in state_dicts[0]:
                own = mixture.coefficients_of(name)
                by_name[name] = [own[member] for member in members]
        return state_dicts, general, by_name

    def release(self, tensor: Tensor) -> None:
        """Give the memory of what was read back, so that it does not grow with the number of ingredients."""
        if self._pages is None or self._pages[0] != len(self._opened):
            self._pages = len(self._opened), MappedPages(self._files)
        self._pages[1].release(tensor)

    def _warn_about_dtypes(self, first: Ingredient, other: Ingredient, own: StateDict, others: StateDict) -> None:
        """Say once that ingredients were saved in different precision: the soup has that of one of them."""
        differing = [name for name, one in own.items() if isinstance(one, Tensor) and one.dtype != others[name].dtype]
        if differing and not self._warned_about_dtypes:
            self._warned_about_dtypes = True
            dtypes = own[differing[0]].dtype, others[differing[0]].dtype
            rank_zero_warn(
                f"The ingredients differ in dtype: {differing[0]!r} is {dtypes[0]} in {str(first.path)!r} and"
                f" {dtypes[1]} in {str(other.path)!r}. A mixture has the dtypes of its first member, in the order of"
                " the paths."
            )

    def _open(self, ingredient: Ingredient) -> dict[str, Any]:
        if ingredient not in self._opened:
            if self._adapted is not None:
                self._opened[ingredient] = self._adapted.open(ingredient)
                return self._opened[ingredient]
            checkpoint, files = open_checkpoint(ingredient.path)
            fitted = self._fitting.fit(checkpoint["state_dict"], repr(str(ingredient.path)), checkpoint)
            refuse_odd(fitted, f"The ingredient {str(ingredient.path)!r}")
            checkpoint = {**checkpoint, "state_dict": fitted}
            for first, opened in list(self._opened.items())[:1]:
                if problems := differences(opened["state_dict"], checkpoint["state_dict"]):
                    raise ValueError(
                        f"The ingredients do not fit together. First: {str(first.path)!r}. Second:"
                        f" {str(ingredient.path)!r}. All ingredients need the same architecture.\n"
                        + "\n".join(problems)
                    )
                self._warn_about_dtypes(first, ingredient, opened["state_dict"], fitted)
            self._opened[ingredient] = checkpoint
            self._files += files
        return self._opened[ingredient]
