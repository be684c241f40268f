"""A first look at the arguments, before they are parsed in earnest."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_soups.other_name import is_of_other_name, refuse_other_name

_LATER = re.compile(r"^--(model\.|data\.|print_)")  # may need a class that is not known yet, or prints and exits


def peek(parser: ArgumentParser, subparsers: Mapping[str, ArgumentParser], args: Any) -> Namespace:
    """Parse as far as that can be done without knowing the classes of model and data; nothing has to be complete.

    Args:
        parser: The main parser.
        subparsers: Those of its subcommands.
        args: What ``LightningCLI`` takes: a list of arguments, a config as an object, or None for ``sys.argv``.

    Returns:
        The config; an empty one when something is wrong, which parsing in earnest will report.

    Raises:
        MisconfigurationException: A class of ``pytorch_lightning`` is asked for.
    """
    parsers = [parser, *subparsers.values()]
    exits = [one.exit_on_error for one in parsers]
    try:
        for one in parsers:
            one.exit_on_error = False
        # _skip_validation is private, see tests/test_lightning_internals.py: what is required may be missing
        if isinstance(args, (dict, Namespace)):
            seen: Namespace = parser.parse_object(args, _skip_validation=True)
        else:
            arguments = _without_later_ones(sys.argv[1:] if args is None else args)
            seen = parser.parse_args(arguments, _skip_validation=True)
        return seen
    except ArgumentError as error:
        refuse_other_name(*_classes_in(str(error)))
        return Namespace()  # type: ignore[no-untyped-call]
    finally:
        for one, exit_on_error in zip(parsers, exits, strict=True):
            one.exit_on_error = exit_on_error


def _without_later_ones(args: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip_value = False
    for arg in args:
        if skip_value and not arg.startswith("--"):
            skip_value = False
            continue
        skip_value = arg.startswith(("--model.", "--data.")) and "=" not in arg
        if not _LATER.match(arg):
            kept.append(arg)
    return kept


def _classes_in(text: str) -> list[type]:
    """Classes of the other name among the dotted names in a parser's error; their modules are imported by then."""
    found = []
    for module, name in re.findall(r"([A-Za-z_][\w.]*)\.([A-Za-z_]\w*)", text):
        cls = getattr(sys.modules.get(module), name, None)
        if isinstance(cls, type) and is_of_other_name(cls):
            found.append(cls)
    return found
