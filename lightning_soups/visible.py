"""Text from files that somebody else may have written, made safe to show: in a terminal and on a page."""

import re

# Control characters (with which a terminal can be told to do things), marks that turn the direction of text around,
# line separators, and halves of surrogate pairs, which no encoding has.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, lines: bool = False) -> str:
    r"""Write characters that have no look of their own as Python does, ``\x1b``.

    Args:
        text: Whatever a file holds.
        lines: Whether new lines and tabs stay.
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] in "\n\t" else ascii(found[0])[1:-1], text)
