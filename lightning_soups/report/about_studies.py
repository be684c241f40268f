"""What was studied: conclusions, figure, table and where they come from."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_soups.report.contents import Contents, Figure, Studied
from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.report.widgets import (
    LONG,
    Column,
    anchor,
    bullets,
    code,
    facts,
    folded,
    joined,
    number,
    options,
    table,
    value,
    versions,
)
from lightning_soups.studies.result import Cell, StudyResult, columns
from lightning_soups.tables import show_score


def studies_section(contents: Contents) -> Html:
    """All studies, one by one."""
    return fragment(*map(_one_study, contents.studies))


def _one_study(one: Studied) -> Html:
    result = one.result
    better = "more is better" if result.mode == "max" else "less is better"
    known = [
        ("options", options(result.options)),
        ("reported", f"{result.metric} ({better})" + (" on test data" if result.datasets else " on held-out data")),
        ("datasets like the training data", joined(result.in_distribution) or "none"),
        ("shifted datasets", joined(result.shifted) or "none"),
        ("chosen by", f"{result.monitor} on held-out data"),
        ("ingredients", f"{len(result.ingredients)}, listed in the file"),
        ("caveats", bullets(result.caveats) if result.caveats else "none"),
        ("created", result.created),
        ("versions", versions(result.versions)),
    ]
    parts = [element("h3", f"{result.study} ", code(one.source), id=anchor(one.source)), bullets(result.conclusions)]
    parts += [_figure(one), folded(f"Table ({len(result.rows)} rows)", _rows(one), len(result.rows) <= LONG)]
    if result.models:
        models = _models(one.source, result.models)
        parts.append(folded(f"Models that were compared ({len(result.models)})", models, is_open=False))
    return element("article", *parts, facts(known))


def _figure(one: Studied) -> Html:
    if one.figure is None:
        how = code("pip install 'lightning-soups[report]'")
        why = fragment("No figure: none was drawn when this study ran, which needs matplotlib (", how, ").")
        return element("p", why, class_="note")
    caption = fragment(f"{one.result.study}: {one.result.metric}. From ", code(one.figure.source))
    picture = element("img", src=_embedded(one.figure), alt=_described(one.result))
    scroll = element("div", picture, class_="scroll card", role="region", aria_label="Figure", tabindex="0")
    return element("figure", scroll, element("figcaption", caption))


def _embedded(figure: Figure) -> str:
    """As an image of its own: its ids meet no others, and nothing in it can run or load anything."""
    return f"data:{figure.media_type};base64,{b64encode(figure.content).decode('ascii')}"


def _described(result: StudyResult) -> str:
    return f"Figure of {result.study}, showing {result.metric}; its numbers are in the table. " + " ".join(
        result.conclusions
    )


def _rows(one: Studied) -> Html:
    names = columns(one.result.rows)
    shown = [Column(name, numeric=_is_numeric(one.result.rows, name)) for name in names]
    cells = [[_cell(row.get(name)) for name in names] for row in one.result.rows]
    return table(f"{one.result.study}: {one.result.metric}", shown, cells)


def _models(source: str, models: Mapping[str, Any]) -> Html:
    shown = [Column("model"), Column("coefficient", numeric=True), Column("checkpoint, as the study names it")]
    rows = [
        [name + (", other coefficients in some layers" if model.get("layers") else ""), value(share), code(path)]
        for name, model in models.items()
        for path, share in model["coefficients"].items()
    ]
    return table(f"{source}: what the models are mixed of", shown, rows)


def _is_numeric(rows: Sequence[Mapping[str, Cell]], name: str) -> bool:
    return any(isinstance(row.get(name), (int, float)) for row in rows)


def _cell(content: Cell) -> str:
    if isinstance(content, float) and not content.is_integer():
        return number(content, show_score(content))
    return value(content)
