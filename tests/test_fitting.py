"""Ingredients whose names are not the module's, or of which only a part is mixed."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_soups import Soup, SoupCLI, SoupTrainer, UniformSoup
from lightning_soups.fitting import Fitting
from lightning_soups.weights import WeightNames
from tests.helpers import CLASSES, FEATURES, QUIET, Blobs, Classifier, mean, trainer


def trained(number: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = Classifier()
    torch.manual_seed(number)
    trainer(max_epochs=1).fit(module, datamodule=Blobs())
    return module.state_dict()


def accuracy(state_dict: dict[str, Tensor]) -> float:
    module = Classifier()
    module.load_state_dict(state_dict)
    data = Blobs().val_dataloader().dataset.tensors
    return (module(data[0]).argmax(dim=1) == data[1]).float().mean().item()


def cook(ingredients: str, module: nn.Module | None = None, **options) -> Soup:
    options = {"monitor": "val_acc", "recipe": UniformSoup(), **options}
    return trainer(SoupTrainer).cook(module or Classifier(), datamodule=Blobs(), ingredients=ingredients, **options)


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (lambda name: name.removeprefix("net."), "the prefix 'net.' added"),
        (lambda name: f"model.{name}", "the prefix 'model.' removed"),
        (lambda name: f"module._orig_mod.{name}", "the same names without wrappers"),
        (lambda name: name, None),
    ],
)
def test_names_are_fitted_to_the_module(tmp_path: Path, caplog: pytest.LogCaptureFixture, rename, says) -> None:
    states = [trained(number) for number in range(3)]
    for number, state in enumerate(states):
        torch.save({rename(name): tensor for name, tensor in state.items()}, tmp_path / f"{number}.pt")
    with caplog.at_level("INFO"):
        soup = cook(f"{tmp_path}/*.pt", output=tmp_path / "soup.ckpt")
    assert soup.score.value == pytest.approx(accuracy(mean(states)))
    (result,) = trainer(Trainer).validate(Classifier(), Blobs(), ckpt_path=str(soup.path), verbose=False)
    assert result["val_acc"] == pytest.approx(soup.score.value)
    assert Classifier.load_from_checkpoint(soup.path).state_dict().keys() == states[0].keys()
    told = [record.getMessage() for record in caplog.records if "fit the module by" in record.getMessage()]
    assert [says in text for text in told] == ([] if says is None else [True])


def test_a_part_is_mixed_and_the_module_keeps_the_rest(tmp_path: Path) -> None:
    states = [trained(number) for number in range(3)]
    for number, state in enumerate(states):
        head = {"net.2.weight": torch.zeros(5 + number, 8), "net.2.bias": torch.zeros(5 + number)}
        torch.save({**state, **head}, tmp_path / f"{number}.pt")
    module = Classifier()
    module.load_state_dict(states[0])
    selection = WeightNames(include=["net.0.*"])
    soup = cook(f"{tmp_path}/*.pt", module, weights=selection, output=tmp_path / "soup.ckpt")
    wanted = {**states[0], **{name: mean(states)[name] for name in ("net.0.weight", "net.0.bias")}}
    assert soup.score.value == pytest.approx(accuracy(wanted))
    saved = Soup.load(tmp_path / "soup.ckpt")
    assert saved.weights == selection
    assert saved.state_dict().keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(saved.state_dict()[name], tensor)
    left_out = cook(
        f"{tmp_path}/*.pt", module, weights=WeightNames(exclude=["net.2.*"]), output=tmp_path / "other.ckpt"
    )
    assert all(torch.equal(left_out.state_dict()[name], tensor) for name, tensor in wanted.items())


def test_what_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    state = trained(0)
    torch.save(state, tmp_path / "0.pt")
    torch.save({**state, "net.2.weight": torch.zeros(7, 8)}, tmp_path / "1.pt")
    with pytest.raises(ValueError, match=r"net\.2\.weight: shape \(3, 8\) against \(7, 8\)"):
        cook(f"{tmp_path}/*.pt")
    (tmp_path / "1.pt").unlink()
    with pytest.raises(
        MisconfigurationException, match=r"size mismatch for net\.0\.weight[\s\S]*Use `weights` to leave"
    ):
        cook(f"{tmp_path}/0.pt", Classifier(hidden=9))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            {"include": ["encoder.*"]},
            r"0\.pt': The pattern 'encoder\.\*' of `include` matches none of the names: net",
        ),
        ({"exclude": ["haed.*"]}, r"The pattern 'haed\.\*' of `exclude` matches none"),
        ({"rename": {"nte": "net"}}, r"The prefix 'nte' of `rename` starts none"),
    ],
)
def test_typing_mistakes_are_found_before_the_first_question(tmp_path: Path, selection: dict, message: str) -> None:
    torch.save(trained(0), tmp_path / "0.pt")
    with pytest.raises(ValueError, match=message):
        cook(f"{tmp_path}/0.pt", weights=WeightNames(**selection))


def test_on_the_command_line(tmp_path: Path) -> None:
    for number in range(2):
        torch.save({f"old.{name}": tensor for name, tensor in trained(number).items()}, tmp_path / f"{number}.pt")
    quiet = [f"--trainer.{name}={value}" for name, value in {**QUIET, "accelerator": "cpu", "devices": 1}.items()]
    where = ["--ingredients", f"{tmp_path}/*.pt", "--output", f"{tmp_path}/soup.ckpt", "--monitor", "val_acc"]
    names = ["--weights.rename", '{"old.net": "net"}', "--weights.include", '["old.net.*"]']
    SoupCLI(Classifier, Blobs, args=["cook", *where, *names, *quiet])
    assert Soup.load(tmp_path / "soup.ckpt").weights == WeightNames(["old.net.*"], (), {"old.net": "net"})


class Tied(Classifier):
    """Its output layer has the weights of its embedding."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.first = nn.Linear(FEATURES, CLASSES)
        self.second = nn.Linear(FEATURES, CLASSES)
        self.second.weight = self.first.weight


def test_a_tied_tensor_that_a_format_leaves_out_gets_all_its_names() -> None:
    module = Tied()
    fitting = Fitting(WeightNames(), module)
    own = {name: tensor for name, tensor in module.state_dict().items() if name != "second.weight"}
    mixed = fitting.complete(fitting.fit({name: tensor + 1 for name, tensor in own.items()}, "one"))
    assert mixed["second.weight"] is mixed["first.weight"]
    assert mixed.keys() == module.state_dict().keys()
    del own["second.bias"]
    assert "second.bias" not in fitting.complete(fitting.fit(own, "another")), "nothing was left out on purpose"
