"""Safetensors files, their shards and Hugging Face folders, as the real libraries write them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_soups.weights import average_checkpoints, is_checkpoint_folder, read_checkpoint, weight_files
from lightning_soups.weights.formats.safetensors_file import write_safetensors
from lightning_soups.weights.pages import MappedPages

on_linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is mapped and resident")


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, generator=generator)
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool)
    named = {str(dtype).removeprefix("torch."): values.to(dtype) for dtype in dtypes}
    return {**named, "complex": torch.complex(values, values), "scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def test_a_single_file(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert list(found) == ["state_dict"]
    assert_same(found["state_dict"], tensors())


def test_what_is_written_one_by_one_is_what_the_library_reads(tmp_path: Path) -> None:
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors().items()}
    write_safetensors(tmp_path / "ours.safetensors", layout, iter(tensors().items()))
    assert_same(load_file(tmp_path / "ours.safetensors"), tensors())
    with pytest.raises(ValueError, match=r"'z' has dtype torch\.complex128"):
        write_safetensors(tmp_path / "no.safetensors", {"z": (torch.complex128, (1,))}, iter(()))


@on_linux
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kind", ["file", "sharded", "distributed"])
def test_tensors_are_views_of_the_mapped_file_and_its_pages_are_given_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "big.safetensors"
    content = {"a": torch.ones(10_000_000), "b": torch.full((10_000_000,), 2.0)}
    if kind == "file":
        save_file(content, path)
    elif kind == "sharded":
        path.mkdir()
        for name, tensor in content.items():
            save_file({name: tensor}, path / f"{name}.safetensors")
        places = {name: f"{name}.safetensors" for name in content}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        dcp.save(content, checkpoint_id=str(path))
    found = read_checkpoint(path)["state_dict"]
    files = weight_files(path)
    ranges = [mapped for file in files for mapped in _mapped(file)]
    assert all(any(start <= tensor.data_ptr() < stop for start, stop in ranges) for tensor in found.values())
    assert sum(map(_resident, files)) < 1000
    assert found["a"].sum().item() == 10_000_000
    assert sum(map(_resident, files)) > 30_000
    MappedPages([path]).release(found["a"])
    assert sum(map(_resident, files)) < 1000
    assert found["a"].sum().item() == 10_000_000


@pytest.mark.parametrize("length", [0, 4, 40, 200, 500])
def test_files_that_are_cut_off_are_refused_by_name(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"w": torch.zeros(200)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut\.safetensors.*cannot be read as a safetensors file"):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A tiny language model whose head is tied to its embedding, in several files."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_head=2, n_layer=2, vocab_size=300, n_positions=16, bos_token_id=0)
    )
    folder = tmp_path_factory.mktemp("hub") / "tiny-gpt2-v1.5"
    model.save_pretrained(folder, max_shard_size="6KB")
    return folder, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_hugging_face_folder_in_several_files(pretrained: tuple[Path, dict[str, Tensor]]) -> None:
    folder, expected = pretrained
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert is_checkpoint_folder(folder)
    assert len(weight_files(folder)) == len(list(folder.glob("*.safetensors")))
    tied = expected.pop("lm_head.weight")
    assert torch.equal(tied, expected["transformer.wte.weight"])  # tied, so it is stored once
    for path in (folder, folder / "model.safetensors.index.json"):
        assert_same(read_checkpoint(path)["state_dict"], expected)
    assert_same(average_checkpoints([folder, folder]), expected)


def test_a_piece_is_no_checkpoint(pretrained: tuple[Path, dict[str, Tensor]]) -> None:
    piece = next(pretrained[0].glob("model-00001-of-*.safetensors"))
    with pytest.raises(ValueError, match=r"one of several files.*folder or its index"):
        read_checkpoint(piece)


def test_a_tied_head_that_only_one_ingredient_stores_is_named(
    pretrained: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, expected = pretrained
    torch.save({**expected, "lm_head.weight": expected["transformer.wte.weight"]}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"lm_head\.weight: only in the second, shape \(300, 8\)"):
        average_checkpoints([folder, tmp_path / "whole.pt"])


def sharded(folder: Path) -> dict[str, str]:
    folder.mkdir()
    save_file({"a": torch.zeros(1), "b": torch.ones(1)}, folder / "one.safetensors")
    save_file({"c": torch.full((1,), 2.0)}, folder / "two.safetensors")
    return {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places | {"c": "../outside.safetensors"}, "points outside its folder"),
        (lambda places: places | {"c": "/etc/passwd"}, "points outside its folder"),
        (lambda places: places | {"c": "..\\outside.safetensors"}, "points outside its folder"),
        (lambda places: places | {"c": "C:outside.safetensors"}, "points outside its folder"),
        (lambda places: places | {"c": ".."}, "points outside its folder"),
        (lambda places: places | {"c": "three.safetensors"}, "a file that is missing: 'three.safetensors'"),
        (lambda places: places | {"c": 3}, "has no 'weight_map'"),
        (lambda places: {}, "has no 'weight_map'"),
        (lambda places: places | {"d": "two.safetensors"}, r"names tensors that its files lack: d \(not in two"),
        (lambda places: {name: places[name] for name in "bc"}, r"does not name tensors: a \(in one\.safetensors\)"),
        (lambda places: places | {"a": "two.safetensors"}, r"files lack: a \(not in two\.safetensors\)"),
    ],
)
def test_bad_indexes_are_refused(tmp_path: Path, change: Callable[[dict], dict], message: str) -> None:
    places = sharded(tmp_path / "model")
    save_file({"c": torch.zeros(1)}, tmp_path / "outside.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert [tensor.item() for tensor in read_checkpoint(index)["state_dict"].values()] == [0, 1, 2]
    index.write_text(json.dumps({"weight_map": change(places)}))
    with pytest.raises(ValueError, match=rf"index\.json.*{message}"):
        read_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "'a' is listed more than once"),
        ('{"weight_map": ["a"]}', "has no 'weight_map'"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_torn_indexes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    sharded(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"index\.json.*{message}"):
        read_checkpoint(index)


def test_which_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    assert not is_checkpoint_folder(tmp_path)
    assert not is_checkpoint_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)

    def value() -> float:
        return read_checkpoint(tmp_path)["state_dict"]["w"].item()

    save_file({"w": torch.tensor(1.0)}, tmp_path / "diffusion_pytorch_model.safetensors")
    assert value() == 1
    save_file({"w": torch.tensor(2.0)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds no checkpoint.*'diffusion_pytorch_model\.safetensors', 'other"):
        read_checkpoint(tmp_path)
    torch.save({"w": torch.tensor(3.0)}, tmp_path / "pytorch_model.bin")
    assert value() == 3
    save_file({"w": torch.tensor(4.0)}, tmp_path / "model.safetensors")
    assert value() == 4


def _mapped(path: Path) -> list[tuple[int, int]]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [(int(start, 16), int(stop, 16)) for start, stop in (line[0].split("-") for line in lines)]


def _resident(path: Path) -> int:
    """KiB of a file that are in this process's memory."""
    pattern = rf"{re.escape(str(path))}\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB"
    return sum(map(int, re.findall(pattern, Path("/proc/self/smaps").read_text())))
