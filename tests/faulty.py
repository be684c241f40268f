"""A job of several processes in which one comes to grief: ``FAULT=place:rank:how``, such as ``step:1:kill``."""

import errno
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, distributed

from lightning_soups import GreedySoup, Ingredients, Mixture, SoupTrainer, mixing, outputs
from lightning_soups.evaluation import together
from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.journal import journal_of
from tests.helpers import Blobs, Classifier, trainer

LONG = 600  # seconds; far longer than any test may take


def strike(place: str) -> None:
    """Here a fault may happen."""
    where, rank, how = os.environ.get("FAULT", "nowhere:0:raise").split(":")
    if (place, distributed.is_initialized() and distributed.get_rank()) != (where, int(rank)):
        return
    if how == "raise":
        raise ValueError("the injected fault")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[how])


class Faulty(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        strike("step")
        super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        strike("hook")


class FaultyGreedySoup(GreedySoup):
    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        evaluator.rank(ingredients)
        strike("recipe")
        if "BUSY" in os.environ:  # all but the one that is struck do not come to any collective
            time.sleep(LONG)
        if "WAITING" in os.environ:  # the one that is struck is busy while all others are inside a collective
            _strike_while_others_wait()
        return super().cook(ingredients, evaluator)


def _strike_while_others_wait() -> None:
    if distributed.get_rank() == int(os.environ["WAITING"]):
        threading.Timer(0.5, strike, ["collective"]).start()
        time.sleep(LONG)
    threading.Timer(0.5, strike, ["inside"]).start()
    distributed.barrier()


def _opening(*args, open_checkpoint=mixing.open_checkpoint):
    strike("read")
    return open_checkpoint(*args)


def _writing(*args, write=outputs.write, **kwargs):
    strike("save")
    return write(*args, **kwargs)


def cook(strategy: str, folder: Path, output: Path) -> list[int]:
    """Cook with two processes; returns the members of the soup."""
    ingredients = Ingredients.load(folder)
    soup = trainer(SoupTrainer, devices=2, strategy=strategy).cook(
        Faulty(), datamodule=Blobs(), ingredients=ingredients, recipe=FaultyGreedySoup(), output=output
    )
    return [ingredients.index(member) for member in soup.mixture]


def one_after_another(folder: Path, output: Path) -> None:
    """In one Python session: many faults, each of which has to come back as an error, and then a cook without."""
    together._GRACE = 0.1
    faults = [
        ("step:1:raise", ""),
        ("hook:0:raise", ""),
        ("recipe:0:raise", "BUSY="),
        ("recipe:1:raise", "BUSY="),
        ("read:1:raise", ""),
        ("save:0:full", ""),
        ("save:0:kill", ""),
        ("step:0:kill", ""),
        ("recipe:1:kill", "BUSY="),
        ("recipe:0:term", "BUSY="),
        ("step:1:term", ""),
        ("collective:0:kill", "WAITING=0"),
        ("collective:1:kill", "WAITING=1"),
        ("inside:1:term", "WAITING=0"),
    ]
    for fault, others in faults:
        os.environ["FAULT"] = fault
        name, _, value = others.partition("=")
        if name:
            os.environ[name] = value
        try:
            cook("ddp_fork", folder, output)
            came_back = "nothing"
        except Exception as error:
            came_back = f"{type(error).__name__}: {error}"
        os.environ.pop(name, None)
        journal_of(output).unlink(missing_ok=True)  # with it, the next cook would not come by its fault
        print(json.dumps([fault, came_back, output.exists()]), flush=True)
    del os.environ["FAULT"]
    print(json.dumps(cook("ddp_fork", folder, output)), flush=True)


def twice(folder: Path, output: Path) -> None:
    """Two cooks in one process group; then this program goes on."""
    for number in (1, 2):
        cook("ddp", folder, output.with_name(f"{number}.ckpt"))
        names = sorted(thread.name for thread in threading.enumerate() if "lightning-soups" in thread.name)
        sys.stdout.write(json.dumps(names) + "\n")  # in one piece, of two processes
        sys.stdout.flush()


def caught(folder: Path, output: Path) -> NoReturn:
    """Rank one goes on with something else after its error, so that its connections stay open."""
    try:
        cook("ddp", folder, output)
    except ValueError:
        print("caught", flush=True)
        time.sleep(LONG)
    raise AssertionError


mixing.open_checkpoint, outputs.write = _opening, _writing

if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
