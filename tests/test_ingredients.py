import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from lightning_soups import Ingredients, records


def save(path: Path, record: dict | None = None, **checkpoint) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"w": torch.zeros(1)}, "epoch": 3, "global_step": 40, **checkpoint}, path)
    if record is not None:
        records.write_record(path.with_suffix(".json"), {**RECORD, "checkpoint": path.name, **record})
    return path


RECORD = {
    "run": "a",
    "monitor": "val_acc",
    "mode": "max",
    "metrics": {"val_acc": 0.5, "broken": float("nan")},
    "hyperparameters": {"lr": 0.1},
    "initialization": "abc",
    "epoch": 3,
    "step": 40,
    "devices": 1,
    "exact": True,
}


def test_a_soup_directory(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "b" / "x.ckpt", {"run": "b"})
    save(tmp_path / "runs" / "a" / "x.ckpt", {})
    save(tmp_path / "runs" / "c" / "unrecorded.ckpt")
    (tmp_path / "runs" / "a" / ".x.ckpt.123.tmp").write_bytes(b"left by a killed writer")
    (tmp_path / "runs" / "a" / ".x.json.123.tmp").write_bytes(b"{")
    found = Ingredients.load(tmp_path)
    assert [ingredient.run for ingredient in found] == ["a", "b"]
    first = found[0]
    assert first.path == tmp_path / "runs" / "a" / "x.ckpt"
    assert first.metrics["val_acc"] == 0.5
    assert first.metrics["broken"] != first.metrics["broken"]
    assert (first.hyperparameters, first.initialization, first.epoch, first.step) == ({"lr": 0.1}, "abc", 3, 40)
    assert first.score is not None
    assert first.score.value == 0.5
    assert found.directory == tmp_path
    assert Ingredients.load(found) is found


def test_globs_lists_and_single_files(tmp_path: Path) -> None:
    recorded = save(tmp_path / "one" / "best.ckpt", {"run": "a"})
    bare = save(tmp_path / "two" / "best.ckpt", hyper_parameters={"lr": 0.3, "_instantiator": "x"})
    by_glob = Ingredients.load(str(tmp_path / "*" / "best.ckpt"))
    assert [ingredient.path for ingredient in by_glob] == [recorded, bare]
    assert by_glob.directory == tmp_path
    assert by_glob[1].hyperparameters == {"lr": 0.3}
    assert (by_glob[1].run, by_glob[1].epoch, by_glob[1].step, by_glob[1].score) == ("two", 3, 40, None)
    by_list = Ingredients.load([bare, recorded.with_suffix(".json")])
    assert [ingredient.path for ingredient in by_list] == [bare, recorded]
    assert by_list.directory == tmp_path
    assert len(Ingredients.load(bare)) == 1


def test_a_glob_leaves_out_what_is_no_ingredient(tmp_path: Path) -> None:
    recorded = save(tmp_path / "runs" / "a" / "x.ckpt", {})
    save(tmp_path / "initializations" / "abc.ckpt")
    save(tmp_path / "soups" / "greedy.ckpt", lightning_soups={"format": 1})
    with pytest.warns(UserWarning, match="initialization or a soup") as warned:
        found = Ingredients.load(str(tmp_path / "**" / "*.*"))
    assert [ingredient.path for ingredient in found] == [recorded]
    assert len(warned) == 2


def test_nothing_found_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no ingredients.*dirpath.*glob"):
        Ingredients.load(tmp_path)
    with pytest.raises(ValueError, match="neither a folder, a file nor a glob"):
        Ingredients.load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="neither a folder, a file nor a glob"):
        Ingredients.load(str(tmp_path / "*.ckpt"))
    with pytest.raises(ValueError, match="list of ingredients is empty"):
        Ingredients.load([])
    with pytest.raises(ValueError, match=r"gone\.ckpt"):
        Ingredients.load([tmp_path / "gone.ckpt"])


def test_an_ingredient_that_is_listed_more_than_once_is_there_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / ".." / "a.ckpt"
    (tmp_path / "link.ckpt").symlink_to("a.ckpt")
    assert [one.path for one in Ingredients.load([path, path])] == [path]
    with pytest.warns(UserWarning, match=r"a\.ckpt': it is the same file as"):
        assert [one.path for one in Ingredients.load([path, other])] == [path]
    with pytest.warns(UserWarning, match=r"link\.ckpt': it is the same file as"):
        assert [one.path for one in Ingredients.load(str(tmp_path / "*.ckpt"))] == [path]
    one = Ingredients.load(path)[0]
    with pytest.raises(ValueError, match="more than once"):
        Ingredients([one, one])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "../../outside.ckpt"}, "points outside its folder"),
        ({"checkpoint": "missing.ckpt"}, "missing"),
        ({"metrics": "high"}, "no valid 'metrics'"),
        ({"epoch": None}, "no valid 'epoch'"),
        ({"format": 99}, "format 99"),
    ],
)
def test_bad_records_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = save(tmp_path / "runs" / "a" / "x.ckpt", {}).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as raised:
        Ingredients.load(tmp_path)
    assert "x.json" in str(raised.value) or "missing.ckpt" in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_torn_records_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "runs" / "a" / "x.ckpt", {}).with_suffix(".json")
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"x\.json"):
        Ingredients.load(tmp_path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_checkpoints_of_any_kind_are_found_as_files_and_as_folders(tmp_path: Path) -> None:
    value = {"w": torch.zeros(1)}
    for name in ("a-v1.5", "b"):
        (tmp_path / name).mkdir()
        save_file(value, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    torch.save(value, tmp_path / "b" / "pytorch_model.bin")
    dcp.save(value, checkpoint_id=str(tmp_path / "step=3.ckpt"))
    torch.save({"epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "step=3.ckpt" / "meta.pt")
    (tmp_path / "logs").mkdir()
    for pattern in ("*", "**"):  # the second matches the files inside as well
        found = Ingredients.load(str(tmp_path / pattern))
        assert [one.path.name for one in found] == ["a-v1.5", "b", "step=3.ckpt"]
    assert found[2].hyperparameters == {"lr": 0.1}
    assert (found[0].name, found[2].epoch, found.directory) == (f"{tmp_path.name}/a-v1.5", 3, tmp_path)
    assert [one.path for one in Ingredients.load(tmp_path / "b")] == [tmp_path / "b"]
    assert Ingredients.load(tmp_path / "b", initialization=tmp_path / "a-v1.5").initialization.path.name == "a-v1.5"
    files = Ingredients.load(str(tmp_path / "*" / "*.safetensors"))
    assert [one.name for one in files] == ["a-v1.5/model", "b/model"]
    assert len(Ingredients.load([tmp_path / "a-v1.5", tmp_path / "b" / "pytorch_model.bin"])) == 2


def test_an_index_is_no_record(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-00001-of-00001.safetensors"}}))
    for source in (index, [index], str(tmp_path / "*.index.json")):
        assert [one.path for one in Ingredients.load(source)] == [index]
