"""Modules are not imported because a file names them, but by a rule; nothing hostile runs on import."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_soups.cli import SoupCLI
from lightning_soups.command_line.named_classes import NamedImports, check_name
from tests.helpers import Blobs, Classifier

MODEL = """
from pathlib import Path
Path(__file__ + ".ran").touch()
from lightning.pytorch import LightningModule
from tests.helpers import Classifier
def plain_function(): pass
class Net(Classifier): pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules can be imported from, such as the current one."""
    folder = tmp_path / "project"
    (folder / "soup_package").mkdir(parents=True)
    (folder / "soup_module.py").write_text(MODEL)
    (folder / "soup_package" / "__init__.py").write_text("from soup_package.inner import *\n")
    (folder / "soup_package" / "inner.py").write_text(MODEL)
    (folder / "soup_lazy.py").write_text("def __getattr__(name): raise AttributeError(name)\n")
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("soup_"):
            del sys.modules[name]


def checkpoint(folder: Path, class_path: object, **hyperparameters: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": Classifier().state_dict(),
        "global_step": 1,
        "epoch": 0,
        "pytorch-lightning_version": "2.6",
    }
    content["hyper_parameters"] = {"_class_path": class_path, **hyperparameters}
    torch.save(content, folder / "x.ckpt")
    return folder / "x.ckpt"


def refused(path: Path, capsys) -> str:
    with pytest.raises(SystemExit):
        SoupCLI(datamodule_class=Blobs, args=["cook", "--ingredients", str(path), "--monitor", "val_acc"])
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("antigravity.Model", "'antigravity' is a module of Python itself"),
        ("idlelib.run.Executive", "'idlelib' is a module of Python itself"),
        ("this", "is no name of a class"),
        ("soup_module.Net; import os", "is no name of a class"),
        ("soup_module.Net()", "is no name of a class"),
        ("../evil.Net", "is no name of a class"),
        (".relative.Net", "is no name of a class"),
        ("soup_module.import", "is no name of a class"),
        ("soup_module.Missing", "does not define 'Missing'"),
        ("soup_module.plain_function.x", "No module named 'soup_module.plain_function'"),
        ("os.path.Net", "no attribute"),
        ("torch.nn.Linear", "is no LightningModule"),
        ("a." * 400 + "Net", "is no name of a class"),
        (["soup_module.Net"], "is no name of a class"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_names_that_are_refused(name: object, reason: str, project: Path, tmp_path: Path, capsys) -> None:
    assert reason in " ".join(refused(checkpoint(tmp_path / "runs", name), capsys).split())
    assert not list(project.rglob("*.ran"))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["soup_module.Net", "soup_package.Net", "soup_package.inner.Net", "soup_lazy.Net"])
def test_names_of_the_users_own_classes_are_found(name: str, project: Path) -> None:
    check_name(name, [])
    assert not list(project.rglob("*.ran"))  # to find is not to import


@pytest.mark.parametrize("where", ["project", "project/runs/a"])
def test_nothing_is_imported_from_where_the_ingredients_are(where: str, project: Path, tmp_path: Path, capsys) -> None:
    """Somebody enters a folder that they were sent, and cooks."""
    path = checkpoint(tmp_path / where, "soup_module.Net")
    (tmp_path / "link").symlink_to(project)
    if where != "project":
        (path.parent / "x.json").unlink(missing_ok=True)
    assert "lies in a folder of the ingredients" in " ".join(refused(path, capsys).split())
    assert "lies in a folder of the ingredients" in " ".join(
        refused(tmp_path / "link" / path.relative_to(project), capsys).split()
    )
    assert not list(project.rglob("*.ran"))


def test_what_hyperparameters_name_is_not_imported_either(project: Path, tmp_path: Path) -> None:
    """Parsers import what is given for an argument of the type ``Callable``, and all that looks like a class."""
    nested = {"loss": {"class_path": "antigravity.Fly", "init_args": {}}, "act": ["soup_module.Net", "lr.0"], "n": 3}
    with NamedImports() as imports:
        imports.watch(nested, [project])
        for module in ("antigravity", "soup_module"):
            with pytest.raises(ImportError, match="which a checkpoint names"), pytest.warns(UserWarning, match=module):
                __import__(module)
        import soup_package  # what no file names is nobody's business

        assert soup_package.Net
    assert "antigravity" not in sys.modules
    assert not (project / "soup_module.py.ran").exists()
    with NamedImports() as imports:
        imports.watch(nested, [tmp_path / "elsewhere"])
        import soup_module

        assert soup_module.Net
    assert not any(isinstance(finder, NamedImports) for finder in sys.meta_path)
