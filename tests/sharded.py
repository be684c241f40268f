"""Cooks with sharded modules on two CPU processes, one after another: what came out, a line of JSON each."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_soups import LearnedSoup, SoupTrainer, WiseFT, mixing
from lightning_soups.evaluation import sharded_module
from lightning_soups.weights import WeightNames, averaging, running_sum
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, trainer

QUESTION = {"datamodule": Blobs(held_out=129), "monitor": "val_loss", "mode": "min"}


class Block(nn.Module):
    """7 and 3 do not divide by 2; one weight has two names; and there are buffers, whole on every process."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 7)
        self.again = nn.Linear(FEATURES, 7, bias=False)
        self.again.weight = self.first.weight
        self.norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, CLASSES)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.tanh(self.first(x) + self.again(x)))) + self.shift


class Whole(Classifier):
    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.net = Block()


class FullySharded(Whole):
    def configure_model(self) -> None:
        if not isinstance(self.net, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net.last, mesh=mesh)
            fully_shard(self.net, mesh=mesh)  # stays gathered after a step, as the outermost one


class Hooked(FullySharded):
    """What loading does besides cannot be known, so whole checkpoints are loaded."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["net.shift"] += 0


class WholeTensors(Classifier):
    """Of sizes that can be cut in two."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr, hidden=8)


class Parallel(WholeTensors):
    def configure_model(self) -> None:
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


class ParallelAndSharded(WholeTensors):
    """Rows are cut for both, in another order than that of the mesh."""

    def configure_model(self) -> None:
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


class OnCPU(FSDPStrategy):
    """Lightning refuses its own class without a GPU."""


class Flat(WholeTensors):
    original = True

    def configure_model(self) -> None:
        for index in (0, 2):
            self.net[index] = self._flat(self.net[index])
        self.net = self._flat(self.net)

    def _flat(self, part: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(part, device_id=torch.device("cpu"), use_orig_params=self.original)


class Flatter(Flat):
    original = False


def full(module: LightningModule) -> dict[str, Tensor]:
    sharded_module.reshard(module)
    return {
        name: (one.full_tensor() if isinstance(one, DTensor) else one).detach().clone()
        for name, one in module.state_dict().items()
    }


class Spy:
    """Sees the most numbers that were mixed at a time, and how often whole checkpoints were."""

    def __init__(self) -> None:
        self.most = self.whole = 0
        for place in (averaging, running_sum):
            place.combine = self._spy(place.combine)
        mixing.average = self._average(mixing.average)

    def _spy(self, combine):
        def spied(jobs, *args, **kwargs):
            jobs = list(jobs)
            self.most = max(self.most, sum(job.out.numel() for job in jobs))
            return combine(jobs, *args, **kwargs)

        return spied

    def _average(self, average):
        def spied(*args, **kwargs):
            self.whole += 1
            return average(*args, **kwargs)

        return spied


def cook(name: str, module: LightningModule, strategy: Any, folder: Path, output: Path, **kwargs: Any) -> None:
    spy.most = spy.whole = 0
    before = full(module)
    run = trainer(SoupTrainer, devices=2, strategy=strategy)
    try:
        soup = run.cook(module, ingredients=folder, output=output, **{**QUESTION, **kwargs})
        result = {"scores": [[row.score.value, row.early] for row in soup.trace]}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    sizes = {"rank": distributed.get_rank(), "most": spy.most, "whole": spy.whole}
    flat = isinstance(strategy, FSDPStrategy)  # and stays so
    changed = [] if flat else [key for key, value in full(module).items() if not torch.equal(value, before[key])]
    sys.stdout.write(json.dumps({"name": name, "changed": changed, **sizes, **result}) + "\n")  # in one piece
    sys.stdout.flush()


def model_parallel(data: int, tensor: int) -> ModelParallelStrategy:
    return ModelParallelStrategy(data, tensor, process_group_backend="gloo")


if __name__ == "__main__":
    torch.set_num_threads(1)
    spy = Spy()
    blocks, nets, output = map(Path, sys.argv[1:4])
    torch.manual_seed(1)
    module = FullySharded()
    cook("fully sharded", module, model_parallel(2, 1), blocks, output / "fully.ckpt")
    cook("again", module, model_parallel(2, 1), blocks, output / "again.ckpt", recipe=WiseFT())
    torch.manual_seed(1)
    cook("hooked", Hooked(), model_parallel(2, 1), blocks, output / "hooked.ckpt")
    torch.manual_seed(1)
    cook("parallel", Parallel(), model_parallel(1, 2), nets, output / "parallel.ckpt")
    torch.manual_seed(1)
    cook("both", ParallelAndSharded(), model_parallel(2, 1), nets, output / "both.ckpt")
    torch.manual_seed(1)
    cook("flat", Flat(), OnCPU(process_group_backend="gloo"), nets, output / "flat.ckpt")
    cook("flatter", Flatter(), OnCPU(process_group_backend="gloo"), nets, output / "flatter.ckpt")
    cook("learned", Parallel(), model_parallel(1, 2), nets, output / "learned.ckpt", recipe=LearnedSoup())
    leave_out = {"weights": WeightNames(exclude=("net.2.*",))}
    cook("left out", Parallel(), model_parallel(1, 2), nets, output / "left_out.ckpt", **leave_out)
    one_by_one = {"datamodule": Blobs(held_out=65, batch_size=1)}
    cook("one by one", FullySharded(), model_parallel(2, 1), blocks, output / "one.ckpt", **one_by_one)
