"""What all formats have in common."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor

from lightning_soups import Ingredients, Mixture, Soup, SoupCLI
from lightning_soups.outputs import soups_in
from tests.helpers import Blobs, Classifier, mean, record
from tests.outputs.cases import Odd, assert_same_bits, odd_states, soup_of

OUTPUTS = ["soup.ckpt", "soup.pt", "soup.PTH", "soup.safetensors", "folder", "folder.v2/"]
TIED = "decoder.weight"


def plain(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "soup.ckpt": lambda path: plain(path)["state_dict"],
    "soup.pt": plain,
    "soup.PTH": plain,
    "soup.safetensors": load_file,
    "folder": lambda path: load_file(path / "model.safetensors"),
    "folder.v2/": lambda path: load_file(path / "model.safetensors"),
}
pytestmark = pytest.mark.filterwarnings("ignore:The folder gets no config.json")


@pytest.mark.parametrize("output", OUTPUTS)
def test_others_read_exactly_the_average(tmp_path: Path, output: str) -> None:
    soup_of(tmp_path / "runs", odd_states()).save(f"{tmp_path}/new/{output}")
    expected = mean(odd_states())
    if "safetensors" in output or "folder" in output:
        del expected[TIED]  # the format has each tensor once
    assert_same_bits(READERS[output](tmp_path / "new" / output), expected)
    beside = {"soup.pt.json"} if output == "soup.pt" else {"soup.PTH.json"} if output == "soup.PTH" else set()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {Path(output).name, *beside}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_soup_comes_back_as_it_was(tmp_path: Path, output: str) -> None:
    soup = soup_of(tmp_path / "runs", odd_states())
    soup.save(f"{tmp_path}/{output}")
    again = Soup.load(tmp_path / output)
    assert soup.path == again.path == tmp_path / output
    for name in ("mixture", "score", "monitor", "trace", "recipe", "options", "candidates", "caveats"):
        assert getattr(again, name) == getattr(soup, name), name
    assert repr(again.metrics) == repr(soup.metrics)  # as text, NaN equals itself
    assert again.trace[-1].score.value == -math.inf
    assert [one.hyperparameters for one in again.candidates] == [one.hyperparameters for one in soup.candidates]
    assert math.isnan(again.candidates[0].metrics["val_loss"])
    state_dict = again.state_dict()
    assert_same_bits(state_dict, mean(odd_states()))
    assert state_dict[TIED].data_ptr() == state_dict["encoder.weight"].data_ptr()


@pytest.mark.parametrize("first", OUTPUTS[:2] + OUTPUTS[3:5])
@pytest.mark.parametrize("second", OUTPUTS[:2] + OUTPUTS[3:5])
def test_any_format_becomes_any_other_without_the_ingredients(tmp_path: Path, first: str, second: str) -> None:
    directory = tmp_path / "runs"
    module = Classifier(hidden=5)
    hyperparameters = {"lr": 0.3, "hidden": 5, "betas": (0.9, math.inf)}
    soup_of(directory, [module.state_dict()] * 2, hyperparameters).save(tmp_path / "a" / first)
    for path in directory.iterdir():
        path.unlink()
    soup = Soup.load(tmp_path / "a" / first)
    soup.save(tmp_path / "b" / second)
    soup.save(tmp_path / "b" / second)  # onto itself
    soup.save(tmp_path / "c.ckpt")
    assert_same_bits(soup.state_dict(), module.state_dict())
    checkpoint = plain(tmp_path / "c.ckpt")
    assert checkpoint["hyper_parameters"] == hyperparameters
    assert "callbacks" not in checkpoint
    assert soup.score == Soup.load(tmp_path / "b" / second).score


@pytest.mark.parametrize("output", ["soup.pt", "soup.safetensors"])
def test_a_file_of_tensors_becomes_a_checkpoint_for_load_from_checkpoint(tmp_path: Path, output: str) -> None:
    record(tmp_path, [0.1, 0.3], lambda lr: Classifier(lr, hidden=5))
    paths = [ingredient.path for ingredient in Ingredients.load(tmp_path)]
    soup = soup_of(tmp_path / "other", [torch.load(path, weights_only=True)["state_dict"] for path in paths])
    soup.mixture = Mixture.uniform(Ingredients.load(tmp_path))
    soup.save(tmp_path / output)
    Soup.load(tmp_path / output).save(tmp_path / "again.ckpt")
    module = Classifier.load_from_checkpoint(tmp_path / "again.ckpt")
    assert module.hparams.hidden == 5
    assert_same_bits(module.state_dict(), soup.state_dict())


def test_what_json_cannot_hold_is_missed_when_it_is_needed(tmp_path: Path, recwarn) -> None:
    soup_of(tmp_path / "runs", odd_states(), {"lr": 0.1, "prior": torch.ones(2)}).save(tmp_path / "soup.pt")
    soup = Soup.load(tmp_path / "soup.pt")
    assert not recwarn
    with pytest.warns(UserWarning, match=r"missing: \['hyper_parameters\.prior'\]"):
        soup.save(tmp_path / "soup.ckpt")
    assert plain(tmp_path / "soup.ckpt")["hyper_parameters"] == {"lr": 0.1}


def test_extra_state_stays_where_it_can(tmp_path: Path) -> None:
    states = [{**state, "_extra_state": {"version": 3}} for state in odd_states()]
    soup = soup_of(tmp_path / "runs", states)
    soup.save(tmp_path / "soup.pt")
    assert plain(tmp_path / "soup.pt")["_extra_state"] == {"version": 3}
    with pytest.warns(UserWarning, match=r"left out: \['_extra_state'\]"):
        soup.save(tmp_path / "soup.safetensors")
    assert_same_bits(Soup.load(tmp_path / "soup.safetensors").state_dict(), mean(odd_states()))


def test_safetensors_load_into_a_module_with_tied_weights(tmp_path: Path) -> None:
    soup_of(tmp_path / "runs", odd_states()).save(tmp_path / "soup.safetensors")
    module = Odd()
    assert load_model(module, tmp_path / "soup.safetensors") == (set(), [])
    assert_same_bits(module.state_dict(), mean(odd_states()))


def test_strides_and_views_are_no_matter(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"transposed": whole.T, "row": whole[1], "whole": whole, "again": whole}
    for output in ("soup.safetensors", "soup.pt"):
        soup_of(tmp_path / "runs", [state]).save(tmp_path / "soup.pt")
        soup = Soup.load(tmp_path / "soup.pt")
        soup.save(tmp_path / output)
        assert_same_bits(soup.state_dict(), state)


def test_a_kind_of_tensor_that_safetensors_lack_is_refused(tmp_path: Path) -> None:
    soup = soup_of(tmp_path / "runs", [{"w": torch.ones(2, dtype=torch.complex128)}])
    with pytest.raises(ValueError, match=r"(?s)cannot be saved in the safetensors format.*complex128.*\.ckpt or \.pt"):
        soup.save(tmp_path / "soup.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("soup.bin", r"suffix '\.bin' .* \.ckpt, \.pt, \.pth, \.safetensors; .*no suffix, or a '/' at the end"),
        ("taken", "'taken' is an existing folder that is not a soup's and will not be replaced"),
        ("taken/", "existing folder that is not a soup's"),
        ("file", "'file' is an existing file and will not be replaced"),
        ("taken.ckpt", "must be a file such as 'soup.ckpt', got the folder 'taken.ckpt'"),
    ],
)
def test_what_cannot_be_an_output_is_refused(tmp_path: Path, monkeypatch, output: str, message: str) -> None:
    soup = soup_of(tmp_path / "runs", odd_states())
    monkeypatch.chdir(tmp_path)
    for folder in ("taken", "taken.ckpt"):
        Path(folder).mkdir()
    Path("file").touch()
    with pytest.raises(ValueError, match=message):
        soup.save(output)


@pytest.mark.parametrize("output", OUTPUTS)
def test_others_may_read_what_they_may_read_of_other_files(tmp_path: Path, output: str) -> None:
    """The safetensors library gives its files to their owner alone."""
    soup_of(tmp_path / "runs", odd_states()).save(f"{tmp_path}/{output}")
    (tmp_path / "other").touch()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "runs" not in path.parts]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "other").stat().st_mode}


def test_what_is_no_soup_is_told_so(tmp_path: Path) -> None:
    soup_of(tmp_path / "runs", odd_states()).save(tmp_path / "soup.pt")
    torch.save(Odd().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.safetensors").write_text("text")
    for name, message in [
        ("weights.pt", r"no 'weights\.pt\.json' beside it"),
        ("folder", r"no 'lightning_soup\.json'"),
        ("text.safetensors", "cannot be read as a safetensors file"),
        ("runs/0.ckpt", "is a checkpoint but not a soup"),
    ]:
        with pytest.raises(ValueError, match=message):
            Soup.load(tmp_path / name)
    for name in ("none.pt", "none.safetensors", "none"):
        with pytest.raises(FileNotFoundError, match=name):
            Soup.load(tmp_path / name)
    (tmp_path / "soup.pt.json").write_text(json.dumps({"checkpoint": {}}))
    with pytest.raises(ValueError, match="not a soup"):
        Soup.load(tmp_path / "soup.pt")
    (tmp_path / "soup.pt.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Soup.load(tmp_path / "soup.pt")


def test_weights_and_provenance_change_together(tmp_path: Path, monkeypatch) -> None:
    soup_of(tmp_path / "a", odd_states()).save(tmp_path / "soup.pt")
    provenance = (tmp_path / "soup.pt.json").read_bytes()
    other = soup_of(tmp_path / "b", odd_states(2))

    def killed(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_soups.outputs.document.to_json", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path / "soup.pt")
    assert_same_bits(plain(tmp_path / "soup.pt"), mean(odd_states()))
    assert (tmp_path / "soup.pt.json").read_bytes() == provenance


def test_a_glob_leaves_soups_of_every_format_out(tmp_path: Path) -> None:
    soup = soup_of(tmp_path / "runs", odd_states())
    for output in OUTPUTS:
        soup.save(f"{tmp_path}/soups/{output}")
    assert [path.name for path in soups_in(tmp_path / "soups")] == sorted(Path(output).name for output in OUTPUTS)
    (tmp_path / "soups" / "folder" / "README.md").unlink()  # what is no checkpoint at all was never left out
    (tmp_path / "soups" / "folder.v2" / "README.md").unlink()
    with pytest.warns(UserWarning, match="Left out"):
        found = Ingredients.load(f"{tmp_path}/**/*")
    assert [ingredient.path.parent.name for ingredient in found] == ["runs"] * 3


def test_cook_from_the_command_line_saves_any_format(tmp_path: Path, monkeypatch, capsys) -> None:
    record(tmp_path, [0.1, 0.3])
    quiet = [f"--trainer.{name}={value}" for name, value in [("logger", False), ("enable_progress_bar", False)]]
    common = ["--ingredients", str(tmp_path), *quiet, "--trainer.accelerator=cpu", "--trainer.devices=1"]
    for output in ("greedy.safetensors", "soup-0.1/"):
        path = tmp_path / "soups" / output
        monkeypatch.setattr(sys, "argv", ["lightning-soup"])
        SoupCLI(Classifier, Blobs, args=["cook", *common, "--output", f"{tmp_path}/soups/{output}"])
        assert f"Saved to {path}" in capsys.readouterr().out
        assert Soup.load(path).recipe == "GreedySoup"
    with pytest.raises(SystemExit, match="2"):
        SoupCLI(Classifier, Blobs, args=["cook", *common, "--output", str(tmp_path / "soup.onnx")])
    assert "suffix '.onnx'" in " ".join(capsys.readouterr().err.split())
