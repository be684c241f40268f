"""The report from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_soups import SoupCLI
from tests.helpers import Blobs, Classifier
from tests.report.parsed import Page


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-soup"])


def test_the_command_needs_no_config(directory: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("lightning-soup")), "report", "--dirpath", "moved"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Saved to moved/report.html\n"
    assert "3 ingredients of 3 runs" in Page(directory / "report.html").text


class Unwanted(Classifier):
    def __init__(self) -> None:
        raise AssertionError("a report needs no model")


def test_a_users_own_cli_reports_and_touches_nothing_else(directory: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(7)
    seed = torch.initial_seed()
    output = tmp_path / "[red]page.html"
    arguments = ["report", "--dirpath", str(directory), "--output", str(output), "--title", "Ours"]
    cli = SoupCLI(Unwanted, Blobs, args=arguments)
    assert capsys.readouterr().out == f"Saved to {output}\n"
    assert "Ours" in Page(output).text
    assert torch.initial_seed() == seed
    assert not hasattr(cli, "trainer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dirpath", "nowhere"], "There is no folder 'nowhere'. Give the `dirpath` of a SoupCallback."),
        (["--dirpath", "."], "The folder '.' holds nothing to report on"),
        ([], "dirpath"),
        (["--dirpath", "moved", "--output", "moved"], "`output` must be a file such as 'report.html'"),
        (["--dirpath", "moved", "--output", "moved/sweep.db/page.html"], "Not a directory"),
    ],
)
def test_what_is_wrong_is_a_short_error(directory, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    (directory / "sweep.db").touch()
    with pytest.raises(SystemExit, match="2"):
        SoupCLI(args=["report", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_teaches_the_options_and_nothing_else(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        SoupCLI(args=["report", "--help"], parser_kwargs={"report": {"description": "my own words"}})
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("my own words", "--dirpath DIRPATH", "which ``SoupCallback`` wrote to", "default ``report.html``"):
        assert words in printed
    assert "--trainer" not in printed
    assert "--config" not in printed
