"""What was recorded: scores and hyperparameters, and where each ingredient comes from."""

from collections.abc import Sequence

from lightning_soups.paths import inside
from lightning_soups.report.contents import Contents, Recorded
from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.report.widgets import Column, anchor, code, facts, folded, link, score, table, value, versions
from lightning_soups.tables import varied_hyperparameters


def ingredients_section(contents: Contents) -> Html:
    """Scores and the hyperparameters that differ, then those that do not."""
    found = [one.ingredient for one in contents.ingredients]
    monitors = sorted({str(ingredient.monitor) for ingredient in found})
    varied = varied_hyperparameters(found)
    columns = [
        Column("rank", numeric=True),
        Column("ingredient"),
        *(Column(monitor, numeric=True) for monitor in monitors),
        *(Column(name, numeric=_is_numeric(contents.ingredients, name)) for name in varied),
    ]
    rows = [
        [
            str(rank),
            link(one.source, contents.label(one.ingredient)),
            *(score(one.ingredient.metrics.get(monitor)) for monitor in monitors),
            *(value(one.ingredient.hyperparameters.get(name)) for name in varied),
        ]
        for rank, one in enumerate(contents.ingredients, start=1)
    ]
    caption = "Ingredients with their recorded held-out score and the hyperparameters that differ, best first"
    parts = [table(caption, columns, rows, heading=1)]
    if found and (common := {name: kept for name, kept in found[0].hyperparameters.items() if name not in varied}):
        listed = facts((name, value(kept)) for name, kept in common.items())
        parts.append(folded("Hyperparameters that are the same in all runs", listed, is_open=False))
    return fragment(*parts)


def provenance_section(contents: Contents) -> Html:
    """Where each ingredient comes from."""
    names = ("record", "checkpoint", "initialization")
    used = [versions(one.record["versions"]) for one in contents.ingredients]
    all_used_the_same = len(set(used)) == 1
    columns = [
        Column("ingredient"),
        *map(Column, names),
        Column("epoch", numeric=True),
        Column("step", numeric=True),
        Column("devices", numeric=True),
        Column("exact"),
        Column("created"),
        *([] if all_used_the_same else [Column("versions")]),
    ]
    rows = [
        [
            element("span", contents.label(one.ingredient), id=anchor(one.source)),
            code(one.source),
            code(inside(one.ingredient.path, contents.directory)),
            code(one.ingredient.initialization or "unknown"),
            str(one.ingredient.epoch),
            str(one.ingredient.step),
            value(one.record["devices"]),
            "yes" if one.ingredient.exact else "not certain",
            value(one.record.get("created")),
            *([] if all_used_the_same else [shown]),
        ]
        for one, shown in zip(contents.ingredients, used, strict=True)
    ]
    note = element(
        "p",
        fragment("All were recorded with ", used[0], ". ") if all_used_the_same else "",
        "Epochs count from 0. The initialization is the fingerprint of the weights that a run started from; the weights"
        " lie in ",
        code("initializations/<fingerprint>.ckpt"),
        ". A recorded score is exact when it is known to be over all held-out samples, each once.",
        class_="note",
    )
    return fragment(table("Files, weights and versions that each ingredient comes from", columns, rows), note)


def _is_numeric(ingredients: Sequence[Recorded], name: str) -> bool:
    return all(isinstance(one.ingredient.hyperparameters.get(name), (int, float, type(None))) for one in ingredients)
