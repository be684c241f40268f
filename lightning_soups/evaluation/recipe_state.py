"""A recipe's progress on disk, so that a cook that was interrupted resumes."""

import json
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import Strategy
from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_soups.files import write_json
from lightning_soups.paths import AnyPath


class RecipeState:
    """One JSON file, written by rank zero, valid for one recipe with one set of ingredients.

    Args:
        path: The file.
        identity: What must be the same for the state to be of use, such as the recipe's options; what JSON holds.
        strategy: Tells the other processes what rank zero has read.
    """

    def __init__(self, path: AnyPath, identity: Mapping[str, Any], strategy: Strategy) -> None:
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        self._strategy = strategy
        self._states: dict[str, Any] | None = None

    def load(self, key: str) -> dict[str, Any] | None:
        """What was saved last under a key; None when there is nothing, or it belongs to something else."""
        if self._states is None:
            own = self._read() if self._strategy.is_global_zero else None
            self._states = self._strategy.broadcast(own) or {}
            if self._states:
                rank_zero_info(f"Resuming from {str(self._path)!r}.")
        state: dict[str, Any] | None = self._states.get(key)
        return state

    def save(self, key: str, state: Mapping[str, Any]) -> None:
        """Replace what was saved before under a key."""
        self._states = {**(self._states or {}), key: state}
        if self._strategy.is_global_zero:
            write_json(self._path, {"identity": self._identity, "states": self._states})

    def forget(self) -> None:
        """What was saved is not needed any more."""
        if self._strategy.is_global_zero:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("identity") != self._identity:
            return None
        states: dict[str, Any] | None = content.get("states")
        return states
