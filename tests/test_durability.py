"""What is written is complete or absent, whichever call fails or is the last before a kill."""

import errno
import glob
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_soups import Ingredients, Soup, SoupCallback, SoupTrainer, StudyResult
from lightning_soups.adapters.output import write_adapter
from lightning_soups.files import check_name, check_writable, replacing, replacing_all, replacing_folder, write_json
from lightning_soups.leftovers import clean_soup_directory, is_temporary
from lightning_soups.local_copies import LocalCopies
from lightning_soups.outputs import soups_in
from lightning_soups.weights import read_checkpoint
from lightning_soups.weights.adapter_folders import read_adapter
from lightning_soups.write_errors import WriteError
from tests.faults import REMOVALS, Child, every_call, run
from tests.helpers import Blobs, Classifier, record, trainer
from tests.outputs.cases import odd_states, soup_of
from tests.report.conftest import study_result

OLD, NEW = "old", "new"


class Job:
    """Something that is written: first an old version, then a new one in its place."""

    torn: Any = "never"  # what a kill between two files may leave

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, version: str) -> None:
        raise NotImplementedError

    def read(self) -> Any:
        """OLD, NEW or None; an error when it is anything else."""
        raise NotImplementedError


class Json(Job):
    def write(self, version: str) -> None:
        write_json(self.folder / "made" / "a.json", version)

    def read(self) -> Any:
        return json.loads((self.folder / "made" / "a.json").read_text())


class Output(Job):
    name = "soup.ckpt"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        counts = {OLD: 2, NEW: 3}
        self.soups = {version: soup_of(folder.parent / version, odd_states(counts[version])) for version in counts}
        self.expected = {version: soup.state_dict() for version, soup in self.soups.items()}

    def write(self, version: str) -> None:
        soup = self.soups[version]
        soup.recipe, soup.path = version, None
        soup.save(self.folder / self.name)

    def read(self) -> Any:
        if (self.folder / self.name).with_suffix(".pt").exists() and not (self.folder / "soup.pt.json").exists():
            assert torch.load(self.folder / self.name, weights_only=True).keys() == self.expected[OLD].keys()
            return "no soup"
        soup = Soup.load(self.folder / self.name)
        found = soup.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in self.expected[soup.recipe].items())
        return soup.recipe


class StateDict(Output):
    name = "soup.pt"
    torn = "no soup"


class Safetensors(Output):
    name = "soup.safetensors"


class Folder(Output):
    name = "soup"


class Study(Job):
    torn = None

    def write(self, version: str) -> None:
        study_result(study=version).save(self.folder / "study")

    def read(self) -> Any:
        if not (self.folder / "study.json").exists():
            return None
        result = StudyResult.load(self.folder / "study.json")
        assert (self.folder / "study.csv").read_text() == result.to_csv()
        return result.study


class Adapter(Job):
    torn = None

    def write(self, version: str) -> None:
        tensors = {f"layer.lora_{one}.weight": torch.full((1, 1), float(version == NEW)) for one in "AB"}
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["layer"], "revision": version}
        write_adapter(self.folder / "adapter", config, tensors)

    def read(self) -> Any:
        if not (self.folder / "adapter" / "adapter_config.json").exists():
            return None
        config, tensors = read_adapter(self.folder / "adapter")
        assert [tensor.item() for tensor in tensors.values()] == [float(config["revision"] == NEW)] * 2
        return config["revision"]


class Copy(Job):
    """An entry of the local copies; another version of the source is another entry."""

    def write(self, version: str) -> None:
        def make(path: Path) -> None:
            path.mkdir()
            (path / "a").write_text(version)

        LocalCopies(self.folder, 1000).keep("source", version, "name", 10, make)

    def read(self) -> Any:
        found = [path.read_text() for path in self.folder.glob("*/name/a")]
        assert set(found) <= {OLD, NEW}
        return found[-1] if NEW not in found else NEW


JOBS: list[type[Job]] = [Json, Output, StateDict, Safetensors, Folder, Study, Adapter, Copy]


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose old version is there."""
    kind = request.param
    if kind == "two renames":
        monkeypatch.setattr("lightning_soups.files.exchange", lambda one, other: False)
        kind = Folder
    job: Job = kind(tmp_path / "here")
    job.write(OLD)
    shutil.copytree(job.folder, tmp_path / "before")
    return job


def begin_again(job: Job) -> None:
    """The old version and nothing else."""
    shutil.rmtree(job.folder)
    shutil.copytree(job.folder.parent / "before", job.folder)


def write_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would, which has not seen the folder yet."""
    monkeypatch.setattr("lightning_soups.files._cleaned", set())
    job.write(NEW)
    assert job.read() == NEW


def check_error(child: Child) -> None:
    kind, text, shown = child.error
    assert kind == "WriteError", shown
    assert re.match(r"'.*' cannot be written: No space left on device\. There is .* MB free.*Make room", text), text
    assert "During handling of" not in shown
    assert "direct cause" not in shown


@pytest.mark.parametrize("job", [*JOBS, "two renames"], indirect=True)
def test_whichever_call_fails_the_old_or_the_new_is_there_complete_and_nothing_else(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    for child in every_call(lambda: job.write(NEW), job.folder, errno.ENOSPC):
        calls += 1
        found = job.read()
        assert found in (OLD, NEW)
        if child.status:
            check_error(child)
        else:
            assert found == NEW
        if child.status and child.last not in REMOVALS:
            assert not hidden(job.folder), child
        write_again(job, monkeypatch)
        assert not hidden(job.folder)
        begin_again(job)
    assert calls > 5


@pytest.mark.parametrize("job", [*JOBS, "two renames"], indirect=True)
def test_whichever_call_is_the_last_before_a_kill_the_old_or_the_new_is_there_complete(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0
    for child in every_call(lambda: job.write(NEW), job.folder, None):
        assert child.status in (0, -9), child.error
        assert job.read() in ((OLD, NEW, job.torn) if child.status else (NEW,))
        left += len(hidden(job.folder))
        assert all(map(is_temporary, (path for path in hidden(job.folder) if path.parent == job.folder)))
        assert not [path for path in soups_in(job.folder) if path.name.startswith(".")]
        write_again(job, monkeypatch)
        assert not hidden(job.folder), "what dead writers left is deleted by the next one"
        begin_again(job)
    assert left > 0


@pytest.mark.parametrize("largest", [0, 10, 500, 1500])
@pytest.mark.parametrize("job", [Json, Output, StateDict, Safetensors, Folder, Study, Adapter], indirect=True)
def test_files_that_break_off_leave_the_old_ones(job: Job, largest: int) -> None:
    """The limit of a file's size, which no library gets around; it says so as it does when a disk is full."""
    child = run(lambda: job.write(NEW), job.folder, largest=largest)
    if child.status == 0:
        assert isinstance(job, (Json, Study, Adapter))
        assert largest >= 10
        return
    assert child.error[0] == "WriteError", child.error[2]
    assert re.search(r"cannot be written: File too large\. .*ulimit -f", child.error[1])
    assert "During handling of" not in child.error[2]
    assert job.read() == OLD
    assert not hidden(job.folder)


class InTheMiddle(Callback):
    """Has SoupCallback record an epoch in child processes, in which one call after the other fails."""

    def __init__(self, recorder: SoupCallback, epoch: int, number: int | None, check: Callable[[Child], None]) -> None:
        self.recorder, self.epoch, self.number, self.check = recorder, epoch, number, check
        self.calls = 0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.current_epoch != self.epoch:
            return
        directory = Path(self.recorder.dirpath)
        copy = directory.with_name("copy")
        shutil.copytree(directory, copy)
        attempt = lambda: self.recorder.on_validation_end(trainer, pl_module)  # noqa: E731
        for child in every_call(attempt, directory, self.number):
            self.calls += 1
            self.check(child)
            shutil.rmtree(directory)
            shutil.copytree(copy, directory)


class Better(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", float(self.current_epoch))


@pytest.mark.parametrize("number", [errno.ENOSPC, None])
@pytest.mark.parametrize("epoch", [0, 1])
def test_recording_is_whole_at_every_call(tmp_path: Path, number: int | None, epoch: int) -> None:
    """The first ingredient of a run, and one that drives out the first."""
    directory = tmp_path / "soup"

    def check(child: Child) -> None:
        assert child.status in (0, 1 if number else -9), child.error
        if child.status == 1:
            check_error(child)
        runs = directory / "runs" / "one"
        records = sorted(runs.glob("*.json"))
        assert len(list(runs.glob("*.json"))) >= epoch, "the worse one goes when the better one is there"
        if records:
            found = Ingredients.load(directory)
            assert [one.epoch for one in found] in ([0], [1], [0, 1])
            for one in found:
                assert read_checkpoint(one.path)["epoch"] == one.epoch
        if child.status == 0:
            assert [path.stem[:9] for path in records] == [f"epoch=00{epoch}"]
        if number and child.last not in REMOVALS:
            assert not hidden(directory)
            assert {path.stem for path in runs.glob("*.ckpt")} == {path.stem for path in records}
        assert all(is_temporary(path) for path in hidden(directory))
        assert not glob.glob(f"{directory}/runs/*/*.tmp")
        assert not [path for path in Ingredients.load(f"{runs}/*.ckpt") if is_temporary(path.path)] if records else True
        clean_soup_directory(directory)
        assert not hidden(directory)

    recorder = SoupCallback(directory, "score", "max", run="one")
    middle = InTheMiddle(recorder, epoch, number, check)
    trainer(callbacks=[middle, recorder]).fit(Better(), datamodule=Blobs())
    assert middle.calls > 10
    assert [one.epoch for one in Ingredients.load(directory)] == [1]


def test_a_full_disk_ends_the_fit_and_leaves_what_was_recorded(tmp_path: Path) -> None:
    class FullInEpoch2(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            if checkpoint["epoch"] == 2:
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().save_checkpoint(checkpoint, path, storage_options)

    recorder = SoupCallback(tmp_path / "soup", "score", "max")
    fitting = trainer(callbacks=[recorder], plugins=[FullInEpoch2()], max_epochs=9)
    with pytest.raises(WriteError, match=r"epoch=002.*ckpt' cannot be written: No space left on device") as raised:
        fitting.fit(Better(), datamodule=Blobs())
    assert raised.value.errno == errno.ENOSPC
    assert [one.epoch for one in Ingredients.load(tmp_path / "soup")] == [1]
    assert not hidden(tmp_path)


class FullOnRankZero(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_the_fit_on_all_processes(tmp_path: Path) -> None:
    """Only the first one writes; the other would wait for it for half an hour."""
    recorder = SoupCallback(tmp_path / "soup", "score", "max", save_initialization=False)
    two = {"devices": 2, "strategy": "ddp_spawn", "plugins": [FullOnRankZero()]}
    with pytest.raises(Exception, match=r"(?s)WriteError.*cannot be written: No space left on device"):
        trainer(callbacks=[recorder], **two).fit(Better(), datamodule=Blobs())
    assert not hidden(tmp_path)


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], Any]], Child]:
    """Runs a job without the rights of root, for whom nothing is read-only."""

    def attempt(job: Callable[[], Any]) -> Child:
        def without_rights() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            job()

        return run(without_rights, Path("/nowhere"))

    return attempt


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, as_nobody: Any) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest-of"):
            folder.chmod(0o755)
            break
        folder.chmod(0o755)
    (tmp_path / "soup").mkdir(mode=0o555)
    child = as_nobody(lambda: write_json(tmp_path / "soup" / "a.json", 1))
    assert child.error[:2] == (
        "WriteError",
        f"'{tmp_path}/soup/a.json' cannot be written: Permission denied. Choose a place that you may write to.",
    )
    recorder = SoupCallback(tmp_path / "soup", "score", "max", run="one")
    child = as_nobody(lambda: trainer(callbacks=[recorder]).fit(Better(), datamodule=Blobs()))
    assert child.error[:2] == (
        "WriteError",
        f"'{tmp_path}/soup/runs/one' cannot be written: Permission denied. Choose a place that you may write to.",
    )
    child = as_nobody(lambda: check_writable(tmp_path / "soup" / "a.ckpt", "output"))
    assert child.error[0] == "ValueError"
    assert "`output` cannot be written at" in child.error[1]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EDQUOT, errno.EROFS])
def test_whatever_keeps_a_file_from_being_written_is_said(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, OLD)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("lightning_soups.durable.os.fsync", fail)
    with pytest.raises(WriteError, match=rf"a\.json' cannot be written: {os.strerror(number)}\. [A-Z].*\.$") as raised:
        write_json(path, NEW)
    assert raised.value.__suppress_context__
    assert json.loads(path.read_text()) == OLD
    assert os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(ValueError, match=f"`output` cannot be written at.*{os.strerror(number)}"):
        check_writable(tmp_path / "b.ckpt", "output")


def test_errors_that_are_about_something_else_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "a"):
        raise RuntimeError("mine")
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_names_are_as_long_as_the_system_allows(tmp_path: Path) -> None:
    longest, too_long = "n" * 250 + ".ckpt", "n" * 251 + ".ckpt"
    write_json(tmp_path / longest, 1)
    with replacing_folder(tmp_path / "é" / ("é" * 127)) as folder:
        (folder / "a").touch()
    with pytest.raises(WriteError, match=r"cannot be written: File name too long\. Choose a shorter name\.$"):
        write_json(tmp_path / too_long, 1)
    with pytest.raises(ValueError, match=r"`output` cannot be '.*': File name too long"):
        check_name(tmp_path / too_long, "output")
    record(tmp_path, [0.1])
    for arguments in ({"output": tmp_path / too_long}, {"ingredients": tmp_path / too_long}):
        with pytest.raises(ValueError, match=r"cannot be '.*': File name too long"):
            trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), **{"ingredients": tmp_path, **arguments})


def test_a_name_is_on_the_disk_before_anything_is_built_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the calls: bytes, rename, folder; a new folder's own name; the checkpoint before its record."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        calls.append(f"rename {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr("lightning_soups.durable.os.fsync", noted_fsync)
    monkeypatch.setattr("lightning_soups.files.os.replace", noted_replace)
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not say which file a descriptor is of")
    recorder = SoupCallback(tmp_path / "soup", "score", "max", run="one", save_initialization=False)
    trainer(callbacks=[recorder], max_epochs=1).fit(Better(), datamodule=Blobs())
    named = [re.sub(r"\.[0-9a-f-]+\.tmp$", ".tmp", call) for call in calls]
    folder = tmp_path.name
    stem = "epoch=000-step=000003"
    assert named == [
        *(f"fsync {folder}", "fsync soup", "fsync runs"),
        *(f"fsync .{stem}.ckpt.tmp", f"rename {stem}.ckpt", "fsync one"),
        *(f"fsync .{stem}.json.tmp", f"rename {stem}.json", "fsync one"),
    ]
    calls.clear()
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "a").touch()
    named = [re.sub(r"\.[0-9a-f-]+\.tmp$", ".tmp", call) for call in calls]
    assert named == ["fsync a", "fsync inside", "fsync .folder.tmp", "rename folder", f"fsync {folder}"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_file_systems_that_cannot_sync_folders_are_written_to(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr("lightning_soups.durable.os.fsync", refuse)
    write_json(tmp_path / "new" / "a.json", 1)
    assert (tmp_path / "new" / "a.json").read_text() == "1\n"


def test_files_that_belong_together_are_written_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(OLD)
    with replacing_all(tmp_path / "a", tmp_path / "b") as (one, other):
        one.write_text(NEW)
        other.write_text(NEW)
        assert (tmp_path / "a").read_text() == OLD
    assert [(tmp_path / name).read_text() for name in "ab"] == [NEW, NEW]
    assert not hidden(tmp_path)
