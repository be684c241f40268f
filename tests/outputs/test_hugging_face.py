"""Hugging Face folders, with real transformers, peft and huggingface_hub on models of a few hundred weights."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import PyTorchModelHubMixin
from lightning.pytorch import LightningModule
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_soups import Ingredients, Soup, SoupTrainer, UniformSoup
from tests.helpers import CLASSES, FEATURES, Blobs, Classifier, mean, record, trainer
from tests.outputs.cases import assert_same_bits, soup_of

WORDS = 12
TOKENS = torch.arange(WORDS).reshape(2, FEATURES)
HEAD = {"head.weight", "head.bias"}


def bert_config(**more) -> transformers.BertConfig:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return transformers.BertConfig(
        vocab_size=WORDS, max_position_embeddings=FEATURES, _name_or_path="someone/tiny-bert", **small, **more
    )


class Bert(Classifier):
    """A language model, whose first and last weights are tied, and a head that is not a part of it."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.net = transformers.BertForMaskedLM(bert_config())
        self.head = nn.Linear(WORDS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net((3 * x.abs()).long().clamp(max=WORDS - 1)).logits.mean(dim=1))


class Wrapped(LightningModule):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Sharded(transformers.BertForMaskedLM):
    def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor]) -> None:
        super().save_pretrained(folder, state_dict=state_dict, max_shard_size="1KB")


def states_of(module: nn.Module, count: int = 2) -> list[dict[str, Tensor]]:
    """Different weights, tied where the module's are."""
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        places = {tensor.data_ptr(): name for name, tensor in module.state_dict().items()}
        for name, tensor in module.state_dict().items():
            states[-1][name] = states[-1][places[tensor.data_ptr()]]
    return states


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_cook_saves_a_folder_that_from_pretrained_loads(tmp_path: Path, precision: str) -> None:
    record(tmp_path, [0.1, 0.5], Bert)
    module = Bert()
    config = module.net.config.to_dict()
    with pytest.warns(UserWarning, match=r"other_weights\.safetensors: \['head\.bias', 'head\.weight'\]"):
        soup = trainer(SoupTrainer, precision=precision).cook(
            module, datamodule=Blobs(), ingredients=tmp_path, recipe=UniformSoup(), output=tmp_path / "hub"
        )
    expected = mean([torch.load(one.path, weights_only=True)["state_dict"] for one in Ingredients.load(tmp_path)])
    reference = Bert()
    reference.load_state_dict(expected)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hub")
    assert_same_bits(loaded.state_dict(), reference.net.state_dict())
    assert torch.equal(logits(loaded), logits(reference.net))
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert module.net.config.to_dict() == config
    assert set(load_file(tmp_path / "hub" / "other_weights.safetensors")) == HEAD

    assert_same_bits(soup.state_dict(), expected)
    Soup.load(tmp_path / "hub").save(tmp_path / "again.ckpt")
    assert_same_bits(Bert.load_from_checkpoint(tmp_path / "again.ckpt").state_dict(), expected)


def test_a_folder_of_several_files_is_read_back(tmp_path: Path) -> None:
    module = Wrapped(net=Sharded(bert_config()))
    states = states_of(module)
    soup_of(tmp_path / "runs", states).save(tmp_path / "hub", module)
    assert len(list((tmp_path / "hub").glob("model-*.safetensors"))) > 2
    assert_same_bits(Soup.load(tmp_path / "hub").state_dict(), mean(states))
    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hub")
    assert_same_bits({f"net.{name}": tensor for name, tensor in loaded.state_dict().items()}, mean(states))


def test_weights_tied_without_the_librarys_knowing_are_each_written(tmp_path: Path) -> None:
    module = Wrapped(net=transformers.BertForMaskedLM(bert_config(tie_word_embeddings=False)))
    module.net.cls.predictions.decoder.weight = module.net.bert.embeddings.word_embeddings.weight
    states = states_of(module)
    soup_of(tmp_path / "runs", states).save(tmp_path / "hub", module)
    module.load_state_dict(mean(states))
    assert torch.equal(logits(transformers.BertForMaskedLM.from_pretrained(tmp_path / "hub")), logits(module.net))


def test_the_model_written_under_other_names_is_for_from_pretrained_only(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.MixtralConfig(vocab_size=WORDS, num_key_value_heads=1, num_local_experts=2, **small)
    module = Wrapped(net=transformers.MixtralForCausalLM(config))
    states = states_of(module)
    soup_of(tmp_path / "runs", states).save(tmp_path / "hub", module)
    module.load_state_dict(mean(states))
    loaded = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "hub")
    assert torch.equal(logits(loaded), logits(module.net))
    assert Soup.load(tmp_path / "hub").score.value == 0.9
    with pytest.raises(ValueError, match=r"transformers writes the weights of a MixtralForCausalLM under other names"):
        Soup.load(tmp_path / "hub").state_dict()


def test_the_outermost_of_nested_models_is_written(tmp_path: Path) -> None:
    module = Wrapped(net=torch.compile(transformers.BertForMaskedLM(bert_config())))
    states = states_of(module)
    assert all(name.startswith("net._orig_mod.") for name in states[0])
    soup_of(tmp_path / "runs", states).save(tmp_path / "hub", module)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    module.load_state_dict(mean(states))
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hub")
    assert torch.equal(logits(loaded), logits(module.net._orig_mod))


def test_which_of_several_models_has_to_be_said(tmp_path: Path) -> None:
    module = Wrapped(teacher=transformers.BertModel(bert_config()), student=transformers.BertForMaskedLM(bert_config()))
    soup = soup_of(tmp_path / "runs", states_of(module))
    with pytest.raises(ValueError, match=r"\['teacher', 'student'\].*submodule='teacher'\)"):
        soup.save(tmp_path / "hub", module)
    soup.save(tmp_path / "soup.ckpt", module)  # files need no such model
    with pytest.raises(ValueError, match=r"no submodule 'pupil'.*\['student', 'student\.bert', 'teacher'\]"):
        soup.save(tmp_path / "hub", module, submodule="pupil")
    with pytest.warns(UserWarning, match=r"beside it in other_weights.safetensors: \['teacher\."):
        soup.save(tmp_path / "hub", module, submodule="student")
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hub")
    expected = mean(states_of(module))
    module.load_state_dict(expected)
    assert torch.equal(logits(loaded), logits(module.student))
    assert_same_bits(Soup.load(tmp_path / "hub").state_dict(), expected)
    with pytest.raises(ValueError, match=r"several submodules.*\['teacher', 'student'\]"):
        trainer(SoupTrainer).cook(
            module, datamodule=Blobs(), ingredients=soup.candidates[0].path, monitor="x", output=tmp_path / "new"
        )


def test_adapters_and_missing_weights_are_refused(tmp_path: Path) -> None:
    module = Wrapped(net=transformers.BertForMaskedLM(bert_config()))
    states = states_of(module)
    whole = soup_of(tmp_path / "runs", states)
    module.net = get_peft_model(module.net, LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=r"Adapters are inserted into 'net.*Save the soup as \.ckpt"):
        whole.save(tmp_path / "hub", module)
    missing = "net.bert.embeddings.word_embeddings.weight"
    soup = soup_of(tmp_path / "part", [{name: state[name] for name in state if name != missing} for state in states])
    with pytest.raises(ValueError, match=r"lacks weights.*\['bert\.embeddings\.word_embeddings\.weight'\]"):
        soup.save(tmp_path / "hub", Wrapped(net=transformers.BertForMaskedLM(bert_config())))
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "part"}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    class Fails(transformers.BertForMaskedLM):
        def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor]) -> None:
            super().save_pretrained(folder, state_dict=state_dict)
            raise OSError("disk full")

    module = Wrapped(net=transformers.BertForMaskedLM(bert_config()))
    states = states_of(module, 3)
    soup_of(tmp_path / "runs", states[:2]).save(tmp_path / "hub", module)
    (tmp_path / "hub" / "notes.txt").touch()
    other = soup_of(tmp_path / "others", states)
    with pytest.raises(OSError, match="disk full"):
        other.save(tmp_path / "hub", Wrapped(net=Fails(bert_config())))
    assert_same_bits(Soup.load(tmp_path / "hub").state_dict(), mean(states[:2]))
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "runs", "others"}
    other.save(tmp_path / "hub", module)
    assert_same_bits(Soup.load(tmp_path / "hub").state_dict(), mean(states))
    assert not (tmp_path / "hub" / "notes.txt").exists()
    Soup.load(tmp_path / "hub").save(tmp_path / "copy")  # no module: the files go along
    assert torch.equal(
        logits(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "copy")),
        logits(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hub")),
    )


class OnTheHub(Classifier, PyTorchModelHubMixin):
    """Not a model of transformers, but one that the hub's library loads."""


def test_a_module_without_such_a_model_gets_a_folder_for_the_hubs_mixin(tmp_path: Path) -> None:
    states = states_of(OnTheHub())
    with pytest.warns(UserWarning, match=r"gets no config\.json"):
        soup_of(tmp_path / "runs", states).save(tmp_path / "hub", OnTheHub())
    assert_same_bits(OnTheHub.from_pretrained(tmp_path / "hub").state_dict(), mean(states))
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"model.safetensors", "README.md", "lightning_soup.json"}
