"""From a mixture to a checkpoint: opens ingredients and averages them."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from lightning_soups.ingredients import Ingredient
from lightning_soups.mixture import Mixture
from lightning_soups.weights import average, read_checkpoint
from lightning_soups.weights.averaging import differences

# What belongs to one training run and means nothing for a mixture of several.
_TRAINING_STATE = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "MixedPrecision")


class Mixer:
    """Turns mixtures into checkpoints. Keeps opened ingredients memory-mapped, so asking again re-reads nothing."""

    def __init__(self) -> None:
        self._opened: dict[Ingredient, dict[str, Any]] = {}

    def mix(self, mixture: Mixture) -> dict[str, Any]:
        """Average a mixture's members.

        Members are summed in the order of their paths, so the same mixture gives the same bits however it came about.

        Args:
            mixture: What to mix.

        Returns:
            A Lightning checkpoint: the averaged ``state_dict`` and, from the first member, the hyperparameters and
            whatever else its ``on_save_checkpoint`` put there.

        Raises:
            ValueError: A member cannot be read safely, or its tensors do not fit the others'.
        """
        members = sorted(mixture, key=lambda ingredient: ingredient.path)
        state_dicts = [self._open(member)["state_dict"] for member in members]
        shell = {key: value for key, value in self._open(mixture.members[0]).items() if key not in _TRAINING_STATE}
        # a copy, because a module's on_load_checkpoint may take things out of it
        coefficients = [mixture.coefficients[member] for member in members]
        return {**deepcopy(shell), "state_dict": average(state_dicts, coefficients)}

    def open_all(self, ingredients: Iterable[Ingredient]) -> None:
        """Open ingredients, so that one that cannot be used is found before any work is done.

        Raises:
            ValueError: One cannot be read safely, or its tensors do not fit the first one's.
        """
        for ingredient in ingredients:
            self._open(ingredient)

    def state_dict(self, ingredient: Ingredient) -> dict[str, Any]:
        """An ingredient's own weights, memory-mapped.

        Raises:
            ValueError: It cannot be read safely, or its tensors do not fit those of the ingredients opened before.
        """
        state_dict: dict[str, Any] = self._open(ingredient)["state_dict"]
        return state_dict

    def _open(self, ingredient: Ingredient) -> dict[str, Any]:
        if ingredient not in self._opened:
            checkpoint = read_checkpoint(ingredient.path)
            for first, opened in list(self._opened.items())[:1]:
                if problems := differences(opened["state_dict"], checkpoint["state_dict"]):
                    raise ValueError(
                        f"The ingredients do not fit together. First: {str(first.path)!r}. Second:"
                        f" {str(ingredient.path)!r}. All ingredients need the same architecture.\n"
                        + "\n".join(problems)
                    )
            self._opened[ingredient] = checkpoint
        return self._opened[ingredient]
