import errno
import os
from pathlib import Path

import pytest

from lightning_soups import Ingredients, Mixture
from lightning_soups.mixing import Mixer
from lightning_soups.unchanged_file import check_unchanged, state_of
from tests.helpers import record


@pytest.mark.parametrize("content", [b"", b"ab", b"xyz", b"longer"])
def test_a_file_that_is_written_over_is_noticed(tmp_path: Path, content: bytes) -> None:
    """Truncated, longer, or of the same size."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))  # clocks of file systems may be coarse
    opened = state_of(path)
    check_unchanged(path, opened)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt' was changed while it was being used: it had 3 bytes"):
        check_unchanged(path, opened)


def test_what_was_mapped_stays_when_a_file_is_deleted_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"abc")
    opened = state_of(path)
    (tmp_path / "b.ckpt").write_bytes(b"another")
    os.replace(tmp_path / "b.ckpt", path)
    check_unchanged(path, opened)
    path.unlink()
    check_unchanged(path, opened)


def test_a_disk_that_has_gone_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"abc")
    opened = state_of(path)

    def gone(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr("lightning_soups.unchanged_file.os.stat", gone)
    with pytest.raises(ValueError, match=r"a\.ckpt' cannot be read any more: Stale file handle"):
        check_unchanged(path, opened)


def test_an_ingredient_that_is_cut_off_while_it_is_in_use_is_an_error_and_no_crash(tmp_path: Path) -> None:
    record(tmp_path, [0.1, 0.5])
    found = Ingredients.load(tmp_path)
    mixer = Mixer()
    mixer.mix(Mixture.uniform(found))
    os.truncate(found[1].path, 4096)  # reading what was behind would end the process with SIGBUS
    with pytest.raises(ValueError, match="was changed while it was being used"):
        mixer.mix(Mixture.uniform(found))
