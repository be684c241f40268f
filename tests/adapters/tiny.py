"""Tiny transformers with random weights, real LoRA adapters of them, and an independent way to average those."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

TOKENS, LENGTH, CLASSES = 23, 6, 3
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.2,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "pad_token_id": 0, "initializer_range": 0.2}
LINEAR = ["query", "value", "intermediate.dense"]  # of BERT
CONV1D = ["c_attn", "mlp.c_proj"]  # of GPT-2, which stores weights as (in, out)


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=TOKENS, num_labels=CLASSES, max_position_embeddings=LENGTH, **BERT)
    return BertForSequenceClassification(config).eval()


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=TOKENS, num_labels=CLASSES, **GPT2)).eval()


def save_adapters(
    folder: Path, base: Callable[[], nn.Module], options: Sequence[Mapping[str, Any]], size: float = 0.3
) -> list[Path]:
    """Save random adapters as peft does; the factors are large enough for their products to matter."""
    paths = []
    for number, own in enumerate(options):
        wrapped = get_peft_model(base(), LoraConfig(task_type="SEQ_CLS", **own))
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in (one for one in wrapped.parameters() if one.requires_grad):
                parameter += size * torch.randn(parameter.shape, generator=generator)
        paths.append(folder / f"run-{number}" / "adapter")
        wrapped.save_pretrained(paths[-1])
    return paths


def merged_by_peft(wrapped: nn.Module) -> dict[str, Tensor]:
    """What peft itself makes of a model, in float64."""
    return copy.deepcopy(wrapped).double().merge_and_unload().state_dict()


def average_in_peft(base: Callable[[], nn.Module], paths: Sequence[Path], coefficients: Sequence[float]) -> nn.Module:
    """The independent reference: merge every adapter in float64, average whole models."""
    members = [merged_by_peft(PeftModel.from_pretrained(base(), path)) for path in paths]
    model = base().double()
    names = members[0].keys()
    model.load_state_dict(
        {name: sum(c * one[name] for c, one in zip(coefficients, members, strict=True)) for name in names}
    )
    return model


def tokens(samples: int, seed: int) -> TensorDataset:
    """Sequences whose label depends on their last token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, TOKENS, (samples, LENGTH), generator=generator)
    return TensorDataset(ids, ids[:, -1] % CLASSES)


class Tokens(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(tokens(48, seed=1), batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(tokens(40, seed=2), batch_size=16)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(tokens(30, seed=3), batch_size=16)


@cache
def held_out() -> tuple[Tensor, Tensor]:
    return tokens(40, seed=2).tensors  # type: ignore[return-value]


@torch.no_grad()
def loss_of(model: nn.Module, data: tuple[Tensor, Tensor] | None = None) -> float:
    """The loss that the modules below log, of a plain model."""
    ids, labels = data or held_out()
    return nn.functional.cross_entropy(model.eval()(input_ids=ids).logits.double(), labels).item()


class Plain(LightningModule):
    """Holds the base model."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.model = self.make().train()

    def make(self) -> nn.Module:
        return bert()

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.model(input_ids=batch[0]).logits, batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((one for one in self.parameters() if one.requires_grad), lr=self.lr)


class PlainGPT2(Plain):
    def make(self) -> nn.Module:
        return gpt2()


class Wrapped(Plain):
    """Holds a PeftModel."""

    def make(self) -> nn.Module:
        return get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules=LINEAR))


class Trained(Plain):
    """Holds a PeftModel whose own adapter does something already, in other layers than the ingredients'."""

    def make(self) -> nn.Module:
        torch.manual_seed(1)
        options = LoraConfig(task_type="SEQ_CLS", r=5, target_modules=["query", "key"], init_lora_weights=False)
        return get_peft_model(bert(), options)


class WrappedGPT2(Plain):
    def make(self) -> nn.Module:
        return get_peft_model(gpt2(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=CONV1D, fan_in_fan_out=True))


class Filtered(Wrapped):
    """Keeps only what was trained in its checkpoints."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: one for name, one in checkpoint["state_dict"].items() if name in trained}
