"""Docstrings as Markdown: cross-references become links and formulas MathML, which browsers draw without a script."""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

_REFERENCE = re.compile(r":(?:class|meth|func|attr|mod|data):`~?([^`]+)`")
_FORMULA = re.compile(r":math:`([^`]+)`", re.DOTALL)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            text = _REFERENCE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", obj.docstring.value)
            obj.docstring.value = _FORMULA.sub(lambda found: convert(" ".join(found[1].split())), text)
