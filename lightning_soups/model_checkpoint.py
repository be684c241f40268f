"""What Lightning's ``ModelCheckpoint`` left in the checkpoints that it wrote: the score that each was kept for."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from torch import Tensor

from lightning_soups.paths import AnyPath
from lightning_soups.score import Mode, validate_mode


class KeptFor(NamedTuple):
    """Why a checkpoint was kept: the monitored metric, which direction is better, and its value then."""

    monitor: str
    mode: Mode
    value: float


def kept_for(checkpoint: Mapping[str, Any], path: AnyPath) -> KeptFor | None:
    """Read the score that a checkpoint was kept for.

    The state that the callback saves has the scores of the best files by path. Folders may have moved since, so the
    file's name is looked up. The direction is only in the name under which the state is saved, ``state_key``.

    Args:
        checkpoint: What the file holds.
        path: The file.

    Returns:
        None when no ``ModelCheckpoint`` with a monitor wrote it, it has another name now, or it has weights only.
    """
    states = checkpoint.get("callbacks")
    for key, state in states.items() if isinstance(states, Mapping) else ():
        mode = re.search(r"'mode': '(min|max)'", str(key))
        if mode is None or not isinstance(state, Mapping) or not isinstance(state.get("monitor"), str):
            continue
        best = state.get("best_k_models")
        for kept, value in best.items() if isinstance(best, Mapping) else ():
            is_number = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
            if isinstance(kept, str) and is_number and PurePath(kept).name == path.name:
                return KeptFor(state["monitor"], validate_mode(mode.group(1)), float(value))
    return None
