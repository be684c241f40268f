"""Reads a page back with the standard library's parser."""

from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

VOID = {"img", "meta"}


class Cell(NamedTuple):
    text: str
    values: list[str]  # all digits of the numbers in it


class Page(HTMLParser):
    """Elements, text and tables of a page; every element must be closed in its turn."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[Cell]]] = {}
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(Cell("", []))
        elif tag == "data" and "tr" in self._open:
            self._rows[-1][-1].values.append(dict(attrs)["value"])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            assert self._caption not in self.tables
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif "th" in self._open or "td" in self._open:
            row = self._rows[-1]
            row[-1] = row[-1]._replace(text=row[-1].text + data)

    def table(self, words: str) -> list[list[Cell]]:
        """The rows of the one table whose caption has these words, the heading first."""
        (rows,) = [rows for caption, rows in self.tables.items() if words in caption]
        return rows

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
