import os
import pathlib
import re
from pathlib import Path

import pytest
import torch

from lightning_soups.weights import read_checkpoint
from lightning_soups.weights.reading import unsafe_types


class Attack:
    """Unpickling this without care creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_does_not_run_and_is_named(tmp_path: Path) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "pwned"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "hyper_parameters": Attack(target)}, path)
    with pytest.raises(ValueError, match=r"posix\.mkdir|nt\.mkdir"):
        read_checkpoint(path)
    assert not target.exists()


def test_a_type_that_needs_trust_is_named_with_the_way_to_trust_it(tmp_path: Path) -> None:
    path = tmp_path / "custom.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "hyper_parameters": {"data": pathlib.PurePosixPath("x")}}, path)
    name = f"{pathlib.PurePosixPath.__module__}.PurePosixPath"  # pathlib._local in Python 3.13
    assert unsafe_types(path) == [name]
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*add_safe_globals"):
        read_checkpoint(path)
    with torch.serialization.safe_globals([pathlib.PurePosixPath]):
        assert read_checkpoint(path)["hyper_parameters"]["data"] == pathlib.PurePosixPath("x")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows memory maps on Linux only")
def test_tensors_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.arange(10.0)}}, path)
    weight = read_checkpoint(path)["state_dict"]["w"]
    assert str(path) in Path("/proc/self/maps").read_text()
    assert weight.tolist() == list(range(10))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_garbage_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.ckpt.*cannot be read"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(5000)}}, path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"cut\.ckpt.*cannot be read"):
        read_checkpoint(path)


def test_other_contents_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "bare.ckpt"
    torch.save({"net": {"weights": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"no 'state_dict'.*net"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="list"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
