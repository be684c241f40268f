"""The long checks at their shortest, each in a process of its own; `make reliability` runs them at length."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(name: str, path: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.reliability.{name}", f"--json_path={path}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert path.exists(), done.stderr
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["violations"] == []
    assert done.returncode == 0, done.stderr
    return result


@pytest.mark.parametrize("scenario", ["record plain, save_top_k=2", "cook greedy, plain"])
def test_kills(tmp_path: Path, scenario: str) -> None:
    result = run("kills", tmp_path / "kills.json", "--kills=6", f"--only={scenario}")
    assert result["kills"] >= 6
    assert set(result["by how"]) == {"step", "torn", "power", "time"}


def test_damaged_files(tmp_path: Path) -> None:
    result = run("fuzz", tmp_path / "fuzz.json", "--cases=25")
    assert all(ends["refused"] for kind, ends in result["by kind"].items() if kind != "journal")


def test_soak(tmp_path: Path) -> None:
    result = run("soak", tmp_path / "soak.json", "--cycles=2")
    assert result["at last"] == result["at first"]
    assert result["at last"]["mapped checkpoints"] == 0
