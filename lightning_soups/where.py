"""Conditions on ingredients, such as ``val_acc > 0.9 and lr < 1e-3``.

A condition is parsed as Python and interpreted here, node by node: it can name what is known of an ingredient, compare,
calculate and combine, and nothing else. There are no calls, no attributes of objects and no numbers without bounds, so
a condition from anywhere is safe to evaluate.
"""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_soups.ingredient import Ingredient

FIELDS = ("run", "epoch", "step", "path", "monitor", "mode", "initialization")
_LONGEST = 1000  # characters of a condition
_SHOWN = 40  # names in an error
_CONSTANTS = {"true": True, "false": False, "null": None}  # as YAML and JSON write them
_STRING_OR_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]*)`""")
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class _Unknown:
    """What cannot be said of an ingredient; as in SQL, anything made of it is unknown too, unless the rest decides."""


_UNKNOWN = _Unknown()


class Condition:
    """A condition, or another expression, on what is known of an ingredient.

    Names are those of fields (``run``, ``epoch``, ``step``, ``path``, ``monitor``, ``mode``, ``initialization``), of
    metrics and of hyperparameters, in this order when one is several of them; ``metrics.NAME`` and
    ``hyperparameters.NAME`` say which is meant. Dots may be part of a name (``model.lr``), or go into nested
    hyperparameters; any other name is put in backticks (`` `test_acc/rotated` ``). Numbers, strings, ``True``,
    ``False``, ``None``, lists, comparisons (also chained, ``in`` and ``is None``), ``and``, ``or``, ``not``,
    parentheses and arithmetic (``+ - * / // % **``, in floating point) work as in Python.

    Args:
        text: The expression, at most 1000 characters.

    Raises:
        ValueError: It is not such an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._quoted: dict[str, str] = {}
        if len(text) > _LONGEST:
            raise ValueError(f"A condition may have at most {_LONGEST} characters, got {len(text)}.")
        try:
            self._tree = ast.parse(_STRING_OR_QUOTED.sub(self._placeholder, text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise ValueError(
                f"The condition {text!r} cannot be read: {reason}. One that can: 'val_acc > 0.9 and lr < 1e-3'. Names"
                " with other characters than letters, digits, _ and . go in backticks: `test_acc/rotated`."
            ) from error
        self.names = list(dict.fromkeys(self._check(self._tree)))

    def check_names(self, ingredients: Sequence["Ingredient"]) -> None:
        """Make sure that at least one ingredient knows each name.

        Raises:
            ValueError: None does; the message lists the names that there are.
        """
        known: dict[str, None] = {}
        for ingredient in ingredients:
            known.update(dict.fromkeys(facts(ingredient)))
        for name in self.names:
            if name not in known and name not in _CONSTANTS:
                short = [key for key in known if not key.startswith(("metrics.", "hyperparameters."))]
                close = difflib.get_close_matches(name, short, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
                raise ValueError(
                    f"No ingredient has {name!r}, which {self.text!r} asks about.{hint} There are:"
                    f" {', '.join(short[:_SHOWN])}{more}."
                )

    def holds(self, ingredient: "Ingredient") -> bool:
        """Whether the condition is true of an ingredient.

        It is not when it depends on something that the ingredient lacks, or compares a number with a word: neither
        ``lr < 1e-3`` nor ``not lr < 1e-3`` is true of an ingredient without ``lr``.
        """
        value = self._evaluate(self._tree, facts(ingredient))
        return not isinstance(value, _Unknown) and bool(value)

    def value(self, ingredient: "Ingredient") -> Any:
        """What the expression is for an ingredient; None when that is not known."""
        value = self._evaluate(self._tree, facts(ingredient))
        return None if isinstance(value, _Unknown) else value

    def _placeholder(self, match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group()
        placeholder = f"_quoted_{len(self._quoted)}_"
        self._quoted[placeholder] = match.group(1)
        return placeholder

    def _check(self, node: ast.expr) -> list[str]:
        """The names in a tree that has only what is allowed."""
        if (name := self._name(node)) is not None:
            return [name]
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (str, bool, int, float)):
                inside: list[ast.expr] = []
            case ast.Tuple(elts=inside) | ast.List(elts=inside) | ast.BoolOp(values=inside):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
                inside = [operand]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                inside = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=others):
                for comparison, other in zip(ops, others, strict=True):
                    if isinstance(comparison, (ast.Is, ast.IsNot)) and not isinstance(other, ast.Constant):
                        raise ValueError(f"In the condition {self.text!r}, `is` works with None, True and False only.")
                inside = [left, *others]
            case _:
                raise ValueError(
                    f"The condition {self.text!r} has something that conditions cannot have: {ast.unparse(node)!r}."
                    " They have names, numbers, strings, lists, comparisons, and, or, not, parentheses and arithmetic."
                )
        return [name for part in inside for name in self._check(part)]

    def _name(self, node: ast.expr) -> str | None:
        """A name, whose dots Python takes for attributes."""
        if isinstance(node, ast.Name):
            return self._quoted.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (before := self._name(node.value)) is not None:
            return f"{before}.{node.attr}"
        return None

    def _evaluate(self, node: ast.expr, known: Mapping[str, Any]) -> Any:
        if (name := self._name(node)) is not None:
            return known[name] if name in known else _CONSTANTS.get(name, _UNKNOWN)
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Tuple(elts=inside) | ast.List(elts=inside):
                values = [self._evaluate(part, known) for part in inside]
                return _UNKNOWN if any(isinstance(value, _Unknown) for value in values) else values
            case ast.BoolOp(op=op, values=inside):
                return _combine(isinstance(op, ast.And), [self._evaluate(part, known) for part in inside])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                value = self._evaluate(operand, known)
                return _UNKNOWN if isinstance(value, _Unknown) else not value
            case ast.UnaryOp(op=op, operand=operand):
                return self._calculate(operator.mul, -1 if isinstance(op, ast.USub) else 1, operand, known)
            case ast.BinOp(left=left, op=op, right=right):
                return self._calculate(_ARITHMETIC[type(op)], self._evaluate(left, known), right, known)
        assert isinstance(node, ast.Compare)
        values = [self._evaluate(part, known) for part in (node.left, *node.comparators)]
        return _combine(True, [_compare(op, *pair) for op, *pair in zip(node.ops, values, values[1:], strict=False)])

    def _calculate(
        self, function: Callable[[float, float], Any], left: Any, right_node: ast.expr, known: Mapping[str, Any]
    ) -> Any:
        """Arithmetic on floats only: on integers, ``9**9**9`` would take all memory there is."""
        right = self._evaluate(right_node, known)
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            return _UNKNOWN
        try:
            result = function(float(left), float(right))
        except ZeroDivisionError:
            return _UNKNOWN
        except OverflowError as error:
            raise ValueError(f"The condition {self.text!r} calculates a number that is too large.") from error
        return result if isinstance(result, float) else _UNKNOWN  # a power may be complex


def facts(ingredient: "Ingredient") -> dict[str, Any]:
    """What is known of an ingredient, by the names that conditions use."""
    hyperparameters = flat(ingredient.hyperparameters)
    known: dict[str, Any] = {name: getattr(ingredient, name) for name in FIELDS}
    known["path"] = str(ingredient.path)
    for name, value in (*ingredient.metrics.items(), *hyperparameters.items()):
        known.setdefault(name, value)
    known.update({f"metrics.{name}": value for name, value in ingredient.metrics.items()})
    known.update({f"hyperparameters.{name}": value for name, value in hyperparameters.items()})
    return known


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Bring nested dictionaries to one level, with names such as ``opt.init_args.lr``."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = value
    return result


def _combine(every: bool, values: Sequence[Any]) -> Any:
    """``and`` or ``or`` of values of which some may be unknown: they matter only where the others do not decide."""
    known = [bool(value) for value in values if not isinstance(value, _Unknown)]
    if (not every) in known:
        return not every
    return every if len(known) == len(values) else _UNKNOWN


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    if isinstance(left, _Unknown) or isinstance(right, _Unknown):
        return _UNKNOWN
    if isinstance(op, (ast.Eq, ast.Is)):
        return bool(left == right)
    if isinstance(op, (ast.NotEq, ast.IsNot)):
        return bool(left != right)
    try:
        if isinstance(op, (ast.In, ast.NotIn)):
            return (left in right) == isinstance(op, ast.In)
        return _ORDER[type(op)](left, right)
    except TypeError:
        return _UNKNOWN
