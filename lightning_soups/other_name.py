"""``pytorch_lightning``, Lightning's other import name: the same code once more, whose classes are others.

A ``Trainer`` of one name refuses modules of the other. Their checkpoints are alike, and ``SoupCallback`` calls nothing
that differs.
"""

import sys
from importlib.metadata import version

from lightning.fabric.utilities.exceptions import MisconfigurationException

_OTHER = "pytorch_lightning"


def is_of_other_name(cls: type) -> bool:
    """Whether a class is, or is derived from, one of ``pytorch_lightning``."""
    return any(base.__module__.partition(".")[0] == _OTHER for base in cls.__mro__)


def refuse_other_name(*things: object) -> None:
    """Say what to change when a module or datamodule (an object or its class) is written against the other name.

    Raises:
        MisconfigurationException: One is.
    """
    for thing in things:
        cls = thing if isinstance(thing, type) else type(thing)
        if is_of_other_name(cls):
            raise MisconfigurationException(
                f"{cls.__module__}.{cls.__qualname__} is written against `pytorch_lightning`, and Lightning Soups works"
                " with the same classes of `lightning.pytorch`, which cannot be mixed with them. Where it is defined,"
                " replace `import pytorch_lightning as pl` by `import lightning.pytorch as pl` and `from"
                " pytorch_lightning` by `from lightning.pytorch`. Nothing else changes, and checkpoints that were"
                " written before stay valid ingredients."
            )


def refuse_other_version(trainer: object) -> None:
    """A trainer of the other name will do when it is of the same version: private names differ between versions.

    Raises:
        MisconfigurationException: It is of another version.
    """
    if not is_of_other_name(type(trainer)):
        return
    own, other = version("lightning"), sys.modules[_OTHER].__version__
    if other != own:
        raise MisconfigurationException(
            f"SoupCallback was made for lightning {own} and was given to a Trainer of pytorch_lightning"
            f" {other}. Install pytorch-lightning=={own}, or replace `import pytorch_lightning as pl` by"
            " `import lightning.pytorch as pl`."
        )


def is_of_either_name(thing: object, cls: type) -> bool:
    """``isinstance``, for objects of both import names."""
    names = {(base.__module__.partition(".")[0], base.__qualname__) for base in type(thing).__mro__}
    return isinstance(thing, cls) or (_OTHER, cls.__qualname__) in names
