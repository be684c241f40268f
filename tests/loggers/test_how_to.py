"""The configs of the how-to as they are written there, with the real loggers, read back with their own readers."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_soups import Soup, SoupCLI
from lightning_soups.loggers.in_wandb import WandbDisplay
from tests.helpers import QUIET
from tests.loggers.test_table import TABLE

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "loggers.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)


def config_of(*loggers: str) -> str:
    """The config in the how-to that sets just these loggers up."""
    (config,) = (
        text for text in CONFIGS if re.findall(r"class_path: lightning.pytorch.loggers.(\w+)", text) == [*loggers]
    )
    return config


@pytest.fixture
def run(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a subcommand with a config of the how-to, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    shared = {key: value for key, value in QUIET.items() if key != "logger"}
    config = {
        "model": {"class_path": "tests.helpers.Classifier"},
        "data": {"class_path": "tests.helpers.Blobs"},
        "trainer": {**shared, "accelerator": "cpu", "devices": 1},
    }
    Path("my.yaml").write_text(yaml.safe_dump(config))

    def run(loggers: str, subcommand: str, *others: str) -> None:
        Path("logger.yaml").write_text(config_of(*loggers.split()))
        shared = ["--config", "my.yaml", "--config", "logger.yaml", "--ingredients", str(recorded), *others]
        monkeypatch.setattr(sys, "argv", ["lightning-soup", subcommand, *shared])
        SoupCLI()

    return run


COOK = ("cook", "--output", "soup.ckpt")


def test_tensorboard(run) -> None:
    run("TensorBoardLogger", *COOK)
    soup = Soup.load("soup.ckpt")
    events = EventAccumulator("logs/lightning_logs/version_0").Reload()

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    numbered = list(enumerate(soup.trace, start=1))
    scores = [(number, row.score.value) for number, row in numbered if not row.early]
    assert scalars("cook/greedy/val_acc") == [(number, pytest.approx(score)) for number, score in scores]
    assert [step for step, _ in scalars("cook/greedy/best")] == [number for number, _ in numbered]
    assert scalars("cook/greedy/best")[-1][1] == pytest.approx(soup.score.value)
    assert scalars("cook/greedy/members")[-1] == (len(numbered), len(soup.mixture))
    assert scalars("cook/greedy/samples")[-1] == (len(numbered), sum(row.samples for row in soup.trace))
    assert scalars("soup/greedy/val_loss") == [(len(numbered), pytest.approx(soup.metrics["val_loss"]))]
    assert "val_acc" not in events.Tags()["scalars"]

    def text(name: str) -> str:
        (event,) = events.Tensors(f"{name}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    assert "| option strict | False |" in text("soup/greedy/overview")
    for member in soup.ingredients:
        assert f"| {member.run} | {1 / len(soup.mixture):.6g} | " in text("soup/greedy/members")
    assert len(text("soup/greedy/questions").splitlines()) == 2 + len(soup.trace)
    (image,) = events.Images("soup/greedy/curve")
    assert image.encoded_image_string.startswith(b"\x89PNG")


def test_several_at_once(run) -> None:
    run("TensorBoardLogger CSVLogger", *COOK)
    (table,) = Path("logs").rglob("metrics.csv")
    assert len(table.read_text().splitlines()) == 2 + len(Soup.load("soup.ckpt").trace)
    assert list(Path("logs").rglob("events.out.tfevents.*"))


def test_csv(run) -> None:
    run("CSVLogger", *COOK)
    lines = Path("logs/lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert len(lines) == 2 + len(Soup.load("soup.ckpt").trace)


def test_a_study(run) -> None:
    run("TensorBoardLogger", "study", "--study", "Interpolation", "--output", "path")
    result = json.loads(Path("path.json").read_text())
    logged = [EventAccumulator(str(folder)).Reload() for folder in Path("logs/lightning_logs").iterdir()]
    texts = {tag: events.Tensors(tag) for events in logged for tag in events.Tags()["tensors"]}
    (rows,) = texts["study/interpolation/rows/text_summary"]
    assert len(rows.tensor_proto.string_val[0].decode().splitlines()) == 2 + len(result["rows"])
    (conclusions,) = texts["study/interpolation/conclusions/text_summary"]
    for sentence in result["conclusions"]:
        assert sentence in conclusions.tensor_proto.string_val[0].decode()
    images = [events.Images("study/interpolation/figure") for events in logged if events.Tags()["images"]]
    assert [len(found) for found in images] == [1]
    assert all(events.Tags()["scalars"] in ([], ["hp_metric"]) for events in logged)  # which is Lightning's own


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_mlflow(run, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    arguments, uri = COOK, "sqlite:///mlflow.db"
    if store == "file":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = (tmp_path / "runs").as_uri()
        arguments = (*COOK, "--trainer.logger.init_args.tracking_uri", uri)
    run("MLFlowLogger", *arguments)
    soup, client = Soup.load("soup.ckpt"), MlflowClient(uri)
    experiment = client.get_experiment_by_name("soups")
    (found,) = client.search_runs([experiment.experiment_id])
    key = found.info.run_id
    assert found.info.status == "FINISHED"
    assert found.data.params["cook/greedy/recipe"] == "GreedySoup"
    assert found.data.params["cook/greedy/options/strict"] == "False"
    history = {metric.step: metric.value for metric in client.get_metric_history(key, "cook/greedy/val_acc")}
    assert history == {number: row.score.value for number, row in enumerate(soup.trace, start=1) if not row.early}
    assert found.data.metrics["soup/greedy/val_loss"] == soup.metrics["val_loss"]

    def lines(name: str) -> list[str]:
        return Path(client.download_artifacts(key, f"soup/greedy/{name}.csv")).read_text().splitlines()

    assert [line.split(",")[0] for line in lines("members")] == ["member", *(one.run for one in soup.ingredients)]
    assert len(lines("questions")) == 1 + len(soup.trace)
    assert matplotlib.image.imread(client.download_artifacts(key, "soup/greedy/curve.png")).shape[2] == 4
    sent = torch.load(client.download_artifacts(key, "soup/soup.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(sent[name], tensor) for name, tensor in soup.state_dict().items())


def test_models_are_sent_only_where_they_are_asked_for(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    own = {"tracking_uri": (tmp_path / "runs").as_uri(), "log_model": "false"}
    run("MLFlowLogger", *COOK, *(f"--trainer.logger.init_args.{key}={value}" for key, value in own.items()))
    assert list(tmp_path.rglob("members.csv"))
    assert list(tmp_path.rglob("*.ckpt")) == [tmp_path / "soup.ckpt"]


def test_wandb(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for folder in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{folder}_DIR", str(tmp_path))
    run("WandbLogger", *COOK)
    WandbDisplay(WandbLogger()).table("mixed", TABLE)  # of the same run; columns of several types would be refused
    wandb.teardown()  # finishes the run and waits until its file is written, which `finish` does not
    soup = Soup.load("soup.ckpt")
    (folder,) = Path("logs/wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    records = list(wandb_records(log))

    rows = [_plain(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    scores = {row["trainer/global_step"]: row["cook/greedy/val_acc"] for row in rows if "cook/greedy/val_acc" in row}
    assert scores == {number: row.score.value for number, row in enumerate(soup.trace, start=1) if not row.early}
    assert sum("cook/greedy/best" in row for row in rows) == len(soup.trace)
    assert not any("val_acc" in row for row in rows)
    config: dict[str, object] = {}
    for record in records:
        config |= _plain(record.config.update)
    assert config["cook/greedy"]["options"]["order"] == "held-out"  # type: ignore[index]

    media = folder / "files" / "media"
    (members,) = (json.loads(path.read_text()) for path in media.glob("table/soup/greedy/members_*.json"))
    assert [row[0] for row in members["data"]] == [member.run for member in soup.ingredients]
    (questions,) = (json.loads(path.read_text()) for path in media.glob("table/soup/greedy/questions_*.json"))
    assert len(questions["data"]) == len(soup.trace)
    (mixed,) = (json.loads(path.read_text()) for path in media.glob("table/mixed_*.json"))
    assert mixed["data"] == TABLE.typed_rows
    (image,) = media.glob("images/soup/greedy/curve_*.png")
    assert matplotlib.image.imread(image).shape[2] == 4

    (artifact,) = (record.artifact for record in records if record.artifact.type == "model")
    metadata = json.loads(artifact.metadata)
    assert (metadata["original_filename"], metadata["score"]) == ("soup.ckpt", soup.score.value)
    assert set(artifact.aliases) == {"latest", "best"}
    assert artifact.manifest.contents[0].size == Path("soup.ckpt").stat().st_size


def wandb_records(path: Path) -> Iterator:
    """What an offline run holds: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes.

    See https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def _plain(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
