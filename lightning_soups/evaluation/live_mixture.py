"""Making the live module a mixture: of checked members, read ahead, with the running statistics that it should have."""

import itertools
from collections.abc import Iterable, Sequence

from lightning_soups.bad_ingredients import BadIngredientError
from lightning_soups.evaluation.agreement import damaged
from lightning_soups.evaluation.batch_norm import RunningStatistics
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.live_weights import LiveWeights
from lightning_soups.evaluation.module_state import UnsavedState
from lightning_soups.evaluation.staging import Staging
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture


class LiveMixture:
    """What the module that is being evaluated is made of.

    Every process must call the methods, at the same points.

    Args:
        loop: The kept loop, running.
        mixer: Opens and mixes ingredients.
        staging: Reads ingredients ahead.

    Attributes:
        statistics: What recalculates running statistics; None averages them.
    """

    def __init__(self, loop: KeptLoop, mixer: Mixer, staging: Staging) -> None:
        self._loop = loop
        self._mixer = mixer
        self._staging = staging
        self._weights = LiveWeights(loop.trainer, mixer, staging)
        self._unsaved = UnsavedState(loop.trainer.lightning_module)
        self._sound: set[Ingredient] = set()
        self._following: dict[Ingredient, Ingredient] = {}
        self.statistics: RunningStatistics | None = None
        loop.before_reading = staging.wait

    def expect(self, order: Sequence[Ingredient]) -> None:
        """Read ingredients ahead in this order."""
        self._following = dict(itertools.pairwise(order))

    def check(self, ingredients: Iterable[Ingredient]) -> None:
        """Check ingredients before their first use; all processes find the same.

        Raises:
            BadIngredientError: What some hold is damaged.
        """
        fresh = [one for one in dict.fromkeys(ingredients) if one not in self._sound]
        if not fresh:
            return
        if bad := damaged(self._loop, self._mixer, fresh):
            raise BadIngredientError(bad)
        self._sound.update(fresh)

    def write(self, mixture: Mixture) -> None:
        """Make the live module a mixture, with averaged running statistics."""
        self.check(mixture)
        self._unsaved.restore(self._loop.trainer.lightning_module)
        self._weights.write(mixture)
        if following := self._following.get(mixture.members[-1]):
            self._staging.stage(following)

    def prepare(self, mixture: Mixture, recalculate: bool | None = None) -> None:
        """Make the live module a mixture, with the statistics that recipes see, or else as asked."""
        self.write(mixture)
        if self.statistics is not None and (self.statistics.every if recalculate is None else recalculate):
            self.statistics.write(mixture)
            self._unsaved.restore(self._loop.trainer.lightning_module)
