"""What is put out is recorded and averaged, call by call."""

from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_soups.evaluation.outputs import OutputTap
from tests.helpers import FEATURES, Classifier

CPU = torch.device("cpu")
Pair = namedtuple("Pair", ["mean", "rest"])


@dataclass(frozen=True)
class Output:
    """What some modules put out instead of a tensor."""

    logits: Tensor
    more: Any = None
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", len(self.logits))


class Structured(LightningModule):
    """Puts out whatever it is told."""

    def __init__(self, *results: Any) -> None:
        super().__init__()
        self.results = results

    def forward(self, index: int) -> Any:
        return self.results[index]


def recorded(module: LightningModule, *calls: Any, outputs_of: str = "") -> tuple[OutputTap, list[Any]]:
    tap = OutputTap(module, outputs_of)
    with tap.record() as outputs:
        for call in calls:
            module(call)
    return tap, outputs


def test_outputs_are_averaged_in_float64_call_by_call() -> None:
    one, two = Classifier(), Classifier()
    batches = [torch.randn(5, FEATURES), torch.randn(2, FEATURES)]
    tap, first = recorded(one, *batches)
    _, second = recorded(two, *batches)
    with tap.play([first, second], [0.25, 0.75], CPU):
        played = [one(batch) for batch in batches]
    for batch, output in zip(batches, played, strict=True):
        expected = 0.25 * one.net(batch).double() + 0.75 * two.net(batch).double()
        assert output.dtype == torch.float32
        assert torch.equal(output, expected.detach().float())


def test_half_precision_is_not_summed_in_itself() -> None:
    module = Structured(torch.full((3,), 40000.0, dtype=torch.float16))
    tap, first = recorded(module, 0)
    with tap.play([first] * 3, [1, 1, -1.5], CPU):  # twice 40000 is beyond float16
        assert torch.equal(module(0), torch.full((3,), 20000.0, dtype=torch.float16))


def test_structures_keep_their_shape_and_what_is_no_float() -> None:
    def output(value: float) -> dict[str, Any]:
        return {
            "logits": torch.full((2, 3), value),
            "more": [(torch.tensor([value * 1j]), torch.tensor([7])), None, "words"],
        }

    module = Structured(output(1.0), output(5.0))
    tap = OutputTap(module, "")
    with tap.record() as first:
        module(0)
    with tap.record() as second:
        module(1)
    with tap.play([first, second], [0.5, 0.5], CPU):
        played = module(0)
    assert torch.equal(played["logits"], torch.full((2, 3), 3.0))
    ((complex_number, integer), nothing, words) = played["more"]
    assert complex_number.tolist() == [3j]
    assert integer.tolist() == [7]
    assert (nothing, words) == (None, "words")


def played(*results: Any) -> Any:
    """The mean of what models put out."""
    module = Structured(*results)
    tap = OutputTap(module, "")
    recordings = []
    for index in range(len(results)):
        with tap.record() as outputs:
            module(index)
        recordings.append(outputs)
    with tap.play(recordings, [1 / len(results)] * len(results), CPU):
        return module(0)


def test_dataclasses_are_looked_into() -> None:
    def output(value: float) -> dict[str, Any]:
        inner = Output(torch.full((2,), 10 * value))
        return {"all": [Output(torch.full((2, 3), value), Pair(torch.tensor([value]), inner))]}

    (found,) = played(output(1.0), output(3.0))["all"]
    assert isinstance(found, Output)
    assert torch.equal(found.logits, torch.full((2, 3), 2.0))
    assert found.more.mean.tolist() == [2.0]
    assert found.more.rest.logits.tolist() == [20.0, 20.0]
    assert (found.rows, found.more.rest.rows) == (2, 2)
    with pytest.raises(MisconfigurationException, match="different structures"):
        played(Output(torch.zeros(2)), {"logits": torch.zeros(2), "more": None, "rows": 2})


class Opaque:
    """Holds logits where nobody finds them."""

    def __init__(self) -> None:
        self.logits = torch.zeros(2, 3)


@pytest.mark.parametrize(("make", "kind"), [(Opaque, "Opaque"), (lambda: torch.tensor([1, 2]), "Tensor")])
def test_outputs_without_numbers_are_refused(make: Any, kind: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"no floating-point tensors.*'{kind}'.*as `outputs_of`"):
        played(make(), make())
    alone = make()
    assert type(played(alone)) is type(alone)


@pytest.mark.parametrize(
    "make", [lambda value: torch.tensor([value]), str, lambda value: Opaque(), lambda value: value]
)
def test_what_differs_between_models_and_is_no_number_is_refused(make: Any) -> None:
    first, second = ({"logits": torch.zeros(1, 3), "labels": make(value)} for value in (0, 1))
    with pytest.raises(MisconfigurationException, match=r"differs between models.*as `outputs_of`"):
        played(first, second)


def test_a_single_number_is_averaged_with_a_warning() -> None:
    module = Structured(*({"loss": torch.tensor(loss), "logits": torch.full((2, 3), loss)} for loss in (1.0, 2.0)))
    tap, outputs = recorded(module, 0, 1)
    play = tap.play([outputs, outputs[::-1]], [0.5, 0.5], CPU)
    with pytest.warns(UserWarning, match=r"`forward` puts out single numbers.*as `outputs_of`") as warned, play:
        assert [float(module(index)["loss"]) for index in range(2)] == [1.5, 1.5]
    assert len(warned) == 1


def test_what_was_recorded_is_a_copy() -> None:
    module = Structured(torch.zeros(3))
    _, outputs = recorded(module, 0)
    module.results[0].add_(1)
    assert torch.equal(outputs[0], torch.zeros(3))


def test_a_submodule_can_stand_for_the_module() -> None:
    module, batch = Classifier(), torch.randn(4, FEATURES)
    tap, outputs = recorded(module, batch, outputs_of="net.0")
    assert outputs[0].shape == (4, 8)
    with tap.play([outputs, outputs], [0.5, -0.5], CPU):
        expected = module.net[2](torch.tanh(torch.zeros(4, 8)))
        assert torch.equal(module(batch), expected)


def test_forward_is_given_back_also_after_an_error() -> None:
    module = Classifier()
    tap = OutputTap(module, "")
    with pytest.raises(RuntimeError), tap.record():
        module(torch.zeros(1, FEATURES + 1))
    assert "forward" not in vars(module)

    def patched(x: Tensor) -> Tensor:
        return x

    module.forward = patched
    _, outputs = recorded(module, torch.ones(2))
    assert module.forward is patched
    with OutputTap(module, "").play([outputs], [3.0], CPU):
        assert module(torch.ones(2)).tolist() == [3.0, 3.0]
    assert module.forward is patched


def test_the_submodule_has_to_be_there_and_to_be_called() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"`outputs_of` must name a submodule of Classifier, got 'head'"
    ):
        OutputTap(Classifier(), "head")
    with pytest.raises(MisconfigurationException, match="outputs of `forward`, but test_step never called it"):
        recorded(Classifier())
    with pytest.raises(MisconfigurationException, match=r"outputs of the submodule 'net\.0', but test_step never"):
        recorded(Classifier(), outputs_of="net.0")


@pytest.mark.parametrize("calls", [1, 3])
def test_another_number_of_calls_is_not_taken_for_the_end_of_the_data(calls: int) -> None:
    module = Structured(torch.zeros(1))
    tap, outputs = recorded(module, 0, 0)
    uneven = "how often test_step calls it depends"
    with pytest.raises(MisconfigurationException, match=uneven), tap.play([outputs], [1.0], CPU):
        list(map(module, [0] * calls))
    with pytest.raises(MisconfigurationException, match=uneven), tap.play([outputs, outputs[:1]], [0.5, 0.5], CPU):
        pass
    assert "forward" not in vars(module)


@pytest.mark.parametrize("other", [torch.zeros(1, 3), torch.zeros(2), {"logits": torch.zeros(2, 3)}])
def test_outputs_of_other_shapes_are_not_broadcast(other: Any) -> None:
    module = Structured(torch.zeros(2, 3), other)
    tap = OutputTap(module, "")
    with tap.record() as first:
        module(0)
    with tap.record() as second:
        module(1)
    with tap.play([first, second], [0.5, 0.5], CPU), pytest.raises(MisconfigurationException, match="different shapes"):
        module(0)
