"""Taking apart what a module puts out: tuples, dicts and dataclasses at any depth, and putting it together again."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass
class Structure:
    """What holds the leaves of an output: lists, dicts and whatever else torch can take apart, and dataclasses.

    Args:
        spec: Torch's, which takes a dataclass for a leaf.
        inside: For each of its leaves: what a dataclass holds; None for anything else.
        kind: The dataclass whose fields these are.
        example: The instance that they are of, which may hold more than fields.
    """

    spec: TreeSpec
    inside: list["Structure | None"]
    kind: type | None = None
    example: Any = field(default=None, compare=False)


def flatten(output: Any) -> tuple[list[Any], Structure]:
    """Take an output apart into its leaves, in order, and what :func:`unflatten` needs to put it together."""
    found, spec = tree_flatten(output)
    leaves: list[Any] = []
    structure = Structure(spec, [])
    for one in found:
        own, inner = [one], None
        if is_dataclass(one) and not isinstance(one, type):
            own, inner = flatten({part.name: getattr(one, part.name) for part in fields(one)})
            inner.kind, inner.example = type(one), one
        leaves += own
        structure.inside.append(inner)
    return leaves, structure


def unflatten(leaves: Iterable[Any], structure: Structure) -> Any:
    """Put an output together from as many leaves as it had."""
    rest = iter(leaves)
    parts = [next(rest) if inner is None else unflatten(rest, inner) for inner in structure.inside]
    output = tree_unflatten(parts, structure.spec)
    if structure.kind is None:
        return output
    again = copy.copy(structure.example)
    for name, value in output.items():
        object.__setattr__(again, name, value)  # frozen ones, too
    return again
