"""No code from a file runs, whatever kind it is, wherever in it the code is, and whichever way it comes in."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_soups import Ingredients, Interpolation, Soup, SoupTrainer
from lightning_soups.cli import SoupCLI
from lightning_soups.weights import average_checkpoints, read_checkpoint
from lightning_soups.weights.adapter_folders import read_adapter
from tests.helpers import Blobs, Classifier, trainer
from tests.hostile.attacks import KINDS, Call, not_safetensors, payloads, weights

UNSAFE = """
import pickle, sys, torch, pathlib
for path in sys.argv[1:]:
    try:
        if path.endswith(".metadata"):
            pickle.loads(pathlib.Path(path).read_bytes())
        else:
            torch.load(path, weights_only=False)
    except Exception:
        pass  # what the attack returns need not make sense
"""


def _pickled(path: Path) -> Path:
    """The file in which the code is."""
    inside = [path / name for name in ("adapter_model.bin", "meta.pt", ".metadata") if (path / name).is_file()]
    if path.suffix == ".json":
        return path.with_name("pytorch_model-00001-of-00002.bin")
    return inside[0] if inside else path


@pytest.fixture(scope="session")
def created_without_care(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The kinds that do what they should when they are read by torch without care."""
    folder = tmp_path_factory.mktemp("unsafe")
    files = []
    for number, make in enumerate(KINDS.values()):
        (folder / str(number)).mkdir()
        for other in range(3):
            own = folder / str(number) / str(other)
            own.mkdir()
            files.append(_pickled(make(own, list(payloads(folder / f"{number}-{other}").values())[other])))
    subprocess.run([sys.executable, "-c", UNSAFE, *map(str, files)], check=True)
    return {
        kind for number, kind in enumerate(KINDS) if all((folder / f"{number}-{other}").exists() for other in range(3))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_attacks_are_real(kind: str, created_without_care: set[str]) -> None:
    assert kind in created_without_care


def _ways(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "load", lambda: Ingredients.load(path)
    yield "glob", lambda: Ingredients.load(str(path.parent / f"*{path.suffix or path.name[-3:]}"))
    yield "list", lambda: Ingredients.load([path])
    yield "average_checkpoints", lambda: average_checkpoints([path])
    yield "read_checkpoint", lambda: read_checkpoint(path)
    yield "ls", lambda: SoupCLI(Classifier, args=["ls", str(path)])
    yield "peek", lambda: SoupCLI(Classifier, Blobs, args=["cook", "--ingredients", str(path)])


@pytest.mark.parametrize("what", range(3), ids=["os.system", "exec", "eval behind a function of torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_and_the_type_is_named(kind: str, what: int, tmp_path: Path, capsys) -> None:
    marker = tmp_path / "marker"
    folder = tmp_path / "files"
    folder.mkdir()
    name, payload = list(payloads(marker).items())[what]
    path = KINDS[kind](folder, payload)
    if kind == "adapter":
        with pytest.raises(ValueError, match=name):
            read_adapter(path)
    elif kind == "soup.pt":
        with pytest.raises(ValueError, match=name):
            read_checkpoint(path)
        with pytest.raises(ValueError, match="cannot be used"):
            Soup.load(path)
    elif kind == "soup":
        for read in (Soup.load, read_checkpoint):
            with pytest.raises(ValueError, match=name):
                read(path)
    else:
        expected = {
            "before torch 0.1.10": "evil.pt",
            "distributed .metadata": rf"{name}|_rebuild_from_type_v2",  # the first that is in the way
        }.get(kind, name)
        for way, read in list(_ways(path))[: None if what == 1 else -2]:  # parsers take long to make
            with pytest.raises((ValueError, SystemExit)) as refusal:
                read()
            said = str(refusal.value) if isinstance(refusal.value, ValueError) else capsys.readouterr().err
            assert re.search(expected, said), (way, said)
    assert not marker.exists()


def test_a_pickle_by_another_name_is_no_safetensors_file(tmp_path: Path) -> None:
    path = not_safetensors(tmp_path, payloads(tmp_path / "marker")[r"builtins\.exec"])
    with pytest.raises(ValueError, match=r"evil\.safetensors.*cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "marker").exists()


def _directory(folder: Path, payload: Any, where: str = "hyper_parameters") -> Path:
    """A soup directory with one hostile checkpoint, whose record is in order."""
    run = folder / "runs" / "a"
    run.mkdir(parents=True)
    content = {"state_dict": Classifier().state_dict(), "global_step": 1, "hyper_parameters": {"lr": 0.1}}
    content[where] = payload if where != "hyper_parameters" else {"lr": payload}
    torch.save(content, run / "x.ckpt")
    (run / "x.json").write_text(json.dumps(_record()))
    return folder


def _record(**fields: object) -> dict[str, object]:
    return {
        "format": 1,
        "checkpoint": "x.ckpt",
        "run": "a",
        "metrics": {"val_acc": 0.5},
        "hyperparameters": {"lr": 0.1},
        "initialization": None,
        "epoch": 0,
        "step": 1,
        "monitor": "val_acc",
        "mode": "max",
        "exact": True,
        "devices": 1,
        "versions": {},
        **fields,
    }


@pytest.mark.parametrize("where", ["hyper_parameters", "callbacks", "optimizer_states"])
def test_cooking_and_studying_refuse_a_hostile_checkpoint_with_a_good_record(
    where: str, tmp_path: Path, capsys
) -> None:
    marker = tmp_path / "marker"
    directory = _directory(tmp_path / "soups", payloads(marker)[r"builtins\.exec"], where)
    found = Ingredients.load(directory)  # reads the record only
    with pytest.raises(ValueError, match=r"builtins\.exec"):
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=found)
    with pytest.raises(ValueError, match=r"builtins\.exec"):
        trainer(SoupTrainer).study(Classifier(), datamodule=Blobs(), study=Interpolation(), ingredients=found)
    for subcommand in ("cook", "study"):
        with pytest.raises(SystemExit):
            SoupCLI(Classifier, Blobs, args=[subcommand, "--ingredients", str(directory)])
        assert "builtins.exec" in capsys.readouterr().err
    (directory / "soups").mkdir()
    (directory / "runs" / "a" / "x.ckpt").rename(directory / "soups" / "evil.ckpt")
    SoupCLI(Classifier, args=["report", "--dirpath", str(directory)])
    assert "builtins.exec" in (directory / "report.html").read_text()
    assert not marker.exists()


def test_what_a_process_trusts_does_not_let_strangers_act(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = KINDS[".pt"](tmp_path, Call(subprocess.check_call, [sys.executable, "-c", f"open({str(marker)!r}, 'w')"]))
    evil = KINDS[".pth"](tmp_path, payloads(marker)[r"builtins\.exec"])
    trusted = [subprocess.check_call, exec, getattr, (os.system, "os.system"), Call]
    with torch.serialization.safe_globals(trusted):
        for file, name in ((path, "check_call"), (evil, r"builtins\.exec")):
            with pytest.raises(ValueError, match=name):
                read_checkpoint(file)
        assert set(torch.serialization.get_safe_globals()) >= set(trusted)  # other users of torch keep theirs
    assert not marker.exists()


@pytest.mark.parametrize("value", ["1", "true"])
def test_torchs_variable_for_reading_without_care_changes_nothing(tmp_path: Path, monkeypatch, value: str) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
    marker = tmp_path / "marker"
    for kind in (".pt", "before torch 1.6", "distributed meta.pt", "sharded", "adapter"):
        folder = tmp_path / kind
        folder.mkdir()
        path = KINDS[kind](folder, payloads(marker)[r"builtins\.exec"])
        with pytest.raises(ValueError, match=r"builtins\.exec"):
            read_adapter(path) if kind == "adapter" else read_checkpoint(path)
    assert not marker.exists()


def test_a_tensor_with_methods_of_its_own_is_refused(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    tensor.detach = "not callable"  # type: ignore[method-assign,assignment]
    torch.save({**weights(), "x": tensor}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt.*'detach' is replaced"):
        read_checkpoint(tmp_path / "a.pt")
