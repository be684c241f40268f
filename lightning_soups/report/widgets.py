"""The pieces that all sections of the report are put together from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.tables import show_score, show_value

LONG = 12  # rows; a longer table that is not the section's main one is folded


class Column(NamedTuple):
    """A column of a table.

    Args:
        title: Its heading.
        numeric: Whether it holds numbers, which are aligned right.
        wraps: Whether it holds long text, which may take several lines.
    """

    title: str
    numeric: bool = False
    wraps: bool = False


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], heading: int = 0) -> Html:
    """A table that scrolls inside its own container when it is wider than the page.

    Args:
        caption: What it shows.
        columns: Their titles.
        rows: Cells, text or markup.
        heading: The index of the column that names its row.
    """
    titles = [element("th", column.title, scope="col", class_=_kind(column)) for column in columns]
    body = [
        element("tr", *(_cell(index == heading, column, cell) for index, (column, cell) in enumerate(cells)))
        for cells in (list(zip(columns, row, strict=True)) for row in rows)
    ]
    content = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *titles)),
        element("tbody", *body),
    )
    return element("div", content, class_="scroll", role="region", aria_label=caption, tabindex="0")


def folded(summary: str, content: Html, is_open: bool) -> Html:
    """What can be folded away, and whether it is unfolded at first."""
    return element("details", element("summary", summary), content, open=is_open)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and what is known under them."""
    items = (fragment(element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *items, class_="facts")


def bullets(items: Iterable[str]) -> Html:
    """A list without an order."""
    return element("ul", *(element("li", item) for item in items))


def joined(items: Iterable[str], separator: str = ", ") -> Html:
    """Text and markup with something in between."""
    parts: list[str] = []
    for item in items:
        parts += [separator, item] if parts else [item]
    return fragment(*parts)


def code(text: str) -> Html:
    """A path, a name from a program, a value."""
    return element("code", text)


def number(value: float, text: str) -> Html:
    """A number as shown, with all its digits beside it for readers that point at it and for programs."""
    return element("data", text, value=repr(value), title=repr(value))


def score(value: float | None) -> str:
    """A metric."""
    return "–" if value is None else number(value, show_score(value))


def counted(count: int, one: str, many: str = "") -> str:
    """How many there are of something; ``many`` is by default ``one`` with an s."""
    return f"{count or 'No'} {one if count == 1 else many or one + 's'}"


def signed(difference: float) -> Html:
    """By how much something is better."""
    return number(difference, f"{'+' if difference > 0 else ''}{show_score(difference)}")


def versions(content: Mapping[str, Any]) -> Html:
    """Which packages were in use."""
    return joined(fragment(package, " ", value(version)) for package, version in content.items())


def value(content: Any) -> str:
    """Whatever a record holds under a name."""
    if isinstance(content, float):
        return number(content, show_value(content))
    if content is None:
        return "–"
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def options(content: Mapping[str, Any]) -> str:
    """What a recipe or a study was told."""
    return joined((fragment(key, " = ", _option(entry)) for key, entry in content.items()), "; ") or "none"


def anchor(source: str) -> str:
    """The id of the place on the page that is about a file of the directory; different files have different ones."""
    return quote(source, safe="")


def link(source: str, text: str) -> Html:
    """Leads to the place on the page that is about a file."""
    return element("a", text, href=f"#{anchor(source)}")


def _option(content: Any) -> str:
    if isinstance(content, Mapping) and "recipe" in content:  # a recipe within a recipe
        own = {key: entry for key, entry in content.items() if key != "recipe"}
        return fragment(value(content["recipe"]), *([" (", options(own), ")"] if own else []))
    if isinstance(content, list):
        return fragment("[", joined(map(_option, content)), "]")
    return "none" if content is None else value(content)


def _kind(column: Column) -> str | bool:
    return "number" if column.numeric else "text" if column.wraps else False


def _cell(heads: bool, column: Column, content: str) -> Html:
    return element("th" if heads else "td", content, scope="row" if heads else False, class_=_kind(column))
