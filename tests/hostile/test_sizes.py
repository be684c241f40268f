"""Files that declare more than they hold are refused by name, before memory is taken."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_soups import Ingredients, Soup, StudyResult
from lightning_soups.weights import read_checkpoint
from lightning_soups.weights.adapter_folders import read_adapter_config
from tests.hostile.attacks import Call, weights
from tests.hostile.test_code import _record


def _with_pickle(path: Path, change: Callable[[bytes], bytes], **options: Any) -> Path:
    """Write a torch file again, with another pickle in it."""
    torch.save({"w": torch.ones(3, 5)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return path


def _zip_bomb(path: Path) -> Path:
    return _with_pickle(path, lambda data: data[:-1] + b"0" * (1 << 24) + b".", compression=zipfile.ZIP_DEFLATED)


def _long_storage(path: Path) -> Path:
    # persistent id: ('storage', FloatStorage, '0', 'cpu', 15)
    def change(data: bytes) -> bytes:
        assert data.count(b"K\x0f") == 1
        return data.replace(b"K\x0f", b"\x8a\x06" + struct.pack("<q", 1 << 40)[:6])

    return _with_pickle(path, change)


def _large_shape(path: Path) -> Path:
    return _with_pickle(path, lambda data: data.replace(b"K\x03K\x05", b"J\xff\xff\xff\x7fK\x05", 1))


def _strides_beyond(path: Path) -> Path:
    def change(data: bytes) -> bytes:
        assert data.count(b"K\x05K\x01") == 1
        return data.replace(b"K\x05K\x01", b"J\xff\xff\xff\x7fK\x01")

    return _with_pickle(path, change)


def _expanded(path: Path) -> Path:
    torch.save({"w": torch.ones(1).expand(1 << 40)}, path)
    return path


def _many_views(path: Path) -> Path:
    whole = torch.zeros(1 << 20)
    torch.save({f"w{start}": whole[start:] for start in range(200)}, path)
    return path


def _old(path: Path) -> Path:
    torch.save({"w": torch.ones(3, 5)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"K\x0f") == 1
    path.write_bytes(data.replace(b"K\x0f", b"\x8a\x06" + struct.pack("<q", 1 << 40)[:6]))
    return path


def _old_view(path: Path) -> Path:
    torch.save({"w": torch.ones(1).expand(1 << 40)}, path, _use_new_zipfile_serialization=False)
    return path


def _reserved(path: Path) -> Path:
    torch.save({**weights(), "x": Call(bytearray, 1 << 36)}, path)
    return path


def _empty_of_a_size(path: Path) -> Path:
    torch.save({**weights(), "x": Call(torch.Tensor, 1 << 36)}, path)
    return path


def _behind_another_function(path: Path) -> Path:
    torch.save(
        {**weights(), "x": Call(torch._tensor._rebuild_from_type_v2, bytearray, torch.Tensor, (1 << 36,), {})}, path
    )
    return path


def _meta(path: Path) -> Path:
    torch.save({**weights(), "x": torch.empty(1 << 40, device="meta")}, path)
    return path


def _unfolding(path: Path) -> Path:
    value: Any = ["x"] * 10
    for _ in range(12):
        value = [value] * 10
    torch.save({"state_dict": weights(), "global_step": 1, "hyper_parameters": {"x": value}}, path)
    return path


def _endless(path: Path) -> Path:
    value: list[Any] = []
    value.append(value)
    torch.save({"state_dict": weights(), "global_step": 1, "hyper_parameters": {"x": value}}, path)
    return path


TORCH = {
    "compressed": (_zip_bomb, "is compressed"),
    "a storage": (_long_storage, "declared with .* bytes, and the file has 60"),
    "a shape": (_large_shape, "reaches beyond"),
    "strides": (_strides_beyond, "reaches beyond"),
    "one number for many": (_expanded, "claim 4398046511104 bytes"),
    "many views": (_many_views, "claim .* bytes of memory"),
    "an old storage": (_old, "declared with 4398046511104 bytes"),
    "an old view": (_old_view, "claim 4398046511104 bytes"),
    "memory for nothing": (_reserved, "asks for memory of a size"),
    "numbers for nothing": (_empty_of_a_size, "makes a tensor of a size"),
    "behind a function": (_behind_another_function, "asks for memory of a size"),
    "no numbers at all": (_meta, "claim 4398046511104 bytes"),
    "lists of lists": (_unfolding, "unfold into more than"),
    "a list in itself": (_endless, "holds itself"),
}


def _write_all(folder: Path) -> dict[Path, str]:
    files = {}
    for number, (make, message) in enumerate(TORCH.values()):
        files[make(folder / f"{number}.ckpt")] = message
    return files


# What lies about sizes must not take memory: with 2 GB of address space beyond what is mapped, all has to be refused.
LIMITED = """
import json, re, resource, sys
from pathlib import Path
import torch
from lightning_soups.weights import read_checkpoint
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
for path, message in json.load(sys.stdin).items():
    try:
        read_checkpoint(path)
    except ValueError as error:
        assert path in str(error) and re.search(message, str(error)), (path, message, str(error))
    else:
        raise AssertionError(path)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory on Linux only")
def test_torch_files_that_lie_are_refused_in_little_memory(tmp_path: Path) -> None:
    files = {str(path): message for path, message in _write_all(tmp_path).items()}
    files |= {str(path): message for path, message in _safetensors(tmp_path).items()}
    command = [sys.executable, "-c", LIMITED]
    subprocess.run(command, input=json.dumps(files), text=True, check=True)


def _safetensors(folder: Path) -> dict[Path, str]:
    def write(name: str, header: object, length: int | None = None, data: bytes = b"\0" * 16) -> Path:
        text = json.dumps(header).encode()
        path = folder / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    large = 1 << 62
    return dict.fromkeys(
        [
            write("header", {}, length=(1 << 64) - 1),
            write("long header", {}, length=1 << 40),
            write("shape", {"a": tensor([large, large], 0, 16)}),
            write("more", {"a": tensor([1 << 40], 0, 1 << 42)}),
            write("offsets", {"a": tensor([4], large, large + 16)}),
            write("backwards", {"a": tensor([4], 16, 0)}),
            write("overlap", {"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}),
            write("gap", {"a": tensor([2], 8, 16)}),
            write("deep", {"a": tensor([1], 0, 4), "__metadata__": {"x": "y"}}, data=b"\0" * 4096),
        ],
        "cannot be read as a safetensors file",
    )


def test_tensors_that_share_memory_are_read_as_long_as_they_are_few(tmp_path: Path) -> None:
    positions, tied = torch.arange(512).expand(1, -1), torch.ones(64, 64)
    content = {"positions": positions, "a": tied, "b": tied, "half": tied[:32], "scale": torch.ones(1).expand(1000)}
    for old in (False, True):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        found = read_checkpoint(tmp_path / "a.pt")["state_dict"]
        assert all(torch.equal(found[name], value) for name, value in content.items())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.uint16]
)
def test_all_kinds_of_numbers_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    content = OrderedDict(w=torch.ones(7, 3).to(dtype), empty=torch.empty(0, 1 << 40, dtype=dtype))
    content["slice"] = content["w"][1:, 1]
    for old in (False, True)[: 1 if dtype is torch.uint16 else 2]:  # torch does not read it in its old format
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        found = read_checkpoint(tmp_path / "a.pt")["state_dict"]
        assert all(torch.equal(found[name], value) for name, value in content.items())


def test_a_pickle_that_wants_room_for_four_billion_objects(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    dcp.save({"w": torch.ones(2)}, checkpoint_id=str(folder))
    huge = b"\x80\x02N" + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + b"."
    (folder / ".metadata").write_bytes(huge)
    (tmp_path / "a.pt").write_bytes(huge)
    for path in (folder, tmp_path / "a.pt"):
        with pytest.raises(ValueError, match=r"/a"):
            read_checkpoint(path)


def test_pieces_of_a_distributed_checkpoint_count_once(tmp_path: Path) -> None:
    """A thousand tensors that are all the same bytes would fill the disk when they are put together."""
    dcp.save({"a": torch.ones(4), "b": torch.ones(4)}, checkpoint_id=str(tmp_path / "x"))
    metadata = pickle.loads((tmp_path / "x" / ".metadata").read_bytes())
    for index, place in metadata.storage_data.items():
        place.offset, place.length = 0, (tmp_path / "x" / place.relative_path).stat().st_size
        del index
    (tmp_path / "x" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="the same bytes"):
        read_checkpoint(tmp_path / "x")
    for value in metadata.state_dict_metadata.values():
        value.size, value.chunks = torch.Size([1 << 32, 1 << 32]), []  # as many as no 64 bits can count
    (tmp_path / "x" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="do not make up a tensor"):
        read_checkpoint(tmp_path / "x")


JSON = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "quite deep": '{"a":' * 500 + "1" + "}" * 500,
    "many digits": "1" * 100_000,
    "too large for a float": "1" * 400,
    "binary": "\0\1\2",
    "half a pair": '"\\ud800',
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_that_is_too_much_is_refused_by_name(tmp_path: Path, text: str) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    torch.save({"state_dict": weights(), "global_step": 1}, run / "x.ckpt")
    (run / "x.json").write_text(
        json.dumps(_record()).replace('"metrics": {"val_acc": 0.5}', f'"metrics": {{"a": {text}}}')
    )
    with pytest.raises(ValueError, match=r"x\.json"):
        Ingredients.load(tmp_path)
    (run / "model.safetensors.index.json").write_text(f'{{"weight_map": {text}}}')
    with pytest.raises(ValueError, match=r"index\.json"):
        read_checkpoint(run / "model.safetensors.index.json")
    (run / "adapter_config.json").write_text(f'{{"r": {text}}}')
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        read_adapter_config(run)
    (tmp_path / "study.json").write_text(f'{{"format": 1, "details": {text}}}')
    with pytest.raises(ValueError, match=r"study\.json"):
        StudyResult.load(tmp_path / "study.json")
    torch.save(weights(), tmp_path / "soup.pt")
    (tmp_path / "soup.pt.json").write_text(f'{{"lightning_soups": {{"format": {text}}}}}')
    with pytest.raises(ValueError, match=r"soup\.pt"):
        Soup.load(tmp_path / "soup.pt")
    Ingredients.load([tmp_path / "soup.pt"])  # what is beside it makes it no soup


def test_a_very_large_record_is_not_read(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    with (run / "x.json").open("wb") as file:
        file.truncate(1 << 40)  # of nothing: it takes no room on the disk
    with pytest.raises(ValueError, match=r"x\.json.*1099511627776 bytes"):
        Ingredients.load(tmp_path)


def test_a_scan_reads_what_torch_reads(tmp_path: Path) -> None:
    """Two tables of contents in one file, of which only one would be looked at."""
    torch.save(weights(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for changed in (whole + b"\0", whole + whole, whole[:30] + whole, whole[:-3]):
        (tmp_path / "b.pt").write_bytes(changed)
        with pytest.raises(ValueError, match=r"b\.pt.*cannot be read"):
            read_checkpoint(tmp_path / "b.pt")
    buffer = io.BytesIO(whole)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.infolist()[0].filename, b"\x80\x02N.")
    (tmp_path / "b.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="table of contents"):
        read_checkpoint(tmp_path / "b.pt")
