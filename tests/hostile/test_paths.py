"""What files name stays where it belongs: nothing outside is read, copied, written, deleted or connected to."""

import json
import socket
from pathlib import Path

import pytest
import torch

from lightning_soups import Ingredient, Ingredients, Mixture, Soup, UniformSoup
from lightning_soups.run_folder import RunFolder
from lightning_soups.score import Score
from lightning_soups.weights import read_checkpoint
from tests.hostile.attacks import weights
from tests.hostile.test_code import _record

ESCAPES = [
    *("../secret.ckpt", "..", ".", "", "/etc/passwd", "a/../../../secret.ckpt", "runs/x.ckpt", "~/../x/"),
    *("..\\..\\secret.ckpt", "\\\\server\\share\\x", "C:\\secret.ckpt", "C:secret.ckpt"),
    *("x.ckpt\0", "x\n.ckpt", "\x1b]0;x\x07.ckpt", "\u202ex.ckpt", "\ud800", "x" * 300),
]


def directory(folder: Path, **fields: object) -> Path:
    run = folder / "soups" / "runs" / "a"
    run.mkdir(parents=True)
    torch.save({"state_dict": weights(), "global_step": 1}, run / "x.ckpt")
    torch.save({"state_dict": weights(), "global_step": 1}, folder / "secret.ckpt")
    (run / "x.json").write_text(json.dumps(_record(**fields)))
    return folder / "soups"


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
def test_a_record_cannot_name_what_is_elsewhere(name: str, tmp_path: Path) -> None:
    soups = directory(tmp_path, checkpoint=name)
    with pytest.raises(ValueError, match=r"x\.json' points outside its folder"):
        Ingredients.load(soups)


@pytest.mark.parametrize("name", [name for name in ESCAPES if name != "~/../x/"], ids=ascii)
def test_a_fingerprint_cannot_either(name: str, tmp_path: Path) -> None:
    found = Ingredients.load(directory(tmp_path, initialization=name))
    with pytest.raises(ValueError, match="is no fingerprint"):
        _ = found.initialization


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
def test_an_index_cannot_either(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValueError, match="points outside its folder"):
        read_checkpoint(tmp_path)


def test_links_of_the_user_are_followed_and_those_of_a_record_are_not(tmp_path: Path) -> None:
    soups = directory(tmp_path)
    checkpoint, elsewhere = soups / "runs" / "a" / "x.ckpt", tmp_path / "secret.ckpt"
    (tmp_path / "link").symlink_to(soups)
    assert len(Ingredients.load(tmp_path / "link")) == 1
    (soups / "runs" / "a").rename(tmp_path / "large disk")
    (soups / "runs" / "a").symlink_to(tmp_path / "large disk")
    assert len(Ingredients.load(soups)) == 1
    checkpoint.rename(checkpoint.with_name("epoch.ckpt"))
    checkpoint.symlink_to("epoch.ckpt")  # inside of the run's folder, wherever that is
    assert len(Ingredients.load(soups)) == 1
    checkpoint.unlink()
    checkpoint.symlink_to(elsewhere)
    for source in (soups, tmp_path / "link"):
        with pytest.raises(ValueError, match=rf"x\.json' names 'x\.ckpt', a link out of .*{elsewhere}"):
            Ingredients.load(source)
    assert len(Ingredients.load([elsewhere])) == 1  # as the error says
    assert len(Ingredients.load([checkpoint])) == 1  # what users name themselves is theirs


def test_resuming_deletes_only_what_the_callback_wrote(tmp_path: Path) -> None:
    run = directory(tmp_path) / "runs" / "a"
    for name in ("notes.txt", "notes.json", "other.ckpt"):
        (run / name).write_text("mine")
    (run / "evil.json").write_text(json.dumps(_record(checkpoint="notes.txt")))
    (run / "evil2.json").write_text(json.dumps(_record(checkpoint="other.ckpt")))
    folder = RunFolder(run, "val_acc", top_k=1)
    assert len(folder) == 1
    assert folder.keep(run / "new.ckpt", Score(0.9, "max")) == [run / "x.ckpt"]


def soup_of(tmp_path: Path, **fields: object) -> Soup:
    ingredient = Ingredient(directory(tmp_path) / "runs" / "a" / "x.ckpt", "a", **fields)
    return Soup(
        Mixture.uniform([ingredient]),
        Score(0.5, "max"),
        monitor="val_acc",
        metrics={},
        trace=[],
        recipe=UniformSoup().name,
        candidates=[ingredient],
    )


URLS = [
    "ftp://127.0.0.1:{}/x.ckpt",
    "http://127.0.0.1:{}/x.ckpt",
    "github://a:b@c/x.ckpt",
    "nosuch://a/b",
    "sftp://h/x",
]


@pytest.mark.parametrize("url", [*URLS, "/etc/passwd", "../../secret.ckpt"])
def test_what_a_soup_was_made_of_is_only_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = url.format(server.getsockname()[1])
        asked: list[object] = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments) or [])
        monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
        soup_of(tmp_path).save(tmp_path / "a.pt")
        text = (tmp_path / "a.pt.json").read_text()
        provenance = json.loads(text)
        provenance["lightning_soups"]["candidates"][0]["path"] = url
        left_out = {"path": url, "run": "a", "reason": "it is elsewhere", "is_copy": False}
        provenance["lightning_soups"]["left_out"] = [left_out]
        (tmp_path / "a.pt.json").write_text(json.dumps(provenance))
        soup = Soup.load(tmp_path / "a.pt")
        soup.save(tmp_path / "b.safetensors")  # the weights of the soup, not of what it says it is made of
        assert torch.equal(soup.state_dict()["net.weight"], weights()["net.weight"])
        assert not asked


@pytest.mark.parametrize("entry", ["candidates", "left_out"])
@pytest.mark.parametrize("path", ["", "a\0b", 3, None, ["x"]], ids=repr)
def test_what_is_no_path_is_refused(path: object, entry: str, tmp_path: Path) -> None:
    soup_of(tmp_path).save(tmp_path / "a.pt")
    provenance = json.loads((tmp_path / "a.pt.json").read_text())
    own = provenance["lightning_soups"]
    own["left_out"] = [{"path": "b.ckpt", "run": "b", "reason": "it is damaged", "is_copy": False}]
    own[entry][0]["path"] = path
    (tmp_path / "a.pt.json").write_text(json.dumps(provenance))
    with pytest.raises(ValueError, match=rf"'{entry}\.0\.path' cannot be|A path must be a text"):
        Soup.load(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:The folder gets no config")
def test_a_folder_is_copied_without_what_its_links_lead_to(tmp_path: Path) -> None:
    soup_of(tmp_path).save(tmp_path / "first")
    (tmp_path / "first" / "tokenizer.json").symlink_to(tmp_path / "secret.ckpt")
    with pytest.raises(ValueError, match=r"tokenizer\.json' is a link out of"):
        Soup.load(tmp_path / "first").save(tmp_path / "second")
    assert not (tmp_path / "second").exists()
    (tmp_path / "first" / "tokenizer.json").unlink()
    blobs = tmp_path / "cache" / "blobs"  # as the hub's cache has it
    blobs.mkdir(parents=True)
    (tmp_path / "cache" / "snapshots").mkdir()
    snapshot = (tmp_path / "first").rename(tmp_path / "cache" / "snapshots" / "1234")
    (snapshot / "model.safetensors").rename(blobs / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    Soup.load(snapshot).save(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").read_bytes() == (blobs / "abc").read_bytes()
    assert not (tmp_path / "second" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    "change",
    [
        {"import_from": "os\nimport os; os.system('x')  #"},
        {"class": "A()\n```\n# Title"},
        {"class": ["x"]},
        {"tied": 3},
        {"others": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The folder gets no config")
def test_what_a_folder_says_of_its_model_cannot_become_code(change: dict[str, object], tmp_path: Path) -> None:
    soup_of(tmp_path).save(tmp_path / "first")
    file = tmp_path / "first" / "lightning_soup.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "folder": {**content["folder"], **change}}))
    with pytest.raises(ValueError, match="does not describe the folder"):
        Soup.load(tmp_path / "first").save(tmp_path / "second")
