"""Cooks that are told to stop, or are killed, by real signals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_soups import Soup, SoupTrainer
from tests.helpers import Blobs, Classifier, record, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

SLOW = """
import sys, time
from pathlib import Path
from lightning_soups import SoupTrainer
from tests.helpers import Blobs, QUIET
from tests.test_interruption import Slow
directory = Path(sys.argv[1])
options = {**QUIET, "accelerator": "cpu", "devices": 1, "default_root_dir": directory}
SoupTrainer(**options).cook(Slow(), datamodule=Blobs(), ingredients=directory, output=directory / "soup.ckpt")
"""
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "cook",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


class Slow(Classifier):
    """Takes its time for every batch."""

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        if os.environ.get("SLOW"):
            time.sleep(0.3)
        super().validation_step(batch, batch_idx)


def found(directory: Path) -> int:
    journal = directory / ".soup.ckpt.journal"
    return journal.read_bytes().count(b'"found"') if journal.exists() else 0


def send(started: "dict[str, subprocess.Popen[str]]", root: Path) -> None:
    """Send each process its signal after two evaluations; one that only asks for requeueing is terminated later."""
    waiting = {name: [(2, name)] + ([(3, "TERM")] if name == "USR1" else []) for name in started}
    while any(waiting.values()):
        for name, process in started.items():
            if waiting[name] and found(root / name) >= waiting[name][0][0]:
                process.send_signal(signal.Signals[f"SIG{waiting[name].pop(0)[1]}"])
            assert process.poll() is None or not waiting[name], process.communicate()
        time.sleep(0.02)


def test_whatever_ended_it_the_same_cook_resumes(tmp_path: Path) -> None:
    record(tmp_path / "whole", [0.02, 0.1, 0.5, 1.0, 2.0])
    arguments = {"datamodule": Blobs(), "ingredients": tmp_path / "whole"}
    whole = trainer(SoupTrainer).cook(Slow(), output=tmp_path / "whole.ckpt", **arguments)
    scheduler = tmp_path / "bin" / "scontrol"
    scheduler.parent.mkdir()
    scheduler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scheduler.chmod(0o755)
    path = os.pathsep.join([str(scheduler.parent), os.environ["PATH"]])
    cases = {"TERM": 143, "INT": 1, "KILL": -9, "USR1": 143}
    started = {}
    for name in cases:
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        environment = {**os.environ, **(SLURM if name == "USR1" else {}), "PATH": path, "SLOW": "1"}
        command = [sys.executable, "-c", SLOW, str(tmp_path / name)]
        started[name] = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)
    send(started, tmp_path)
    for name, process in started.items():
        output = process.communicate(timeout=120)[1]
        assert process.returncode == cases[name], output
        if name != "KILL":
            assert "finished evaluations are kept in" in output
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert not list((tmp_path / "USR1").glob("*hpc*")), "a candidate's weights would be taken for a fit's"
    for name in cases:
        directory = tmp_path / name
        known = found(directory)
        assert known >= 2
        assert not (directory / "soup.ckpt").exists()
        soup = trainer(SoupTrainer).cook(
            Slow(), datamodule=Blobs(), ingredients=directory, output=directory / "soup.ckpt"
        )
        assert [one.run for one in soup.mixture] == [one.run for one in whole.mixture]
        assert soup.score == whole.score
        weights, expected = (Soup.load(one).state_dict() for one in (directory / "soup.ckpt", tmp_path / "whole.ckpt"))
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert not list(directory.glob(".*"))
