"""The README's Python runs as it is written."""

import re
from pathlib import Path

import pytest
import torch

from tests.helpers import QUIET, Blobs, Classifier

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MyModule` and `MyData` stand for a project's own classes; nothing else is put in place of anything."""
    monkeypatch.chdir(tmp_path)
    from lightning.pytorch import Trainer

    defaults = {**QUIET, "accelerator": "cpu", "devices": 1}
    original = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, **kwargs: original(self, **{**defaults, **kwargs}))
    torch.save(Classifier().state_dict(), "pretrained.pt")
    names: dict[str, object] = {"MyModule": Classifier, "MyData": Blobs}
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(block, names)
    assert (tmp_path / "soups" / "mine" / "soups" / "greedy.ckpt").exists()
