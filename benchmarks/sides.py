"""The ways to cook a greedy soup that ``greedy.py`` compares, each a function that is called in its own process."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alone import peak_memory
from lightning.pytorch import Trainer
from workload import Workload

from lightning_soups import SoupTrainer

Weights = dict[str, torch.Tensor]
_FLOOR_PASSES = 5


def published(workload: Workload, directory: Path) -> dict[str, Any]:
    """The procedure of Wortsman et al. 2022 in plain PyTorch: a fresh loader and a full pass for every question."""
    module = workload.module().to(workload.device).eval()

    def score(weights: Weights) -> float:
        module.load_state_dict(weights)
        loader = workload.loader(directory)
        correct = torch.zeros((), dtype=torch.int64, device=workload.device)
        with torch.inference_mode():
            for images, labels in loader:
                logits = module(images.to(workload.device, non_blocking=True))
                correct += (logits.argmax(dim=1) == labels.to(workload.device, non_blocking=True)).sum()
        return correct.item() / workload.held_out

    return _greedy(workload, directory, lambda path: score(_read(path)["state_dict"]), score)


def validate(workload: Workload, directory: Path) -> dict[str, Any]:
    """The same questions asked with ``trainer.validate(ckpt_path=...)``, candidates by way of a temporary file."""
    module = workload.module()
    trainer = Trainer(**workload.trainer_arguments())
    shell = _read(workload.recorded(directory)[0])

    def score_file(path: Path) -> float:
        loader = workload.loader(directory)
        (metrics,) = trainer.validate(module, dataloaders=loader, ckpt_path=str(path), verbose=False)
        return metrics["val_acc"]

    with tempfile.TemporaryDirectory() as folder:

        def score(weights: Weights) -> float:
            path = Path(folder, "candidate.ckpt")
            torch.save({**shell, "state_dict": weights}, path)
            return score_file(path)

        return _greedy(workload, directory, score_file, score)


def ours(workload: Workload, directory: Path, early_rejection: bool) -> dict[str, Any]:
    """``SoupTrainer.cook``, which also saves the soup."""
    module = workload.module()
    trainer = SoupTrainer(**workload.trainer_arguments())
    started = time.perf_counter()
    soup = trainer.cook(
        module,
        dataloaders=workload.loader(directory),
        ingredients=directory / "soup",
        output=directory / "ours.ckpt",
        early_rejection=early_rejection,
        batch_norm="average",  # as the published procedure does
    )
    seconds = time.perf_counter() - started
    evaluated = [row for row in soup.trace if not row.cached]
    scores = {row.mixture.members: row.score.value for row in soup.trace}
    members = soup.ingredients
    later = [row.seconds for row in evaluated[1:] if row.samples == workload.held_out]
    return {
        "passes": len(evaluated),
        "samples_evaluated": sum(row.samples for row in evaluated),
        "seconds": seconds,
        # the first one decodes the images
        "seconds_of_later_full_pass": statistics.median(later) if later else None,
        **peak_memory(workload.accelerator),
        "members": [member.run for member in members],
        "scores": [scores[members[: count + 1]] for count in range(len(members))],
    }


def full_passes(workload: Workload, directory: Path) -> dict[str, Any]:
    """A full pass of ours over kept batches, and the floor: bare forward passes over batches on the device.

    Both in this process, the bare ones before and after ours, because the speed of a shared machine drifts.
    """
    before = _bare_passes(workload, directory)
    cooked = ours(workload, directory, early_rejection=False)
    bare = [*before, *_bare_passes(workload, directory)]
    return {
        "ours": cooked["seconds_of_later_full_pass"],
        "bare": statistics.median(bare),
        "bare_passes": bare,
    }


def _bare_passes(workload: Workload, directory: Path) -> list[float]:
    module = workload.module().to(workload.device).eval()
    module.load_state_dict(_read(workload.recorded(directory)[0])["state_dict"])
    batches = [
        (images.to(workload.device), labels.to(workload.device)) for images, labels in workload.loader(directory)
    ]
    seconds = []
    for _ in range(1 + _FLOOR_PASSES):
        started = time.perf_counter()
        correct = torch.zeros((), dtype=torch.int64, device=workload.device)
        with torch.inference_mode():
            for images, labels in batches:
                correct += (module(images).argmax(dim=1) == labels).sum()
        correct.item()  # waits for the accelerator
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _greedy(
    workload: Workload, directory: Path, score_file: Callable[[Path], float], score: Callable[[Weights], float]
) -> dict[str, Any]:
    """Each ingredient by itself, then each candidate, best first, accepted on ≥. Averages are kept in float64."""
    started = time.perf_counter()
    paths = workload.recorded(directory)
    singles = {path: score_file(path) for path in paths}
    best_first = sorted(paths, key=singles.__getitem__, reverse=True)
    members, scores = best_first[:1], [singles[best_first[0]]]
    total = _added({}, _read(best_first[0])["state_dict"])
    for path in best_first[1:]:
        weights = _read(path)["state_dict"]
        candidate = _added(total, weights)
        count = len(members) + 1
        result = score({name: (tensor / count).to(weights[name].dtype) for name, tensor in candidate.items()})
        if result >= scores[-1]:
            members, scores, total = [*members, path], [*scores, result], candidate
    passes = 2 * len(paths) - 1
    return {
        "passes": passes,
        "samples_evaluated": passes * workload.held_out,
        "seconds": time.perf_counter() - started,
        **peak_memory(workload.accelerator),
        "members": [path.parent.name for path in members],
        "scores": scores,
    }


def _added(total: Weights, weights: Weights) -> Weights:
    # integer buffers (BatchNorm's counters, which validation does not read) are averaged and truncated like this too
    return {name: tensor.double() + total.get(name, 0) for name, tensor in weights.items()}


def _read(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint
