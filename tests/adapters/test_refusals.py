"""What cannot be averaged by its updates is refused, and said why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn

from lightning_soups import SoupTrainer, UniformSoup
from lightning_soups.adapters import AdaptedModule
from lightning_soups.ingredient import Ingredient
from tests.adapters.tiny import LINEAR, Plain, Tokens, Wrapped, bert, gpt2, save_adapters
from tests.helpers import trainer


class Holding(LightningModule):
    def __init__(self, **models: nn.Module) -> None:
        super().__init__()
        for name, model in models.items():
            setattr(self, name, model)


def wrapped(**options: Any) -> PeftModel:
    return get_peft_model(bert(), LoraConfig(**{"task_type": "SEQ_CLS", "r": 3, "target_modules": LINEAR, **options}))


def opened(path: Path, module: LightningModule) -> Any:
    return AdaptedModule(module).open(Ingredient.from_checkpoint(path))["state_dict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapters(tmp_path_factory.mktemp("adapter"), bert, [{"r": 2, "target_modules": LINEAR}])[0]


def test_the_base_is_found_wherever_the_module_has_it(folder: Path) -> None:
    names = {prefix: Holding(**{prefix: bert()}) for prefix in ("model", "network")}
    for prefix, module in names.items():
        assert f"{prefix}.bert.encoder.layer.0.attention.self.query.weight" in opened(folder, module)
    alias = Holding(model=bert())
    alias.same = alias.model
    assert "model.bert.encoder.layer.0.attention.self.query.weight" in opened(folder, alias)


def test_a_module_without_the_base_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"not fit the Holding.*not found:.*'bert.encoder.layer.0.attention.self.query"
    ):
        opened(folder, Holding(model=gpt2()))
    with pytest.raises(ValueError, match=r"in several places: \['student.', 'teacher.'\]"):
        opened(folder, Holding(student=bert(), teacher=bert()))
    wider = bert()
    layer = wider.bert.encoder.layer[1].intermediate
    layer.dense = nn.Linear(20, 24)
    with pytest.raises(ValueError, match=r"update of the shape \(24, 16\), which has \(24, 20\)"):
        opened(folder, Holding(model=wider))
    headless = bert()
    headless.classifier = nn.Identity()
    with pytest.raises(ValueError, match=r"a tensor 'classifier.(weight|bias)' that the Holding lacks"):
        opened(folder, Holding(model=headless))


def test_a_tied_weight_is_refused(folder: Path) -> None:
    tied = bert()
    first, second = (layer.intermediate.dense for layer in tied.bert.encoder.layer)
    first.weight = second.weight
    with pytest.raises(ValueError, match=r"layer.0.intermediate.dense.weight', which is tied to 'model.bert.encoder"):
        opened(folder, Holding(model=tied))


def test_a_quantized_base_is_refused(folder: Path) -> None:
    quantized = bert()
    dense = quantized.bert.encoder.layer[0].intermediate.dense
    dense.weight = nn.Parameter(torch.zeros(24, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"has one of dtype torch.int8. Quantized"):
        opened(folder, Holding(model=quantized))


def test_modules_whose_own_adapters_are_in_the_way_are_refused(folder: Path) -> None:
    merged = wrapped()
    merged.merge_adapter()
    with pytest.raises(MisconfigurationException, match=r"merged into weights of the Holding.*unmerge_adapter"):
        opened(folder, Holding(model=merged))
    with pytest.raises(MisconfigurationException, match="has adapters of DoRA"):
        opened(folder, Holding(model=wrapped(use_dora=True)))


def save(module: LightningModule, path: Path, **hyperparameters: Any) -> Path:
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": hyperparameters}
    torch.save({**checkpoint, "pytorch-lightning_version": "2.6.0"}, path)
    return path


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: wrapped(r=2), r"has the rank 2 in .*, the Holding has 3"),
        (lambda: wrapped(target_modules=["query"]), r"has no LoRA factors of layers in which the module has some"),
        (lambda: wrapped(target_modules=[*LINEAR, "key"]), r"'model.*key', which is no LoRA layer of the Holding"),
        (lambda: wrapped(use_dora=True), r"has adapters of DoRA"),
        (bert, "holds no LoRA factors"),
    ],
)
def test_checkpoints_that_do_not_fit_the_module_are_refused(
    tmp_path: Path, other: Callable[[], nn.Module], message: str
) -> None:
    path = save(Holding(model=other()), tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=message):
        opened(path, Holding(model=wrapped()))


def test_several_adapters_in_one_are_refused(tmp_path: Path) -> None:
    several = wrapped()
    several.add_adapter("second", LoraConfig(task_type="SEQ_CLS", r=2, target_modules=LINEAR))
    with pytest.raises(ValueError, match=r"several adapters, \['default', 'second'\]"):
        opened(save(Holding(model=several), tmp_path / "several.ckpt"), Holding(model=wrapped()))
    one = save(Holding(model=wrapped()), tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match=r"named 'default' in .*, the Holding has \['default', 'second'\]"):
        opened(one, Holding(model=several))


def test_adapters_of_different_bases_are_refused(tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        module = Holding(model=wrapped())
        with torch.no_grad():
            module.model.base_model.model.bert.encoder.layer[1].intermediate.dense.base_layer.weight += number
        paths.append(save(module, tmp_path / f"{number}.ckpt"))
    adapted = AdaptedModule(Holding(model=wrapped()))
    adapted.open(Ingredient.from_checkpoint(paths[0]))
    with pytest.raises(ValueError, match=r"1.ckpt' has another base than .*layer.1.intermediate.dense.*differs"):
        adapted.open(Ingredient.from_checkpoint(paths[1]))


def test_adapters_with_other_trained_tensors_do_not_fit_each_other(folder: Path, tmp_path: Path) -> None:
    (without,) = save_adapters(tmp_path, bert, [{"r": 2, "target_modules": LINEAR, "bias": "lora_only"}])
    adapted = AdaptedModule(Holding(model=bert()))
    adapted.open(Ingredient.from_checkpoint(folder))
    with pytest.raises(ValueError, match=r"does not fit the adapters before it:\n.*query.bias: only in the second"):
        adapted.open(Ingredient.from_checkpoint(without))


def cook(module: LightningModule, paths: list[Path], **kwargs: Any) -> Any:
    given = {"ingredients": [str(path) for path in paths], "recipe": UniformSoup(), "monitor": "val_loss", **kwargs}
    return trainer(SoupTrainer).cook(module, datamodule=Tokens(), mode="min", **given)


def test_choices(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"one of \['updates', 'factors'\], got 'both'"):
        cook(Plain(), [folder], adapters="both")
    with pytest.raises(MisconfigurationException, match=r"is an adapter folder\. adapters='factors' needs Lightning"):
        cook(Plain(), [folder], adapters="factors")
    loha = get_peft_model(bert(), LoHaConfig(task_type="SEQ_CLS", r=2, target_modules=LINEAR))
    module = Plain()
    module.model = loha
    path = save(module, tmp_path / "loha.ckpt")
    with pytest.raises(ValueError, match=r"has adapters of LoHa\. Only plain LoRA"):
        cook(module, [path])
    with pytest.warns(UserWarning, match="averaged one by one"):
        cook(module, [path], adapters="factors", output=tmp_path / "soup.ckpt")


def test_different_alphas_in_checkpoints_are_warned_about(tmp_path: Path) -> None:
    paths = [save(Wrapped(), tmp_path / f"{alpha}.ckpt", lora_alpha=alpha, mixup_alpha=alpha) for alpha in (8, 16)]
    with pytest.warns(UserWarning, match=r"different hyperparameters 'lora_alpha': \['16', '8'\]") as caught:
        cook(Wrapped(), paths, output=tmp_path / "soup.ckpt")
    assert not any("mixup" in str(one.message) for one in caught)
