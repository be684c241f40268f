"""Finds the private names of other packages that ``lightning_soups`` uses, and the files that use them.

Found are imports, attributes, keyword arguments and whole strings that start with one underscore and that the same file
does not define itself, modules with such a part in their path, and what a class redefines of a class that is not ours.
A test takes the names that it checks with ``guards``; ``GUARDED`` has those of all tests. Strings that are no names of
others are in ``OURS``.
"""

import ast
import importlib
import inspect
import pkgutil
from abc import ABC
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import ParamSpec

import pytest

import lightning_soups

ROOT = Path(lightning_soups.__file__).parent
OURS = {*vars(ABC), "_loop", "_soup", "_quoted_"}
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
GUARDED: set[str] = set()
_P = ParamSpec("_P")


def guards(*names: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Make a test the guard of private names: when it fails, it says which files rely on them."""
    GUARDED.update(names)

    def guard(test: Callable[_P, None]) -> Callable[_P, None]:
        @wraps(test)
        def guarding(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                test(*args, **kwargs)
            except (Exception, pytest.fail.Exception) as error:
                files = private_names()
                users = "".join(f"\n  {name}: {', '.join(files.get(name, ['no file any more']))}" for name in names)
                raise AssertionError(
                    f"A private name is not what these files of lightning_soups take it for:{users}"
                ) from error

        return guarding

    return guard


@cache
def private_names() -> dict[str, list[str]]:
    """The files that use each private name of another package."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in foreign_in(tree) - OURS:
            found[name].add(path.relative_to(ROOT).as_posix())
    for info in pkgutil.walk_packages(lightning_soups.__path__, "lightning_soups."):
        if not info.name.endswith("__main__"):
            module = importlib.import_module(info.name)
            for name in _redefined_in(module) - OURS:
                found[name].add(Path(str(module.__file__)).relative_to(ROOT).as_posix())
    return {name: sorted(files) for name, files in sorted(found.items())}


def foreign_in(tree: ast.Module) -> set[str]:
    """The private names in a file that it does not define."""
    own = set(_defined_in(tree))
    return {name for node in ast.walk(tree) for name, calls_parent in _used_by(node) if calls_parent or name not in own}


def _used_by(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Private names in a node, each with whether it is a parent's in any case, by ``super()`` or an import."""
    names: list[str] = []
    imported = isinstance(node, (ast.Import, ast.ImportFrom))
    if isinstance(node, ast.Import):
        names = [_private_module(alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("lightning_soups"):
        module = _private_module(node.module)
        names = [module] if module else [alias.name for alias in node.names]
    elif isinstance(node, ast.Attribute):
        names = [node.attr]
    elif isinstance(node, ast.keyword) and node.arg:
        names = [node.arg]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = node.value.split(".")
        if all(part.isidentifier() for part in parts):
            names = [_private_module(node.value) if len(parts) > 1 else node.value]
    of_parent = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()"
    for name in names:
        if _is_private(name) or "." in name:
            yield name, imported or of_parent


def _defined_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, *_Function)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
    yield from _set_on_self(tree)


def _set_on_self(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _redefined_in(module: ModuleType) -> set[str]:
    """What classes of ours define or set although a class of another package that they extend does so, too."""
    ours = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    return {name for cls in ours for name in _of_class(cls) & _of_foreign_parents(cls) if _is_private(name)}


def _of_foreign_parents(cls: type) -> set[str]:
    packages = {"lightning", "torch", "torchmetrics", "jsonargparse", "optuna"}
    foreign = [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] in packages]
    return {name for base in foreign for name in _of_class(base)}


@cache
def _of_class(cls: type) -> frozenset[str]:
    """What a class has, and what its methods set on its objects."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # made by a decorator or in C
        return frozenset(vars(cls))
    return frozenset({*vars(cls), *_set_on_self(ast.parse(dedent(source)))})


def _private_module(path: str) -> str:
    return path if any(_is_private(part) for part in path.split(".")) else ""


def _is_private(name: str) -> bool:
    return len(name) > 1 and name.startswith("_") and not name.startswith("__")
