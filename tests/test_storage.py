"""Recording, cooking and everything after it with URLs: a real S3 server on loopback, and fsspec's memory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from lightning.pytorch import Trainer
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from upath import UPath

from lightning_soups import Ingredients, Soup, SoupCallback, SoupTrainer
from lightning_soups.files import check_writable, replacing
from lightning_soups.local_copies import LocalCopies, local_copy
from lightning_soups.paths import any_path, claim_folder, common_folder, inside
from lightning_soups.report import write_report
from tests.helpers import Blobs, Classifier, record, trainer


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on an S3 server in this process; the real client library talks to it over HTTP."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="soups")
        yield "s3://soups"
        S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "copies"
    monkeypatch.setenv("LIGHTNING_SOUPS_CACHE", str(folder))
    return folder


@pytest.fixture(params=["s3", "memory"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("s3") if request.param == "s3" else "memory://soups"
    MemoryFileSystem.store.clear()


def test_a_bucket_serves_as_a_folder_does(bucket: str, copies: Path, tmp_path: Path) -> None:
    """What is recorded, cooked, loaded and reported is the same there as on a disk."""
    lrs = [0.05, 0.1, 0.2]
    record(tmp_path / "disk", lrs)
    record(f"{bucket}/mine", lrs)

    def cook(ingredients: str) -> Soup:
        torch.manual_seed(0)
        return trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=ingredients)

    there, here = cook(f"{bucket}/mine"), cook(str(tmp_path / "disk"))
    assert there.score == here.score
    assert [one.name for one in there.ingredients] == [one.name for one in here.ingredients]
    assert str(there.path) == f"{bucket}/mine/soups/greedy.ckpt"

    loaded = Soup.load(f"{bucket}/mine/soups/greedy.ckpt")
    assert loaded.mixture == there.mixture
    for name, tensor in here.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    (result,) = trainer(Trainer).validate(Classifier(), Blobs(), ckpt_path=str(there.path), verbose=False)
    assert result["val_acc"] == pytest.approx(here.score.value)

    found = Ingredients.load(f"{bucket}/mine")
    assert str(found.initialization.path).startswith(f"{bucket}/mine/initializations/")
    assert len(Ingredients.load(f"{bucket}/mine/runs/*/*.ckpt")) == len(lrs)
    assert Ingredients.load([str(one.path) for one in found]).directory == UPath(f"{bucket}/mine/runs")
    page = write_report(f"{bucket}/mine")
    assert "3 ingredients" in page.read_text(encoding="utf-8")


def test_studies_are_saved_there_too(s3: str, copies: Path) -> None:
    from lightning_soups import Interpolation, StudyResult

    record(f"{s3}/studied", [0.05, 0.1])
    result = trainer(SoupTrainer).study(
        Classifier(), datamodule=Blobs(), study=Interpolation(alphas=[0, 0.5, 1]), ingredients=f"{s3}/studied"
    )
    names = {path.name for path in UPath(f"{s3}/studied/studies").iterdir()}
    assert names == {f"interpolation{suffix}" for suffix in (".json", ".csv", ".png", ".svg")}
    assert StudyResult.load(f"{s3}/studied/studies/interpolation.json").rows == result.rows


def test_each_file_is_fetched_once_and_again_when_it_has_changed(s3: str, copies: Path) -> None:
    url = UPath(f"{s3}/file.bin")
    url.write_bytes(b"first")
    before = [local_copy(url), local_copy(url)]
    assert before[0] == before[1]
    assert before[0].read_bytes() == b"first"
    inode = before[0].stat().st_ino
    assert local_copy(url).stat().st_ino == inode
    url.write_bytes(b"other")
    assert local_copy(url).read_bytes() == b"other"
    assert before[0].read_bytes() == b"first", "who has the earlier one may still be reading it"


def test_a_folder_comes_with_all_its_files(s3: str, copies: Path) -> None:
    for name in ("a.txt", "deep/er/b.txt"):
        (UPath(f"{s3}/folder") / name).write_text(name)
    local = local_copy(UPath(f"{s3}/folder"))
    assert sorted(str(path.relative_to(local)) for path in local.rglob("*.txt")) == ["a.txt", "deep/er/b.txt"]
    assert (local / "deep" / "er" / "b.txt").read_text() == "deep/er/b.txt"


def test_a_key_cannot_lead_out_of_its_folder(s3: str, copies: Path) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    assert urlsplit(endpoint).hostname is not None
    client = boto3.client("s3", endpoint_url=endpoint)
    client.put_object(Bucket="soups", Key="evil/../../../escaped.txt", Body=b"x")
    client.put_object(Bucket="soups", Key="evil/fine.txt", Body=b"x")
    with pytest.raises(ValueError, match="lies outside of its folder"):
        local_copy(UPath(f"{s3}/evil"))
    assert not list(copies.parent.rglob("escaped.txt"))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    urls = [UPath(f"memory://many/{name}") for name in "abc"]
    for url in urls:
        url.write_bytes(b"x" * 40)
    first = LocalCopies(tmp_path, limit=100)
    a, b = first.fetch(urls[0]), first.fetch(urls[1])
    with pytest.raises(ValueError, match=r"no room for a local copy of 'memory://many/c'.*LIGHTNING_SOUPS_CACHE_GB"):
        first.fetch(urls[2])  # the others are in use here
    long_ago = time.time() - 1000
    os.utime(a.parent, (long_ago, long_ago))
    os.utime(b.parent, (long_ago + 1, long_ago + 1))
    another = LocalCopies(tmp_path, limit=100)
    assert another.fetch(urls[2]).read_bytes() == b"x" * 40
    assert not a.exists()
    assert b.exists()
    with pytest.raises(ValueError, match=r"it has 0\.000 GB"):
        LocalCopies(tmp_path / "small", limit=10).fetch(urls[0])


def test_an_incomplete_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = UPath("memory://torn/file.bin")
    url.write_bytes(b"complete")
    whole = MemoryFileSystem.get_file
    monkeypatch.setattr(
        MemoryFileSystem, "get_file", lambda self, remote, local, **kwargs: Path(local).write_bytes(b"comp")
    )
    copies = LocalCopies(tmp_path, limit=1000)
    with pytest.raises(ValueError, match="came with 4 bytes instead of 8"):
        copies.fetch(url)
    monkeypatch.setattr(MemoryFileSystem, "get_file", whole)
    assert copies.fetch(url).read_bytes() == b"complete"


def test_two_runs_never_share_a_folder(bucket: str) -> None:
    folder = any_path(f"{bucket}/claims/run", "dirpath")
    assert claim_folder(folder)
    assert not claim_folder(folder)
    callback = SoupCallback(f"{bucket}/claims", "val_acc", run="taken")
    for _ in range(2):
        torch.manual_seed(0)
        trainer(callbacks=[callback], max_epochs=1).fit(Classifier(), datamodule=Blobs())
    runs = {record.parent.name for record in any_path(f"{bucket}/claims", "dirpath").glob("runs/*/*.json")}
    assert runs == {"taken", "taken-2"}


def test_a_run_keeps_its_best_checkpoints_only(s3: str, copies: Path) -> None:
    callback = SoupCallback(f"{s3}/best", "val_acc", run="one", save_top_k=1)
    torch.manual_seed(0)
    trainer(callbacks=[callback], max_epochs=4).fit(Classifier(lr=0.02), datamodule=Blobs())
    names = [path.suffix for path in UPath(f"{s3}/best/runs/one").iterdir() if path.name != ".claimed"]
    assert sorted(names) == [".ckpt", ".json"]


def test_what_is_uploaded_is_complete_or_absent(bucket: str) -> None:
    path = any_path(f"{bucket}/whole/a.txt", "output")
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_text() == "whole"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_an_output_that_cannot_be_written_is_found_before_work_begins(s3: str, tmp_path: Path) -> None:
    check_writable(any_path(f"{s3}/new/soup.ckpt", "output"), "output")
    assert not UPath(f"{s3}/new").exists(), "the trial is taken away"
    with pytest.raises(ValueError, match=r"`output` cannot be written at 's3://no-such-bucket/soup\.ckpt'"):
        check_writable(any_path("s3://no-such-bucket/soup.ckpt", "output"), "output")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`output` cannot be written"):
        check_writable(tmp_path / "file" / "soup.ckpt", "output")


def test_paths_and_urls(tmp_path: Path) -> None:
    assert any_path(f"file://{tmp_path}/x", "dirpath") == tmp_path / "x"
    assert any_path("C:/soups", "dirpath") == Path("C:/soups")
    with pytest.raises(ValueError, match="`dirpath=nowhere://x` cannot be reached: Protocol not known: nowhere"):
        any_path("nowhere://x", "dirpath")
    with pytest.raises(ValueError, match="`dirpath` is empty"):
        any_path("", "dirpath")
    assert common_folder([tmp_path / "a" / "x", tmp_path / "b" / "c" / "y"]) == tmp_path
    assert common_folder([tmp_path / "a", any_path("memory://b/c", "x")]) == Path()
    assert inside(any_path("memory://b/c/d.txt", "x"), any_path("memory://b", "x")) == "c/d.txt"
    with pytest.raises(ValueError, match="is not in"):
        inside(tmp_path, tmp_path / "a")


@pytest.mark.parametrize("name", ["soup.pt", "soup.safetensors", "soup-folder"])
def test_every_format_can_be_written_there_and_read_back(s3: str, copies: Path, tmp_path: Path, name: str) -> None:
    record(tmp_path, [0.05, 0.1])
    url = f"{s3}/outputs/{name}"
    soup = trainer(SoupTrainer).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path, output=url)
    assert str(soup.path) == url
    if name == "soup-folder":
        UPath(f"{url}/earlier.txt").write_text("of an earlier soup")
    soup.path = None  # mixed again
    soup.save(url)
    names = {str(path).removeprefix(f"{s3}/outputs/") for path in UPath(f"{s3}/outputs").rglob("*") if path.is_file()}
    wanted = {
        "soup.pt": {"soup.pt", "soup.pt.json"},
        "soup.safetensors": {"soup.safetensors"},
        "soup-folder": {f"soup-folder/{file}" for file in ("README.md", "lightning_soup.json", "model.safetensors")},
    }[name]
    assert {one for one in names if one.startswith(name)} == wanted
    soup.path = None
    for key, tensor in soup.state_dict().items():
        assert torch.equal(Soup.load(url).state_dict()[key], tensor)
