"""A cook that was interrupted continues where it was, and ends with the same soup."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.utils.data import DataLoader
from upath import UPath

from lightning_soups import GreedySoup, Ingredients, LearnedSoup, PrunedSoup, Recipe, Soup, SoupTrainer, UniformSoup
from lightning_soups.lease import own_lease
from lightning_soups.lock import sole_writer
from lightning_soups.studies import NumberOfModels
from lightning_soups.weights import read_checkpoint
from tests.helpers import Blobs, Classifier, blobs, record, trainer

LRS = [0.02, 0.1, 0.5, 1.0, 2.0]


class PowerCutError(BaseException):  # which nobody catches who tries whether something works
    pass


class Counting(Classifier):
    """Counts held-out batches, and fails in the one that is told."""

    seen = 0
    fails_at: int | None = None

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        Counting.seen += 1
        if Counting.seen == Counting.fails_at:
            raise PowerCutError
        super().validation_step(batch, batch_idx)


class OfBatchNorm(Counting):
    def __init__(self, lr: float = 0.05, hidden: int = 8) -> None:
        super().__init__(lr, hidden)
        self.net = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, 3))


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    Counting.seen, Counting.fails_at = 0, None
    yield
    Counting.fails_at = None
    MemoryFileSystem.store.clear()


def cook(directory: Any, output: str = "soup.ckpt", fails_at: int | None = None, **changes: Any) -> tuple[Soup, int]:
    """Cook; returns the soup and how many held-out batches that took."""
    Counting.seen, Counting.fails_at = 0, fails_at
    arguments = {
        "model": Counting(),
        "datamodule": Blobs(),
        "ingredients": directory,
        "output": f"{directory}/{output}",
        **changes,
    }
    options = arguments.pop("options", {})
    soup = trainer(SoupTrainer, **options).cook(**arguments)
    return soup, Counting.seen


def interrupt(directory: Any, fails_at: int, **changes: Any) -> None:
    with pytest.raises(PowerCutError):
        cook(directory, fails_at=fails_at, **changes)


def assert_same(soup: Soup, whole: Soup) -> None:
    assert soup.mixture == whole.mixture
    assert (soup.score, soup.metrics, soup.batch_norm) == (whole.score, whole.metrics, whole.batch_norm)
    own, others = soup.state_dict(), whole.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)
    assert [(row.mixture, row.accepted, row.label) for row in soup.trace] == [
        (row.mixture, row.accepted, row.label) for row in whole.trace
    ]


@pytest.mark.parametrize(
    "recipe",
    [GreedySoup(), PrunedSoup(), UniformSoup(), GreedySoup(order="random")],
    ids=["greedy", "pruned", "uniform", "random"],
)
def test_wherever_it_was_interrupted_it_ends_with_the_same_soup(tmp_path: Path, recipe: Recipe) -> None:
    record(tmp_path, LRS)
    whole, batches = cook(tmp_path, "whole.ckpt", recipe=recipe)
    for fails_at in range(2, batches + 1, 7):
        interrupt(tmp_path, fails_at, recipe=recipe)
        soup, _ = cook(tmp_path, recipe=recipe)
        assert_same(soup, whole)
        assert not list(tmp_path.glob(".*"))


def test_nothing_finished_is_evaluated_again(tmp_path: Path) -> None:
    record(tmp_path, LRS)
    whole, batches = cook(tmp_path, "whole.ckpt", early_rejection=False)
    for fails_at in range(1, batches + 1, 3):
        interrupt(tmp_path, fails_at, early_rejection=False)
        soup, left = cook(tmp_path, early_rejection=False)
        assert_same(soup, whole)
        done = fails_at - 1
        assert left == batches - done + done % 4, "all but the pass that it was interrupted in"
        rows = [(row.batches, row.samples, row.cached) for row in soup.trace]
        assert rows == [(row.batches, row.samples, row.cached) for row in whole.trace]


def test_it_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    record(tmp_path, LRS)
    whole, batches = cook(tmp_path, "whole.ckpt", early_rejection=False)
    for _ in range(batches // 4 - 1):
        interrupt(tmp_path, 5, early_rejection=False)  # one pass further every time
    soup, left = cook(tmp_path, early_rejection=False)
    assert left == 4
    assert_same(soup, whole)


@pytest.mark.parametrize("options", ["recalculate", "recalculate_final"])
def test_recalculated_statistics_are_those_that_were_scored(tmp_path: Path, options: str) -> None:
    record(tmp_path, [0.1, 0.3, 0.5], make=OfBatchNorm)
    changes = {"model": OfBatchNorm(), "batch_norm": options, "batch_norm_batches": 2, "recipe": UniformSoup()}
    whole, batches = cook(tmp_path, "whole.ckpt", **changes)
    for fails_at in range(3, batches + 1, 2):
        interrupt(tmp_path, fails_at, **changes)
        soup, _ = cook(tmp_path, **changes)
        assert_same(soup, whole)


class Relabeled(Blobs):
    def val_dataloader(self) -> DataLoader:
        data = blobs(self.held_out, seed=2)
        data.tensors[1][-1] = (data.tensors[1][-1] + 1) % 3
        return DataLoader(data, batch_size=self.batch_size)


class OtherCode(Counting):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step([batch[0] * 0.9, batch[1]], batch_idx)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("the held-out data", lambda: {"datamodule": Relabeled()}),
        ("the module's class", lambda: {"model": OtherCode()}),
        ("the module's hyperparameters", lambda: {"model": Counting(lr=0.7)}),
        ("the monitor", lambda: {"monitor": "val_loss", "mode": "min"}),
        ("the precision", lambda: {"options": {"precision": "bf16-true"}}),
    ],
    ids=["data", "code", "hyperparameters", "monitor", "precision"],
)
def test_answers_about_something_else_are_not_mixed_up(
    tmp_path: Path, what: str, change: Callable[[], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path, LRS[:3])
    whole, batches = cook(tmp_path, "whole.ckpt", **change())
    interrupt(tmp_path, 13)
    caplog.clear()
    soup, left = cook(tmp_path, **change())
    assert left == batches
    assert_same(soup, whole)
    assert f"this has changed since: {what}" in caplog.text


def test_ingredients_count_by_what_they_hold(tmp_path: Path) -> None:
    """Of a cook of checkpoints without records, one of which is replaced meanwhile."""
    for seed in range(3):
        torch.manual_seed(seed)
        torch.save(Classifier().state_dict(), tmp_path / f"{seed}.pt")
    changes = {"ingredients": f"{tmp_path}/?.pt", "monitor": "val_acc", "early_rejection": False}
    _, batches = cook(tmp_path, "whole.ckpt", **changes)
    interrupt(tmp_path, 13, **changes)  # all single ones are known
    torch.manual_seed(7)
    torch.save(Classifier().state_dict(), tmp_path / "1.pt")
    soup, left = cook(tmp_path, **changes)
    assert left == batches - 8, "two ingredients are the same as before"
    whole, _ = cook(tmp_path, "whole.ckpt", **changes)
    assert_same(soup, whole)


def test_lines_that_were_torn_or_damaged_are_not_there(tmp_path: Path) -> None:
    record(tmp_path, LRS)
    whole, batches = cook(tmp_path, "whole.ckpt", early_rejection=False)
    journal = tmp_path / ".soup.ckpt.journal"
    interrupt(tmp_path, 17, early_rejection=False)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 4
    damaged = lines[2].replace(b"0.", b"9.", 1)
    journal.write_bytes(b"".join([*lines[:2], damaged, lines[3], b"\xff\x00 junk\n", lines[4][:-20]]))
    interrupt(tmp_path, 5, early_rejection=False)
    soup, left = cook(tmp_path, early_rejection=False)
    assert left == batches - 4 * 3
    assert_same(soup, whole)


def test_it_resumes_at_urls(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    record("memory://soups", LRS)
    whole, batches = cook("memory://soups", "whole.ckpt", early_rejection=False)
    interrupt("memory://soups", 14, early_rejection=False)
    assert "/soups/.soup.ckpt.journal" in MemoryFileSystem.store
    soup, left = cook("memory://soups", early_rejection=False)
    assert left == batches - 12
    assert_same(soup, whole)
    assert not [name for name in MemoryFileSystem.store if "journal" in name]


def test_a_journal_that_cannot_be_written_costs_no_soup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, LRS[:2])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_soups.evaluation.journal.append_durably", full)
    with pytest.warns(UserWarning, match="cannot be written: .*No space left on device.*The cook goes on"):
        soup, _ = cook(tmp_path)
    assert Soup.load(soup.path).score == soup.score


def test_interruptions_say_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path, LRS[:3])
    interrupt(tmp_path, 10, early_rejection=False)
    assert "2 finished evaluations are kept in" in caplog.text
    cook(tmp_path, early_rejection=False)
    assert "2 evaluations are known already" in caplog.text


def test_of_two_cooks_with_one_output_the_second_is_told(tmp_path: Path) -> None:
    record(tmp_path, LRS[:2])
    output = tmp_path / "new" / "soup.ckpt"
    with (
        sole_writer(output),
        pytest.raises(ValueError, match=r"soup\.ckpt' is being cooked .*, by (another )?process"),
    ):
        cook(tmp_path, output="new/soup.ckpt")
    assert not output.parent.exists()
    soup, _ = cook(tmp_path, output="new/soup.ckpt")
    assert soup.path == output
    assert [path.name for path in output.parent.iterdir()] == ["soup.ckpt"]


def test_of_two_cooks_with_one_output_at_a_url_the_second_is_told(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    record("memory://soups", LRS[:2])
    output = UPath("memory://soups/soup.ckpt")
    with sole_writer(output), pytest.raises(ValueError, match=f"cooked at this moment, by process {os.getpid()} on"):
        cook("memory://soups")
    lock = output.with_name(".soup.ckpt.lock")
    assert not lock.exists()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for lease in (own_lease() | {"pid": dead.pid}, own_lease() | {"machine": "elsewhere", "seen": 1.0}, "no lease"):
        lock.write_text(json.dumps(lease))
        soup, _ = cook("memory://soups")
        assert soup.path == output
        assert not lock.exists()
    lock.write_text(json.dumps(own_lease() | {"machine": "elsewhere boot 1"}))
    with pytest.raises(ValueError, match="on elsewhere"):
        cook("memory://soups")


def test_rejections_that_were_taken_back_stay_so(tmp_path: Path) -> None:
    """The second cook must not use what the first one found to be unfounded."""
    from lightning.pytorch import Trainer

    from lightning_soups.evaluation.journal import Finding, Journal
    from lightning_soups.mixture import Mixture

    record(tmp_path, LRS[:2])
    first, second = (Mixture.uniform([one]) for one in Ingredients.load(tmp_path))
    strategy = Trainer(logger=False, accelerator="cpu").strategy
    contents = [str(one.path) for one in (*first, *second)]

    def opened() -> Journal:
        journal = Journal(tmp_path / "journal", strategy, lambda one: contents[0] if one in first else contents[1])
        journal.begin(lambda: {"data": "the same"})
        return journal

    journal = opened()
    journal.note(first, Finding(0.5, "max", {"acc": 0.5}, 1, 2, 0.1))
    journal.note(second, Finding(0.4, "max", None, 1, 1, 0.1))
    found = opened().recall(second)
    assert found is not None
    assert found.value == 0.4
    journal.withdraw_rejections("they were wrong")
    again = opened()
    assert again.recall(second) is None
    assert again.recall(first) == Finding(0.5, "max", {"acc": 0.5}, 1, 2, 0.1)
    assert again.caveats == ["they were wrong"]
    assert again.recall(first, "averaged") is None


def test_what_a_recipe_saved_is_of_the_same_content(tmp_path: Path) -> None:
    """Whatever it says of itself: the ingredients have the same paths."""
    from lightning.pytorch import Trainer

    from lightning_soups.evaluation.journal import Journal

    record(tmp_path, LRS[:2])
    found = Ingredients.load(tmp_path)
    strategy = Trainer(logger=False, accelerator="cpu").strategy

    def opened(content: str) -> Journal:
        journal = Journal(tmp_path / "journal", strategy, lambda one: content + one.run)
        journal.begin(lambda: {"data": "the same"})
        return journal

    opened("a").save_state("learned", found, {"step": 3})
    assert opened("a").load_state("learned", found) == {"step": 3}
    assert opened("a").load_state("learned", found[:1]) is None
    assert opened("b").load_state("learned", found) is None


def test_what_was_learned_is_not_learned_from_other_ingredients(tmp_path: Path) -> None:
    record(tmp_path, LRS[:2])
    recipe = LearnedSoup(steps=4, batch_size=32)
    whole, _ = cook(tmp_path, "whole.ckpt", recipe=recipe)
    interrupt(tmp_path, 12, recipe=recipe)
    state = json.loads((tmp_path / ".soup.ckpt.journal.state").read_text())
    assert state["states"]
    soup, _ = cook(tmp_path, recipe=recipe)
    assert_same(soup, whole)
    interrupt(tmp_path, 12, recipe=recipe)
    record(tmp_path / "others", LRS[2:4], seed=3)
    for one, other in zip(Ingredients.load(tmp_path), Ingredients.load(tmp_path / "others"), strict=True):
        checkpoint = read_checkpoint(other.path)
        Path(one.path).unlink()
        torch.save({**checkpoint, "hyper_parameters": {}}, one.path)
        one.path.with_suffix(".json").unlink()
    paths = [str(path) for path in sorted(tmp_path.glob("runs/*/*.ckpt"))]
    changes = {"recipe": recipe, "ingredients": paths, "monitor": "val_acc"}
    soup, _ = cook(tmp_path, **changes)
    whole, _ = cook(tmp_path, "whole.ckpt", **changes)
    assert_same(soup, whole)


def test_a_study_keeps_what_it_chose_by_until_its_results_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, LRS[:2])

    class Failing(Counting):
        fails = True

        def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
            if Failing.fails:
                raise PowerCutError
            super().test_step(batch, batch_idx)

    arguments = {
        "datamodule": Blobs(),
        "study": NumberOfModels(orders=2),
        "ingredients": tmp_path,
        "early_rejection": False,
    }
    with pytest.raises(PowerCutError):
        trainer(SoupTrainer).study(Failing(), **arguments)
    assert (tmp_path / "studies" / ".number_of_models.journal").exists()
    Failing.fails, Counting.seen = False, 0
    trainer(SoupTrainer).study(Failing(), **arguments)
    assert Counting.seen == 0, "the choice was evaluated again"
    assert not list(tmp_path.glob("studies/.*"))


def test_a_journal_that_holds_something_else_is_no_obstacle(tmp_path: Path) -> None:
    record(tmp_path, LRS[:2])
    whole, batches = cook(tmp_path, "whole.ckpt", early_rejection=False)
    interrupt(tmp_path, 6, early_rejection=False)
    journal = tmp_path / ".soup.ckpt.journal"
    context = json.loads(journal.read_text().splitlines()[0].split(" ", 1)[1])["context"]
    texts = ["[1]", "[" * 100_000, json.dumps({"context": context, "found": {"value": "high"}, "key": "a"})]
    texts += [json.dumps({"context": context, "found": 3}), json.dumps({"context": context, "withdrawn": [1]})]
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}\n" for text in texts]
    journal.write_text(journal.read_text() + "".join(lines))
    soup, left = cook(tmp_path, early_rejection=False)
    assert left == batches - 4
    assert_same(soup, whole)


class Logging(Counting):
    """Says in a file, for all processes, which batch it has seen."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        seen = Path(self.folder, f"{self.global_rank}")
        with seen.open("a") as file:
            file.write("x")
        if Path(self.folder, "fails").exists() and len(seen.read_text()) == 5:
            raise PowerCutError
        Classifier.validation_step(self, batch, batch_idx)


def test_two_processes_resume_together(tmp_path: Path) -> None:
    record(tmp_path / "soups", LRS[:3])
    model = Logging(str(tmp_path))
    changes = {"model": model, "options": {"devices": 2, "strategy": "ddp_fork"}, "early_rejection": False}

    def seen() -> list[int]:
        counts = [len((tmp_path / rank).read_text()) for rank in "01"]
        for rank in "01":
            (tmp_path / rank).unlink()
        return counts

    whole, _ = cook(tmp_path / "soups", "whole.ckpt", **changes)
    undisturbed = seen()
    (tmp_path / "fails").touch()
    with pytest.raises(ProcessExitedException, match="terminated with exit code 1"):
        cook(tmp_path / "soups", **changes)
    (tmp_path / "fails").unlink()
    assert seen() == [5, 5]
    soup, _ = cook(tmp_path / "soups", **changes)
    assert seen() == [count - 4 for count in undisturbed], "two finished passes of two batches each"
    assert_same(soup, whole)
