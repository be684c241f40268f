"""The part of a module that has a Hugging Face folder of its own. No Hugging Face library is imported here."""

import inspect
import re
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Submodel(NamedTuple):
    """A submodule that can write itself as a folder for ``from_pretrained``.

    Args:
        name: Its name in the module; empty for the module itself.
        module: The submodule.
    """

    name: str
    module: nn.Module

    @property
    def prefix(self) -> str:
        """What its tensors' names start with in the module's state dict."""
        return f"{self.name}." if self.name else ""

    @property
    def about(self) -> dict[str, Any]:
        """Where its class is found, and the model that it is a fine-tuned one of, as far as that is known."""
        cls = type(self.module)
        origin = [base for base in cls.__mro__ if "save_pretrained" in vars(base)][-1]
        library = origin.__module__.partition(".")[0]
        exported = getattr(sys.modules.get(library), cls.__name__, None) is cls
        base = str(getattr(self.module.config, "_name_or_path", "") or "")
        return {
            "submodule": self.name,
            "class": cls.__name__,
            "import_from": library if exported else cls.__module__,
            "library": library,
            # a path says nothing to others, and may say more than they should know
            "base_model": base if _HUB_NAME.fullmatch(base) and not Path(base).exists() else None,
        }

    def skeleton(self, state_dict: Mapping[str, Any]) -> nn.Module:
        """Copy it without its numbers: on the meta device, in the dtypes of a state dict.

        The trainer may hold it in another precision than the weights were saved in, and writing a folder sets entries
        of its ``config``, which belongs to the user.

        Args:
            state_dict: Of the whole module.
        """
        memo: dict[int, Any] = {}
        named = [
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in named:
            saved = state_dict.get(self.prefix + name)
            empty = torch.empty_like(tensor, device="meta", dtype=saved.dtype if isinstance(saved, Tensor) else None)
            memo.setdefault(id(tensor), nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty)
        return deepcopy(self.module, memo)


def find_submodel(module: nn.Module, name: str | None = None) -> Submodel | None:
    """Find what has a ``config`` and a ``save_pretrained`` that takes a ``state_dict``.

    Args:
        module: Where to look: the module itself, then its submodules.
        name: Which one to take; by default the outermost.

    Returns:
        None when there is none.

    Raises:
        ValueError: There are several, none of which is inside another one; there is none of this name; or adapters are
            inserted into it, so that its weights have other names than its folder would need.
    """
    found = {where: one for where, one in module.named_modules() if _writes_folders(one)}
    if name is not None and name not in found:
        raise ValueError(
            f"There is no submodule {name!r} with a `config` and a `save_pretrained` that takes a `state_dict` in"
            f" {type(module).__name__}; there are: {sorted(found)}."
        )
    outermost = [where for where in found if not any(_is_inside(where, other) for other in found)]
    if name is None and len(outermost) > 1:
        raise ValueError(
            f"{type(module).__name__} has several submodules that could be the model of a Hugging Face folder:"
            f" {outermost}. Save the soup as a file, such as 'soup.ckpt', and then say which one you mean:"
            f" Soup.load('soup.ckpt').save('folder/', module, submodule={outermost[0]!r})."
        )
    if not outermost:
        return None
    chosen = name if name is not None else outermost[0]
    for where, one in module.named_modules():
        if getattr(one, "peft_config", None) and (where == chosen or _is_inside(where, chosen, both=True)):
            raise ValueError(
                f"Adapters are inserted into {chosen!r} ({type(one).__name__} at {where!r}), so its weights do not have"
                " the names that a Hugging Face folder of it needs. Save the soup as .ckpt, .pt or .safetensors."
            )
    return Submodel(chosen, found[chosen])


def _writes_folders(module: nn.Module) -> bool:
    save = getattr(module, "save_pretrained", None)
    if "_orig_mod" in module._modules or not callable(save) or not hasattr(module, "config"):
        return False  # a compiled module passes on what it wraps, which comes by itself
    return "state_dict" in inspect.signature(save).parameters


def _is_inside(one: str, other: str, both: bool = False) -> bool:
    """Whether one name is of a submodule of the other one; with ``both``, also the other way around."""
    inside = one != other and (not other or one.startswith(f"{other}."))
    return inside or (both and _is_inside(other, one))
