"""Workers as a user starts them: processes of the command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups import Ingredients, SoupCLI
from lightning_soups.sweep.workers import own_command, run_workers, worker_environments
from tests.helpers import QUIET, Blobs, Classifier

ROOT = Path(__file__).parents[2]
SCRIPT = """
from lightning_soups import SoupCLI
from tests.helpers import Blobs
from tests.sweep.test_workers import Killed

SoupCLI(Killed, Blobs)
"""


class Killed(Classifier):
    """SIGKILL in the second epoch of the first fit that finds a file of that name."""

    def __init__(self, lr: float = 0.1, trigger: str = "") -> None:
        super().__init__(lr)
        self.trigger = Path(trigger)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1 and self.trigger.is_file():
            self.trigger.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_a_worker_that_is_killed_is_reported_and_its_trial_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own script, two workers at a time, one of which gets SIGKILL; then the same command again."""
    quiet = {**QUIET, "accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": str(tmp_path)}
    trigger = tmp_path / "trigger"
    trigger.touch()
    config = {
        "seed_everything": 3,
        "model": {"trigger": str(trigger)},
        "trainer": quiet,
        "trials": 4,
        "workers": 2,
        "dirpath": str(tmp_path / "soups"),
        "storage": str(tmp_path / "sweep.journal"),
        "monitor": "val_acc",
        "space": {"model.lr": {"log_uniform": [0.05, 1.0]}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "train.py"), "sweep", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
    assert "worker 1 | trial" in printed or "worker 2 | trial" in printed
    assert "was killed (SIGKILL); the others go on" in printed
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(config["storage"]))
    trials = optuna.load_study(study_name=config["dirpath"], storage=storage).get_trials()
    (killed,) = [trial for trial in trials if trial.state.name == "FAIL"]
    assert [trial.state.name for trial in trials].count("COMPLETE") == 4
    (again,) = [trial for trial in trials if trial.params == killed.params and trial is not killed]
    assert again.number > killed.number
    found = {ingredient.run: ingredient for ingredient in Ingredients.load(config["dirpath"])}
    assert set(found) == {f"trial-{trial.number:03d}" for trial in trials}
    assert found[f"trial-{killed.number:03d}"].epoch == 0  # what it recorded before stays
    seeds = {ingredient.hyperparameters["seed_everything"] for ingredient in found.values()}
    assert seeds == {3000 + trial.number for trial in trials}
    SoupCLI(Killed, Blobs, args=command[2:])
    assert "4 trials have succeeded, 0 to run" in capsys.readouterr().out


def test_lines_are_merged_and_an_interrupt_ends_all_workers() -> None:
    """The parent gets SIGTERM, as from a scheduler, once both workers have said something."""
    work = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('interrupted'))\n"
        "print('10%\\r100% done', flush=True)\n"
        "time.sleep(120)\n"
    )
    heard: list[str] = []

    def say(line: str) -> None:
        heard.append(line)
        if len(heard) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        run_workers([sys.executable, "-c", work], [{}, {}], 0, say)
    assert sorted(heard[:2]) == ["worker 1 | 100% done", "worker 2 | 100% done"]
    assert sorted(heard[2:]) == ["worker 1 | interrupted", "worker 2 | interrupted"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_worker_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may have none, so their number is set; everything else is as it is."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = worker_environments(3, "auto", "auto")
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in given] == ["0", "1", "2"]
    assert given[0]["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5,1,0")
    assert worker_environments(2, "gpu", 1)[1]["CUDA_VISIBLE_DEVICES"] == "GPU-5"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environments(8, "cpu", 2)[0]
    with pytest.raises(MisconfigurationException, match="`workers` is 5, but this machine shows 4 GPUs"):
        worker_environments(5, "auto", "auto")
    with pytest.raises(MisconfigurationException, match=r"trainer\.devices is 2\. Use trainer\.devices=1"):
        worker_environments(2, "cuda", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in worker_environments(2, "gpu", 1)[0]


def test_the_command_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "project.train", "sweep", "--trials", "3"])
    monkeypatch.setattr(sys, "argv", ["/project/train.py", "sweep", "--trials", "3"])
    assert own_command(None) == [sys.executable, "-X", "dev", "-m", "project.train", "sweep", "--trials", "3"]
    assert own_command(["sweep", "--trials", "3"]) == own_command(None)
    with pytest.raises(MisconfigurationException, match="several times with `workers: 1`"):
        own_command(["sweep"])
    monkeypatch.setattr(sys, "argv", ["/project/train.py", "sweep"])
    with pytest.raises(MisconfigurationException, match="did not come from there"):
        own_command(None)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:No seed found")
@pytest.mark.parametrize(("workers", "message"), [("0", "at least 1, got 0"), ("2", "did not come from there")])
def test_workers_that_cannot_be_started_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str, message: str
) -> None:
    config = tmp_path / "sweep.yaml"
    space = {"model.lr": {"uniform": [0.1, 0.5]}}
    config.write_text(yaml.safe_dump({"space": space, "trials": 3, "monitor": "val_acc", "dirpath": str(tmp_path)}))
    options = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--workers", workers]
    with pytest.raises(SystemExit, match="2"):
        SoupCLI(Classifier, args=["sweep", "--config", str(config), *options])
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:The `srun` command is available")
def test_the_tasks_of_a_slurm_array_are_workers_of_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables that ``sbatch`` sets, which Lightning looks at."""
    ordinary = {"JOB_NAME": "soup", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NNODES": "1"}
    options = {"trials": 1, "monitor": "val_acc", "dirpath": str(tmp_path), "storage": str(tmp_path / "s.journal")}
    config = {"space": {"model.lr": {"uniform": [0.1, 0.5]}}, **options, "seed_everything": 0}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    quiet = [f"--trainer.{name}={str(value).lower()}" for name, value in QUIET.items()]
    arguments = ["sweep", "--config", str(tmp_path / "sweep.yaml"), "--trainer.accelerator=cpu", *quiet]
    for task in (0, 1):
        array = {"JOB_ID": str(100 + task), "ARRAY_JOB_ID": "100", "ARRAY_TASK_ID": str(task), "ARRAY_TASK_COUNT": "2"}
        for name, value in {**ordinary, **array}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert SLURMEnvironment.detect()
        SoupCLI(Classifier, Blobs, args=[*arguments, "--trainer.max_epochs=1", f"--trials={task + 1}"])
    assert [ingredient.run for ingredient in Ingredients.load(tmp_path)] == ["trial-000", "trial-001"]
