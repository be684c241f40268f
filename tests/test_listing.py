"""``lightning-soup ls``, and the order that it lists in."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from lightning_soups import Ingredients, SoupCLI
from lightning_soups.listing import list_ingredients
from lightning_soups.records import read_record, write_record
from tests.helpers import record


@pytest.fixture(scope="module")
def soups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soups")
    record(folder, [0.05, 0.8, 0.2])
    (path,) = (folder / "runs" / "run-02").glob("*.json")
    known = read_record(path)
    kept = {key: known[key] for key in known if key not in ("format", "versions")}
    write_record(path, {**kept, "metrics": {**known["metrics"], "test_acc/rotated": 0.5, "odd": math.nan}})
    return folder


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-soup"])


def ls(*arguments: object) -> None:
    SoupCLI(args=["ls", *map(str, arguments)])


def rows(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines() if line.strip()]


def test_the_table_shows_the_best_first_and_the_metrics_that_were_asked_for(soups: Path, capsys) -> None:
    ls(soups)
    printed = rows(capsys.readouterr().out)
    assert " ".join(printed[0]) == f"3 ingredients in {soups}"
    assert printed[1] == ["#", "ingredient", "val_acc", "lr"]
    best_first = [one.run for one in Ingredients.load(soups).best_first()]
    assert [row[1] for row in printed[3:]] == best_first
    ls(soups, "--where", "`test_acc/rotated` > 0.1", "--sort", "lr")
    printed = rows(capsys.readouterr().out)
    assert " ".join(printed[0]).startswith("1 of 3 ingredients")
    assert printed[1] == ["#", "ingredient", "val_acc", "test_acc/rotated"]
    ls(soups, "--where", "lr > 5")
    assert rows(capsys.readouterr().out) == [f"0 of 3 ingredients in {soups}".split()]


def test_json_is_all_that_is_printed_and_loads_strictly(soups: Path, capsys) -> None:
    ls("--ingredients", soups, "--json", "--sort", "lr", "--reverse", "--top", "2")
    listed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [one["hyperparameters"]["lr"] for one in listed] == [0.8, 0.2]
    by_path = {str(one.path): one for one in Ingredients.load(soups)}
    for one in listed:
        recorded = by_path[one["path"]]
        for name in ("run", "epoch", "step", "monitor", "mode", "initialization"):
            assert one[name] == getattr(recorded, name)
        assert one["metrics"]["val_acc"] == recorded.metrics["val_acc"]
    assert listed[1]["metrics"]["odd"] is None


def test_orders(soups: Path) -> None:
    def runs(**options) -> list[str]:
        return [one.run[-1] for one in list_ingredients(str(soups), **options)[1]]

    accuracies = {one.run[-1]: one.metrics["val_acc"] for one in Ingredients.load(soups)}
    best_first = sorted(accuracies, key=lambda run: -accuracies[run])
    assert runs() == runs(sort="val_acc") == runs(sort=" val_acc ") == best_first
    assert runs(reverse=True) == runs(sort="val_acc", reverse=True) == best_first[::-1]
    assert runs(sort="lr") == ["0", "2", "1"]
    assert runs(sort="-lr") == runs(sort="lr", reverse=True) == ["1", "2", "0"]
    assert runs(sort="run", top=2) == ["0", "1"]
    assert runs(sort="`test_acc/rotated`") == runs(sort="`test_acc/rotated`", reverse=True) == ["2", "0", "1"]
    assert runs(sort="odd") == ["0", "1", "2"]


def test_checkpoints_without_records_are_listed_too(tmp_path: Path, capsys) -> None:
    for run, lr in [("a", 0.1), ("b", 0.2)]:
        path = tmp_path / run / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        torch.save({"state_dict": {}, "hyper_parameters": {"lr": lr}, "epoch": 4, "global_step": 50}, path)
    ls(tmp_path / "a" / "checkpoints" / "best.ckpt", tmp_path / "b" / "checkpoints" / "best.ckpt", "--sort=-lr")
    assert [row[1:] for row in rows(capsys.readouterr().out)[3:]] == [["b", "0.2"], ["a", "0.1"]]
    ls(f"{tmp_path}/*/*/best.ckpt", "--where", "step == 50 and run == 'a'", "--json")
    assert [one["epoch"] for one in json.loads(capsys.readouterr().out)] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say once where the ingredients are"),
        (["HERE", "--ingredients", "HERE"], "Say once where the ingredients are"),
        (["nowhere"], "nowhere"),
        (["HERE", "--where", "acc > 1"], "Did you mean 'val_acc'?"),
        (["HERE", "--where", "lr >"], "cannot be read"),
        (["HERE", "--sort", "loss"], "'loss'"),
        (["HERE", "--top", "0"], "`top` must be at least 1, got 0"),
    ],
)
def test_mistakes_are_short_errors(soups: Path, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        ls(*(str(soups) if argument == "HERE" else argument for argument in arguments))
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
