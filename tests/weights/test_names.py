"""Names of weights: filters, renames, and fitting what other tools write to a module."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_soups.weights import WeightNames, canonical, fit

NAMES = ["backbone.conv.weight", "backbone.norm.bias", "neck.weight", "head.weight", "head.bias"]


def state_dict(names: list[str]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(float(index)) for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (WeightNames(), NAMES),
        (WeightNames(include=["backbone.*"]), NAMES[:2]),
        (WeightNames(include=["backbone.*", "neck.*"]), NAMES[:3]),
        (WeightNames(exclude=["head.*"]), NAMES[:3]),
        (WeightNames(exclude=["*.bias", "gone.*"]), [NAMES[0], NAMES[2], NAMES[3]]),
        (WeightNames(include=["head.*"], exclude=["*.bias"]), ["head.weight"]),
        (WeightNames(include=["head.[bw]*"]), NAMES[3:]),
    ],
)
def test_filters_keep_order_and_tensors(names: WeightNames, kept: list[str]) -> None:
    everything = state_dict(NAMES)
    result = names.apply(everything)
    assert list(result) == kept
    assert all(result[name] is everything[name] for name in kept)


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ({"backbone": "encoder"}, ["encoder.conv.weight", "encoder.norm.bias", *NAMES[2:]]),
        ({"backbone.": "encoder."}, ["encoder.conv.weight", "encoder.norm.bias", *NAMES[2:]]),
        ({"back": "front"}, NAMES),  # no whole part of a name
        ({"": "model"}, [f"model.{name}" for name in NAMES]),
        ({"backbone": ""}, ["conv.weight", "norm.bias", *NAMES[2:]]),
        ({"backbone": "b", "backbone.norm": "n"}, ["b.conv.weight", "n.bias", *NAMES[2:]]),  # the longest one
        ({"backbone": "head", "head": "backbone"}, ["head.conv.weight", "head.norm.bias", "neck.weight"]),  # once each
        ({"head.bias": "head.offset"}, [*NAMES[:4], "head.offset"]),
    ],
)
def test_renames(rename: dict[str, str], expected: list[str]) -> None:
    result = WeightNames(rename=rename).apply(state_dict(NAMES))
    assert list(result)[: len(expected)] == expected
    assert [tensor.item() for tensor in result.values()] == list(range(5))


@pytest.mark.parametrize(
    "wrapped",
    [
        [f"module.{name}" for name in NAMES],
        [f"module._orig_mod.{name}" for name in NAMES],
        [f"_orig_mod.module.{name}" for name in NAMES],
        [f"_forward_module.{name}" for name in NAMES],
        [name.replace("backbone.", "backbone._orig_mod.") for name in NAMES],
        [f"_fsdp_wrapped_module.{name}".replace("norm", "_fsdp_wrapped_module.norm") for name in NAMES],
    ],
)
def test_wrappers_can_be_left_out(wrapped: list[str]) -> None:
    assert list(canonical(wrapped).values()) == NAMES
    assert list(canonical(wrapped)) == wrapped
    assert list(WeightNames(include=["backbone.*"]).apply(state_dict(wrapped))) == wrapped[:2]
    assert list(WeightNames(include=[wrapped[0]]).apply(state_dict(wrapped))) == wrapped[:1]
    assert list(WeightNames(rename={"head": "top"}).apply(state_dict(wrapped)))[3:] == ["top.weight", "top.bias"]
    assert fit(wrapped, NAMES).names == dict(zip(wrapped, NAMES, strict=True))
    assert fit(NAMES, wrapped).names == dict(zip(NAMES, wrapped, strict=True))
    assert fit(wrapped, NAMES).rule == "the same names without wrappers"
    assert fit(wrapped, wrapped).rule == "the same names"


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    names = ["module.weight", "scale"]
    assert canonical(names) == {"module.weight": "module.weight", "scale": "scale"}
    assert canonical([]) == {}


def test_names_of_the_real_wrappers() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    plain = list(module.state_dict())
    module[1] = torch.compile(module[1])
    averaged = torch.optim.swa_utils.AveragedModel(torch.compile(module))
    wrapped = [name for name in averaged.state_dict() if name != "n_averaged"]
    assert wrapped[2] == "module._orig_mod.1._orig_mod.0.weight"
    assert fit(wrapped, plain).names == dict(zip(wrapped, plain, strict=True))


def test_prefixes_are_added_and_removed() -> None:
    inside = [f"model.encoder.{name}" for name in NAMES]
    added = fit(NAMES, [*inside, "val_acc.total", "classifier.weight"])
    assert (added.names, added.rule) == (dict(zip(NAMES, inside, strict=True)), "the prefix 'model.encoder.' added")
    removed = fit(inside, NAMES)
    assert (removed.names, removed.rule) == (
        dict(zip(inside, NAMES, strict=True)),
        "the prefix 'model.encoder.' removed",
    )
    compiled = [f"model._orig_mod.encoder.{name}" for name in NAMES]
    assert fit(NAMES, compiled).names == dict(zip(NAMES, compiled, strict=True))
    assert fit(compiled, NAMES).names == dict(zip(compiled, NAMES, strict=True))


@pytest.mark.parametrize(
    ("names", "module_names", "rule"),
    [
        (NAMES, [f"{who}.{name}" for who in ("student", "teacher") for name in NAMES], "several prefixes would do, 's"),
        ([*NAMES, "extra"], NAMES, "no rule fits"),
        ([*NAMES, "extra"], [f"model.{name}" for name in NAMES], "no rule fits"),
        (["a.weight", "b.weight"], ["x.a.weight", "y.b.weight"], "no rule fits"),
        (["w", "_orig_mod.w"], ["model.w"], "some names are the same"),
        (["a.w"], ["w", "x.a.w"], "several prefixes would do, 'x.', 'a.'"),
    ],
)
def test_what_does_not_fit_stays_as_it_is(names: list[str], module_names: list[str], rule: str) -> None:
    found = fit(names, module_names)
    assert found.names == {name: name for name in names}
    assert rule in found.rule


def test_names_of_one_module_that_are_the_same_but_for_wrappers_stay_apart() -> None:
    """The same rule for a module that holds both itself and its compiled self."""
    assert fit(["w", "_orig_mod.w"], ["w", "_orig_mod.w"]).names == {"w": "w", "_orig_mod.w": "_orig_mod.w"}
    names = WeightNames(exclude=["_orig_mod.*"]).apply(state_dict(["w", "_orig_mod.w"]))
    assert list(names) == ["w"]


def test_a_hugging_face_folder_inside_a_lightning_module(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20
    )
    encoder = transformers.BertModel(config)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.BertForSequenceClassification(config)

    inside = list(Module().state_dict())
    found = fit(list(encoder.state_dict()), inside)
    assert found.rule == "the prefix 'model.bert.' added"
    assert set(found.names.values()) == {name for name in inside if ".bert." in name}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            WeightNames(include=["bakbone.*"]),
            r"pattern 'bakbone\.\*' of `include` matches none.*backbone\.conv\.weight",
        ),
        (WeightNames(include=["neck.*"], exclude=["neck.*"]), "Nothing is left of 5 tensors"),
        (
            WeightNames(rename={"neck": "head"}),
            r"gives 'head\.weight' to more than one tensor: neck\.w.*, head\.weight",
        ),
    ],
)
def test_what_cannot_be_applied(names: WeightNames, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names.apply(state_dict(NAMES))


def test_typing_mistakes_are_found_over_all_checkpoints() -> None:
    names = WeightNames(exclude=["head.*", "top.*"], rename={"neck": "n", "throat": "n"})
    assert names.apply(state_dict(NAMES))
    names.check([*NAMES, "top.weight", "module.throat.weight", "_orig_mod.throat.bias"])
    with pytest.raises(ValueError, match=r"The pattern 'top\.\*' of `exclude` matches none of the names: backbone"):
        names.check([*NAMES, "throat.weight"])
    with pytest.raises(ValueError, match="The prefix 'throat' of `rename` starts none of the names: backbone"):
        names.check([*NAMES, "top.weight"])
    many = [f"layer.{index}.weight" for index in range(1000)]
    with pytest.raises(ValueError, match=r"layer\.7\.weight and 992 more\.$"):
        WeightNames(include=["head.*"]).check(many)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": "backbone.*"}, "`include` must be a list of patterns.*got 'backbone"),
        ({"exclude": [""]}, r"`exclude` must be a list of patterns.*got \[''\]"),
        ({"exclude": [3]}, r"got \[3\]"),
        ({"rename": {"a": 3}}, "`rename` must map prefixes"),
        ({"rename": [("a", "b", "c")]}, "`rename` must map prefixes"),
        ({"rename": [("a", "b"), ("a.", "c")]}, "`rename` must give each prefix once, got 'a' more than once"),
    ],
)
def test_bad_arguments_are_quoted(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightNames(**arguments)


def test_equal_names_are_one_key_and_can_be_sent_to_processes() -> None:
    one = WeightNames(["a.*"], ("b",), {"x": "y", "x.long": "z"})
    same = WeightNames(("a.*",), ["b"], [("x.long", "z"), ("x", "y")])
    assert one == same
    assert {one: 1}[same] == 1
    assert one != WeightNames(["a.*"])
    assert pickle.loads(pickle.dumps(one)) == one
    assert re.search(r"include=\('a\.\*',\)", repr(one))
