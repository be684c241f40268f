"""Folders of torch.distributed.checkpoint: of one process, of really sharded tensors, and of an attacker."""

import builtins
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata

from lightning_soups.weights import (
    average_checkpoints,
    consolidate,
    is_checkpoint_folder,
    is_distributed,
    read_checkpoint,
    read_rest,
)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:Detected an existing")


def module() -> nn.Module:
    torch.manual_seed(0)
    result = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, dtype=torch.bfloat16))
    result.register_buffer("empty", torch.zeros(0, 2))
    return result


def save(folder: Path, content: dict[str, Any]) -> Path:
    dcp.save(content, checkpoint_id=str(folder))
    return folder


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


class App:
    """As torch's own tutorial has it: one stateful object around model and optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optim": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model, optimizer: model.state_dict(),
        lambda model, optimizer: {"model": model, "optimizer": optimizer, "step": torch.tensor(3), "epoch": 1},
        lambda model, optimizer: {"model": model.state_dict(), "optimizer_0": optimizer.state_dict()},
        lambda model, optimizer: {"state_dict": model.state_dict(), "optimizer_0": optimizer.state_dict()},
        lambda model, optimizer: {"app": App(model, optimizer)},
    ],
    ids=["plain", "modules", "FSDPStrategy", "ModelParallelStrategy", "app"],
)
def test_folders_of_one_process(tmp_path: Path, wrap: Callable[..., dict]) -> None:
    model = module()
    optimizer = torch.optim.AdamW(model[0].parameters())
    model[0](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = save(tmp_path / "step-10", wrap(model, optimizer))
    assert is_distributed(folder)
    assert is_checkpoint_folder(folder)
    found = read_checkpoint(folder)
    assert list(found) == ["state_dict"]
    assert_same(found["state_dict"], model.state_dict())
    assert_same(average_checkpoints([folder, folder]), model.state_dict())
    consolidate(folder, tmp_path / "whole.safetensors")
    assert_same(load_file(tmp_path / "whole.safetensors"), model.state_dict())
    assert not is_distributed(tmp_path)
    assert not is_distributed(tmp_path / "nowhere")


def test_other_contents_are_listed(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {"generator": {"w": torch.zeros(1)}, "critic": {"w": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"no weights under 'state_dict'.*\['critic', 'generator'\]"):
        read_checkpoint(folder)


def test_a_folder_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        folder = save(tmp_path / "a", {"w": torch.tensor(value), f"longer{value}": torch.zeros(int(value))})
        assert read_checkpoint(folder)["state_dict"]["w"].item() == value


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux says what was resident")
def test_memory_is_that_of_the_largest_tensor(tmp_path: Path) -> None:
    tensors = {f"layer.{index}": torch.full((3_000_000,), float(index)) for index in range(8)}
    folder = save(tmp_path / "a", tensors)

    def resident(key: str) -> int:
        return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest value so far
    before = resident("VmRSS")
    consolidate(folder, tmp_path / "out.safetensors")
    assert 6_000_000 < resident("VmHWM") - before < 3 * 12_000_000  # of 96
    assert_same(load_file(tmp_path / "out.safetensors"), tensors)


class Attack:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


ATTACKS = {
    "mkdir": lambda target: Attack(os.mkdir, target),
    "eval": lambda target: Attack(eval, f"__import__('os').mkdir({target!r})"),
    "getattr": lambda target: Attack(getattr, "text", "upper"),
    "import": lambda target: Attack(builtins.__import__, "this"),
    "torch": lambda target: Attack(torch.load, target),
    "method": lambda target: Attack(Path.mkdir, Path(target)),
    "subprocess": lambda target: Attack(subprocess.run, ["mkdir", target]),
}


@pytest.mark.parametrize("place", ["planner_data", "storage_meta", "instead", "after"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_metadata_never_runs_code(tmp_path: Path, attack: str, place: str) -> None:
    folder, target = save(tmp_path / "a", {"w": torch.zeros(1)}), tmp_path / "pwned"
    path = folder / ".metadata"
    metadata: Any = pickle.loads(path.read_bytes())
    evil = ATTACKS[attack](str(target))
    if place == "instead":
        metadata = evil
    elif place == "after":
        metadata = (metadata, evil)
    else:
        setattr(metadata, place, evil)
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"\.metadata' is no metadata that torch writes: it names \S+, and reading"):
        read_checkpoint(folder)
    assert not target.exists()


def test_the_attack_works_on_what_reads_without_care(tmp_path: Path) -> None:
    folder, target = save(tmp_path / "a", {"w": torch.zeros(1)}), tmp_path / "pwned"
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Attack(os.mkdir, str(target))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    dcp.FileSystemReader(str(folder)).read_metadata()
    assert target.exists()


def test_rest_and_tensors_never_run_code(tmp_path: Path) -> None:
    folder, target = save(tmp_path / "a", {"w": torch.zeros(1)}), tmp_path / "pwned"
    torch.save({"epoch": 3, "hyper_parameters": Attack(os.mkdir, str(target))}, folder / "meta.pt")
    with pytest.raises(ValueError, match=r"meta\.pt.*(posix|nt)\.mkdir"):
        read_checkpoint(folder)
    torch.save([1], folder / "meta.pt")
    with pytest.raises(ValueError, match=r"meta\.pt.*dictionary, got list"):
        read_checkpoint(folder)
    torch.save({"epoch": 3}, folder / "meta.pt")
    assert read_rest(folder) == {"epoch": 3}
    with (folder / "__0_0.distcp").open("wb") as file:
        torch.save(Attack(os.mkdir, str(target)), file)
    with pytest.raises(ValueError, match=r"damaged: 'w' cannot be read from '__0_0\.distcp'"):
        read_checkpoint(folder)
    assert not target.exists()


def edit(metadata: Metadata, what: str) -> None:
    (index, place), *_ = [(index, place) for index, place in metadata.storage_data.items() if index.fqn == "w"]
    entry = metadata.state_dict_metadata["w"]
    chunk = entry.chunks[0]
    if what == "file":
        place.relative_path = "../__0_0.distcp"
    elif what == "gone":
        place.relative_path = "__7_0.distcp"
    elif what == "short":
        place.length = 8
    elif what == "before":
        place.offset = -1
    elif what == "transformed":
        place.transform_descriptors = ["zstd"]
    elif what == "huge":
        entry.size = chunk.sizes = torch.Size([1 << 60])
    elif what == "lacking":
        entry.size = torch.Size([5, 3])
    elif what == "outside":
        chunk.offsets = index.__dict__["offset"] = torch.Size([1, 0])
    elif what == "overlap":
        entry.size = torch.Size([6, 3])
        metadata.storage_data[type(index)("w", [1, 0])] = place
        entry.chunks.append(type(chunk)(torch.Size([1, 0]), chunk.sizes))
    elif what == "nowhere":
        del metadata.storage_data[index]
    elif what == "dtype":
        entry.properties.dtype = torch.float16


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("file", r"points outside its folder: '\.\./__0_0\.distcp'"),
        ("gone", r"lacks its file '__7_0\.distcp'"),
        ("short", "do not make up a tensor of shape"),
        ("before", "do not make up a tensor of shape"),
        ("transformed", "'w' is stored transformed"),
        ("huge", "do not make up a tensor of shape"),
        ("lacking", r"do not make up a tensor of shape \(5, 3\)"),
        ("outside", "do not make up a tensor of shape"),
        ("overlap", "do not make up a tensor of shape"),
        ("nowhere", "cannot be read as the metadata"),
        ("dtype", "holds a piece of 'w' that does not fit"),
    ],
)
def test_metadata_that_lies_is_refused(tmp_path: Path, what: str, message: str) -> None:
    folder = save(tmp_path / "a", {"w": torch.ones(3, 3), "v": torch.zeros(2)})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    edit(metadata, what)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(3), pickle.dumps({"a": 1})])
def test_torn_metadata_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = save(tmp_path / "a", {"w": torch.ones(3, 3)})
    whole = (folder / ".metadata").read_bytes()
    for torn in (content, whole[: len(whole) // 2]):
        (folder / ".metadata").write_bytes(torn)
        with pytest.raises(ValueError, match=r"\.metadata' cannot be read as the metadata of a checkpoint"):
            read_checkpoint(folder)


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {"w": torch.ones(3, 3)})
    data = folder / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"damaged: 'w' cannot be read from '__0_0\.distcp'"):
        read_checkpoint(folder)


def test_no_room_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    folder = save(tmp_path / "a", {"w": torch.ones(3, 3)})
    read_checkpoint(save(tmp_path / "other", {"w": torch.ones(1)}))  # makes the folder for temporary files
    from lightning_soups.weights.formats import distributed

    (tmp_path / f"{len(distributed._put_together)}.safetensors").symlink_to("/dev/full")
    monkeypatch.setattr(distributed._scratch[0], "name", str(tmp_path))
    with pytest.raises(ValueError, match=re.escape("could not be put together") + ".*TMPDIR"):
        read_checkpoint(folder)
    monkeypatch.undo()
    assert_same(read_checkpoint(folder)["state_dict"], {"w": torch.ones(3, 3)})
