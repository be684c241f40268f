"""Many processes that record into one directory, while others list it and cook from it."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lightning_soups import BadIngredientError, Ingredients, Soup, SoupCallback, SoupTrainer, UniformSoup
from lightning_soups.content import content_hash
from lightning_soups.local_copies import LocalCopies
from lightning_soups.mixing import Mixer
from lightning_soups.report import write_report
from lightning_soups.run_folder import withdraw
from lightning_soups.weights import fingerprint, read_checkpoint
from lightning_soups.weights.pages import MappedPages
from tests.helpers import Blobs, Classifier, record, trainer

WRITERS, EPOCHS = 32, 3  # a long run takes more epochs
COPIERS, COPIES = 6, 40


class Child:
    """A forked process; it ends with 0 unless the job raises."""

    alive: ClassVar[set[int]] = set()

    def __init__(self, job: Callable[[], Any]) -> None:
        self._status: int | None = None
        self._pid = os.fork()
        self.alive.add(self._pid)
        if self._pid == 0:
            try:
                job()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self.alive.remove(pid)
        return self._status is not None

    def wait(self) -> int | None:
        deadline = time.monotonic() + 300
        while not self.ended():
            assert time.monotonic() < deadline, "a process hangs"
            time.sleep(0.01)
        return self._status


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    for pid in Child.alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    Child.alive.clear()


def mark(state_dict: dict[str, Tensor]) -> float:
    """One number for all weights, which is linear in them."""
    return sum(value.double().sum().item() for name, value in state_dict.items() if name.startswith("net"))


class Marked(Classifier):
    """Gets better with every epoch, so that each drives out the last; logs what its weights add up to."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("score", float(self.current_epoch))
        self.log("mark", mark(self.state_dict()))


class Tiny(Blobs):
    def __init__(self) -> None:
        super().__init__(train=32, held_out=16, batch_size=16)


def fit(directory: Path, number: int, begin: Callable[[], None]) -> None:
    torch.manual_seed(0)
    module = Marked(lr=0.01 * (number + 1))
    recorder = SoupCallback(directory, "score", "max", run="same")
    fitting = trainer(callbacks=[recorder], max_epochs=EPOCHS, num_sanity_val_steps=0)
    torch.manual_seed(number)
    begin()
    fitting.fit(module, datamodule=Tiny())


def until(ended: Path, job: Callable[[], bool], enough: int) -> None:
    """Do something until all have recorded, and then once more."""
    done = 0
    while not ended.exists() or done < enough:
        done += job()


def none_yet(error: Exception) -> bool:
    """Whether nothing had been recorded when somebody looked; once something has been, there is always something."""
    return bool(re.search("holds no ingredients|neither a folder", str(error)))


def cook(directory: Path, output: Path) -> bool:
    cooking = trainer(SoupTrainer)
    try:
        soup = cooking.cook(Marked(), datamodule=Tiny(), ingredients=directory, recipe=UniformSoup(), output=output)
    except (ValueError, FileNotFoundError) as error:
        if re.search("has put a better(.|\n)*one in its place", str(error)) or none_yet(error):
            return False
        raise
    marks = [one.metrics["mark"] for one in soup.candidates]
    assert len({one.run for one in soup.candidates}) == len(marks), "two of one run"
    for found in (soup, Soup.load(output)):
        assert mark(found.state_dict()) == pytest.approx(sum(marks) / len(marks), abs=1e-4)
    assert soup.metrics["mark"] == pytest.approx(sum(marks) / len(marks), abs=1e-4)
    return True


def test_many_record_while_others_cook(tmp_path: Path) -> None:
    directory, ended = tmp_path / "soup", tmp_path / "ended"
    started = tmp_path / "started"

    def begin() -> None:  # all at once
        while not started.exists():
            time.sleep(0.001)

    runs: dict[str, int] = {}

    def look() -> bool:
        """A run that has recorded something is there from then on, and its epochs only grow."""
        try:
            found = Ingredients.load(directory)
        except ValueError as error:
            if none_yet(error) and not runs:
                return False
            raise
        epochs = {one.run: one.epoch for one in found}
        assert epochs.keys() >= runs.keys()
        assert all(epochs[run] >= epoch for run, epoch in runs.items())
        runs.update(epochs)
        write_report(directory, tmp_path / "report.html")
        assert "What could not be read" not in (tmp_path / "report.html").read_text()
        return True

    writers = [Child(lambda number=number: fit(directory, number, begin)) for number in range(WRITERS)]
    readers = [
        Child(lambda job=job: until(ended, job, 1))
        for job in (lambda: cook(directory, tmp_path / "a.ckpt"), lambda: cook(directory, tmp_path / "b.pt"), look)
    ]
    started.touch()
    assert [writer.wait() for writer in writers] == [0] * WRITERS
    ended.touch()
    assert [reader.wait() for reader in readers] == [0] * len(readers)

    found = Ingredients.load(directory)
    assert sorted(one.run for one in found) == sorted(["same", *(f"same-{n}" for n in range(2, WRITERS + 1))])
    assert {one.epoch for one in found} == {EPOCHS - 1}
    for one in found:
        checkpoint = read_checkpoint(one.path)
        assert checkpoint["epoch"] == one.epoch
        assert checkpoint["hyper_parameters"]["lr"] == one.hyperparameters["lr"]
        assert mark(checkpoint["state_dict"]) == pytest.approx(one.metrics["mark"], abs=1e-4)
    assert len({one.hyperparameters["lr"] for one in found}) == WRITERS
    (initialization,) = (directory / "initializations").iterdir()
    assert fingerprint(read_checkpoint(initialization)["state_dict"]) == found[0].initialization == initialization.stem
    assert len([path for path in directory.rglob("*") if path.is_file()]) == 2 * WRITERS + 1, "nothing is left over"


def test_what_goes_while_it_is_listed_is_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record and its checkpoint, before the one is read and between the two; a better one takes their place."""
    import lightning_soups.ingredients as ours

    record(tmp_path / "better", [0.1])
    for moment in ("record", "checkpoint"):
        for pattern in ("{}", "{}/runs/*/*.ckpt", "{}/runs/*/*.json"):
            directory = tmp_path / moment / pattern.replace("/", "-")
            record(directory, [0.1, 0.3])
            (going, staying) = Ingredients.load(directory)
            gone: list[Path] = []

            def replaced(path: Path, directory: Path = directory, going: Any = going, gone: list = gone) -> Any:
                if not gone:
                    gone.append(path)
                    for file in (tmp_path / "better" / "runs" / "run-00").iterdir():
                        os.link(file, going.path.with_name(f"better{file.suffix}"))
                    text = going.path.with_name("better.json").read_text()
                    going.path.with_name("better.json").unlink()
                    going.path.with_name("better.json").write_text(text.replace(file.stem, "better"))
                    withdraw(going.path)
                return path

            real = ours.records.read_record if moment == "checkpoint" else ours._described
            where = "lightning_soups.ingredients." + ("records.read_record" if moment == "checkpoint" else "_described")

            def interrupted(path: Path, real: Any = real, moment: str = moment, replaced: Any = replaced) -> Any:
                if moment == "record":
                    replaced(path)
                    return real(path)
                content = real(path)
                replaced(path)
                return content

            monkeypatch.setattr(where, interrupted)
            found = Ingredients.load(pattern.format(directory))
            monkeypatch.undo()
            assert gone
            assert sorted(one.path.name for one in found) == sorted(["better.ckpt", staying.path.name])


def test_what_goes_between_listing_and_opening_is_a_clear_error(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.3])
    found = Ingredients.load(tmp_path)
    withdraw(found[0].path)
    with pytest.raises(BadIngredientError, match=r"run-00.*\.ckpt'\. If a run that still trains recorded it"):
        trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=found)
    with pytest.raises(BadIngredientError, match="cannot be read"):
        Ingredients.load([found[0].path.with_suffix(".json"), found[1].path])


def test_what_was_opened_may_go(tmp_path: Path) -> None:
    """The fits go on while a cook evaluates; what it has opened stays mapped."""
    record(tmp_path, [0.1, 0.3])

    class Replaced(Classifier):
        def on_validation_start(self) -> None:
            for path in tmp_path.glob("runs/*/*.json"):
                withdraw(path.with_suffix(".ckpt"))

    expected = trainer(SoupTrainer).cook(
        Classifier(), datamodule=Blobs(), ingredients=tmp_path, recipe=UniformSoup(), output=tmp_path / "a.ckpt"
    )
    weights = expected.state_dict()
    soup = trainer(SoupTrainer).cook(
        Replaced(), datamodule=Blobs(), ingredients=tmp_path, recipe=UniformSoup(), output=tmp_path / "b.ckpt"
    )
    assert not list(tmp_path.glob("runs/*/*"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in soup.state_dict().items())


def content(source: int) -> bytes:
    return bytes([source]) * 1000


def copy_and_read(folder: Path, seed: int) -> None:
    """Ask for copies of five sources where there is room for three."""
    choice, copies, read = random.Random(seed), LocalCopies(folder, 15_000), 0
    while read < COPIES:
        source = choice.randrange(5)

        def make(path: Path, source: int = source) -> None:
            path.mkdir()
            for number in range(5):
                (path / str(number)).write_bytes(content(source))
            with (folder.parent / f"made-{source}").open("a") as file:
                file.write(".")

        copies._used.clear()  # as if every question came from another process
        try:
            path = copies.keep(f"source {source}", "1", "name", 5000, make)
            parts = [(path / str(number)).read_bytes() for number in range(5)]
        except ValueError as error:
            if "no room" not in str(error):
                raise
            continue
        except FileNotFoundError:  # with the time that a copy stays cut from a minute to next to nothing
            assert not path.exists() or path.stat().st_ctime > time.time() - 60
            continue
        assert parts == [content(source)] * 5
        read += 1


def start(jobs: Sequence[Callable[[], Any]]) -> None:
    assert [child.wait() for child in [Child(job) for job in jobs]] == [0] * len(jobs)


def test_local_copies_are_whole_while_others_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_soups.local_copies._JUST_USED", 0.02)
    folder = tmp_path / "copies"
    start([lambda seed=seed: copy_and_read(folder, seed) for seed in range(COPIERS)])
    assert len(list(tmp_path.glob("made-*"))) > 3, "more than there is room for, so some made room"
    for entry in folder.glob("*/name"):
        assert {len(path.read_bytes()) for path in entry.iterdir()} == {1000}
    assert not list(folder.glob(".*"))


def test_each_source_is_fetched_by_one_process(tmp_path: Path) -> None:
    def ask() -> None:
        def make(path: Path) -> None:
            with (tmp_path / "made").open("a") as file:
                file.write(".")
            time.sleep(0.2)
            path.write_bytes(b"whole")

        assert LocalCopies(tmp_path / "copies", 1000).keep("source", "1", "name", 5, make).read_bytes() == b"whole"

    start([ask] * COPIERS)
    assert (tmp_path / "made").read_text() == "."


def test_a_copy_that_is_asked_for_at_this_moment_makes_no_room(tmp_path: Path) -> None:
    """Its time of use is old, but somebody holds its lock."""
    from filelock import FileLock

    copies = LocalCopies(tmp_path, 10)
    entry = copies.keep("a", "1", "name", 10, lambda path: path.write_bytes(b"x" * 10)).parent
    os.utime(entry, (1, 1))
    other = LocalCopies(tmp_path, 10)
    with FileLock(f"{entry}.lock"), pytest.raises(ValueError, match="no room"):
        other.keep("b", "1", "name", 10, lambda path: path.write_bytes(b"y" * 10))
    assert (entry / "name").exists()
    other.keep("b", "1", "name", 10, lambda path: path.write_bytes(b"y" * 10))
    assert not entry.exists()


def test_what_goes_while_it_is_hashed_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, [0.1, 0.3])
    found = Ingredients.load(tmp_path)
    mixer = Mixer()
    mixer.open_all(found)
    expected = mixer.names_and_shapes(found[0])["net.0.weight"].clone()

    def hash_too_late(path: Path) -> str:
        withdraw(path)
        return content_hash(path)

    monkeypatch.setattr("lightning_soups.checking.content_hash", hash_too_late)
    assert torch.equal(mixer.state_dict(found[0])["net.0.weight"], expected)


def test_pages_of_a_file_that_has_gone_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_soups.weights.pages._SMALL", 0)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(10_000)}}, path)
    weights = read_checkpoint(path)["state_dict"]
    path.unlink()
    pages = MappedPages([path])
    assert len(pages._mappings) == (sys.platform == "linux")
    pages.release(weights["a"])
    assert weights["a"].sum() == 10_000


def test_processes_that_list_at_different_moments_cook_with_the_same_ingredients(tmp_path: Path) -> None:
    """Under the strategy ``ddp`` each process runs the script and looks for itself; the second one looks too early."""
    record(tmp_path, [0.1, 0.3, 0.6])
    (tmp_path / "cook.py").write_text(
        """
import os, sys
from lightning_soups import Ingredients, SoupTrainer
from tests.helpers import Blobs, Classifier, trainer

found = Ingredients.load(sys.argv[1])
early = os.environ.get("LOCAL_RANK") == "1"
cooking = trainer(SoupTrainer, devices=2, strategy="ddp")
soup = cooking.cook(Classifier(), datamodule=Blobs(), ingredients=found[:2] if early else found)
with open(f"{sys.argv[1]}/{cooking.global_rank}", "w") as file:
    file.write(repr([row.mixture for row in soup.trace]))
"""
    )
    command = [sys.executable, str(tmp_path / "cook.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(command, env=environment, timeout=300, capture_output=True)
    assert process.returncode == 0, process.stderr.decode()
    told = [(tmp_path / rank).read_text() for rank in "01"]
    assert told[0] == told[1]
    assert "run-02" in told[0]
