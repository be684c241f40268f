"""Hashes of checkpoints are those of standard tools, and recorded with every ingredient."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lightning_soups import Ingredients
from lightning_soups.checking import ContentChecks
from lightning_soups.content import content_hash
from tests.helpers import record


def test_the_hash_of_a_file_is_what_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"\x00weights" * 300_000)
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_hash_of_a_folder_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.bin", "a.json", "deep/c", ".metadata"):
        (folder / name).write_text(name)
    (folder / ".a.json.1f0c66e2-4711-9be0c2d1.tmp").write_text("half written")
    names = sorted([".metadata", "a.json", "b.bin", "deep/c"])
    printed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    assert content_hash(folder) == hashlib.sha256(printed).hexdigest()


def test_an_index_counts_with_the_files_that_it_names(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}')
    for name in ("one", "two", "other"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    before = content_hash(index)
    (tmp_path / "other.safetensors").write_text("changed")
    assert content_hash(index) == before
    (tmp_path / "two.safetensors").write_text("changed")
    assert content_hash(index) != before


def test_records_hold_the_hash_of_their_checkpoint(tmp_path: Path) -> None:
    record(tmp_path, [0.1])
    (one,) = Ingredients.load(tmp_path)
    assert one.sha256 == hashlib.sha256(Path(one.path).read_bytes()).hexdigest()


def test_what_was_not_recorded_is_hashed(tmp_path: Path) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        torch.save({"w": torch.randn(3)}, tmp_path / f"{seed}.pt")
    found = Ingredients.load(f"{tmp_path}/*.pt")
    checks = ContentChecks()
    hashes = [hashlib.sha256(Path(one.path).read_bytes()).hexdigest() for one in found]
    assert [*map(checks.content, found)] == hashes
    checks.opened(found[0])
    assert checks.content(found[0]) == hashes[0]
    torch.save({"w": torch.ones(4)}, found[0].path)
    assert checks.content(found[0]) != hashes[0], "an answer about what was opened would be taken for one about this"
