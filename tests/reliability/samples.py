"""One intact file or folder of every kind that the project reads, and the functions that read it."""

import json
import shutil
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor

from lightning_soups import Ingredients, Soup
from lightning_soups.evaluation import journal, journal_lines
from lightning_soups.listing import list_ingredients
from lightning_soups.records import read_record, write_record
from lightning_soups.report import write_report
from lightning_soups.studies.result import StudyResult
from lightning_soups.weights import fingerprint, read_checkpoint
from lightning_soups.weights.adapter_folders import read_adapter
from tests.outputs.cases import odd_states, soup_of

CKPT = "epoch=000-step=000002.ckpt"


@dataclass(frozen=True)
class Sample:
    """Something to damage.

    Args:
        make: Writes it into a folder.
        damaged: The files that are damaged, as a glob in that folder.
        readers: What reads it; each gets the folder.
        refuses: Whether a damaged one may be refused. A report, for example, goes on without it.
    """

    make: Callable[[Path], None]
    damaged: str
    readers: tuple[Callable[[Path], Any], ...]


def samples() -> dict[str, Sample]:
    """All kinds, by name."""
    files = {
        "lightning": ("x.ckpt", _lightning),
        "state dict": ("x.pt", lambda path: torch.save(odd_states(1)[0], path)),
        "old torch": ("x.bin", lambda path: torch.save(_plain(), path, _use_new_zipfile_serialization=False)),
        "safetensors": ("x.safetensors", lambda path: save_file(_plain(), path)),
    }
    found = {
        name: Sample(_in(file, make), file, (_reading(file), _as_ingredient(file)))
        for name, (file, make) in files.items()
    }
    found["sharded"] = Sample(_sharded, "*", (_reading("model.safetensors.index.json"), _reading("")))
    found["folder"] = Sample(_folder, "model.safetensors", (_reading(""), _as_ingredient("")))
    found["distributed"] = Sample(_distributed, "*/*", (_reading("sharded.ckpt"),))
    found["adapter"] = Sample(_adapter, "*/*", (_read_adapter, _as_ingredient("adapter")))
    for output in ("soup.ckpt", "soup.pt", "soup.safetensors", "soup"):
        damaged = "soups/soup/*.json" if output == "soup" else f"soups/{output}*"
        found[f"soup {output}"] = Sample(_soup(output), damaged, (_read_soup(output), _report))
    found["soup folder's weights"] = Sample(_soup("soup"), "soups/soup/*.safetensors", (_read_soup("soup"), _report))
    readers = (_read_record, Ingredients.load, _list, _report)
    found["record"] = Sample(_record, "runs/*/*.json", readers)
    found["recorded checkpoint"] = Sample(_record, "runs/*/*.ckpt", (_reading(f"runs/r/{CKPT}"), _report))
    found["study"] = Sample(_study, "studies/*.json", (_read_study, _report))
    found["journal"] = Sample(_journal, ".soup.ckpt.journal*", (_read_journal,))
    return found


def valid(state_dict: Mapping[str, Any]) -> None:
    """Read every byte of every tensor.

    Raises:
        TypeError: Something in it is neither a tensor nor extra state.
    """
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not (isinstance(tensor, Tensor) or name.endswith("_extra_state")):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}")
    fingerprint(state_dict)


def _plain() -> dict[str, Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in odd_states(1)[0].items()}


def _in(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: make(folder / name)


def _lightning(path: Path) -> None:
    rest = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.6.0", "callbacks": {"a": {"best": 0.5}}}
    torch.save({"state_dict": odd_states(1)[0], "hyper_parameters": {"lr": 0.1, "layers": [1, 2]}, **rest}, path)


def _sharded(folder: Path) -> None:
    tensors = _plain()
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    places = {}
    for number, half in enumerate(halves, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(half, folder / name)
        places.update(dict.fromkeys(half, name))
    index = {"metadata": {"total_size": 100}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _folder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "x"}')
    save_file(_plain(), folder / "model.safetensors", {"format": "pt"})


def _distributed(folder: Path) -> None:
    content = {"state_dict": _plain(), "optimizer_0": {"step": torch.tensor(3)}}
    dcp.save(content, checkpoint_id=str(folder / "sharded.ckpt"), no_dist=True)
    torch.save({"epoch": 1, "hyper_parameters": {"lr": 0.1}}, folder / "sharded.ckpt" / "meta.pt")


def _adapter(folder: Path) -> None:
    (folder / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "alpha_pattern": {"a": 2}}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.query.lora_"
    factors = {f"{layer}A.weight": torch.randn(2, 4), f"{layer}B.weight": torch.randn(4, 2)}
    save_file(factors, folder / "adapter" / "adapter_model.safetensors")


def _soup(output: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "soups").mkdir()
        soup_of(folder / "members", odd_states(2), {"lr": 0.1}).save(folder / "soups" / output)

    return make


def _record(folder: Path) -> None:
    run = folder / "runs" / "r"
    run.mkdir(parents=True)
    _lightning(run / CKPT)
    facts = {"run": "r", "monitor": "val_acc", "mode": "max", "metrics": {"val_acc": 0.5, "val_loss": 1.0}}
    more = {"hyperparameters": {"lr": 0.1, "opt": {"name": "sgd"}}, "initialization": "0123456789abcdef", "epoch": 0}
    rest = {"step": 2, "devices": 1, "exact": True, "sha256": "0" * 64, "created": "2026-01-01T00:00:00+00:00"}
    write_record((run / CKPT).with_suffix(".json"), {"checkpoint": CKPT, **facts, **more, **rest})


def _study(folder: Path) -> None:
    rows = ({"model": "a", "test_acc": 0.5, "kept": True}, {"model": "b", "test_acc": 0.7, "kept": False})
    models = {
        "a": {"coefficients": {"runs/r/x.ckpt": 1.0}},
        "b": {"coefficients": {"runs/r/y.ckpt": 1.0}, "layers": {}},
    }
    found = {"rows": rows, "conclusions": ("One is better.",), "models": models, "details": {"angle": 0.3}}
    asked = {"study": "Interpolation", "options": {"alphas": [0.5]}, "monitor": "val_acc", "metric": "test_acc"}
    data = {"mode": "max", "in_distribution": ("test",), "shifted": ("noisy",), "caveats": ("small",)}
    ingredients = ({"path": "runs/r/x.ckpt", "run": "r", "metrics": {"val_acc": 0.5}, "hyperparameters": {"lr": 0.1}},)
    rest = {"ingredients": ingredients, "versions": {"torch": "2"}, "created": "2026-01-01T00:00:00+00:00"}
    StudyResult(**asked, **found, **data, **rest).save(folder / "studies" / "interpolation")


def _journal(folder: Path) -> None:
    path = folder / ".soup.ckpt.journal"
    findings = [
        {"value": 0.5, "mode": "max", "metrics": {"val_acc": 0.5}, "batches": 7, "samples": 101, "seconds": 0.1},
        {"value": 0.4, "mode": "max", "metrics": None, "batches": 2, "samples": 31, "seconds": 0.1},
    ]
    lines = [{"context": "0" * 16, "of": {"data": "a"}}]
    lines += [{"context": "0" * 16, "key": str(number), "found": found} for number, found in enumerate(findings)]
    path.write_bytes(b"".join(map(journal_lines.written, lines)))
    states = {"context": "0" * 16, "states": {"learned": {"step": 3, "logits": [0.1, 0.2]}}}
    path.with_name(f"{path.name}.state").write_text(json.dumps(states))


def _reading(name: str) -> Callable[[Path], Any]:
    return lambda folder: valid(read_checkpoint(folder / name)["state_dict"])


def _as_ingredient(name: str) -> Callable[[Path], Any]:
    return lambda folder: Ingredients.load([folder / name])


def _read_adapter(folder: Path) -> None:
    valid(read_adapter(folder / "adapter")[1])


def _read_soup(output: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> None:
        soup = Soup.load(folder / "soups" / output)
        repr(soup)
        valid(soup.state_dict())

    return read


def _read_record(folder: Path) -> None:
    (path,) = folder.glob("runs/*/*.json")
    read_record(path)


def _list(folder: Path) -> None:
    list_ingredients(str(folder))


def _report(folder: Path) -> None:
    page = write_report(str(folder), output=str(folder / "report.html"))
    assert "<script>alert" not in page.read_text(encoding="utf-8"), "the report holds a script"
    page.unlink()


def _read_study(folder: Path) -> None:
    StudyResult.load(folder / "studies" / "interpolation.json")


def _read_journal(folder: Path) -> None:
    """What is damaged counts as not there; what is read was written."""
    path = folder / ".soup.ckpt.journal"
    strategy = types.SimpleNamespace(is_global_zero=True, broadcast=lambda value: value)
    own = journal.Journal(path, strategy, lambda one: "")
    own.begin(lambda: {"data": "a"})
    written = {line.split(b" ", 1)[1] for line in (path.parent / "intact").read_bytes().splitlines()}
    for line in journal_lines.read_lines(path):
        if line != {} and json.dumps(line).encode() not in written and "of" not in line:
            raise AssertionError(f"a line that was never written is read: {line}")


def prepare(sample: Sample, folder: Path) -> None:
    """Write a sample, and what its readers compare it with."""
    folder.mkdir(parents=True)
    sample.make(folder)
    for path in folder.glob(".*.journal"):
        shutil.copy(path, folder / "intact")
