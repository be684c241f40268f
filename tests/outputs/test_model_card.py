"""Model cards, as huggingface_hub and a Markdown parser read them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lightning_soups import Soup
from lightning_soups.outputs import read_provenance
from lightning_soups.outputs.model_card import model_card
from tests.outputs.cases import odd_states, soup_of

BERT = {
    "class": "BertModel",
    "import_from": "transformers",
    "library": "transformers",
    "base_model": "someone/tiny-bert",
    "others": [],
}
NONE = {"class": None, "import_from": None, "library": None, "base_model": None, "others": []}
HOSTILE = "a|b\n---\n# <script>alert(1)</script> [x](http://evil) ![i](http://evil) `c` **d** _e_ <!-- http://evil $z$"


@pytest.fixture
def provenance(tmp_path: Path) -> dict[str, Any]:
    soup_of(tmp_path / "runs", odd_states()).save(tmp_path / "soup.ckpt")
    return read_provenance(tmp_path / "soup.ckpt")


def tables(text: str) -> list[list[list[str]]]:
    """The cells' text of every table."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def test_the_hubs_library_reads_the_front_matter(provenance: dict[str, Any]) -> None:
    card = ModelCard(model_card(provenance, BERT, "my-soup"))
    data = card.data
    assert (data.library_name, data.base_model, data.model_name) == ("transformers", "someone/tiny-bert", "my-soup")
    assert data.tags == ["model-soup", "lightning"]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("val_acc", 0.9)
    assert result.metric_name == "val_acc (held-out selection score, not a test result)"
    assert "held-out data" in result.dataset_name
    again = ModelCard(str(card))
    assert again.data.to_dict() == data.to_dict()
    assert "base_model" not in ModelCard(model_card(provenance, NONE, "my-soup")).data.to_dict()


def test_the_text_states_members_scores_and_differences(provenance: dict[str, Any]) -> None:
    text = ModelCard(model_card(provenance, BERT, "my-soup")).text
    scores, members, options, versions = tables(text)
    assert scores == [
        ["", "val_acc (higher is better)"],
        ["this soup", "0.9"],
        ["best single candidate, measured the same way", "0.7"],
        ["difference", "+0.2"],
        ["val_loss, of this soup", "nan"],
    ]
    assert members[0] == ["member", "coefficient", "val_acc, recorded", "lr"]
    assert members[1:] == [[f"run-{i}/{i}", "0.333333", f"{0.5 + i / 10:.6g}", f"{0.1 * i:.6g}"] for i in range(3)]
    assert options[1:] == [["recipe", "GreedySoup"], ["strict", "False"], ["alphas", "[0.1, 0.2]"]]
    assert {row[0] for row in versions} >= {"torch", "lightning-soups", "created"}
    for words in (
        "chose 3 of 3 fine-tuned models",
        "from transformers import BertModel\n\nmodel = BertModel.from_pretrained('my-soup')",
        "so it is a selection score",
        "- The score: the last batch was left out",
    ):
        assert words in text


def test_the_best_single_is_as_recorded_when_none_was_measured(provenance: dict[str, Any]) -> None:
    provenance["trace"] = []
    scores = tables(model_card(provenance, BERT, "my-soup").partition("\n---\n")[2])[0]
    assert ["best single candidate, as recorded in training", "0.7"] in scores
    provenance["mode"] = "min"
    scores = tables(model_card(provenance, BERT, "my-soup").partition("\n---\n")[2])[0]
    assert ["best single candidate, as recorded in training", "0.5"] in scores
    provenance["monitor"] = "val_f1"
    assert len(tables(model_card(provenance, BERT, "my-soup").partition("\n---\n")[2])[0]) == 4


def test_nothing_from_a_file_becomes_markup(provenance: dict[str, Any]) -> None:
    for entry in provenance["candidates"]:
        entry["run"] = HOSTILE
        entry["hyperparameters"] = {HOSTILE: f"{HOSTILE} {entry['path']}"}
        entry["metrics"] = {HOSTILE: 0.5}
        entry["monitor"] = HOSTILE
    provenance.update(monitor=HOSTILE, recipe=HOSTILE, options={HOSTILE: HOSTILE}, caveats=[HOSTILE])
    provenance["versions"] = {HOSTILE: HOSTILE}
    card = model_card(provenance, {**BERT, "base_model": HOSTILE, "others": [HOSTILE]}, HOSTILE)
    front, text = card.removeprefix("---\n").split("\n---\n", maxsplit=1)
    assert yaml.safe_load(front)["base_model"] == HOSTILE
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"][0]["type"] == HOSTILE
    plain = model_card(provenance, BERT, "my-soup").partition("\n---\n")[2]
    parser = MarkdownIt("gfm-like", {"linkify": False})
    kinds = [child.type for token in parser.parse(text) for child in (token.children or [token])]
    assert not {"html_block", "html_inline", "image", "code_inline"} & set(kinds) - {"code_inline"}
    links = [child.attrs["href"] for token in parser.parse(text) for child in token.children or [] if child.attrs]
    assert links == ["https://arxiv.org/abs/2203.05482"]
    cells = [cell for table in tables(text) for row in table for cell in row]
    assert " ".join(HOSTILE.split()) in cells
    assert [len(table) for table in tables(text)] == [len(table) for table in tables(plain)]
    assert sum(token.type == "heading_open" for token in parser.parse(text)) == 7


def test_a_soup_by_layer_with_the_initialization_says_so(provenance: dict[str, Any], tmp_path: Path) -> None:
    soup = Soup.load(tmp_path / "soup.ckpt")
    mixture = soup.mixture
    soup.mixture = type(mixture)(mixture.coefficients, {"encoder": dict(mixture.coefficients)})
    soup.candidates = soup.candidates[:2]
    soup.caveats = ()
    soup.save(tmp_path / "soup.ckpt")
    text = model_card(read_provenance(tmp_path / "soup.ckpt"), NONE, "my-soup")
    assert "1 layers or tensors have coefficients of their own" in text
    assert "chose 3 members by" in text
    assert "the held-out score is exact" in text
    assert "load_model(module, 'my-soup/model.safetensors')" in text
