import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from lightning_soups.weights import average, average_checkpoints, read_checkpoint
from lightning_soups.weights.pages import MappedPages

needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is resident")


def checkpoints(directory: Path, count: int, numbers: int) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    paths = [directory / f"{index}.ckpt" for index in range(count)]
    for index, path in enumerate(paths):
        weight = torch.randn(numbers, generator=generator)
        state_dict = {"w": weight, "b": torch.randn(7, generator=generator), "steps": torch.tensor(index)}
        torch.save({"state_dict": state_dict}, path)
    return paths


@pytest.mark.parametrize("coefficients", [None, [0.2, 0.5, 0.3]])
def test_files_give_the_same_bits_as_their_state_dicts(tmp_path: Path, coefficients: list[float] | None) -> None:
    paths = checkpoints(tmp_path, 3, 400_000)
    result = average_checkpoints(paths, coefficients)
    whole = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    expected = average(whole, coefficients or [1 / 3] * 3)
    assert list(result) == list(expected)
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    mean = sum(state_dict["w"].double() for state_dict in whole) / 3
    if coefficients is None:
        assert torch.equal(result["w"], mean.float())


def test_nothing_to_average_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one checkpoint"):
        average_checkpoints([])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        average_checkpoints([tmp_path / "nowhere.ckpt"])


@needs_proc
def test_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path: Path) -> None:
    (path,) = checkpoints(tmp_path, 1, 25_000_000)
    program = """
        import re, sys
        from pathlib import Path
        from lightning_soups.weights import average_checkpoints

        def resident(key):
            return 1024 * int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        average_checkpoints(sys.argv[1:2] * 4)  # a small one, for the threads and buffers that stay
        before = resident("VmRSS")
        for count in (4, 16):
            average_checkpoints(sys.argv[2:] * count)
            print(resident("VmHWM") - before)
    """
    (tmp_path / "small").mkdir()
    (small,) = checkpoints(tmp_path / "small", 1, 1_000_000)
    arguments = [sys.executable, "-c", textwrap.dedent(program), small, path]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert max(map(int, printed.split())) < 2.5 * path.stat().st_size


@needs_proc
def test_released_pages_are_read_again_and_written_ones_stay(tmp_path: Path) -> None:
    paths = checkpoints(tmp_path, 2, 1_000_000)
    clean, written = (read_checkpoint(path)["state_dict"]["w"] for path in paths)
    expected, changed = clean.clone(), written.neg_().clone()
    pages = MappedPages(paths)
    for tensor in (clean, written, torch.ones(1_000_000)):
        pages.release(tensor)
    assert torch.equal(clean, expected)
    assert torch.equal(written, changed)
