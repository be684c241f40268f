"""The report, read back from the page and compared with the files it is about."""

import json
import re
import sys
from base64 import b64decode
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from lightning_soups import Ingredient, Ingredients, Mixture, Soup
from lightning_soups.report import write_report
from lightning_soups.score import Score
from tests.report.conftest import SVG, study_result
from tests.report.parsed import Page

HOSTILE = """</style></title>"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"""
LOADS = {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "svg"}


def page(directory: Path, **options) -> Page:
    return Page(write_report(directory, **options))


def records(directory: Path) -> list[tuple[Path, dict]]:
    return [(path, json.loads(path.read_text())) for path in sorted(directory.glob("runs/*/*.json"))]


def rewrite(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def save_soup(directory: Path, name: str, score: Score, **other) -> None:
    found = list(Ingredients.load(directory))
    known = {"monitor": "val_acc", "metrics": {}, "trace": [], "recipe": "Own", "candidates": found}
    Soup(Mixture.uniform(found[:1]), score, **{**known, **other}).save(directory / "soups" / f"{name}.ckpt")


def test_the_page_is_whole_by_itself(directory: Path) -> None:
    read = page(directory)
    assert not LOADS & {tag for tag, _ in read.elements}
    assert all(source.startswith("data:image/") for source in read.attributes("src"))
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert "http" not in read.source
    assert "url(" not in read.source
    assert "@import" not in read.source
    ids = read.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {href[1:] for href in read.attributes("href")} <= set(ids)


def test_the_page_can_be_read_by_everyone(directory: Path) -> None:
    read = page(directory)
    assert read.source.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.named("meta")
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(read.named("caption")) == len(read.named("table")) > 0
    assert {cell.get("scope") for cell in read.named("th")} == {"col", "row"}
    (picture,) = read.named("img")
    assert "no point of the path beats the better end" in str(picture["alt"])
    around = [scroll for scroll in read.named("div") if scroll.get("role") == "region"]
    assert len(around) == len(read.named("table")) + 1
    assert all(scroll["tabindex"] == "0" and scroll["aria-label"] for scroll in around)
    assert "prefers-color-scheme: dark" in read.source
    assert "@media print" in read.source


def test_ingredients_are_those_of_the_records(directory: Path) -> None:
    read = page(directory)
    heading, *rows = read.table("Ingredients with their recorded held-out score")
    assert [cell.text for cell in heading] == ["rank", "ingredient", "val_acc", "lr"]
    best_first = sorted(records(directory), key=lambda entry: -entry[1]["metrics"]["val_acc"])
    assert len(rows) == 3
    for rank, (row, (_, record)) in enumerate(zip(rows, best_first, strict=True), start=1):
        assert [row[0].text, row[1].text] == [str(rank), record["run"]]
        assert row[2].values == [repr(record["metrics"]["val_acc"])]
        assert row[2].text == f"{record['metrics']['val_acc']:.4f}"
        assert row[3].values == [repr(record["hyperparameters"]["lr"])]
    origins = {row[0].text: [cell.text for cell in row] for row in read.table("Files, weights and versions")[1:]}
    for path, record in best_first:
        source = path.relative_to(directory).as_posix()
        origin = origins[record["run"]]
        assert origin[1:4] == [source, source.replace(".json", ".ckpt"), record["initialization"]]
        assert origin[4:9] == [str(record["epoch"]), str(record["step"]), "1", "yes", record["created"]]
        assert quote(source, safe="") in read.attributes("id")
        assert f"torch {record['versions']['torch']}" in read.text
    assert "hidden" in read.text  # a hyperparameter that does not differ


def test_soups_are_those_of_the_checkpoints(directory: Path) -> None:
    read = page(directory)
    best = max(record["metrics"]["val_acc"] for _, record in records(directory))
    overview = {row[0].text: row for row in read.table("Soups with their held-out score")[1:]}
    for name in ("greedy", "uniform"):
        saved = torch.load(directory / "soups" / f"{name}.ckpt", weights_only=True)["lightning_soups"]
        row = overview[saved["recipe"]]
        assert row[1].values == [repr(saved["score"])]
        assert float(row[2].values[0]) == pytest.approx(saved["score"] - best)
        assert row[3].text == f"{len(saved['mixture']['members'])} of 3 ingredients"
        assert row[4].text == str(sum(question["samples"] for question in saved["trace"]))
        runs = [saved["candidates"][number]["run"] for number in saved["mixture"]["members"]]
        members = read.table(f"soups/{name}.ckpt: members")[1:]
        assert [member[0].text for member in members] == runs
        assert [float(member[1].values[0]) for member in members] == saved["mixture"]["coefficients"]
        asked = read.table(f"soups/{name}.ckpt: what the recipe asked")[1:]
        assert [row[2].values for row in asked] == [[repr(question["score"])] for question in saved["trace"]]
        assert saved["created"] in read.text
    cooked = max(saved["score"] for saved in _saved(directory))
    assert f"{abs(cooked - best):.4f}" in read.text or "as good as" in read.text


def _saved(directory: Path) -> list[dict]:
    return [torch.load(path, weights_only=True)["lightning_soups"] for path in directory.glob("soups/*.ckpt")]


def test_a_member_leads_to_its_record_wherever_the_directory_is_now(directory: Path) -> None:
    """The fixture was moved after cooking, so the soups name paths that are not here."""
    source = page(directory).source
    (path, record), *_ = records(directory)
    anchor = quote(path.relative_to(directory).as_posix(), safe="")
    leading = source.count(f'<a href="#{anchor}">{record["run"]}</a>')
    assert leading >= 2  # from the table of ingredients and from the uniform soup
    rewrite(path, metrics={**record["metrics"], "val_loss": 9.0})  # another run of the same name
    assert page(directory).source.count(f'<a href="#{anchor}">{record["run"]}</a>') < leading


def test_studies_are_those_of_their_files(directory: Path) -> None:
    read = page(directory)
    heading, *rows = read.table("Interpolation: test_acc")
    assert [cell.text for cell in heading] == ["alpha", "model", "test"]
    assert [[cell.text for cell in row] for row in rows] == [["0", "weights", "0.8765"], ["0.5000", "weights", "–"]]
    assert rows[0][2].values == ["0.8765432"]
    (picture,) = read.attributes("src")
    assert b64decode(picture.removeprefix("data:image/svg+xml;base64,")) == SVG
    for words in ("test: no point", "noisy", "the last batch was left out", "2026-01-02T03:04:05", "torch 2.0"):
        assert words in read.text
    assert "studies/interpolation.json" in read.text
    assert "studies/interpolation.svg" in read.text


@pytest.mark.parametrize("left", [".png", None])
def test_figures_that_are_missing(directory: Path, monkeypatch: pytest.MonkeyPatch, left: str | None) -> None:
    """Nothing is drawn for the report, so it does not need matplotlib."""
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or name.endswith("soups.figures")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (directory / "studies" / "interpolation.svg").unlink()
    if left is not None:
        (directory / "studies" / f"interpolation{left}").write_bytes(b"PNG")
    read = page(directory)
    if left is None:
        assert "pip install 'lightning-soups[report]'" in read.text
        assert not read.named("img")
    else:
        assert read.attributes("src") == ["data:image/png;base64,UE5H"]


def test_what_files_say_is_text(directory: Path) -> None:
    path, record = records(directory)[0]
    hyperparameters = {"lr": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE, "\ud800"]}}
    versions = {HOSTILE: HOSTILE}
    fields = {"hyperparameters": hyperparameters, "versions": versions, "run": HOSTILE, "initialization": HOSTILE}
    rewrite(path, **fields, monitor=HOSTILE, metrics={HOSTILE: 0.5}, created=HOSTILE)
    path.rename(path.with_name("<i>&.json"))
    texts = {"study": HOSTILE, "metric": HOSTILE, "monitor": HOSTILE, "created": HOSTILE, "conclusions": (HOSTILE,)}
    result = study_result(
        **texts,
        options={HOSTILE: [HOSTILE]},
        rows=({HOSTILE: HOSTILE},),
        models={HOSTILE: {"coefficients": {HOSTILE: 1.0}}},
        in_distribution=(HOSTILE,),
        shifted=(HOSTILE,),
        caveats=(HOSTILE,),
        versions=versions,
    )
    result.save(directory / "studies" / "<b>'&")
    other = {"monitor": HOSTILE, "metrics": {HOSTILE: 1.0}, "recipe": HOSTILE, "options": {HOSTILE: HOSTILE}}
    member = Ingredient(path.with_name(record["checkpoint"]), HOSTILE, {HOSTILE: 1.0}, monitor=HOSTILE, mode="max")
    found = {"candidates": [member], "caveats": [HOSTILE]}
    save_soup(directory, '"><u>', Score(1.0, "max"), **other, **found)
    (directory / "runs" / "<s>").mkdir()
    (directory / "runs" / "<s>" / "x.json").write_text(f'"{HOSTILE}')
    read = page(directory, title=HOSTILE)
    assert not {tag for tag, _ in read.elements} & (LOADS | {"b", "i", "s", "u"})
    assert len(read.named("img")) == 1
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert read.source.count("<style>") == read.source.count("</style>") == 1
    assert read.text.count(HOSTILE) > 40
    ids = read.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {href[1:] for href in read.attributes("href")} <= set(ids)


def test_what_cannot_be_read_is_listed_and_the_rest_is_there(directory: Path) -> None:
    paths = [path for path, _ in records(directory)]
    paths[0].write_text("{")
    paths[1].with_suffix(".ckpt").unlink()
    rewrite(paths[2], metrics={"val_acc": "high"})
    soups, studies = directory / "soups", directory / "studies"
    (soups / "greedy.ckpt").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {"weight": torch.ones(1)}}, soups / "weights.ckpt")
    torch.save({"state_dict": {}, "global_step": 0, "lightning_soups": {"format": 2}}, soups / "empty.ckpt")
    (studies / "other.json").write_text('{"format": 7}')
    study_result(options=["no object"]).save(studies / "options")
    study_result(conclusions=(1,)).save(studies / "conclusions")
    study_result(models={"start": {}}).save(studies / "models")
    read = page(directory)
    reasons = {
        "runs/run-00/": "cannot be read",
        "runs/run-01/": "names a checkpoint that is missing",
        "runs/run-02/": "'val_acc' must be a number, got 'high'",
        "soups/greedy.ckpt": "cannot be read as a checkpoint",
        "soups/weights.ckpt": "not a soup",
        "soups/empty.ckpt": "KeyError: 'candidates'",
        "studies/other.json": "another format",
        "studies/options.json": "options must be a JSON object, got ['no object']",
        "studies/conclusions.json": "an entry of conclusions must be text, got 1",
        "studies/models.json": "the coefficients of model start must be a JSON object, got None",
    }
    listed = read.source[read.source.index('id="failures"') :]
    listed = listed[: listed.index("</section>")]
    assert listed.count("<li>") == len(reasons)
    for source, reason in reasons.items():
        entry = next(entry for entry in listed.split("<li>") if f"<code>{source}" in entry)
        assert reason.replace("'", "&#x27;") in entry
    assert "10 files could not be read" in read.text
    assert "No ingredients. 1 soup: UniformSoup. 1 study: Interpolation." in read.text


@pytest.mark.filterwarnings("ignore:The folder gets no config.json")
def test_soups_of_every_format_are_found(directory: Path) -> None:
    soup = Soup.load(directory / "soups" / "greedy.ckpt")
    names = ["greedy.pt", "greedy.pth", "greedy.safetensors", "greedy"]
    for name in names:
        soup.save(directory / "soups" / name)
    (directory / "soups" / ".unfinished.ckpt.journal").write_text("{}")
    torch.save({}, directory / "soups" / "weights.pt")
    text = page(directory).text
    for name in ["greedy.ckpt", *names]:
        assert f"GreedySoup ({name})" in text
    assert "soups/weights.pt" in text
    assert "it has no 'weights.pt.json' beside it" in text
    assert "1 file could not be read" in text


def test_a_record_without_a_value_of_its_monitor_is_listed(directory: Path) -> None:
    rewrite(records(directory)[0][0], monitor="val_auc")
    assert "It has no 'val_auc', its monitor, but only ['train_loss', 'val_acc', 'val_loss']." in page(directory).text


def test_the_same_directory_gives_the_same_page(directory: Path) -> None:
    def without_date(path: Path) -> str:
        text, count = re.subn(r'<p class="generated">[^<]*</p>', "", path.read_text(encoding="utf-8"))
        assert count == 1
        return text

    first = without_date(write_report(directory, directory.with_name("first.html")))
    assert without_date(write_report(directory)) == first
    assert without_date(write_report(directory)) == first  # the page is not about itself
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize(
    ("mode", "best", "said"),
    [
        ("max", 1.5, "The best soup is 1.3000 better than the best single ingredient"),
        ("max", 0.125, "The best soup is 0.0750 worse than"),
        ("max", 0.2, "The best soup is as good as the best single ingredient"),
        ("min", 0.05, "The best soup is 0.0500 better than"),
        ("min", 0.25, "The best soup is 0.1500 worse than"),
    ],
)
def test_the_gain_follows_the_mode(directory: Path, mode: str, best: float, said: str) -> None:
    for number, (path, record) in enumerate(records(directory)):
        score = (0.1, 0.2, 0.15)[number]
        rewrite(path, mode=mode, monitor="own", metrics={**record["metrics"], "own": score})
    worse = best + (-0.01 if mode == "max" else 0.01)
    save_soup(directory, "worse", Score(worse, mode), monitor="own")
    save_soup(directory, "best", Score(best, mode), monitor="own")
    read = page(directory)
    assert said in read.text
    assert "less is better" in read.text if mode == "min" else "less is better" not in read.text
    assert "Own (best.ckpt)" in read.text


def test_metrics_that_cannot_be_compared_stand_side_by_side(directory: Path) -> None:
    path, record = records(directory)[0]
    rewrite(path, monitor="val_loss", mode="min", initialization="elsewhere")
    read = page(directory)
    assert "On the held-out data: val_acc, more is better" in read.text
    assert "On the held-out data: val_loss, less is better" in read.text
    assert "started from 2 different initializations" in read.text
    assert [cell.text for cell in read.table("Ingredients with")[0]][2:4] == ["val_acc", "val_loss"]
    assert record["run"] in read.text


def test_several_checkpoints_of_a_run_are_told_apart(directory: Path) -> None:
    path, _ = records(directory)[0]
    for suffix in (".json", ".ckpt"):
        other = path.with_name(f"again{suffix}")
        other.write_bytes(path.with_suffix(suffix).read_bytes())
    rewrite(path.with_name("again.json"), checkpoint="again.ckpt")
    names = [row[1].text for row in page(directory).table("Ingredients with")[1:]]
    assert {"run-00/again", f"run-00/{path.stem}", "run-01"} <= set(names)


def test_a_wrong_place_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' holds nothing to report on: no ingredients \(runs/\*/\*\.json\)"):
        write_report(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(ValueError, match=r"There is no folder '.*nowhere'"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"There is no folder '.*\.svg'"):
        write_report(directory / "studies" / "interpolation.svg")
    with pytest.raises(ValueError, match="`dirpath=nowhere://soups` cannot be reached"):
        write_report("nowhere://soups")
    with pytest.raises(ValueError, match=r"`output` must be a file such as 'report\.html', got the folder"):
        write_report(directory, tmp_path)


def test_options(directory: Path, tmp_path: Path) -> None:
    assert write_report(str(directory)) == directory / "report.html"
    assert "Model soups in moved" in Page(directory / "report.html").text
    output = tmp_path / "new" / "page.html"
    assert write_report(directory, output, title="My soups") == output
    assert Page(output).source.count("My soups") == 2
