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

from lightning_soups import GreedySoup, SoupTrainer, WiseFT, mixing
from lightning_soups.evaluation import kept_loop, sharded_module
from lightning_soups.weights import averaging, running_sum
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, trainer


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
    """Its layers have biases and a norm between them that is not parallel."""

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
    def __init__(self, lr: float = 0.05, original: bool = True) -> None:
        super().__init__(lr)
        self.original = original

    def configure_model(self) -> None:
        for index in (0, 2):
            self.net[index] = self._flat(self.net[index])
        self.net = self._flat(self.net)

    def _flat(self, part: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(part, device_id=torch.device("cpu"), use_orig_params=self.original)


def full(module: LightningModule) -> dict[str, Tensor]:
    sharded_module.reshard(module)
    return {
        name: (one.full_tensor() if isinstance(one, DTensor) else one).detach().clone()
        for name, one in module.state_dict().items()
    }


class Spy:
    """Counts the numbers that are written by all mixing, and read for it."""

    def __init__(self) -> None:
        self.written = self.read = self.most = self.whole = 0
        for place in (averaging, running_sum):
            place.combine = self._spy(place.combine)
        mixing.average = self._average(mixing.average)

    def _spy(self, combine):
        def spied(jobs, *args, **kwargs):
            jobs = list(jobs)
            self.most = max(self.most, sum(job.out.numel() for job in jobs))
            self.read += sum(member.numel() for job in jobs for member in job.members)
            return combine(jobs, *args, **kwargs)

        return spied

    def _average(self, average):
        def spied(*args, **kwargs):
            self.whole += 1
            return average(*args, **kwargs)

        return spied


def cook(name: str, module: LightningModule, strategy: Any, folder: Path, output: Path, **kwargs: Any) -> None:
    spy.most = spy.read = spy.whole = 0
    before = full(module)
    run = trainer(SoupTrainer, devices=2, strategy=strategy)
    held_out = kwargs.pop("held_out", 129)
    try:
        soup = run.cook(module, datamodule=Blobs(held_out=held_out), ingredients=folder, output=output, **kwargs)
        result = {"scores": [row.score.value for row in soup.trace], "samples": soup.trace[0].samples}
    except Exception as error:
        import traceback; traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    rank = distributed.get_rank()
    sizes = {"most": spy.most, "whole": spy.whole, "rank": rank}
    flat = isinstance(strategy, FSDPStrategy)
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
    for use_orig in (True, False):
        strategy = OnCPU(process_group_backend="gloo")
        cook(f"flat {use_orig}", Flat(original=use_orig), strategy, nets, output / f"flat_{use_orig}.ckpt")
