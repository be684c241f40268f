"""Adapter folders, good and bad ones."""

import json
from pathlib import Path

import pytest
import torch

from lightning_soups import Ingredients
from lightning_soups.adapters import write_adapter
from lightning_soups.weights.adapter_folders import is_adapter_folder, read_adapter, scaling, summed_config

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
TENSORS = {"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": torch.ones(4, 2)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert not is_adapter_folder(tmp_path)
    write_adapter(tmp_path / "new" / "adapter", CONFIG, TENSORS)
    config, tensors = read_adapter(tmp_path / "new" / "adapter")
    assert config == CONFIG
    assert is_adapter_folder(tmp_path / "new" / "adapter")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)
    assert {path.name for path in (tmp_path / "new" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"'.*file' is a file"):
        write_adapter(tmp_path / "file", CONFIG, TENSORS)


def test_pickled_adapters_are_read_without_running_anything(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FileNotFoundError, match=r"neither adapter_model.safetensors nor adapter_model.bin"):
        read_adapter(tmp_path)
    torch.save({f"base_model.model.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "adapter_model.bin")
    assert read_adapter(tmp_path)[1].keys() == TENSORS.keys()
    torch.save({"x": Path("evil")}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="unpickling it could run code"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type='PROMPT_TUNING'"),
        ({"peft_type": None}, "peft_type='None'"),
        ({"use_dora": True}, "is of DoRA: use_dora=True"),
        ({"alora_invocation_tokens": [1]}, r"activated LoRA: alora_invocation_tokens=\[1\]"),
        ({"lora_alpha": "many"}, "alpha of 'lora_alpha', got 'many'"),
        ({"alpha_pattern": {"x": None}}, "alpha of 'x', got None"),
        ({"alpha_pattern": [1]}, r"needs a dictionary as alpha_pattern, got \[1\]"),
        ({"alpha_pattern": {"(": 1}}, r"'\(' in alpha_pattern, no regular expression"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes the base"),
    ],
)
def test_configs_that_are_no_plain_lora_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    write_adapter(tmp_path / "adapter", {**CONFIG, **change}, TENSORS)
    with pytest.raises(ValueError, match=message):
        Ingredients.load(tmp_path / "adapter")


def test_broken_configs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json' cannot be read"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"must hold a JSON object, got \[1\]"):
        read_adapter(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path / "elsewhere")


def test_tensors_of_other_methods_and_broken_files_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, CONFIG, {**TENSORS, "x.lora_magnitude_vector": torch.ones(4)})
    with pytest.raises(ValueError, match="is of DoRA"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        read_adapter(tmp_path)


def test_scalings() -> None:
    assert scaling(CONFIG, "x", 2) == 2.0
    assert scaling({**CONFIG, "use_rslora": True}, "x", 4) == 2.0
    patterned = {**CONFIG, "alpha_pattern": {"b.x": 8, r"layer\.\d+\.y": 6}}
    assert [scaling(patterned, layer, 2) for layer in ("a.b.x", "b.x", "x", "top.layer.10.y")] == [4.0, 4.0, 2.0, 3.0]


def test_the_config_of_a_sum_scales_by_one_whatever_the_parts_did() -> None:
    config = summed_config({**CONFIG, "use_rslora": True, "layers_to_transform": [0]}, {"a.x": 4, "b.x": 6, "c": 6})
    assert all(scaling(config, layer, rank) == 1.0 for layer, rank in (("a.x", 4), ("b.x", 6), ("c", 6)))
    assert config["target_modules"] == ["a.x", "b.x", "c"]
    assert config["layers_to_transform"] is None


def test_folders_are_found_by_globs_and_lists(tmp_path: Path) -> None:
    for run in ("one", "two"):
        write_adapter(tmp_path / "runs" / run / "adapter", CONFIG, TENSORS)
    (tmp_path / "runs" / "none" / "adapter").mkdir(parents=True)
    found = Ingredients.load(tmp_path / "runs" / "*" / "adapter")
    assert [one.name for one in found] == ["one/adapter", "two/adapter"]
    assert found.directory == tmp_path / "runs"
    assert found[0].hyperparameters == {"r": 2, "lora_alpha": 4, "use_rslora": None}
    assert [one.run for one in Ingredients.load([str(one.path) for one in found])] == ["one", "two"]
    assert Ingredients.load(found[1].path, initialization=found[0].path).initialization.path == found[0].path
    with pytest.raises(FileNotFoundError, match="no initialization"):
        Ingredients.load(found, initialization=tmp_path / "runs" / "none" / "adapter")
