"""What Lightning itself writes: with optimizer states, with averaged weights, and sharded over processes."""

import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging

from lightning_soups import Ingredients
from lightning_soups.weights import average_checkpoints, is_distributed, read_checkpoint
from tests.helpers import Blobs, Classifier, shards_on_cpu, trainer


class Adam(Classifier):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def test_a_whole_checkpoint_of_model_checkpoint(tmp_path: Path) -> None:
    checkpointing = ModelCheckpoint(tmp_path, filename="best", monitor="val_acc", mode="max")
    module = Adam(lr=0.02)
    trainer(callbacks=[checkpointing], enable_checkpointing=True, max_epochs=1).fit(module, datamodule=Blobs())
    found = read_checkpoint(tmp_path / "best.ckpt")
    assert found["optimizer_states"][0]["state"]  # it is whole
    assert (found["epoch"], found["global_step"], found["hyper_parameters"]) == (0, 3, {"lr": 0.02, "hidden": 8})
    assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in module.state_dict().items())
    (ingredient,) = Ingredients.load(str(tmp_path / "*.ckpt"))
    assert (ingredient.hyperparameters, ingredient.step) == ({"lr": 0.02, "hidden": 8}, 3)


class Follow(EMAWeightAveraging):
    """Averages beside Lightning's callback, with its formula: decay 0.5, from the first step on."""

    def __init__(self) -> None:
        super().__init__(decay=0.5)
        self.expected: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        for name, parameter in pl_module.named_parameters():
            now = parameter.detach().double()
            self.expected[name] = (self.expected[name] + now) / 2 if name in self.expected else now.clone()


def test_averaged_weights_are_what_is_read(tmp_path: Path) -> None:
    averaging = Follow()
    checkpointing = ModelCheckpoint(tmp_path, filename="ema", save_weights_only=False)
    module = Classifier(lr=0.5)
    trainer(callbacks=[averaging, checkpointing], enable_checkpointing=True).fit(module, datamodule=Blobs())
    found = read_checkpoint(tmp_path / "ema.ckpt")
    assert not torch.equal(found["current_model_state"]["net.0.weight"], found["state_dict"]["net.0.weight"])
    for name, expected in averaging.expected.items():
        torch.testing.assert_close(found["state_dict"][name].double(), expected, rtol=0, atol=1e-6)


def test_stochastic_weight_averaging_of_the_last_epochs(tmp_path: Path) -> None:
    """SWA: the mean of all weights after each step."""

    class Mean(WeightAveraging):
        seen: list[torch.Tensor]

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            self.seen.append(pl_module.net[0].weight.detach().double().clone())

    averaging = Mean()
    run = trainer(callbacks=[averaging])
    run.fit(Classifier(lr=0.5), datamodule=Blobs())
    run.save_checkpoint(tmp_path / "swa.ckpt")
    expected = torch.stack(averaging.seen).mean(dim=0)
    weight = read_checkpoint(tmp_path / "swa.ckpt")["state_dict"]["net.0.weight"]
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-6)


SHARDED = """
    import sys
    import torch
    import torch.distributed.checkpoint as dcp
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    class Sharded(LightningModule):
        def __init__(self, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 1))

        def configure_model(self):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    if __name__ == "__main__":
        torch.manual_seed(0)
        folder = sys.argv[1]
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        run = Trainer(accelerator="cpu", devices=2, strategy=strategy, max_steps=2, **quiet)
        module = Sharded()
        run.fit(module, torch.utils.data.DataLoader(torch.randn(16, 4), batch_size=4))
        run.save_checkpoint(f"{folder}/epoch=0.ckpt")
        # FSDPStrategy(state_dict_type="sharded") needs a GPU; it stores the same tensors under this key
        dcp.save({"model": get_model_state_dict(module), "optimizer_0": {}}, checkpoint_id=f"{folder}/fsdp.ckpt")
        whole = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
        if run.is_global_zero:
            torch.save(whole, f"{folder}/whole.pt")
"""


@shards_on_cpu
def test_sharded_over_two_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(SHARDED))
    finished = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert len(list((tmp_path / "epoch=0.ckpt").glob("*.distcp"))) == 2
    for name in ("epoch=0.ckpt", "fsdp.ckpt"):
        assert is_distributed(tmp_path / name)
        found = read_checkpoint(tmp_path / name)["state_dict"]
        assert sorted(found) == sorted(whole)
        assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())
    found = read_checkpoint(tmp_path / "epoch=0.ckpt")
    assert (found["global_step"], found["hyper_parameters"]) == (2, {"lr": 0.1})
    ingredients = Ingredients.load(str(tmp_path / "*.ckpt"))
    assert [one.path.name for one in ingredients] == ["epoch=0.ckpt", "fsdp.ckpt"]
    assert ingredients[0].hyperparameters == {"lr": 0.1}
    averaged = average_checkpoints([tmp_path / "epoch=0.ckpt", tmp_path / "whole.pt"])
    assert all(torch.equal(averaged[key], tensor) for key, tensor in whole.items())
