"""Weights-only Lightning checkpoints of the module that a trainer trains, written atomically.

Every process must call these functions, at the same point. When a file cannot be written they raise on all processes,
so that none waits for another.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from lightning_soups.agreed import agreed
from lightning_soups.content import content_hash
from lightning_soups.files import replacing
from lightning_soups.other_name import is_of_either_name
from lightning_soups.paths import AnyPath
from lightning_soups.weights.reading import unsafe_types
from lightning_soups.write_errors import explained


class Saved(NamedTuple):
    """What is known of a checkpoint that was saved.

    Args:
        refused: The types in it that cannot be read safely; nothing on processes that did not write it.
        sha256: Its :func:`~lightning_soups.content.content_hash`.
    """

    refused: Sequence[str] = ()
    sha256: str | None = None


def save_initialization(trainer: Trainer, state_dict: dict[str, Tensor], path: AnyPath) -> None:
    """Save the weights that a fit starts from.

    Without the module's ``on_save_checkpoint``, which Lightning never calls before training, and without what
    ``WeightAveraging`` has copied, which it does before the module's own ``setup``.

    Args:
        trainer: In a fit, before its first step.
        state_dict: The weights.
        path: The file to create.
    """
    checkpoint = {
        "state_dict": state_dict,
        "hyper_parameters": dict(trainer.lightning_module.hparams),
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),
    }
    _save(trainer, checkpoint, path)


def save_validated_weights(trainer: Trainer, path: AnyPath) -> Saved:
    """Save what ``trainer.save_checkpoint(weights_only=True)`` would, with the weights that were validated.

    Under ``WeightAveraging`` those are the averaged ones, which Lightning leaves out of weights-only checkpoints: it
    does not call the hook that puts them in. That is why the checkpoint is dumped by the private connector here.

    Args:
        trainer: In a fit.
        path: The file to create.

    Returns:
        What the process that wrote it knows of the file; other processes know nothing.
    """
    checkpoint: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it dynamically
        if is_of_either_name(callback, WeightAveraging):
            callback.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)
    for key in ("current_model_state", "averaging_state"):
        checkpoint.pop(key, None)
    return _save(trainer, checkpoint, path)


def _save(trainer: Trainer, checkpoint: dict[str, Any], path: AnyPath) -> Saved:
    strategy, stack = trainer.strategy, ExitStack()

    def begin() -> Path | None:
        return stack.enter_context(replacing(path)) if trainer.is_global_zero else None

    def save() -> None:
        assert temporary is not None
        with explained(path, temporary):
            strategy.save_checkpoint(checkpoint, temporary)

    def finish() -> Saved:
        saved = Saved() if own is None else Saved(unsafe_types(own), content_hash(own))
        stack.close()
        return saved

    with stack:
        own = agreed(strategy, begin)
        temporary = strategy.broadcast(own)
        agreed(strategy, save)  # only then is the file moved: several processes may write it
        return agreed(strategy, finish)
