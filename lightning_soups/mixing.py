"""From a mixture to a checkpoint: opens ingredients and averages them."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_soups.adapters import AdaptedModule
from lightning_soups.adapters.updates import AdapterUpdates
from lightning_soups.bad_ingredients import BadIngredientError, LeftOut, reason_of
from lightning_soups.checking import ContentChecks
from lightning_soups.fitting import Fitting
from lightning_soups.ingredient import INITIALIZATION, Ingredient
from lightning_soups.likeness import copies, tell_dtypes, unlike
from lightning_soups.mixture import Mixture
from lightning_soups.opening import open_checkpoint
from lightning_soups.records import SOUP_KEY, SUMMED_KEY
from lightning_soups.weights import WeightNames, average, dots, inner_products
from lightning_soups.weights.averaging import StateDict, differences, whole, write_average
from lightning_soups.weights.finite import not_finite
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

    Whatever uses the weights of an ingredient comes through here, where its content is checked before the first use.

    Args:
        adapted: Opens and mixes ingredients that are adapters; None when they are ordinary weights.
        selection: Which tensors of the ingredients to use, and what to call them.
        module: What they are checkpoints of; None when it is not known.
        checks: Of the ingredients' content; by default new ones.
    """

    def __init__(
        self,
        adapted: AdaptedModule | None = None,
        selection: WeightNames | None = None,
        module: nn.Module | None = None,
        checks: ContentChecks | None = None,
    ) -> None:
        self._adapted = adapted
        self._fitting = Fitting(selection or WeightNames(), module)
        self._module = module
        self.checks = ContentChecks() if checks is None else checks
        self._opened: dict[Ingredient, dict[str, Any]] = {}
        self._files: dict[Ingredient, list[Path]] = {}
        self._pages: tuple[int, MappedPages] | None = None

    def mix(self, mixture: Mixture) -> dict[str, Any]:
        """Average a mixture's members.

        Members are summed in the order of their paths, so the same mixture gives the same bits however it came about.

        Args:
            mixture: What to mix.

        Returns:
            A Lightning checkpoint: the averaged ``state_dict`` and, from the first member that is not the
            initialization, the hyperparameters and whatever else its ``on_save_checkpoint`` put there.

        Raises:
            BadIngredientError: The content of a member is damaged, see :meth:`problem`.
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

    def write(
        self,
        mixture: Mixture,
        out: Mapping[str, Tensor],
        device: torch.device,
        part: Callable[[StateDict], StateDict] = whole,
    ) -> None:
        """Write a mixture's weights into tensors that exist, with the bits that :meth:`mix` gives.

        Args:
            mixture: What to mix.
            out: Where to write; it needs all names.
            device: Where to compute; it must support float64.
            part: Takes the part of each member that is mixed, of the shapes of ``out``.

        Raises:
            ValueError: See :meth:`mix`.
        """
        writing = write_average if self._adapted is None else self._adapted.write
        state_dicts, coefficients, by_name = self._arguments(mixture)
        members = [part(one) for one in state_dicts]
        writing(out, members, coefficients, by_name, device=device, release=self.release)

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

    def open_all(self, ingredients: Iterable[Ingredient]) -> list[LeftOut]:
        """Open ingredients, so that those that cannot be used are found before any work is done.

        Returns:
            Those that cannot be read safely, are of another architecture than the rest, or have the weights of an
            earlier one. They are closed again.

        Raises:
            ValueError: The selection matches nothing in any.
        """
        known = list(dict.fromkeys(ingredients))
        bad: dict[Ingredient, LeftOut] = {}
        for ingredient in known:
            try:
                self._read(ingredient)
            except Exception as error:  # whatever is wrong with one file, the others may be all right
                bad[ingredient] = LeftOut(ingredient.path, ingredient.run, reason_of(error))
        good = [one for one in known if one not in bad]
        if self._adapted is None and good:
            own = {one: self.names_and_shapes(one) for one in good}
            odd = unlike(own, self._fitting.module_layout)
            bad |= {one: entry for entry in odd for one in own if one.path == entry.path}
            good = [one for one in good if one not in bad]
            tell_dtypes({one: own[one] for one in good})
            self._fitting.check()
        twice = copies({one: self._tensors(one) for one in good})
        bad |= {one: entry for entry in twice for one in good if one.path == entry.path}
        for ingredient in bad:
            self.close(ingredient)
        return list(bad.values())

    def close(self, ingredient: Ingredient) -> None:
        """Forget an ingredient that is left out."""
        self._opened.pop(ingredient, None)
        self._files.pop(ingredient, None)
        self._pages = None

    def problem(self, ingredient: Ingredient) -> str | None:
        """Check the content of an ingredient, unless that was done before.

        Returns:
            Why it must not be used, in words: its content is not what was recorded, it was changed since it was opened,
            it cannot be read any more, or a weight is no finite number. None when all is well.

        Raises:
            ValueError: It cannot be read safely, or its tensors do not fit those of the ingredients opened before.
        """
        self._open(ingredient)
        return self.checks.problem(
            ingredient, lambda: not_finite(self._tensors(ingredient), self._parameters(ingredient), self.release)
        )

    def names_and_shapes(self, ingredient: Ingredient) -> StateDict:
        """An ingredient's weights before their content has been checked: to compare, never to compute with.

        Raises:
            ValueError: See :meth:`state_dict`.
        """
        state_dict: StateDict = self._open(ingredient)["state_dict"]
        return state_dict

    @property
    def holds_weights(self) -> bool:
        """Whether ingredients are weights in files, and not adapters, whose updates are computed when asked for."""
        return self._adapted is None

    def state_dict(self, ingredient: Ingredient) -> StateDict:
        """An ingredient's own weights, memory-mapped; of an adapter its updates.

        Raises:
            BadIngredientError: Its content is damaged, see :meth:`problem`.
            ValueError: It cannot be read safely, its tensors do not fit those of the ingredients opened before, or
                somebody has written into its file since.
        """
        if (reason := self.problem(ingredient)) is not None:
            raise BadIngredientError([LeftOut(ingredient.path, ingredient.run, reason)])
        self.checks.check_unchanged(ingredient, self._files.get(ingredient, ()))
        return self.names_and_shapes(ingredient)

    def complete(self, state_dict: StateDict) -> StateDict:
        """An ingredient's weights and what a mixture has besides, by :meth:`state_dict`."""
        return state_dict if self._adapted is not None else self._fitting.complete(dict(state_dict))

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
        pages = self._pages  # another thread may forget it
        if pages is None or pages[0] != len(self._opened):
            files = [file for own in list(self._files.values()) for file in own]
            pages = self._pages = len(self._opened), MappedPages(files)
        pages[1].release(tensor)

    def _open(self, ingredient: Ingredient) -> dict[str, Any]:
        if ingredient not in self._opened:
            known = list(self._opened)
            opened = self._read(ingredient)
            if known and self._adapted is None:
                first = self._opened[known[0]]["state_dict"]
                if problems := differences(first, opened["state_dict"]):
                    self.close(ingredient)
                    raise ValueError(
                        f"The ingredients do not fit together. First: {str(known[0].path)!r}. Second:"
                        f" {str(ingredient.path)!r}. All ingredients need the same architecture.\n"
                        + "\n".join(problems)
                    )
        return self._opened[ingredient]

    def _read(self, ingredient: Ingredient) -> dict[str, Any]:
        if ingredient in self._opened:
            return self._opened[ingredient]
        self.checks.opened(ingredient)
        if self._adapted is not None:
            self._opened[ingredient] = self._adapted.open(ingredient)
            return self._opened[ingredient]
        checkpoint, files = open_checkpoint(ingredient.path)
        fitted = self._fitting.fit(checkpoint["state_dict"], repr(str(ingredient.path)), checkpoint)
        refuse_odd(fitted, f"The ingredient {str(ingredient.path)!r}")
        self._files[ingredient] = files
        self._opened[ingredient] = {**checkpoint, "state_dict": fitted}
        return self._opened[ingredient]

    def _tensors(self, ingredient: Ingredient) -> Mapping[str, Any]:
        """What an ingredient's file holds; of an adapter its factors, and not the updates that they make."""
        state_dict = self.names_and_shapes(ingredient)
        return state_dict.in_the_file() if isinstance(state_dict, AdapterUpdates) else state_dict

    def _parameters(self, ingredient: Ingredient) -> Container[str]:
        """The names of an ingredient's tensors that are parameters, as far as that is known."""
        if self._adapted is not None:
            return self._tensors(ingredient).keys()
        named = [] if self._module is None else self._module.named_parameters(remove_duplicate=False)
        return {name for name, _ in named}
