import contextlib
import os
from pathlib import Path

import pytest

from lightning_soups.files import replacing, replacing_folder, write_json
from lightning_soups.safe_names import safe_name


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_halfway()
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_a_reader_keeps_the_version_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    with path.open() as reader:
        write_json(path, [2])
        assert reader.read() == "[\n  1\n]\n"
    assert path.read_text() == "[\n  2\n]\n"


def test_a_temporary_file_is_no_record_and_no_checkpoint(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.ckpt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".tmp"
        temporary.write_text("x")


def test_a_folder_is_complete_absent_or_as_it_was(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "new" / "folder"

    def write(*names: str) -> None:
        with replacing_folder(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.startswith(".")
            assert temporary.name.endswith(".tmp")
            for name in names:
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(name)
            if not names:
                raise RuntimeError("killed")

    def fail_at(count: int) -> None:
        renamed = []

        def replace(old: Path, new: Path) -> None:
            renamed.append(new)
            if len(renamed) == count:
                raise OSError("no space")
            os.rename(old, new)

        monkeypatch.setattr("lightning_soups.files.exchange", lambda one, other: False)
        monkeypatch.setattr("lightning_soups.files.os.replace", replace)
        with pytest.raises(OSError, match="no space"):
            write("c")
        monkeypatch.undo()

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert list(path.parent.iterdir()) == []
    write("a", "more/b")
    for attempt in (write, lambda: fail_at(1), lambda: fail_at(2)):
        with contextlib.suppress(RuntimeError):
            attempt()
        assert sorted(file.name for file in path.rglob("*")) == ["a", "b", "more"]
        assert list(path.parent.iterdir()) == [path]
    write("c")
    assert [file.name for file in path.iterdir()] == ["c"]
    assert list(path.parent.iterdir()) == [path]


def test_names_are_safe_on_every_system() -> None:
    assert safe_name("lr=0.1/wd:3 *") == "lr=0.1_wd_3"
    assert safe_name("プローブ-é") == "プローブ-é"
    assert safe_name("../..") == "_"
