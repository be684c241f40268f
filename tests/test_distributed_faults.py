"""One process of a job fails or is killed: the whole job ends, says why, and can be started again.

The faults are in ``tests/faulty.py``. Whatever does not end is a failure here by its time: the processes that are left
would wait for ten minutes.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lightning_soups import Ingredients, Soup, SoupTrainer
from tests.faulty import FaultyGreedySoup
from tests.helpers import Blobs, Classifier, record, trainer

LIMIT = 120  # seconds for a job that takes a few, on however busy a machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ingredients")
    record(folder, [0.1, 0.3, 0.6])
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Soup:
    one = trainer(SoupTrainer)
    return one.cook(Classifier(), datamodule=Blobs(), ingredients=folder, output=folder.with_name("undisturbed.ckpt"))


def run(*command: Any, **faults: str) -> tuple[int, str, str]:
    """Run a job until all of its processes have gone; returns its exit status and what all of them have said."""
    environment = {**os.environ, **faults}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    python = [sys.executable, "-m", *map(str, command)]
    with subprocess.Popen(python, env=environment, text=True, start_new_session=True, **pipes) as job:
        try:
            output, errors = job.communicate(timeout=LIMIT)  # to the end of the last process that has these pipes
        finally:
            if job.poll() is None:  # torchrun gives its processes sessions of their own
                for process in psutil.Process(job.pid).children(recursive=True):
                    process.kill()
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    return job.returncode, output, errors


def cli(folder: Path, output: Path, **faults: str) -> tuple[int, str, str]:
    recipe, model = f"{FaultyGreedySoup.__module__}.{FaultyGreedySoup.__qualname__}", "tests.faulty.Faulty"
    command = ["lightning_soups", "cook", "--model", model, "--data", "tests.helpers.Blobs", "--recipe", recipe]
    command += ["--ingredients", folder, "--output", output, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    return run(*command, "--trainer.accelerator", "cpu", "--trainer.logger", "false", **faults)


def equal(one: Soup, other: Soup) -> bool:
    own = other.state_dict()
    return one.mixture == other.mixture and all(torch.equal(own[name], it) for name, it in one.state_dict().items())


def test_in_a_python_session_each_fault_comes_back_as_lightning_reports_it(
    folder: Path, undisturbed: Soup, tmp_path: Path
) -> None:
    status, output, errors = run("tests.faulty", "one_after_another", folder, tmp_path / "soup.ckpt")
    assert status == 0, errors[-2000:]
    *faults, members = map(json.loads, output.splitlines())
    assert len(faults) == 14
    for fault, came_back, saved in faults:
        place, rank, how = fault.split(":")
        expected = {
            "raise": ("ProcessRaisedException", f"Process {rank} terminated", "ValueError: the injected fault"),
            "full": ("ProcessRaisedException", "No space left on device"),  # on all of them
            "kill": ("ProcessExitedException", f"process {rank} terminated with signal SIGKILL"),
            "term": ("ProcessExitedException", f"process {rank} terminated with exit code 143"),
        }[how]
        if place == "read":  # all agree on what one of them cannot open
            expected = ("ProcessRaisedException", "the injected fault")
        if place == "inside":  # Python's handlers wait there, and the other process ends at the same time
            expected = ("ProcessExitedException", "terminated with exit code 1")
        told = {  # by the other process, if that ends first
            "raise": "the injected fault",
            "full": "No space left on device",
            "kill": "ended without a word",
            "term": "asked to end by SIGTERM",
        }[how]
        others = ("ProcessRaisedException", f"Process {rank} ", told)
        assert any(all(part in came_back for part in parts) for parts in (expected, others)), (fault, came_back)
        assert not saved
    assert "Process 1 failed: asked to end by SIGTERM" in errors
    # and in the same session, after all that
    assert [Ingredients.load(folder)[number] for number in members] == list(undisturbed.mixture)
    assert equal(Soup.load(tmp_path / "soup.ckpt"), undisturbed)


def test_a_job_on_the_command_line_ends_when_rank_zero_is_killed_and_can_be_started_again(
    folder: Path, undisturbed: Soup, tmp_path: Path
) -> None:
    output = tmp_path / "soup.ckpt"
    status, _, errors = cli(folder, output, FAULT="recipe:0:kill", BUSY="1")
    assert status == -signal.SIGKILL
    assert "Process 0 ended without a word, as when it is killed" in errors
    assert "Process 1 cannot go on without it" in errors
    assert not output.exists()
    again = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=folder, output=output)
    assert equal(again, undisturbed)


def test_torchrun_ends_although_the_process_that_failed_goes_on(folder: Path, tmp_path: Path) -> None:
    """Its connections stay open, so the collective that the other one is inside of does not fail by itself."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.faulty"]
    status, output, errors = run(*launch, "caught", folder, tmp_path / "soup.ckpt", FAULT="step:1:raise")
    assert status == 1
    assert output == "caught\n"
    assert "Process 1 failed: ValueError: the injected fault\nProcess 0 cannot go on without it" in errors


def test_several_cooks_in_one_process_group_leave_nothing_behind(
    folder: Path, undisturbed: Soup, tmp_path: Path
) -> None:
    status, output, errors = run("tests.faulty", "twice", folder, tmp_path / "soup.ckpt")
    assert status == 0, errors[-2000:]
    assert output.splitlines() == ["[]"] * 4
    assert "Process" not in errors
    assert equal(Soup.load(tmp_path / "1.ckpt"), undisturbed)
    assert equal(Soup.load(tmp_path / "2.ckpt"), undisturbed)
