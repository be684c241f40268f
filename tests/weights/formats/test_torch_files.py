"""Files of torch.save: what Lightning, training scripts and old versions of torch write."""

import argparse
import json
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_soups.weights import average_checkpoints, read_checkpoint


class Attack:
    """Unpickling this without care creates a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"net.weight": torch.randn(3, 2, generator=generator), "steps": torch.tensor(seed)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in expected.items())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "module"])
def test_state_dicts_as_training_scripts_save_them(tmp_path: Path, key: str | None, suffix: str, old: bool) -> None:
    path = tmp_path / f"model{suffix}"
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    around = {"optimizer": optimizer, "epoch": 7, "arch": "resnet"}
    content = OrderedDict(weights()) if key is None else {key: OrderedDict(weights()), **around}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = read_checkpoint(path)
    assert_same(found["state_dict"], weights())
    assert {name: value for name, value in found.items() if name != "state_dict"} == ({"epoch": 7} if key else {})


def test_a_modules_state_dict_with_extra_state(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        def get_extra_state(self) -> dict:
            return {"version": 1}

        def set_extra_state(self, state: dict) -> None:
            pass

    module = nn.Sequential(Versioned(2, 2), nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    assert list(read_checkpoint(tmp_path / "a.pt")["state_dict"]) == list(module.state_dict())


def test_arguments_of_a_training_script_do_not_matter(tmp_path: Path) -> None:
    """torchvision's and timm's scripts save their parsed arguments beside the weights."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": weights(), "args": argparse.Namespace(lr=0.1), "model_ema": weights(1)}, path)
    assert list(read_checkpoint(path)) == ["state_dict"]
    assert_same(read_checkpoint(path)["state_dict"], weights())
    torch.save({"model": weights(), "args": argparse.Namespace(lr=Attack(tmp_path / "pwned"))}, path)
    with pytest.raises(ValueError, match=r"posix\.mkdir|nt\.mkdir"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()
    torch.save({"state_dict": weights(), "hyper_parameters": {"args": argparse.Namespace(lr=0.1)}}, path)
    with pytest.raises(ValueError, match=r"argparse\.Namespace.*add_safe_globals"):  # it would end up in soups
        read_checkpoint(path)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_code_does_not_run_and_whole_modules_are_refused_by_name(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"model": weights(), "x": Attack(tmp_path / "pwned")}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"evil\.pt.*(posix|nt)\.mkdir"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear.*save a state dict"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": {"lr": 0.1}}, {"model": {0: torch.zeros(1)}}, {"net": weights()}, [1], 3]
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt.*holds no weights.*'model_state_dict', 'model', 'module'"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("length", [0, 1, 10, 200, 400, 500])
def test_old_files_that_are_cut_off_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "old.pt"
    torch.save(weights(), path, _use_new_zipfile_serialization=False)
    assert path.stat().st_size > 500
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"old\.pt.*cannot be read"):
        read_checkpoint(path)


def test_shards_of_torch_files(tmp_path: Path) -> None:
    expected = weights(3)
    places = {name: f"pytorch_model-{number:05d}-of-00002.bin" for number, name in enumerate(expected, start=1)}
    for name, file in places.items():
        torch.save({name: expected[name]}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (index, tmp_path):
        assert_same(read_checkpoint(path)["state_dict"], expected)


def test_kinds_can_be_mixed_but_untied_copies_and_missing_names_are_told_apart(tmp_path: Path) -> None:
    shared = torch.ones(2, 2)
    torch.save({"embed": shared, "head": shared}, tmp_path / "tied.pt")
    torch.save({"state_dict": {"embed": shared * 3, "head": shared * 3}, "global_step": 1}, tmp_path / "copies.ckpt")
    tied = read_checkpoint(tmp_path / "tied.pt")["state_dict"]
    assert tied["embed"].data_ptr() == tied["head"].data_ptr()
    result = average_checkpoints([tmp_path / "tied.pt", tmp_path / "copies.ckpt"])
    assert result["head"].tolist() == result["embed"].tolist() == [[2, 2], [2, 2]]
    assert result["head"].data_ptr() != result["embed"].data_ptr()  # they were free to differ in one of the two
    torch.save({"embed": shared}, tmp_path / "dropped.pt")
    with pytest.raises(ValueError, match=r"head: only in the first, shape \(2, 2\)"):
        average_checkpoints([tmp_path / "tied.pt", tmp_path / "dropped.pt"])
