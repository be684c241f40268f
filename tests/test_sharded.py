"""Modules whose parameters are shared out among two CPU processes, against one process. See ``tests/sharded.py``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_soups import Soup, SoupTrainer, WiseFT
from lightning_soups.evaluation.resample import in_batches
from tests.helpers import Blobs, record, shards_on_cpu, trainer
from tests.sharded import QUESTION, Whole, WholeTensors

pytestmark = shards_on_cpu
Lines = dict[tuple[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lines]:
    """All cooks, in one start of two processes; the folder, and what each process said of each cook."""
    folder = tmp_path_factory.mktemp("sharded")
    record(folder / "blocks", [0.5, 0.5, 0.5], make=Whole)
    record(folder / "nets", [0.8, 1.0, 1.2, 1.5], make=WholeTensors)
    command = [sys.executable, "-m", "tests.sharded", folder / "blocks", folder / "nets", folder]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    return folder, {(line["name"], line["rank"]): line for line in lines}


@pytest.fixture(scope="module")
def alone(cooked: tuple[Path, Lines]) -> dict[str, Soup]:
    """What one process makes of the same ingredients."""
    folder, _ = cooked
    blocks, nets = ({**QUESTION, "ingredients": folder / name} for name in ("blocks", "nets"))
    return {
        "blocks": trainer(SoupTrainer).cook(Whole(), **blocks, output=folder / "1.ckpt"),
        "fine": trainer(SoupTrainer).cook(Whole(), **blocks, recipe=WiseFT(), output=folder / "2.ckpt"),
        "nets": trainer(SoupTrainer).cook(WholeTensors(), **nets, output=folder / "3.ckpt"),
    }


@pytest.mark.parametrize(
    ("name", "reference", "file"),
    [
        ("fully sharded", "blocks", "fully.ckpt"),
        ("again", "fine", "again.ckpt"),
        ("hooked", "blocks", "hooked.ckpt"),
        ("parallel", "nets", "parallel.ckpt"),
        ("both", "nets", "both.ckpt"),
        ("flat", "nets", "flat.ckpt"),
        ("flatter", "nets", "flatter.ckpt"),
    ],
)
def test_the_soup_is_that_of_one_process(
    cooked: tuple[Path, Lines], alone: dict[str, Soup], name: str, reference: str, file: str
) -> None:
    folder, lines = cooked
    expected, found = alone[reference], Soup.load(folder / file)
    assert found.mixture == expected.mixture
    own = found.state_dict()
    assert own.keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert type(own[key]) is type(tensor)
        assert torch.equal(own[key], tensor), key
    if reference != "fine":
        assert len(expected.mixture) > 1
    for rank in (0, 1):
        for (score, early), row in zip(lines[name, rank]["scores"], expected.trace, strict=True):
            assert early or row.early or score == pytest.approx(row.score.value, rel=1e-6)
        assert lines[name, rank]["changed"] == []  # the module, from how it was handed over


@pytest.mark.parametrize("name", ["fully sharded", "again", "parallel", "both"])
def test_each_process_mixes_the_parts_it_holds(cooked: tuple[Path, Lines], name: str) -> None:
    """Rank zero mixes one whole checkpoint, the soup that it saves; rank one none."""
    _, lines = cooked
    module = Whole() if name in ("fully sharded", "again") else WholeTensors()
    numbers = {key: value.numel() for key, value in module.state_dict().items() if value.is_floating_point()}
    replicated = sum(size for key, size in numbers.items() if name == "parallel" or "norm.running" in key)
    assert lines[name, 0]["whole"] == 1
    assert lines[name, 1]["whole"] == 0
    if name != "parallel":
        assert lines[name, 1]["most"] <= (sum(numbers.values()) - replicated) / 2 + replicated
    else:  # but for the last bias, which both hold
        assert lines[name, 1]["most"] == (sum(numbers.values()) - 3) / 2 + 3


def test_what_cannot_be_done_with_parts_is_refused(cooked: tuple[Path, Lines]) -> None:
    _, lines = cooked
    for rank in (0, 1):
        assert "Learned soups need the gradients of whole parameters" in lines["learned", rank]["error"]
        assert "`weights` cannot leave tensors out" in lines["left out", rank]["error"]
        assert (
            "each of its steps is a collective, but the processes have [[33], [32]]"
            in lines["one by one", rank]["error"]
        )


def test_samples_are_cut_into_as_many_batches_as_asked() -> None:
    loader = Blobs(held_out=7, batch_size=3).val_dataloader()
    batches = list(in_batches(loader, 4))
    assert [len(labels) for _, labels in batches] == [1, 2, 2, 2]
    assert torch.equal(torch.cat([features for features, _ in batches]), loader.dataset.tensors[0])
    assert in_batches(loader, 8) is loader
