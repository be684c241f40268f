from pathlib import Path

import pytest

from lightning_soups.files import replacing, safe_name, write_json


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


def test_names_are_safe_on_every_system() -> None:
    assert safe_name("lr=0.1/wd:3 *") == "lr=0.1_wd_3"
    assert safe_name("プローブ-é") == "プローブ-é"
    assert safe_name("../..") == "_"
