"""What to build, from the first ingredient: classes and arguments that the command line and configs do not give.

LightningCLI saves the class (``_class_path``) of what it instantiated by class path, and any program that calls
``save_hyperparameters`` saves arguments. They become the parser's defaults, so that whatever is given explicitly wins,
key by key.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_soups.bad_ingredients import BadIngredientError, LeftOut, reason_of
from lightning_soups.command_line.named_classes import NamedImports, check_name
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.opening import is_adapter, open_checkpoint
from lightning_soups.other_name import refuse_other_name
from lightning_soups.paths import AnyPath

_Part = type[LightningModule] | type[LightningDataModule]
PARTS: dict[str, _Part] = {"model": LightningModule, "data": LightningDataModule}


class FirstIngredient:
    """The hyperparameters in a checkpoint, as a parser's defaults.

    Args:
        ingredient: The first of the ingredients to cook with.
        folders: Where nothing is imported from because the checkpoint says so, see
            :func:`~lightning_soups.command_line.named_classes.check_name`.
        imports: Is told what the checkpoint names.

    Raises:
        ValueError: It cannot be read safely.
    """

    def __init__(self, ingredient: Ingredient, folders: Sequence[Path], imports: NamedImports) -> None:
        self.path = ingredient.path
        self._folders = folders
        self._checkpoint = {} if is_adapter(ingredient.path) else open_checkpoint(ingredient.path).content
        for key in PARTS:
            imports.watch(self._saved(key)[1], folders)

    def set_defaults_of_class(self, parser: ArgumentParser, key: str) -> bool:
        """For a class that the program has chosen: set the defaults of its arguments.

        Args:
            parser: Has the arguments ``<key>.<name>``.
            key: ``model`` or ``data``.

        Returns:
            Whether there was anything to set.
        """
        _, arguments = self._saved(key)
        name = self._checkpoint.get(PARTS[key].CHECKPOINT_HYPER_PARAMS_NAME)
        if name is not None and _set_default(parser, f"{key}.{name}", arguments):
            return True
        taken = [argument for argument, value in arguments.items() if _set_default(parser, f"{key}.{argument}", value)]
        return bool(taken)

    def set_default_class(self, parser: ArgumentParser, key: str, given: str | None) -> bool:
        """For any subclass: set the default class, and the defaults of its arguments.

        Args:
            parser: Has the argument ``<key>``, a class path.
            key: ``model`` or ``data``.
            given: The class that was chosen explicitly.

        Returns:
            Whether there was anything to set.

        Raises:
            ValueError: The model's class is not known, or a saved class is not there or not of the right kind.
            MisconfigurationException: A class is written against ``pytorch_lightning``.
        """
        saved, arguments = self._saved(key)
        if given is None and saved is None:
            if key == "data":
                return False  # the model may have its own dataloaders
            raise ValueError(self._unknown_class(arguments))
        cls = _import(given) if given is not None else self._import_saved(str(saved), key)
        accepted = _arguments_of(cls)
        name = self._checkpoint.get(PARTS[key].CHECKPOINT_HYPER_PARAMS_NAME)
        init_args = {argument: value for argument, value in arguments.items() if argument in accepted}
        if name in accepted:
            init_args = {name: arguments}
        default: dict[str, Any] = {"class_path": given or saved, "init_args": init_args}
        if saved is not None and _takes_any(cls):
            default["dict_kwargs"] = {name: arguments[name] for name in arguments if name not in accepted}
        parser.set_defaults({key: default})
        return given is None or bool(init_args)

    def _saved(self, key: str) -> tuple[str | None, dict[str, Any]]:
        arguments = _hyperparameters(self._checkpoint, key, self.path)
        class_path = arguments.pop("_class_path", None)
        arguments.pop("_instantiator", None)
        return class_path, arguments

    def _import_saved(self, class_path: str, key: str) -> type:
        base = PARTS[key]
        try:
            check_name(class_path, self._folders)
            cls = _import(class_path)
        except (ImportError, AttributeError, ValueError) as error:
            name = class_path.rpartition(".")[2]
            where = f"my_script.{name}" if class_path.startswith("__main__.") else f"my_module.{name}"
            raise ValueError(
                f"The first ingredient, {str(self.path)!r}, was trained with --{key} {class_path}, which cannot be"
                f" imported here ({error}). Pass --{key} {where}, with the module in which {name} is defined; its"
                " arguments are still taken from the checkpoint."
            ) from error
        refuse_other_name(cls)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ValueError(f"{class_path!r}, which {str(self.path)!r} names as its class, is no {base.__name__}.")
        return cls

    def _unknown_class(self, arguments: dict[str, Any]) -> str:
        held = f"its arguments are taken from the checkpoint ({', '.join(arguments)})"
        none = "and its arguments as --model.NAME VALUE, since the checkpoint holds no hyperparameters"
        return (
            f"The first ingredient, {str(self.path)!r}, does not say of which class it is a checkpoint (LightningCLI"
            f" saves it when it is given as --model). Pass --model my_module.MyModel; {held if arguments else none}."
        )


def first_that_opens(ingredients: Ingredients, folders: Sequence[Path], imports: NamedImports) -> FirstIngredient:
    """The first ingredient that can be read: cooking says what is wrong with those before it.

    Args:
        ingredients: In their order.
        folders: See :class:`FirstIngredient`.
        imports: See :class:`FirstIngredient`.

    Raises:
        BadIngredientError: None can be read.
    """
    bad = []
    for ingredient in ingredients:
        try:
            return FirstIngredient(ingredient, folders, imports)
        except (ValueError, OSError) as error:
            bad.append(LeftOut(ingredient.path, ingredient.run, reason_of(error)))
    raise BadIngredientError(bad, all_of_them=True)


def accepted_arguments(path: Path, class_path: str) -> dict[str, Any] | None:
    """The hyperparameters in a checkpoint that a class takes as arguments.

    Args:
        path: The checkpoint.
        class_path: The model's class.

    Returns:
        Names and values; None when the checkpoint says of which class it is.
    """
    arguments = _hyperparameters(open_checkpoint(path).content, "model", path)
    if "_class_path" in arguments:
        return None
    accepted = _arguments_of(_import(class_path))
    return {name: value for name, value in arguments.items() if name in accepted}


def _hyperparameters(checkpoint: Mapping[str, Any], key: str, path: AnyPath) -> dict[str, Any]:
    """What was saved as the arguments of the model or the data."""
    saved = checkpoint.get(PARTS[key].CHECKPOINT_HYPER_PARAMS_KEY) or {}
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise ValueError(f"{str(path)!r} has hyperparameters that are no dictionary of names and values.")
    return dict(saved)


def _set_default(parser: ArgumentParser, key: str, value: Any) -> bool:
    try:
        parser.set_defaults({key: value})
    except KeyError:  # something saved that is no argument
        return False
    return True


def _import(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def _arguments_of(cls: type) -> set[str]:
    """The names of arguments as LightningCLI sees them: also those that ``**kwargs`` passes on to a base class."""
    names = ArgumentParser(exit_on_error=False).add_class_arguments(cls, "it", fail_untyped=False)
    return {name.split(".")[1] for name in names}


def _takes_any(cls: type) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(cls).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds
