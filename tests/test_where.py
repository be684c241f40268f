"""Conditions on ingredients, against what Python itself says where it can."""

import math
from pathlib import Path

import pytest

from lightning_soups import Ingredient, Ingredients, SoupTrainer
from lightning_soups.where import Condition
from tests.helpers import QUIET, Blobs, Classifier, record

METRICS = {"val_acc": 0.91, "val_loss": 0.4, "test_acc/rotated": 0.6, "epoch": 7.0}
HYPERPARAMETERS = {
    "lr": 1e-3,
    "optimizer": "adamw",
    "optimizer-name": "AdamW",
    "nesterov": False,
    "warmup": None,
    "model": {"lr": 0.5, "head": {"width": 3}},
    "layers": [1, 2],
}


def one(name: str = "a", metrics=METRICS, hyperparameters=HYPERPARAMETERS) -> Ingredient:
    return Ingredient(Path(f"runs/{name}/best.ckpt"), name, metrics, hyperparameters, epoch=3, step=120)


@pytest.mark.parametrize(
    "text",
    [
        "val_acc > 0.9 and lr < 1e-2",
        "0.9 < val_acc <= 0.91 < 1",
        "not (val_acc > 0.95 or val_loss > 1)",
        "optimizer == 'adamw' and optimizer != \"sgd\"",
        "optimizer in ('adam', 'adamw') and 'adam' in optimizer and 2 in layers and 5 not in layers",
        "nesterov == false and not nesterov and nesterov is False",
        "warmup is None and warmup == null and lr is not None",
        "step % 50 == 20 and step // 50 == 2 and 2 ** 3 == 8 and -lr < +lr",
        "val_acc - val_loss > 0.5 and (1 - val_acc) / 2 < 0.05 and lr * 1000 == 1",
        "run == 'a' and path == 'runs/a/best.ckpt' and monitor is None",
        "`test_acc/rotated` > 0.5 and `optimizer-name` == 'AdamW'",
        "optimizer == `optimizer` and optimizer != '`optimizer`'",
        "model.lr == 0.5 and model.head.width == 3 and hyperparameters.model.lr == 0.5",
        "epoch == 3 and metrics.epoch == 7",
        "lr < 1e-2 or nowhere > 1",
    ],
)
def test_what_is_true(text: str) -> None:
    assert Condition(text).holds(one())
    assert not Condition(f"not ({text})").holds(one())


def test_python_agrees() -> None:
    for text in ["a < b < 0.5", "a + b * 2 > 1 and not a == b", "a in [b, 0.25] or b ** 2 <= a", "-a // b % 2 == 1"]:
        for a, b in [(0.25, 0.4), (0.5, 0.1), (-2.0, 3.0), (0.0, 1.0)]:
            expected = bool(eval(text, {}, {"a": a, "b": b}))
            assert Condition(text).holds(one(metrics={"a": a, "b": b}, hyperparameters={})) is expected, (text, a, b)


@pytest.mark.parametrize(
    "text", ["lr < 1", "not lr < 1", "lr == 1", "lr != 1", "lr", "not lr", "lr + 1 > 0", "2 in [lr]"]
)
def test_an_ingredient_that_lacks_a_name_does_not_match(text: str) -> None:
    assert not Condition(text).holds(one(hyperparameters={}))
    assert Condition(f"({text}) or val_acc > 0.9").holds(one(hyperparameters={}))
    assert not Condition(f"({text}) and val_acc > 0.9").holds(one(hyperparameters={}))


@pytest.mark.parametrize(
    "text", ["lr < 'high'", "warmup > 1", "optimizer + 1 > 0", "1 / nesterov > 0", "(-8) ** 0.5 > 0"]
)
def test_what_cannot_be_compared_or_calculated_does_not_match(text: str) -> None:
    assert not Condition(text).holds(one())
    assert not Condition(f"not {text}").holds(one())


def test_nan_is_neither_more_nor_less() -> None:
    diverged = one(metrics={"loss": math.nan})
    assert not Condition("loss < 1 or loss >= 1").holds(diverged)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "val_acc.__class__()",
        "(1).real",
        "[x for x in layers]",
        "lambda: 1",
        "layers[0] == 1",
        "f'{lr}' == ''",
        "(lr := 2) > 1",
        "lr if lr else 2",
        "{1: 2} == lr",
        "lr & 1",
        "b'x' == lr",
        "val_acc is lr",
        "1j > lr",
    ],
)
def test_nothing_else_is_understood(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        Condition(text)


@pytest.mark.parametrize(
    "text", ["", "lr <", "lr < 1;", "(" * 400 + "1" + ")" * 400, "1" * 1001, "val acc > 1", "-" * 999]
)
def test_what_cannot_be_read_is_a_short_error(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        Condition(text)


def test_numbers_cannot_grow_without_bound() -> None:
    with pytest.raises(ValueError, match="too large"):
        Condition("9**9**9 > lr").holds(one())
    with pytest.raises(ValueError, match="too large"):
        Condition("'a' * 2 > 1 or " + "9" * 400 + " * 1.0 > lr").holds(one())


def test_names_that_nobody_has_are_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"has 'val_ac'.*mean 'val_acc'\? There are: run, .*test_acc/rotated.*model.lr"
    ):
        Ingredients([one()]).where("val_ac > 0.9")


def test_ingredients_are_selected_and_stay_ingredients_of_their_directory() -> None:
    found = Ingredients([one(name, {"acc": acc}) for name, acc in [("a", 0.1), ("b", 0.7), ("c", 0.9)]], "there")
    selected = found.where("acc > 0.5")
    assert [ingredient.run for ingredient in selected] == ["b", "c"]
    assert (len(selected.where("acc > 2")), str(selected.directory)) == (0, "there")


def test_cook_uses_the_ingredients_of_which_it_is_true(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path, [0.05, 0.2, 0.4])
    cook = SoupTrainer(**QUIET, accelerator="cpu").cook
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        soup = cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, where="lr > 0.1 and run != 'run-02'")
    assert [candidate.run for candidate in soup.candidates] == ["run-01"]
    assert "left out 2 of 3 ingredients: run-00/epoch=" in caplog.text
    with pytest.raises(ValueError, match="`where='lr > 1'` is true of none of the 3 ingredients"):
        cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, where="lr > 1")
