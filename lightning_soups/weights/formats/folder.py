"""Folders that hold one model, as Hugging Face libraries write them."""

from pathlib import Path

from lightning_soups.weights.formats.sharded import INDEX_SUFFIX, is_piece

_USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def model_file(folder: Path) -> Path | None:
    """Find the one file, or the index, that holds the weights of a folder.

    Args:
        folder: A folder of ``save_pretrained`` or one like it.

    Returns:
        The first that exists of ``model.safetensors``, its index, ``pytorch_model.bin`` and its index; else the only
        index, else the only other ``.safetensors`` file; None where there is none or several.
    """
    for name in _USUAL:
        if (folder / name).is_file():
            return folder / name
    indexes = [path for kind in ("safetensors", "bin") for path in folder.glob(f"*.{kind}{INDEX_SUFFIX}")]
    found = indexes or [path for path in folder.glob("*.safetensors") if not is_piece(path)]
    return found[0] if len(found) == 1 else None
