"""Malicious files of every kind: read without care, each creates a file."""

import builtins
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

Kind = Callable[[Path, Any], Path]


class Call:
    """Unpickling this without care calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


def payloads(marker: Path) -> dict[str, Call]:
    """By the name that an error has to say."""
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        r"(posix|nt)\.system": Call(os.system, f"echo > {marker}"),
        r"builtins\.exec": Call(builtins.exec, code),
        r"builtins\.eval": Call(torch._tensor._rebuild_from_type_v2, builtins.eval, torch.Tensor, (code,), {}),
    }


def weights() -> dict[str, Any]:
    return {"net.weight": torch.ones(2, 2), "net.bias": torch.zeros(2)}


def lightning(place: str) -> Kind:
    """A Lightning checkpoint with something in one place."""

    def make(folder: Path, payload: Any) -> Path:
        content: dict[str, Any] = {
            "state_dict": weights(),
            "epoch": 1,
            "global_step": 2,
            "pytorch-lightning_version": "2.6.0",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
            "lr_schedulers": [{}],
            "callbacks": {"ModelCheckpoint{'monitor': 'val_acc', 'mode': 'max'}": {"best_k_models": {}}},
            "loops": {"fit_loop": {"state_dict": {}}},
            "hyper_parameters": {"lr": 0.1},
            "datamodule_hyper_parameters": {},
        }
        *above, last = place.split("/")
        inner: Any = content
        for key in above:
            inner = inner[int(key) if isinstance(inner, list) else next(k for k in inner if k.startswith(key))]
        inner[last] = payload
        path = folder / "evil.ckpt"
        torch.save(content, path)
        return path

    return make


def saved(name: str, key: str | None = None, old: bool = False) -> Kind:
    """What ``torch.save`` writes, with something beside the weights."""

    def make(folder: Path, payload: Any) -> Path:
        content = {**weights(), "net._extra_state": payload} if key is None else {"model": weights(), key: payload}
        torch.save(content, folder / name, _use_new_zipfile_serialization=not old)
        return folder / name

    return make


def tar(folder: Path, payload: Any) -> Path:
    """The oldest format of torch, for which weights_only was once forgotten (CVE-2025-32434)."""
    path = folder / "evil.pt"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, contents in {"storages": [0, []], "tensors": [0], "pickle": [payload]}.items():
            data = b"".join(pickle.dumps(content, 2) for content in contents)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def distributed(place: str) -> Kind:
    """A folder of torch.distributed.checkpoint."""

    def make(folder: Path, payload: Any) -> Path:
        path = folder / "evil.ckpt"
        dcp.save({"state_dict": weights()}, checkpoint_id=str(path))
        if place == ".metadata":
            metadata = pickle.loads((path / place).read_bytes())
            metadata.planner_data = payload
            (path / place).write_bytes(pickle.dumps(metadata))
        else:
            torch.save({"hyper_parameters": payload}, path / "meta.pt")
        return path

    return make


def sharded(folder: Path, payload: Any) -> Path:
    files = dict(zip(weights(), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), strict=True))
    for name, file in files.items():
        torch.save({name: weights()[name], "more": payload}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return index


def adapter(folder: Path, payload: Any) -> Path:
    path = folder / "adapter"
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    torch.save({"base_model.model.net.lora_A.weight": torch.ones(1, 2), "x": payload}, path / "adapter_model.bin")
    return path


def not_safetensors(folder: Path, payload: Any) -> Path:
    """A pickle by another name."""
    path = folder / "evil.safetensors"
    torch.save({**weights(), "x": payload}, path)
    return path


def soup(folder: Path, payload: Any) -> Path:
    path = folder / "evil-soup.ckpt"
    torch.save({"state_dict": weights(), "global_step": 0, "lightning_soups": {"format": 2, "options": payload}}, path)
    return path


def soup_of_weights(folder: Path, payload: Any) -> Path:
    path = saved("evil-soup.pt")(folder, payload)
    path.with_name("evil-soup.pt.json").write_text(json.dumps({"lightning_soups": {"format": 2}}))
    return path


KINDS: dict[str, Kind] = {
    **{
        f"lightning, {place}": lightning(place)
        for place in (
            "state_dict/net._extra_state",
            "optimizer_states/0/state/extra",
            "lr_schedulers/0/step",
            "callbacks/ModelCheckpoint/best_k_models",
            "loops/fit_loop/state_dict/x",
            "hyper_parameters/loss",
            "datamodule_hyper_parameters/transform",
            "MixedPrecision",
        )
    },
    ".pt": saved("evil.pt"),
    ".pth": saved("evil.pth", "optimizer"),
    ".bin": saved("evil.bin", "args"),
    "before torch 1.6": saved("evil.pt", old=True),
    "before torch 0.1.10": tar,
    "distributed .metadata": distributed(".metadata"),
    "distributed meta.pt": distributed("meta.pt"),
    "sharded": sharded,
    "adapter": adapter,
    "soup": soup,
    "soup.pt": soup_of_weights,
}


def safe_file(path: Path) -> Path:
    save_file(weights(), path)
    return path
