"""Other layers and other ways to put adapters into a module."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_soups import SoupTrainer, UniformSoup
from tests.adapters.tiny import LINEAR, Filtered, Plain, Tokens, Wrapped, average_in_peft, bert, loss_of, merged_by_peft
from tests.helpers import trainer


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 9, 3))


class Images(Plain):
    def make(self) -> nn.Module:
        return convolutions()

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])


def test_convolutions(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(20, 2, 5, 5, generator=generator), torch.arange(20) % 3
    paths = []
    for rank in (1, 2):
        wrapped = get_peft_model(convolutions(), LoraConfig(r=rank, lora_alpha=3, target_modules=["0", "2", "4"]))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                parameter += 0.3 * parameter.requires_grad * torch.randn(parameter.shape, generator=generator)
        paths.append(str(tmp_path / f"{rank}" / "adapter"))
        wrapped.save_pretrained(paths[-1])
    soup = trainer(SoupTrainer).cook(
        Images(),
        DataLoader(TensorDataset(images, labels), batch_size=10),
        ingredients=paths,
        recipe=UniformSoup(),
        monitor="val_loss",
        mode="min",
        output=tmp_path / "soup.ckpt",
    )
    reference = average_in_peft(convolutions, [Path(path) for path in paths], [0.5, 0.5])(images.double())
    assert soup.score.value == pytest.approx(nn.functional.cross_entropy(reference, labels).item(), abs=1e-6)
    soup.save_adapter(tmp_path / "summed")
    summed = PeftModel.from_pretrained(convolutions(), tmp_path / "summed")
    torch.testing.assert_close(summed(images).double(), reference, rtol=0, atol=1e-5)


class Injected(Plain):
    """Has LoRA layers in the base model itself, without a PeftModel around it."""

    def make(self) -> nn.Module:
        return inject_adapter_in_model(LoraConfig(r=2, target_modules=LINEAR), bert())


class WithHead(Wrapped):
    """Trains a tensor that no PeftModel knows of."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, batch: list[Tensor]) -> Tensor:
        logits = self.model(input_ids=batch[0]).logits
        return nn.functional.cross_entropy(self.scale * logits, batch[1])


def checkpoints(kind: type[Plain], folder: Path, base_moves: float = 0.0) -> list[Path]:
    """Two checkpoints with random factors, on a base that may be another than the one that ``kind`` begins with."""
    paths = []
    for number in range(2):
        module = kind()
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
                elif "dense.base_layer.weight" in name:
                    parameter *= 1 + base_moves
        paths.append(folder / f"{number}.ckpt")
        fitted = trainer(max_epochs=0)
        fitted.fit(module, datamodule=Tokens())
        fitted.save_checkpoint(paths[-1])
    return paths


def cook(kind: type[Plain], paths: list[Path], folder: Path):
    given = {
        "ingredients": [str(path) for path in paths],
        "recipe": UniformSoup(),
        "monitor": "val_loss",
        "mode": "min",
    }
    return trainer(SoupTrainer).cook(kind(), datamodule=Tokens(), output=folder / "soup.ckpt", **given)


def reference(kind: type[Plain], paths: list[Path]) -> nn.Module:
    models = []
    for path in paths:
        module = kind.load_from_checkpoint(path)
        wrapped = (
            module.model
            if isinstance(module.model, PeftModel)
            else PeftModel(bert(), LoraConfig(r=2, target_modules=LINEAR))
        )
        if wrapped is not module.model:
            wrapped.base_model.model.load_state_dict(module.model.state_dict())
        models.append(merged_by_peft(wrapped))
    model = bert().double()
    model.load_state_dict({key: (models[0][key] + models[1][key]) / 2 for key in models[0]})
    return model


def test_adapters_in_the_base_model_itself(tmp_path: Path) -> None:
    paths = checkpoints(Injected, tmp_path)
    soup = cook(Injected, paths, tmp_path)
    assert soup.score.value == pytest.approx(loss_of(reference(Injected, paths)), abs=1e-6)
    soup.save_adapter(tmp_path / "summed")
    assert loss_of(PeftModel.from_pretrained(bert(), tmp_path / "summed")) == pytest.approx(soup.score.value, abs=1e-6)


def test_whole_checkpoints_bring_their_own_base(tmp_path: Path) -> None:
    paths = checkpoints(Wrapped, tmp_path, base_moves=0.5)
    soup = cook(Wrapped, paths, tmp_path)
    assert soup.score.value == pytest.approx(loss_of(reference(Wrapped, paths)), abs=1e-6)
    (tmp_path / "filtered").mkdir()
    filtered = checkpoints(Filtered, tmp_path / "filtered", base_moves=0.5)
    on_its_own = cook(Filtered, filtered, tmp_path).score.value
    assert on_its_own == pytest.approx(loss_of(reference(Filtered, filtered)), abs=1e-6)
    assert abs(on_its_own - soup.score.value) > 1e-4, "checkpoints without the base are of the module's"


def test_what_peft_does_not_know_of_is_in_the_soup_but_not_in_its_adapter(tmp_path: Path) -> None:
    soup = cook(WithHead, checkpoints(WithHead, tmp_path), tmp_path)
    saved = [WithHead.load_from_checkpoint(path).scale.item() for path in sorted(tmp_path.glob("*.ckpt"))]
    assert saved[2] == pytest.approx((saved[0] + saved[1]) / 2)
    with pytest.warns(UserWarning, match=r"left out of '.*summed': \['scale'\]"):
        soup.save_adapter(tmp_path / "summed")
