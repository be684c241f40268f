"""A folder: for ``from_pretrained``, with a model card, and a file that says what its weights are the average of.

Layout::

    config.json, model.safetensors, …    what the module's own Hugging Face submodel writes (large models in several
                                         files with an index); without such a submodel, all weights in one file
    other_weights.safetensors            weights of the module outside of that submodel, when there are any
    README.md                            the model card
    lightning_soup.json                  the soup's provenance
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_soups.files import replacing_folder
from lightning_soups.local_copies import local_copy
from lightning_soups.outputs import document
from lightning_soups.outputs.model_card import model_card
from lightning_soups.outputs.safetensors import read_tensors, tensors_only, write_tensors
from lightning_soups.outputs.submodel import Submodel
from lightning_soups.paths import AnyPath
from lightning_soups.records import SOUP_KEY
from lightning_soups.weights.formats.sharded import files_of_index
from lightning_soups.weights.tied import tied_names

PROVENANCE = "lightning_soup.json"
_CARD = "README.md"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OTHERS = "other_weights.safetensors"


def is_soup_folder(path: AnyPath) -> bool:
    """Whether a folder is one that this module wrote."""
    return (path / PROVENANCE).is_file()


def write(
    checkpoint: Mapping[str, Any], path: AnyPath, submodel: Submodel | None = None, source: AnyPath | None = None
) -> None:
    """Write a folder.

    Args:
        checkpoint: A soup's checkpoint.
        path: The folder. One of ours is replaced.
        submodel: What writes the weights and ``config.json``. Without it, all weights are written as they are named.
        source: Where the checkpoint was read from: the files of a folder of ours go along when there is no submodel.

    Raises:
        ValueError: Weights that the submodel needs are missing, or are of a kind that safetensors files do not have.
    """
    with replacing_folder(path) as folder:
        if submodel is None and source is not None and is_soup_folder(source):
            _copy(local_copy(source), folder)
            about = _about(source)
        else:
            about = _write_weights(checkpoint["state_dict"], folder, submodel)
        text = document.to_json(checkpoint, folder=about)
        (folder / PROVENANCE).write_text(text, encoding="utf-8")
        (folder / _CARD).write_text(model_card(checkpoint[SOUP_KEY], about, path.name), encoding="utf-8")


def read(path: AnyPath) -> dict[str, Any]:
    """Read a soup's checkpoint, with the names that tensors have in the module; they stay on disk until they are used.

    Raises:
        FileNotFoundError: There is no such folder, or a file of weights is missing.
        ValueError: The folder is not a soup, or its weights have other names than those in the module.
    """
    about = _document(path)
    folder = _about(path)
    if folder["renamed"]:
        raise ValueError(
            f"{folder['library']} writes the weights of a {folder['class']} under other names than they have in the"
            f" module, so the folder {str(path)!r} is for `from_pretrained` only. Save such soups as a file, too."
        )
    prefix = f"{folder['submodule']}." if folder["submodule"] else ""
    path = local_copy(path)
    state_dict: dict[str, Tensor] = {}
    for file in _weight_files(path):
        state_dict.update({prefix + name: tensor for name, tensor in read_tensors(file, {}).items()})
    if (path / _OTHERS).is_file():
        state_dict.update(read_tensors(path / _OTHERS, {}))
    if missing := [one for one in folder["tied"].values() if not isinstance(one, str) or one not in state_dict]:
        raise ValueError(f"The folder {str(path)!r} has no weights that are called {missing}, as it says.")
    state_dict.update({name: state_dict[one] for name, one in folder["tied"].items()})
    return document.to_checkpoint(about, state_dict, str(path))


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """Read what a folder says of the soup.

    Raises:
        ValueError: The folder is not a soup.
    """
    provenance: dict[str, Any] = _document(path)[SOUP_KEY]
    return provenance


def _write_weights(state_dict: Mapping[str, Any], folder: Path, submodel: Submodel | None) -> dict[str, Any]:
    """Write all weights; returns how to read them back, and what the model card says of the model."""
    tensors = tensors_only(state_dict)
    if submodel is None:
        rank_zero_warn(
            "The folder gets no config.json and does not load by `from_pretrained` of transformers: there is no module,"
            " or no submodule of it has a `config` and a `save_pretrained` that takes a `state_dict`."
        )
        prefix, about = "", {"submodule": "", "class": None, "import_from": None, "library": None, "base_model": None}
        write_tensors(tensors, folder / _WEIGHTS)
    else:
        prefix, about = submodel.prefix, submodel.about
        _write_submodel(tensors, folder, submodel)
    stored = {prefix + name for file in _weight_files(folder) for name in read_tensors(file, {})}
    tied = tied_names(tensors)
    at = {tied.get(name, name): name for name in stored & tensors.keys()}
    renamed = not stored <= tensors.keys()
    others = {name: tensor for name, tensor in tensors.items() if tied.get(name, name) not in at}
    if renamed:
        others = {name: tensor for name, tensor in others.items() if not name.startswith(prefix)}
    if others:
        rank_zero_warn(
            f"These weights are not in the model that `from_pretrained` loads, but beside it in {_OTHERS}:"
            f" {sorted(others)}."
        )
        write_tensors(others, folder / _OTHERS)
        at.update({tied.get(name, name): tied.get(name, name) for name in others})
    return {
        **about,
        "renamed": renamed,
        "tied": {name: at[one] for name in tensors if (one := tied.get(name, name)) in at and at[one] != name},
        "others": sorted(others),
    }


def _write_submodel(tensors: Mapping[str, Tensor], folder: Path, submodel: Submodel) -> None:
    prefix = submodel.prefix
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    skeleton = submodel.skeleton(tensors)
    needed = {name for name, value in skeleton.state_dict().items() if isinstance(value, Tensor)}
    if missing := sorted(needed - own.keys()):
        raise ValueError(
            f"The soup lacks weights of the submodule {submodel.name!r}, so a Hugging Face folder of it would be"
            f" incomplete; missing: {missing}."
        )
    # the library may drop names of tied tensors that `from_pretrained` does not tie again: such get memory of their own
    tied, known = tied_names(own), getattr(skeleton, "all_tied_weights_keys", {})
    separate = {*tied, *tied.values()} - {*known, *known.values()}
    save: Callable[..., None] = skeleton.save_pretrained  # type: ignore[assignment]  # what makes it a submodel
    save(folder, state_dict={name: tensor.clone() if name in separate else tensor for name, tensor in own.items()})


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / _INDEX).is_file():
        return [folder / _WEIGHTS]
    return files_of_index(folder / _INDEX)


def _document(path: AnyPath) -> dict[str, Any]:
    if not is_soup_folder(path):
        raise ValueError(f"The folder {str(path)!r} is not a soup: it has no {PROVENANCE!r}.")
    return document.read_document(path / PROVENANCE)


def _about(path: AnyPath) -> dict[str, Any]:
    """What a folder says of its model; it becomes a line of Python in the model card, and names of tensors.

    Raises:
        ValueError: It is not what this module writes.
    """
    about = _document(path).get("folder")
    names = ("submodule", "class", "import_from", "library", "base_model")
    kinds = {"renamed": bool, "tied": dict, "others": list}
    fits = (
        isinstance(about, dict)
        and about.keys() >= set(names)
        and all(about.get(name) is None or isinstance(about[name], str) for name in names)
        and all(isinstance(about.get(name), kind) for name, kind in kinds.items())
        and all((about.get(name) or "x").replace(".", "_").isidentifier() for name in ("class", "import_from"))
    )
    if not fits:
        raise ValueError(f"{str(path / PROVENANCE)!r} does not describe the folder as lightning-soups does.")
    assert isinstance(about, dict)
    return about


def _copy(source: Path, target: Path) -> None:
    """Copy a soup's folder, but no file that a link in it fetches from elsewhere.

    The hub's cache has nothing but links, to the folder ``blobs`` beside the snapshots: those are its own.

    Raises:
        ValueError: A link leads out of it; the message names the link.
    """
    own = (source.resolve(), source.resolve().parent.parent / "blobs")
    for path in source.rglob("*"):
        if path.is_symlink() and not any(folder in path.resolve().parents for folder in own):
            raise ValueError(f"{str(path)!r} is a link out of the soup's folder, and is not copied: remove it first.")
    shutil.copytree(source, target, dirs_exist_ok=True)
