"""Real bad files of every kind, both policies, every way in."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_soups import (
    BadIngredientError,
    GreedySoup,
    Ingredients,
    LearnedSoup,
    Mixture,
    ModelStock,
    PrunedSoup,
    Recipe,
    Soup,
    SoupTrainer,
    UniformSoup,
)
from lightning_soups.mixing import Mixer
from lightning_soups.report import write_report
from lightning_soups.score import Score
from lightning_soups.studies import NumberOfModels
from tests.helpers import Blobs, Classifier, record, resave, trainer

LRS = [0.1, 0.6, 0.3, 0.2]
BAD = 1  # whose place among them is neither the first nor the last, also by score
TWO = {"devices": 2, "strategy": "ddp_spawn"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, LRS)
    return directory


@pytest.fixture
def soups(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "soups"))


def checkpoint_of(soups: Path, place: int = BAD) -> Path:
    return next((soups / "runs" / f"run-{place:02d}").glob("*.ckpt"))


def cook(ingredients: Any, recipe: Recipe | None = None, **arguments: Any) -> Soup:
    keywords = {"devices": arguments.pop("devices", 1), "strategy": arguments.pop("strategy", "auto")}
    keywords["callbacks"] = arguments.pop("callbacks", None)
    module = arguments.pop("module", None) or Classifier()
    defaults = {"datamodule": Blobs(), "early_rejection": False, "recipe": recipe or GreedySoup()}
    return trainer(SoupTrainer, **keywords).cook(module, ingredients=ingredients, **{**defaults, **arguments})


def without(soups: Path, place: int = BAD) -> list[str]:
    return [str(checkpoint_of(soups, one)) for one in range(len(LRS)) if one != place]


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the weights, and record the file as it is then."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = edit(checkpoint["state_dict"]) or checkpoint["state_dict"]
    resave(path, checkpoint)


def record_again(path: Path, **fields: Any) -> None:
    file = path.with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def in_a_weight(path: Path) -> int:
    """Where in a file a weight is."""
    weight = torch.load(path, weights_only=True)["state_dict"]["net.0.weight"]
    return path.read_bytes().index(weight.numpy().tobytes()) + 41


def fill(value: float) -> Callable[[dict[str, Any]], Any]:
    def edit(state_dict: dict[str, Any]) -> None:
        state_dict["net.0.weight"][1] = value

    return edit


def renamed(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("net.2", "head"): value for name, value in state_dict.items()}


def whole(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {name: value.long() for name, value in state_dict.items()}


def torn(path: Path) -> None:
    file = path.with_suffix(".json")
    file.write_bytes(file.read_bytes()[:100])


FOUND_WHEN_OPENED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:1500]), "cannot be read as a checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
    "no checkpoint": (lambda path: path.write_bytes(b"a shopping list\n" * 99), "cannot be read as a checkpoint"),
    "another kind": (lambda path: torch.save({"optimizer": {"lr": 0.1}}, path), "holds no weights"),
    "vanished": (lambda path: path.unlink(), "names a checkpoint that is missing"),
    "architecture": (
        lambda path: change(path, lambda _: Classifier(hidden=4).state_dict()),
        r"do not fit together: net\.0\.weight: shape \(8, 6\) against \(4, 6\); ",
    ),
    "names": (lambda path: change(path, renamed), r"do not fit together: net\.2\.weight: only in the first"),
    "dtype": (lambda path: change(path, whole), r"net\.0\.weight: dtype torch\.float32 against torch\.int64"),
    "torn record": (torn, "json' cannot be read"),
    "record of another file": (
        lambda path: record_again(path, checkpoint="other.ckpt"),
        "names a checkpoint that is missing",
    ),
    "no score": (lambda path: record_again(path, metrics={"val_loss": 1.0}), "has no value of 'val_acc'"),
    "score is NaN": (lambda path: record_again(path, metrics={"val_acc": None}), "its recorded 'val_acc' is nan"),
    "score is a word": (
        lambda path: record_again(path, metrics={"val_acc": "high"}),
        "no number as the metric 'val_acc': 'high'",
    ),
    "no hash": (lambda path: record_again(path, sha256=7), "no valid 'sha256': 7"),
    "no such mode": (lambda path: record_again(path, mode="best"), "neither 'min' nor 'max'"),
}
FOUND_AT_USE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other content": (lambda path: flip(path, in_a_weight(path)), "its content is not what was recorded: SHA-256"),
    "NaN": (lambda path: change(path, fill(math.nan)), r"not finite: NaN in 'net\.0\.weight'"),
    "infinity": (lambda path: change(path, fill(-math.inf)), r"not finite: infinity in 'net\.0\.weight'"),
}
KINDS = {**FOUND_WHEN_OPENED, **FOUND_AT_USE}


@pytest.fixture(scope="module")
def clean(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Soup:
    """A greedy soup without the ingredient that the tests make bad."""
    return cook(without(recorded), output=tmp_path_factory.mktemp("clean") / "soup.ckpt")


def told(soup: Soup) -> list[Any]:
    """What was asked, and what it cost, whatever folder the ingredients are in."""
    rows = [row for row in soup.trace if not row.is_left_out]
    return [([one.run for one in row.mixture], row.score, row.accepted, row.samples) for row in rows]


def assert_same_soup(soup: Soup, expected: Soup) -> None:
    assert [one.run for one in soup.ingredients] == [one.run for one in expected.ingredients]
    assert soup.metrics == expected.metrics
    state, reference = soup.state_dict(), expected.state_dict()
    assert all(torch.equal(state[name], value) for name, value in reference.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_ingredient_is_refused_by_name_or_left_out(soups: Path, clean: Soup, kind: str) -> None:
    spoil, reason = KINDS[kind]
    path = checkpoint_of(soups)
    spoil(path)
    with pytest.raises(BadIngredientError, match=f"1 ingredient cannot be used:\n.*run-01.*{reason}.*\n.*='skip'"):
        cook(soups)
    assert not (soups / "soups").exists() or not list((soups / "soups").glob("*.ckpt"))
    with pytest.warns(UserWarning, match=f"Left out of 4 ingredients, 1:\n.*run-01.*{reason}"):
        soup = cook(soups, on_bad_ingredient="skip")
    assert_same_soup(soup, clean)
    assert told(soup) == told(clean)
    for one in (soup, Soup.load(soup.path)):
        assert len(one.candidates) == 3
        (entry,) = one.left_out
        assert (entry.path.stem, entry.run) == (path.stem, "run-01")
        row = one.trace[-1]
        assert [member.path for member in row.mixture] == [entry.path]
        assert math.isnan(row.score.value)
        assert (row.accepted, row.cached, row.samples, row.label) == (False, True, 0, f"left out: {entry.reason}")


@pytest.mark.parametrize("recipe", [UniformSoup(), UniformSoup(top_k=3), PrunedSoup(), LearnedSoup(steps=2)])
@pytest.mark.parametrize("kind", FOUND_AT_USE)
def test_no_recipe_uses_damaged_weights(soups: Path, recipe: Recipe, kind: str) -> None:
    KINDS[kind][0](checkpoint_of(soups))
    with pytest.raises(BadIngredientError, match="run-01"):
        cook(soups, recipe)
    soup = cook(soups, recipe, on_bad_ingredient="skip")
    expected = cook(without(soups), recipe, output=soups / "expected.ckpt")
    assert_same_soup(soup, expected)
    assert [one.run for one in soup.left_out] == ["run-01"]


def test_model_stock_measures_no_damaged_weights(soups: Path) -> None:
    expected = cook(without(soups), ModelStock(), output=soups / "expected.ckpt")
    change(checkpoint_of(soups), fill(math.nan))
    assert_same_soup(cook(soups, ModelStock(), on_bad_ingredient="skip"), expected)
    theta0 = next((soups / "initializations").glob("*.ckpt"))
    checkpoint = torch.load(theta0, weights_only=True)
    fill(math.nan)(checkpoint["state_dict"])
    torch.save(checkpoint, theta0)
    for policy in ("error", "skip"):
        with pytest.raises(BadIngredientError, match=rf"(?s){theta0.name}.*NaN in 'net\.0\.weight'"):
            cook(without(soups), ModelStock(), on_bad_ingredient=policy)


def test_all_that_is_found_before_work_begins_is_in_one_error(soups: Path) -> None:
    for place, kind in enumerate(["torn record", "truncated", "architecture"]):
        KINDS[kind][0](checkpoint_of(soups, place))
    with pytest.raises(BadIngredientError, match=r"(?s)3 ingredients.*run-00.*run-01.*run-02.*skip") as raised:
        cook(soups)
    assert [one.run for one in raised.value.bad] == ["run-00", "run-01", "run-02"]
    assert [one.run for one in cook(soups, on_bad_ingredient="skip").ingredients] == ["run-03"]
    for place in (2, 3):
        checkpoint_of(soups, place).write_bytes(b"")
    for policy in ("error", "skip"):
        with pytest.raises(BadIngredientError, match=r"(?s)4 ingredients.*None is left") as raised:
            cook(soups, on_bad_ingredient=policy)
        assert raised.value.all_of_them
    for place in range(4):
        torn(checkpoint_of(soups, place))
    with pytest.raises(BadIngredientError, match=r"(?s)4 ingredients.*None is left"):
        cook(soups, on_bad_ingredient="skip")


def test_every_bad_ingredient_at_use_is_left_out_in_turn(soups: Path) -> None:
    for place in (0, 1, 2):
        change(checkpoint_of(soups, place), fill(math.nan))
    soup = cook(soups, on_bad_ingredient="skip")
    assert [one.run for one in soup.ingredients] == ["run-03"]
    assert sorted(one.run for one in soup.left_out) == ["run-00", "run-01", "run-02"]
    change(checkpoint_of(soups, 3), fill(math.nan))
    with pytest.raises(BadIngredientError, match="None is left"):
        cook(soups, on_bad_ingredient="skip")


def test_a_foreign_first_ingredient_does_not_make_the_others_bad(soups: Path) -> None:
    change(checkpoint_of(soups, 0), renamed)
    assert [one.run for one in cook(soups, on_bad_ingredient="skip").left_out] == ["run-00"]
    for place in (1, 2):  # most are foreign now, but they do not fit the module
        change(checkpoint_of(soups, place), renamed)
    assert [one.run for one in cook(soups, on_bad_ingredient="skip").ingredients] == ["run-03"]


def test_other_dtypes_are_legal_and_said(soups: Path) -> None:
    change(checkpoint_of(soups), lambda state_dict: {name: value.bfloat16() for name, value in state_dict.items()})
    with pytest.warns(UserWarning, match="dtypes: 3 in float32, 1 in bfloat16"):
        soup = cook(soups, UniformSoup())
    assert not soup.left_out
    assert soup.state_dict()["net.0.weight"].dtype == torch.float32


def test_infinity_in_a_buffer_is_legal(tmp_path: Path) -> None:
    class Masked(Classifier):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    record(tmp_path, [0.1, 0.3], make=Masked)
    assert cook(tmp_path, UniformSoup(), module=Masked()).state_dict()["mask"].tolist() == [0.0, -math.inf]
    change(checkpoint_of(tmp_path), lambda state_dict: {**state_dict, "mask": torch.tensor([0.0, math.nan])})
    with pytest.raises(BadIngredientError, match="NaN in 'mask'"):
        cook(tmp_path, UniformSoup(), module=Masked())


def test_corrupted_bytes_never_give_a_soup(soups: Path) -> None:
    path = checkpoint_of(soups)
    (ingredient,) = Ingredients.load([path])
    content = path.read_bytes()
    choose = random.Random(0)
    for offset in choose.sample(range(len(content)), 60):
        flip(path, offset)
        with pytest.raises(ValueError, match=path.stem):
            Mixer().mix(Mixture.uniform([ingredient]))
        path.write_bytes(content)
    Mixer().mix(Mixture.uniform([ingredient]))


def test_a_soup_that_is_saved_without_a_trainer_is_checked(soups: Path) -> None:
    found = Ingredients.load(soups)
    common = {"monitor": "val_acc", "metrics": {}, "trace": [], "recipe": "r", "candidates": found}
    soup = Soup(Mixture.uniform(found), Score(0.5, "max"), **common)
    flip(checkpoint_of(soups), in_a_weight(checkpoint_of(soups)))
    with pytest.raises(BadIngredientError, match="run-01"):
        soup.save(soups / "soup.ckpt")
    with pytest.raises(BadIngredientError, match="run-01"):
        soup.state_dict()
    assert not (soups / "soup.ckpt").exists()


class Replacing(Callback):
    """Replaces a checkpoint after it was opened: when the first pass begins."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.content:
            temporary = self.path.with_suffix(".new")
            temporary.write_bytes(self.content)
            temporary.replace(self.path)
            self.content = b""


def test_a_file_that_is_replaced_during_the_cook_is_noticed(soups: Path, clean: Soup) -> None:
    """Without a record, so that only the file itself tells; it is opened, and not yet read ahead, when it happens."""
    paths = [checkpoint_of(soups, place) for place in range(4)]
    for place, path in enumerate(paths):
        path.with_suffix(".json").unlink()
        path.rename(soups / f"{place}.ckpt")
    other = (soups / "0.ckpt").read_bytes()
    # every ingredient is evaluated; while the first one is, the second is read ahead
    replacing = Replacing(soups / "3.ckpt", other)
    with pytest.raises(BadIngredientError, match=r"3\.ckpt': its file was changed after it had been opened"):
        cook(str(soups / "*.ckpt"), monitor="val_acc", callbacks=[replacing])


def test_copies_are_left_out_whatever_the_policy(soups: Path, clean: Soup, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for place in (0, 2, 3):
        shutil.copy(checkpoint_of(soups, place), folder / f"epoch={place}.ckpt")
    checkpoint = torch.load(folder / "epoch=2.ckpt", weights_only=True)
    torch.save({**checkpoint, "global_step": 99}, folder / "last.ckpt")  # other bytes, but the same weights
    (folder / "link.ckpt").symlink_to("epoch=0.ckpt")
    with pytest.warns(UserWarning, match=r"(?s)Left out of 5 ingredients, 2:.*link.*same file.*last.*same weights as"):
        soup = cook(str(folder / "*.ckpt"), UniformSoup(), monitor="val_acc", output=tmp_path / "s.ckpt")
    assert [one.path.name for one in soup.ingredients] == ["epoch=0.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"]
    assert [(one.path.name, one.is_copy) for one in soup.left_out] == [("link.ckpt", True), ("last.ckpt", True)]
    assert Soup.load(soup.path).left_out == soup.left_out


def test_other_initializations(soups: Path) -> None:
    record_again(checkpoint_of(soups), initialization="0123456789abcdef")
    with pytest.warns(UserWarning, match="2 different initializations"):
        assert not cook(soups, GreedySoup()).left_out
    with pytest.raises(BadIngredientError, match=r"run-01.*started from other weights, 0123456789abcdef, than 3"):
        cook(soups, UniformSoup())
    for recipe in (UniformSoup(), GreedySoup()):
        soup = cook(soups, recipe, on_bad_ingredient="skip")
        assert [one.run for one in soup.left_out] == ["run-01"]
    theta0 = next((soups / "initializations").glob("*.ckpt"))
    for place in (0, 2):  # now most say that they started elsewhere, but what is given is where the last one did
        record_again(checkpoint_of(soups, place), initialization="0123456789abcdef")
    assert len(cook(soups, UniformSoup(), on_bad_ingredient="skip").ingredients) == 3
    soup = cook(soups, UniformSoup(), on_bad_ingredient="skip", initialization=theta0)
    assert [one.run for one in soup.ingredients] == ["run-03"]
    record_again(checkpoint_of(soups, 2), initialization=theta0.stem)  # two and two: the best score decides
    soup = cook(soups, UniformSoup(), on_bad_ingredient="skip")
    best = Ingredients.load(soups).best_first()[0]
    assert best in soup.ingredients
    assert len(soup.ingredients) == 2


def test_other_monitors(soups: Path) -> None:
    record_again(checkpoint_of(soups), monitor="val_loss", mode="min")
    with pytest.raises(BadIngredientError, match=r"run-01.*recorded by 'val_loss', and most others by 'val_acc'"):
        cook(soups)
    soup = cook(soups, on_bad_ingredient="skip")
    assert (soup.monitor, [one.run for one in soup.left_out]) == ("val_acc", ["run-01"])
    assert not cook(soups, monitor="val_acc").left_out  # then that is what the user chose


@pytest.mark.parametrize("kind", ["torn record", "other content"])
def test_studies_refuse_or_leave_out_too(soups: Path, tmp_path: Path, kind: str) -> None:
    spoil, reason = KINDS[kind]
    spoil(checkpoint_of(soups))
    arguments = {"study": NumberOfModels(), "ingredients": soups, "datamodule": Blobs()}
    with pytest.raises(BadIngredientError, match=f"run-01.*{reason}"):
        trainer(SoupTrainer).study(Classifier(), **arguments)
    result = trainer(SoupTrainer).study(Classifier(), **arguments, on_bad_ingredient="skip")
    assert [one["run"] for one in result.ingredients] == ["run-00", "run-02", "run-03"]
    (caveat,) = [text for text in result.caveats if text.startswith("Left out: ")]
    assert "run-01" in caveat
    expected = trainer(SoupTrainer).study(
        Classifier(), **{**arguments, "ingredients": without(soups)}, output=tmp_path / "clean"
    )
    assert result.rows == expected.rows


def test_loading_lists_all_that_cannot_be_read(soups: Path) -> None:
    checkpoint_of(soups, 0).unlink()
    torn(checkpoint_of(soups, 2))
    with pytest.raises(BadIngredientError, match=r"(?s)2 ingredients.*run-00.*run-02"):
        Ingredients.load(soups)
    with pytest.warns(UserWarning, match=r"(?s)Left out of 4 ingredients, 2:.*run-00.*run-02"):
        found = Ingredients.load(soups, on_bad_ingredient="skip")
    assert [one.run for one in found] == ["run-01", "run-03"]
    assert [one.run for one in found[:1].where("epoch >= 0").left_out] == ["run-00", "run-02"]
    with pytest.raises(BadIngredientError, match=r"(?s)run-00.*run-02"):  # nothing is let in behind the cook's back
        cook(found)
    assert len(cook(found, on_bad_ingredient="skip").left_out) == 2
    with pytest.raises(ValueError, match=r"must be one of \['error', 'skip'\], got 'ignore'"):
        Ingredients.load(soups, on_bad_ingredient="ignore")
    with pytest.raises(ValueError, match=r"must be one of \['error', 'skip'\], got 'ignore'"):
        cook(soups, on_bad_ingredient="ignore")


def test_what_was_left_out_is_shown(soups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(checkpoint_of(soups), fill(math.nan))
    soup = cook(soups, on_bad_ingredient="skip")
    text = write_report(str(soups)).read_text()
    assert "left out" in text
    assert "not finite: NaN in" in text
    assert len(soup.trace) == 1 + len(told(soup))


class WrongOnOne(Callback):
    """Damages one file as one process sees it: that process reads other bytes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.global_rank == 1:
            import lightning_soups.checking as checking

            right = checking.content_hash
            checking.content_hash = lambda path: "0" * 64 if self.name in str(path) else right(path)


def test_two_processes_leave_out_the_same(soups: Path, tmp_path: Path) -> None:
    """One that is found when it is opened, and one at its first use, by one process only."""
    KINDS["truncated"][0](checkpoint_of(soups, 0))
    soup = cook(soups, on_bad_ingredient="skip", callbacks=[WrongOnOne("run-01")], **TWO)
    assert sorted(one.run for one in soup.left_out) == ["run-00", "run-01"]
    expected = cook([str(checkpoint_of(soups, place)) for place in (2, 3)], output=tmp_path / "s.ckpt")
    assert [one.run for one in soup.ingredients] == [one.run for one in expected.ingredients]
    assert all(torch.equal(soup.state_dict()[name], value) for name, value in expected.state_dict().items())


def test_two_processes_refuse_together(soups: Path) -> None:
    with pytest.raises(Exception, match=r"(?s)BadIngredientError: 1 ingredient cannot be used:\n.*run-01"):
        cook(soups, callbacks=[WrongOnOne("run-01")], **TWO)
