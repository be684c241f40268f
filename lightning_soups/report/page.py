"""The page: what it holds, and in which order."""

import os
from datetime import datetime, timezone

from lightning_soups.files import replacing
from lightning_soups.paths import AnyPath, any_path
from lightning_soups.records import versions
from lightning_soups.report.about_ingredients import ingredients_section, provenance_section
from lightning_soups.report.about_soups import soups_section
from lightning_soups.report.about_studies import studies_section
from lightning_soups.report.contents import Contents
from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.report.reading import read_contents
from lightning_soups.report.style import STYLE
from lightning_soups.report.summary import failures_section, summary_section
from lightning_soups.report.widgets import bullets, code

HELP = "Write one HTML page about a soup directory: ingredients, soups, studies and where each number comes from."


def write_report(
    dirpath: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, title: str | None = None
) -> AnyPath:
    """Write one HTML page about a soup directory: ingredients, soups, studies and where each number comes from.

    The page needs nothing but itself: style and figures are inside, there is no script, and nothing is loaded from
    anywhere. It says which file every number comes from. What cannot be read is listed with the reason. The same
    directory gives the same page, but for the line that says when it was written.

    Args:
        dirpath: The soup directory, which ``SoupCallback`` wrote to. Soups are taken from its folder ``soups``, studies
            from its folder ``studies``.
        output: The file to write; an existing one is replaced. By default ``report.html`` in ``dirpath``.
        title: The page's heading. By default it names the directory.

    Returns:
        The page.

    Raises:
        ValueError: ``dirpath`` is no folder or holds nothing to report on, or ``output`` is a folder.
    """
    directory = any_path(dirpath, "dirpath")
    path = directory / "report.html" if output is None else any_path(output, "output")
    if path.is_dir():
        raise ValueError(f"`output` must be a file such as 'report.html', got the folder {str(path)!r}.")
    contents = read_contents(directory)
    heading = f"Model soups in {directory.resolve().name}" if title is None else title
    with replacing(path) as temporary:
        # JSON can hold halves of surrogate pairs, which no encoding has
        temporary.write_text(_page(contents, heading), encoding="utf-8", errors="replace", newline="\n")
    return path


def _page(contents: Contents, title: str) -> str:
    sections = {"summary": ("Summary", summary_section(contents))}
    if contents.failures:
        sections["failures"] = ("What could not be read", failures_section(contents))
    if contents.soups:
        sections["soups"] = ("Soups", soups_section(contents))
    if contents.studies:
        sections["studies"] = ("Studies", studies_section(contents))
    if contents.ingredients:
        sections["ingredients"] = ("Ingredients", ingredients_section(contents))
        sections["provenance"] = ("Where the ingredients come from", provenance_section(contents))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content="lightning-soups"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    links = bullets(element("a", name, href=f"#{key}") for key, (name, _) in sections.items())
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    header = element(
        "header",
        element("h1", title),
        element(
            "p",
            "Read from ",
            code(str(contents.directory)),
            ". All paths below are inside it. Point at a number to see all its digits.",
            class_="note",
        ),
        element("p", f"Written {written} by lightning-soups {versions()['lightning-soups']}.", class_="generated"),
        element("nav", links, aria_label="Contents"),
    )
    body = (element("section", element("h2", name, id=key), content) for key, (name, content) in sections.items())
    page = element("html", head, element("body", header, element("main", fragment(*body))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"
