"""What dead writers leave: never read, deleted when it is certain that they are dead, put back when it was whole."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_soups import Ingredients, Soup
from lightning_soups.leftovers import clean, heal, temporary_name
from lightning_soups.outputs import soups_in
from lightning_soups.processes import is_alive, machine, started
from lightning_soups.report import write_report
from tests.helpers import record
from tests.outputs.cases import odd_states, soup_of
from tests.report.conftest import study_result


def leftover(folder: Path, name: str, writer: str, old: bool = False) -> Path:
    path = folder / f".{name}.{writer}-0a1b2c3d{'.old' if old else ''}.tmp"
    if old:
        path.mkdir(parents=True)
        (path / "a").write_text("whole")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    return path


def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_what_dead_writers_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, _, _ = temporary_name("x").removeprefix(".x.").partition("-")
    kept = [
        leftover(tmp_path, "a.ckpt", f"{own}-{os.getpid()}"),
        leftover(tmp_path, "a.ckpt", f"{own}-{os.getppid()}"),
        leftover(tmp_path, "a.ckpt", f"ffffffff-{dead()}"),
        leftover(tmp_path, "a.ckpt", f"ffffffff-{os.getpid()}", old=True),
    ]
    for name in (".env", ".name.tmp", ".a.12.tmp", "a.ckpt.0a1b2c3d.tmp", ".claimed", "epoch.ckpt"):
        kept.append(tmp_path / name)
        kept[-1].write_text("the user's")
    gone = [leftover(tmp_path, "b.ckpt", f"{own}-{dead()}"), tmp_path / f".c.{own}-{dead()}-0a1b2c3d.tmp"]
    (gone[1] / "deep").mkdir(parents=True)
    before = set(kept)
    clean(tmp_path)
    assert set(tmp_path.iterdir()) == before
    now = time.time
    monkeypatch.setattr("lightning_soups.leftovers.time.time", lambda: now() + 8 * 86400)
    clean(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in kept[4:]), "a.ckpt"}


def test_a_folder_that_a_dead_writer_had_moved_away_is_put_back(tmp_path: Path) -> None:
    soup_of(tmp_path / "ingredients", odd_states(2)).save(tmp_path / "soups" / "mine")
    own, _, _ = temporary_name("x").removeprefix(".x.").partition("-")
    path = tmp_path / "soups" / "mine"

    def moved(writer: str) -> None:
        os.rename(path, path.with_name(f".mine.{writer}-0a1b2c3d.old.tmp"))
        assert not path.exists()

    moved(f"{own}-{os.getpid()}")
    assert soups_in(tmp_path / "soups") == [], "this process is not dead"
    os.rename(next((tmp_path / "soups").iterdir()), path)
    readers: list[Callable[[], Any]] = [
        lambda: Soup.load(path),
        lambda: Ingredients.load(str(path)),
        lambda: soups_in(tmp_path / "soups"),
        lambda: write_report(tmp_path),
        lambda: heal(path),
    ]
    for reader in readers:
        moved(f"{own}-{dead()}")
        reader()
        assert Soup.load(path).recipe == "GreedySoup"
        assert [one.name for one in (tmp_path / "soups").iterdir()] == ["mine"]


def test_no_reader_takes_a_leftover_for_anything(tmp_path: Path) -> None:
    """However they look for files; most of those in the folders are whole and could be read."""
    record(tmp_path, [0.1, 0.3])
    soup_of(tmp_path / "more", odd_states(2)).save(tmp_path / "soups" / "mine")
    study_result().save(tmp_path / "studies" / "mine")
    patterns = ("runs/*/*", "runs/*/*.*", "**/*.ckpt")
    before = {pattern: len(Ingredients.load(f"{tmp_path}/{pattern}")) for pattern in patterns}
    for path in [path for path in tmp_path.rglob("*") if path.is_file() or path.name == "mine"]:
        writer = f"ffffffff-{os.getpid()}-0a1b2c3d"
        for name in (f".{path.name}.{writer}.tmp", f".{path.name}.{writer}.old.tmp"):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, path.with_name(name))
    (tmp_path / "runs" / "half-made").mkdir()
    assert len(Ingredients.load(tmp_path)) == 2
    for pattern, number in before.items():
        assert len(Ingredients.load(f"{tmp_path}/{pattern}")) == number
    assert [path.name for path in soups_in(tmp_path / "soups")] == ["mine"]
    page = write_report(tmp_path).read_text()
    assert "2 ingredients" in page
    assert "What could not be read" not in page
    assert ".tmp" not in page


def test_a_process_is_dead_when_it_has_ended() -> None:
    assert is_alive(dead()) is False
    assert is_alive(os.getpid()) is None, "the number may be another's"
    assert is_alive(os.getpid(), started()) is True
    assert is_alive(os.getpid(), started() - 60) is None
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 60
    while is_alive(process.pid) is not False:  # it ends, but nobody has asked for its exit code
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert machine() == machine()
