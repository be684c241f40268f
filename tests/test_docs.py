"""The pages of the documentation are followed as they are written."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from lightning_soups import Soup
from lightning_soups.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def test_getting_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "getting-started.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    scripts = re.findall(r'```python title="(\S+)"\n(.*?)```', page, flags=re.DOTALL)
    for name, code in scripts:
        (tmp_path / name).write_text(code, encoding="utf-8")
    try:
        for name, _ in scripts:
            runpy.run_path(name)
        printed = re.search(r"(\d) of 6 ingredients, held-out accuracy ([\d.]+)", capsys.readouterr().out)
        assert printed is not None
        soup = Soup.load("soups/digits/soups/greedy.ckpt")
        assert len(soup.ingredients) == int(printed[1])
        assert soup.score.value >= max(one.metrics["val_acc"] for one in soup.candidates)
        for command in re.findall(r"^(lightning-soup .*)$", page, flags=re.MULTILINE):
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            main()
        assert "Comparison" in Path("soups/digits/report.html").read_text(encoding="utf-8")
    finally:
        sys.modules.pop("project", None)
