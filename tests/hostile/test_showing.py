"""What files say is shown as text: in a terminal, on the page and in the model card."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from lightning_soups import Ingredient, Ingredients, Mixture, Soup
from lightning_soups.cli import SoupCLI
from lightning_soups.report import write_report
from lightning_soups.score import Score
from lightning_soups.tables import ingredients_table, study_table, trace_table
from lightning_soups.trace import Question
from lightning_soups.visible import visible
from tests.helpers import Classifier
from tests.hostile.attacks import weights
from tests.hostile.test_code import _record
from tests.report.conftest import study_result
from tests.report.parsed import Page

ESCAPE = "\x1b[2J\x1b]8;;http://evil.example\x07click\x1b]8;;\x07\x9b31m\u202egnp.\r\x08"
MARKUP = "[link=http://evil.example]click[/link][bold][red]x[/red] [/nonsense]"
PAGE = """</style></title>"'><script>alert(1)</script><a href="javascript:alert(2)" onclick=x>&amp;<!-- ]]>"""
CARD = "x\n---\nlicense: mit\n---\n```\n# Title\n| a | b |\n<script>alert(1)</script>[x](javascript:alert(1))"
ALL = f"{MARKUP} {ESCAPE} {PAGE}"


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=2000, color_system="truecolor")
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def ingredients(text: str) -> list[Ingredient]:
    return [
        Ingredient(
            path=Path("runs") / f"{number}.ckpt",
            run=f"{number}{text}",
            metrics={text: 0.5},
            hyperparameters={text: f"{number}{text}"},
            monitor=text,
            mode="max",
        )
        for number in range(2)
    ]


def soup(found: list[Ingredient], text: str) -> Soup:
    question = Question(Mixture.uniform(found), Score(0.5, "max"), True, 1, 1, 1.0, False, False, label=text)
    return Soup(
        Mixture.uniform(found),
        Score(0.5, "max"),
        monitor=text,
        metrics={text: 0.5},
        trace=[question],
        recipe=text,
        options={text: text},
        candidates=found,
        caveats=[text],
    )


def test_a_terminal_gets_no_orders_and_no_markup() -> None:
    found = ingredients(MARKUP + ESCAPE)
    result = study_result(study=MARKUP + ESCAPE, metric=ESCAPE, rows=({MARKUP + ESCAPE: MARKUP + ESCAPE},))
    for table in (
        ingredients_table(found, ESCAPE + MARKUP),
        trace_table(soup(found, MARKUP + ESCAPE)),
        study_table(result),
    ):
        text = shown(table)
        assert "\x1b[2J" not in text
        assert "\x1b]8" not in text
        assert not re.search("[\x07\x08\r\x9b\u202e]", text)
        assert "[link=http://evil.example]" in text  # as it is written
        assert r"\x1b]8;;http://evil.example\x07" in text


def test_visible_text_keeps_letters_of_all_scripts() -> None:
    text = "naïve 模型 мир नमूना 👩\u200d🔬 x_y"
    assert visible(text) == text
    assert visible("a\nb\tc\x1b") == r"a\nb\tc\x1b"
    assert visible("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"
    assert visible("\ud800") == r"\ud800"


def test_the_command_shows_text(tmp_path: Path, capsys) -> None:
    directory(tmp_path, ESCAPE + MARKUP)
    SoupCLI(Classifier, args=["ls", str(tmp_path)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2J" in out
    (tmp_path / "runs" / "a" / "x.json").write_text(json.dumps(_record(checkpoint="../" + ESCAPE)))
    (tmp_path / "runs" / "a" / f"{ESCAPE[:4]}.json").write_text("{}")
    with pytest.warns(UserWarning, match="Left out") as warned:
        Ingredients.load(tmp_path, on_bad_ingredient="skip")
    assert "\x1b" not in str(warned[0].message)
    SoupCLI(Classifier, args=["ls", str(tmp_path)])  # which tells of what cannot be read
    assert "\x1b" not in "".join(capsys.readouterr())
    with pytest.raises(SystemExit):
        SoupCLI(Classifier, args=["ls", str(tmp_path / ESCAPE[1:5])])
    assert "\x1b" not in capsys.readouterr().err


def directory(folder: Path, text: str) -> Path:
    run = folder / "runs" / "a"
    run.mkdir(parents=True)
    for name in ("x", "y"):
        torch.save({"state_dict": weights(), "global_step": 1}, run / f"{name}.ckpt")
        record = _record(
            checkpoint=f"{name}.ckpt",
            run=text,
            metrics={text: 0.5, "b" + text: 1.0},
            hyperparameters={text: {name: text}, "same" + text: [text]},
            initialization=text,
            monitor=text,
            versions={text: text},
            created=text,
        )
        (run / f"{name}.json").write_text(json.dumps(record))
    return folder


def _structure(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(attributes)) for tag, attributes in page.elements]


def test_a_page_of_hostile_text_has_the_elements_of_a_page_of_plain_text(tmp_path: Path) -> None:
    pages = []
    for name, text in (("plain", "x"), ("hostile", ALL)):
        folder = directory(tmp_path / name, text)
        found = list(Ingredients.load(folder))
        soup(found, text).save(folder / "soups" / "own.ckpt")
        study_result(
            study=text,
            metric=text,
            monitor=text,
            options={text: text},
            conclusions=(text,),
            caveats=(text,),
            rows=({text: text},),
            models={text: {"coefficients": {text: 1.0}}},
            shifted=(text,),
            in_distribution=(text,),
            versions={text: text},
            created=text,
        ).save(folder / "studies" / "own")
        (folder / "runs" / "a" / "bad.json").write_text(json.dumps(_record(checkpoint=f"../{text}")))
        pages.append(Page(write_report(folder, title=text)))
    plain, hostile = pages
    assert _structure(hostile) == _structure(plain)
    for _, attributes in hostile.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("href", "src") or str(value).startswith(("#", "data:image/"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", hostile.source)
    assert PAGE in hostile.text


@pytest.mark.filterwarnings("ignore:The folder gets no config")
def test_a_model_card_keeps_its_front_matter_and_its_headings(tmp_path: Path) -> None:
    cards = []
    for name, text in (("plain", "x"), ("hostile", CARD + ESCAPE)):
        found = list(Ingredients.load(directory(tmp_path / name, text)))
        soup(found, text).save(tmp_path / name / "folder")
        cards.append((tmp_path / name / "folder" / "README.md").read_text())
    (_, plain_matter, plain), (_, matter, hostile) = (card.split("---\n", 2) for card in cards)
    assert yaml.safe_load(matter).keys() == yaml.safe_load(plain_matter).keys()
    assert "license" not in yaml.safe_load(matter)
    starts = [
        [line[:3] for line in card.splitlines() if line.startswith(("#", "```", "---"))] for card in (plain, hostile)
    ]
    assert starts[0] == starts[1]
    assert not re.search(r"(?<!\\)<script", hostile)
    assert "\x1b" not in cards[1]
