"""HTML that is escaped by construction: a string is text unless it is :class:`Html`."""

from html import escape

from lightning_soups.visible import visible

_VOID = frozenset({"img", "meta"})  # elements that have no end tag


class Html(str):
    """Markup that :func:`element` made. Adding to it or formatting it gives a plain string, which is text again."""


def element(tag: str, /, *children: str, **attributes: str | bool) -> Html:
    """Make an element; children that are not :class:`Html` and all attributes are escaped.

    Args:
        tag: Its name.
        children: What is inside.
        attributes: Names are written as Python allows: ``class_`` is ``class`` and ``aria_label`` is ``aria-label``.
            True gives an attribute without a value, False none.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items() if value is not False)
    start = f"<{tag}{shown}>"
    return Html(start if tag in _VOID else f"{start}{fragment(*children)}</{tag}>")


def fragment(*children: str) -> Html:
    """Put markup and text behind one another; text is escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(visible(child, lines=True)) for child in children))


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(visible(str(value), lines=True))}"'
