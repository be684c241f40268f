"""Paths and names as people have them: spaces, brackets, tildes, other scripts, reserved and very long ones."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_soups import Ingredients, Recipe, SoupCallback, SoupTrainer
from lightning_soups.cooking import file_name
from lightning_soups.safe_names import safe_name
from lightning_soups.weights import read_checkpoint
from tests.helpers import Blobs, Classifier, record, trainer

FOLDERS = ["with space", "Ünï-é", "de\u0301composed", "quo'te\"d", "new\nline", "-dash", "a[1]b", "st*r", "q?m", "~"]
RESERVED = ["CON", "con", "nul.txt", "AUX.ckpt", "COM1", "lpt9.tar.gz", "COM¹"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.1, 0.5])
    return directory


@pytest.mark.parametrize("name", FOLDERS, ids=ascii)
def test_a_soup_directory_may_have_any_name(two: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.symlink_to(two)
    found = Ingredients.load(str(folder))
    assert len(found) == 2
    assert found.directory == folder
    globbed = Ingredients.load(str(folder / "runs/*/*.ckpt"))
    assert [one.path for one in globbed] == [one.path for one in found]
    assert globbed.directory == folder / "runs"
    assert len(Ingredients.load(str(found[0].path))) == 1
    output = folder / "s o[u]p.ckpt"
    soup = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=folder, output=output)
    assert soup.state_dict().keys() == Classifier().state_dict().keys()


def test_a_tilde_is_the_home_folder_for_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and Lightning expand it when they save and read; half of the files would be elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trainer(max_epochs=1, callbacks=[SoupCallback("~/soups", "val_acc")]).fit(Classifier(), datamodule=Blobs())
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    found = Ingredients.load("~/soups")
    assert found.directory == tmp_path / "home" / "soups"
    assert len(Ingredients.load("~/soups/runs/*/*.ckpt")) == len(Ingredients.load([f"~/{found[0].path}"[2:]])) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "`ingredients` is empty"),
        ([], "list of ingredients is empty"),
        pytest.param(iter([]), "list of ingredients is empty", id="an empty iterator"),
        (None, "a path, a glob or a list of paths, got None"),
        (Ingredients([]), "no ingredients to cook with"),
        ("{two}x", r"neither a folder.*Did you mean '.*two'"),
        ("{two}/*.ckpt", "nor a glob that matches anything"),
        ("{two}/runs", "holds no ingredients.*a part of the soup directory '.*two'"),
        ("{two}/runs/run-00", "holds no ingredients.*a part of the soup directory '.*two'"),
        ("{empty}", "holds no ingredients"),
        (["{empty}"], "holds no checkpoint"),
    ],
    ids=str,
)
def test_where_there_is_nothing_to_cook(two: Path, tmp_path: Path, source: object, message: str) -> None:
    (tmp_path / "two").symlink_to(two)
    (tmp_path / "empty" / "runs" / "run").mkdir(parents=True)

    def filled(text: str) -> str:
        return text.format(two=tmp_path / "two", empty=tmp_path / "empty")

    if isinstance(source, str):
        source = filled(source)
    elif isinstance(source, list):
        source = [filled(text) for text in source]
    with pytest.raises(ValueError, match=message):
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=source)


def test_one_checkpoint_by_two_paths_is_one_ingredient(two: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(two)
    paths = sorted(two.glob("runs/*/*.ckpt"))
    with pytest.warns(UserWarning, match="Left out of 4 ingredients, 2:(\n.*it is the same file as .*){2}"):
        found = Ingredients.load([*paths, *(tmp_path / "link").glob("runs/*/*.ckpt")])
    assert [one.path for one in found] == paths
    (tmp_path / "runs").mkdir()
    for path in paths:
        (tmp_path / "runs" / path.parent.name).symlink_to(path.parent)
    assert len(Ingredients.load(tmp_path)) == 2


def test_relative_paths_say_where_they_were_looked_for(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two)
    found = Ingredients.load(".")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"seen from the current folder, '{tmp_path}'"):
        read_checkpoint(found[0].path)


@pytest.mark.parametrize("name", RESERVED)
def test_names_of_windows_devices_get_another_character(name: str) -> None:
    safe = safe_name(name)
    first = name.partition(".")[0]
    assert safe == f"{first}_{name[len(first) :]}"


def test_recipes_may_be_called_like_windows_devices() -> None:
    kind = type("Aux", (Recipe,), {"cook": lambda self, ingredients, evaluator: None})
    assert file_name(kind()) == "aux_"


@given(st.text(max_size=300))
def test_safe_names_are_safe_everywhere(text: str) -> None:
    safe = safe_name(text)
    assert safe_name(safe) == safe
    assert 0 < len(safe.encode()) <= 200
    assert not set(safe) & set('<>:"/\\|?*\0\n ')
    assert all(char.isprintable() for char in safe)
    assert safe[0] != "."
    assert safe[-1] not in ". "
    assert safe == unicodedata.normalize("NFC", safe)
    assert os.path.basename(safe) == safe


def test_letters_of_all_scripts_stay_and_long_names_stay_apart() -> None:
    for name in ("プローブ-é", "हिन्दी", "العربية", "lr=0.1+wd=1e-4", "CONSOLE", "a.b"):
        assert safe_name(name) == name
    assert safe_name("e\u0301") == "é"
    assert safe_name("a" * 400) != safe_name("a" * 401)


def test_runs_with_reserved_equal_and_long_names_are_recorded(tmp_path: Path) -> None:
    for name in ("NUL", "a" * 300, "a" * 300, "é" * 200, "A", "a"):
        callback = SoupCallback(tmp_path, "val_acc", run=name)
        trainer(max_epochs=1, callbacks=[callback]).fit(Classifier(), datamodule=Blobs())
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 6
    assert {"NUL_", "A", "a"} < set(names)
    assert all(safe_name(name) == name for name in names), "a run that is resumed finds its folder by its name"
    assert len(Ingredients.load(tmp_path)) == 6
