"""The model card of a soup: the README.md of a folder that can be shared.

What comes from files (names, hyperparameters, options, caveats) goes through a YAML dumper or is escaped, so that it
can neither end the front matter nor become markup.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_soups.records import varied_names
from lightning_soups.score import Score
from lightning_soups.visible import visible

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$@]|:(?=//))")
_SELECTION = "held-out selection score, not a test result"


def model_card(soup: Mapping[str, Any], folder: Mapping[str, Any], title: str) -> str:
    """Write a model card.

    Args:
        soup: A soup's provenance.
        folder: What is known of the folder: the ``library`` and ``class`` of its model (None without one), where that
            is ``import_from``, the ``base_model`` and the names of ``others``, weights that are not in the model.
        title: What to call the model.

    Returns:
        Markdown with a YAML front matter, as Hugging Face's hub reads it.
    """
    members, candidates = len(soup["mixture"]["members"]), len(soup["candidates"])
    of = f"{members} members" if soup["others"] else f"{members} of {candidates} fine-tuned models"
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(soup, folder, title), sort_keys=False, allow_unicode=True)}---",
        f"# {_text(title)}",
        f"This is a **model soup**: the weights of several models that were fine-tuned from the same initialization,"
        f" averaged into one model of the same size and cost (Wortsman et al. 2022,"
        f" [arXiv:2203.05482](https://arxiv.org/abs/2203.05482)). {_text(soup['recipe'])} chose {of} by"
        f" {_text(soup['monitor'])}. It was made with Lightning Soups.",
        "## How to load",
        _how_to_load(folder, title),
        "## Held-out score",
        _scores(soup),
        "## Members",
        _members(soup),
        "## Recipe",
        _table(["option", "value"], [["recipe", soup["recipe"]], *soup["options"].items()]),
        "## Caveats",
        _bullets([f"The score: {caveat}" for caveat in soup["caveats"]])
        or "None were noted: the held-out score is exact.",
        "## Versions",
        _table(["package", "version"], [*soup["versions"].items(), ["created", soup["created"]]]),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(soup: Mapping[str, Any], folder: Mapping[str, Any], title: str) -> dict[str, Any]:
    metric = {"type": soup["monitor"], "name": f"{soup['monitor']} ({_SELECTION})", "value": soup["score"]}
    result = {
        "task": {"type": "other", "name": "Choosing the members of the soup"},
        "dataset": {"type": "held-out", "name": "The held-out data that the members were chosen on"},
        "metrics": [metric],
    }
    base = {} if folder["base_model"] is None else {"base_model": folder["base_model"]}
    return {
        "library_name": folder["library"] or "pytorch",
        **base,
        "tags": ["model-soup", "lightning"],
        "model-index": [{"name": title, "results": [result]}],
    }


def _how_to_load(folder: Mapping[str, Any], title: str) -> str:
    if folder["class"] is None:
        code = (
            "from safetensors.torch import load_model\n\n"
            "module = ...  # the LightningModule that the members were trained as\n"
            f"load_model(module, {f'{title}/model.safetensors'!r})"
        )
    else:
        code = (
            f"from {folder['import_from']} import {folder['class']}\n\n"
            f"model = {folder['class']}.from_pretrained({title!r})"
        )
    parts = [f"```python\n{code}\n```"]
    if folder["others"]:
        parts.append(
            "Weights of the training module that are not part of this model are in `other_weights.safetensors`:"
            f" {', '.join(map(_text, folder['others']))}."
        )
    parts.append(
        "Everything that was recorded, the whole course of the recipe included, is in `lightning_soup.json`;"
        " `lightning_soups.Soup.load` reads the folder, and its `save` writes other formats, such as a Lightning"
        " checkpoint for `load_from_checkpoint`."
    )
    return "\n\n".join(parts)


def _scores(soup: Mapping[str, Any]) -> str:
    monitor, mode = soup["monitor"], soup["mode"]
    rows = [["this soup", _number(soup["score"])]]
    if (single := _best_single(soup)) is not None:
        how, value = single
        rows += [[f"best single candidate, {how}", _number(value)], ["difference", f"{soup['score'] - value:+.4g}"]]
    rows += [[f"{name}, of this soup", _number(value)] for name, value in soup["metrics"].items() if name != monitor]
    better = "higher is better" if mode == "max" else "lower is better"
    return (
        _table(["", f"{monitor} ({better})"], rows)
        + "\n\nThe members were chosen by this score on these data, so it is a selection score, and an optimistic one."
        " Judge the model by data that took no part in choosing."
    )


def _best_single(soup: Mapping[str, Any]) -> tuple[str, float] | None:
    """What the best candidate alone scored when the recipe asked about it; else, what was recorded."""
    mode, count = soup["mode"], len(soup["candidates"])
    asked = [
        Score(row["score"], mode)
        for row in soup["trace"]
        if len(row["mixture"]["members"]) == 1 and row["mixture"]["members"][0] < count and not row["early"]
    ]
    if asked:
        return "measured the same way", max(asked).value
    recorded = [
        Score(entry["metrics"][soup["monitor"]], mode)
        for entry in soup["candidates"]
        if entry["monitor"] == soup["monitor"]
    ]
    return ("as recorded in training", max(recorded).value) if recorded else None


def _members(soup: Mapping[str, Any]) -> str:
    known = [*soup["candidates"], *soup["others"]]
    mixture = soup["mixture"]
    members = [known[number] for number in mixture["members"]]
    monitors = sorted({entry["monitor"] for entry in members if entry["monitor"] is not None})
    varied = varied_names([entry["hyperparameters"] for entry in members if entry in soup["candidates"]])
    rows = [
        [
            f"{entry['run']}/{Path(entry['path']).stem}",
            _number(coefficient),
            *(_number(entry["metrics"].get(monitor)) for monitor in monitors),
            *(_number(entry["hyperparameters"].get(name)) for name in varied),
        ]
        for entry, coefficient in zip(members, mixture["coefficients"], strict=True)
    ]
    table = _table(["member", "coefficient", *(f"{name}, recorded" for name in monitors), *varied], rows)
    if mixture["layers"]:
        table += (
            f"\n\n{len(mixture['layers'])} layers or tensors have coefficients of their own, which are in"
            " `lightning_soup.json`."
        )
    return table


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    lines[0] = [_text(cell) for cell in header]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items)


def _text(value: Any) -> str:
    """On one line, and with nothing in it that Markdown or HTML would take for markup."""
    return _SPECIAL.sub(r"\\\1", visible(" ".join(str(value).split())))
