"""Classes and functions that a checkpoint names: found without importing them, and imported only by a strict rule.

Importing a module runs it. A checkpoint says which class it is of, and parsing its hyperparameters imports what they
name, so a file could have any module run that happens to be there, also one that came with it. Therefore:

- only dotted identifiers are names, and what is imported already may be used: nothing runs once more;
- of Python's own library nothing is imported on a file's word: there are no models in it;
- nothing is imported from a folder that ingredients are in;
- the module's source has to define or import the name, which is looked up without running it.

What users name themselves is not asked about.
"""

import ast
import keyword
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import TracebackType

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.ingredient import Ingredient

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_LONGEST = 500


def check_name(name: str, folders: Iterable[Path]) -> None:
    """Make sure that a class or function may be imported because a file names it. Nothing is imported.

    Args:
        name: Such as ``my_module.MyModel``.
        folders: Where nothing is imported from.

    Raises:
        ValueError: It may not, and why.
    """
    parts = name.split(".")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or any(map(keyword.iskeyword, parts)):
        raise ValueError(f"{name!r} is no name of a class in a module")
    module, missing = "", list[str]()
    for part in parts[:-1]:
        module = f"{module}.{part}".lstrip(".")
        if module not in sys.modules or missing:
            missing.append(module)
    if not missing:
        return
    if parts[0] in sys.stdlib_module_names and parts[0] != "__main__":
        raise ValueError(f"{parts[0]!r} is a module of Python itself, and not imported because a file says so")
    places: Sequence[str] | None = None
    if (parent := missing[0].rpartition(".")[0]) and (places := getattr(sys.modules[parent], "__path__", None)) is None:
        raise ValueError(f"{parent!r} is no package")
    for one in missing:
        spec = _find(one, places)
        if spec is None:
            raise ValueError(f"No module named {one!r}")
        origins = [spec.origin] if spec.has_location and spec.origin else []
        for place in (*origins, *(spec.submodule_search_locations or ())):
            for folder in folders:
                if _is_in(Path(place), folder) and not any(_is_in(Path(place), one) for one in _installed()):
                    raise ValueError(f"{place!r} lies in a folder of the ingredients, {str(folder)!r}")
        places = spec.submodule_search_locations
    assert spec is not None
    source = Path(spec.origin or "")
    if source.suffix != ".py" or {parts[-1], "*", "__getattr__"}.isdisjoint(_names_in(source)):
        raise ValueError(f"{module!r} does not define {parts[-1]!r}")


class NamedImports:
    """Inside, what a file names is imported only as :func:`check_name` allows; what users name is not asked about."""

    def __init__(self) -> None:
        self._watched: dict[str, list[str]] = {}
        self._folders: list[Path] = []

    def watch(self, values: object, folders: Sequence[Path]) -> None:
        """Take note of what values from a file could name.

        Args:
            values: Nested dictionaries and lists.
            folders: See :func:`check_name`.
        """
        self._folders += folders
        for name in _strings(values):
            if _NAME.fullmatch(name) and len(name) <= _LONGEST:
                parts = name.split(".")
                for end in range(1, len(parts)):
                    self._watched.setdefault(".".join(parts[:end]), []).append(name)

    def find_spec(self, module: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Python asks this before it imports a module for the first time.

        Raises:
            ImportError: It is one that only a file names, and is not allowed.
        """
        refusals = []
        for name in self._watched.get(module, ()):
            try:
                check_name(name, self._folders)
                return
            except ValueError as error:
                refusals.append(f"{name!r}, which a checkpoint names, is not imported: {error}.")
        if refusals:
            rank_zero_warn(refusals[0])  # parsers tell of an argument that does not fit, and not why
            raise ImportError(refusals[0])

    def __enter__(self) -> "NamedImports":
        sys.meta_path.insert(0, self)  # it finds nothing, and so needs no loader
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.meta_path.remove(self)


def folders_of(ingredients: Iterable[Ingredient]) -> list[Path]:
    """The folders that ingredients came in: their own, and the soup directories above."""
    folders: dict[Path, None] = {}
    for path in (one.path for one in ingredients if isinstance(one.path, Path)):
        above = path.absolute().parents
        folders[above[0]] = None
        if len(above) > 2 and above[1].name == "runs":
            folders[above[2]] = None
    return list(folders)


def _is_in(path: Path, folder: Path) -> bool:
    return any(folder.resolve() in (one, *one.parents) for one in (path.absolute(), path.resolve()))


def _installed() -> set[Path]:
    """Where packages are installed, which may be inside a project's folder."""
    return {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}


def _find(module: str, places: Sequence[str] | None) -> ModuleSpec | None:
    """As ``importlib.util.find_spec`` does, which would import the packages above."""
    for finder in sys.meta_path:
        if not isinstance(finder, NamedImports) and (spec := finder.find_spec(module, places, None)) is not None:
            return spec
    return None


def _names_in(source: Path) -> set[str]:
    """What a module's source binds, as far as that can be seen without running it."""
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _strings(values: object) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _strings(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _strings(value)
