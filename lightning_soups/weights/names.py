"""Names of weights: which to use, what they are called elsewhere, and how one checkpoint's fit another's."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

# Modules that only wrap another one: torch.compile, FSDP1 and its activation checkpointing, DeepSpeed.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_DATA_PARALLEL = "module."


class Fit(NamedTuple):
    """How the names of a checkpoint fit those of a module.

    Args:
        names: From every name of the checkpoint to its name in the module.
        rule: How they were found, in words.
    """

    names: dict[str, str]
    rule: str


@dataclass(frozen=True)
class WeightNames:
    """Which tensors of a checkpoint to use, and what to call them.

    Wrappers of ``torch.compile``, DDP, FSDP and DeepSpeed can be left out of patterns and prefixes: ``backbone.*`` also
    matches ``module._orig_mod.backbone.weight``.

    Args:
        include: Glob patterns such as ``"backbone.*"``; empty for everything. ``*`` also matches dots.
        exclude: Glob patterns of what to leave out of that, such as ``"head.*"``.
        rename: Prefixes and what to write instead, such as ``{"encoder": "backbone"}``. They are whole parts between
            dots; of several that match the longest is taken, and each name is renamed once. ``""`` as a prefix matches
            every name, and as a replacement takes the prefix away.

    Raises:
        ValueError: A pattern or prefix is not a string, or a pattern is empty.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rename: Mapping[str, str] | Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):
            patterns = getattr(self, field)
            if isinstance(patterns, str) or not all(isinstance(one, str) and one for one in patterns):
                raise ValueError(f"`{field}` must be a list of patterns such as ['backbone.*'], got {patterns!r}.")
            object.__setattr__(self, field, tuple(patterns))  # so that it can be hashed
        given = self.rename
        pairs = list(given.items()) if isinstance(given, Mapping) else [tuple(pair) for pair in given]
        if not all(len(pair) == 2 and all(isinstance(one, str) for one in pair) for pair in pairs):
            raise ValueError(
                f"`rename` must map prefixes to prefixes such as {{'encoder': 'backbone'}}, got {given!r}."
            )
        longest_first = sorted(((old.rstrip("."), new.rstrip(".")) for old, new in pairs), key=lambda one: -len(one[0]))
        if twice := [old for old, count in Counter(old for old, _ in longest_first).items() if count > 1]:
            raise ValueError(f"`rename` must give each prefix once, got {twice[0]!r} more than once.")
        object.__setattr__(self, "rename", tuple(longest_first))

    def apply(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out and rename; the tensors are the same ones, in the same order.

        Args:
            state_dict: The weights of one checkpoint.

        Raises:
            ValueError: A pattern of ``include`` matches nothing in it, nothing is left, or two tensors would get one
                name.
        """
        names = canonical(state_dict)
        for pattern in self.include:
            if not any(_matches(pattern, *pair) for pair in names.items()):
                raise ValueError(f"The pattern {pattern!r} of `include` matches none of the names: {_some(names)}.")
        kept = {own: self._renamed(own, plain) for own, plain in names.items() if self._keeps(own, plain)}
        if not kept and names:
            raise ValueError(f"Nothing is left of {len(names)} tensors: {_some(names)}. `exclude`: {self.exclude}.")
        if twice := [new for new, count in Counter(kept.values()).items() if count > 1]:
            olds = [old for old, new in kept.items() if new == twice[0]]
            raise ValueError(f"`rename` gives {twice[0]!r} to more than one tensor: {_some(olds)}.")
        return {new: state_dict[old] for old, new in kept.items()}

    def check(self, names: Iterable[str]) -> None:
        """Find typing mistakes: each pattern and prefix has to match one name at least.

        Not every checkpoint needs to have what is left out or renamed, so give the names of all of them.

        Args:
            names: The names in all checkpoints together.

        Raises:
            ValueError: One matches nothing; the message quotes it and lists some names.
        """
        plain = canonical(dict.fromkeys(names))
        for field, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(_matches(pattern, *pair) for pair in plain.items()):
                    raise ValueError(f"The pattern {pattern!r} of `{field}` matches none of the names: {_some(plain)}.")
        for old, _ in self._pairs:
            if not any(_starts(name, old) for pair in plain.items() for name in pair):
                raise ValueError(f"The prefix {old!r} of `rename` starts none of the names: {_some(plain)}.")

    @property
    def _pairs(self) -> Iterable[tuple[str, str]]:
        assert isinstance(self.rename, tuple)
        return self.rename

    def _keeps(self, own: str, plain: str) -> bool:
        included = not self.include or any(_matches(pattern, own, plain) for pattern in self.include)
        return included and not any(_matches(pattern, own, plain) for pattern in self.exclude)

    def _renamed(self, own: str, plain: str) -> str:
        for old, new in self._pairs:
            for name in (own, plain):
                if _starts(name, old):
                    rest = name[len(old) :].removeprefix(".")
                    return ".".join(part for part in (new, rest) if part)
        return own


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Take what only wraps a module out of names.

    ``_orig_mod.`` (torch.compile), ``_fsdp_wrapped_module.``, ``_checkpoint_wrapped_module.`` (FSDP) and
    ``_forward_module.`` (Lightning Fabric, DeepSpeed) go wherever they are, and a leading ``module.`` (DDP) when all
    names have it.

    Args:
        names: All names of a checkpoint or module.

    Returns:
        From each name to the name without wrappers.
    """
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    if plain and all(name.startswith(_DATA_PARALLEL) for name in plain.values()):
        plain = {name: short.removeprefix(_DATA_PARALLEL) for name, short in plain.items()}
    return plain


def fit(names: Collection[str], module_names: Collection[str]) -> Fit:
    """Find which tensor of a module each tensor of a checkpoint belongs to, by name alone.

    The first rule by which all of the checkpoint's names are found in the module is taken: the same names; the same
    :func:`canonical` names; canonical names with one prefix more or less, such as the ``model.`` of a LightningModule
    that wraps what a Hugging Face folder holds. The module may have more names. A prefix is taken only when no other
    prefix would do as well.

    Args:
        names: All names of the checkpoint that are used.
        module_names: All names of the module, or of the checkpoint that others have to fit.

    Returns:
        The names, and the rule in words. Where no rule fits every name stays as it is, so that a comparison of the two
        names what does not fit.
    """
    unchanged = dict(zip(names, names, strict=True))
    if unchanged.keys() <= set(module_names):
        return Fit(unchanged, "the same names")
    plain, module_plain = canonical(names), canonical(module_names)
    targets = {short: name for name, short in module_plain.items()}
    if len(targets) < len(module_plain) or len(set(plain.values())) < len(plain):
        return Fit(unchanged, "no rule fits: without wrappers, some names are the same")
    if targets.keys() >= set(plain.values()):
        return Fit({name: targets[short] for name, short in plain.items()}, "the same names without wrappers")
    added = [(prefix, "") for prefix in _added(list(plain.values()), targets)]
    removed = [("", prefix) for prefix in _removed(list(plain.values()), targets)]
    if len(found := added + removed) != 1:
        prefixes = ", ".join(repr(more or less) for more, less in found)
        return Fit(unchanged, f"no rule fits: several prefixes would do, {prefixes}" if found else "no rule fits")
    more, less = found[0]
    rule = f"the prefix {more!r} added" if more else f"the prefix {less!r} removed"
    return Fit({name: targets[more + short.removeprefix(less)] for name, short in plain.items()}, rule)


def _added(names: list[str], targets: Mapping[str, str]) -> list[str]:
    """Prefixes that make all names the module's."""
    deepest = max(names, key=lambda name: name.count("."))  # the fewest other names end in it
    prefixes = [target.removesuffix(deepest) for target in targets if target.endswith(f".{deepest}")]
    return [prefix for prefix in prefixes if all(prefix + name in targets for name in names)]


def _removed(names: list[str], targets: Mapping[str, str]) -> list[str]:
    """Prefixes of all names without which they are the module's."""
    parts = names[0].split(".")
    prefixes = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
    return [
        prefix
        for prefix in prefixes
        if all(name.startswith(prefix) and name.removeprefix(prefix) in targets for name in names)
    ]


def _matches(pattern: str, own: str, plain: str) -> bool:
    return fnmatchcase(own, pattern) or fnmatchcase(plain, pattern)


def _starts(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
