"""Reproduce the findings of the model soups paper on digits, over several seeds.

    python benchmarks/paper.py --seeds 5 --output paper.json

Each seed has its own split of the data, shifts, pretraining and sweep of 32 fits (configs/paper); the studies are those
of the command line. Prints JSON, and a Markdown table for docs/paper.md. Differences are in points of accuracy, and
intervals 95 % t-intervals over seeds.
"""

import contextlib
import io
import itertools
import json
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from digits_runs import pretrain_and_sweep, shared_arguments
from jsonargparse import auto_cli
from scipy import stats

from lightning_soups import SoupCLI, StudyResult
from lightning_soups.studies.rows import ID, OOD

CONFIGS = Path(__file__).parents[1] / "configs" / "paper"
STUDIES = {
    "AngleAdvantage": [],
    "EnsembleVersusSoup": [],
    "NumberOfModels": ["--study.orders", "3", "--study.counts", "[1,2,4,6,8,12,16,24,32]"],
    "InVersusOut": [],
}
WHERE = {"ID": ID, "OOD": OOD}
Rows = Sequence[Mapping[str, Any]]


def run_seed(seed: int, directory: Path, trials: int, rates: str) -> dict[str, StudyResult]:
    """Pretraining, sweep and studies of one seed."""
    shared = shared_arguments(seed, CONFIGS / "paper.yaml", directory)
    pretrain_and_sweep(seed, shared, CONFIGS / "pretrain.yaml", CONFIGS / f"{rates}.yaml", directory, trials)
    results = {}
    for name, options in STUDIES.items():
        output = directory / "studies" / name
        study = ["study", *shared, "--ingredients", str(directory), "--output", str(output), "--study", name, *options]
        SoupCLI(args=study)
        results[name] = StudyResult.load(f"{output}.json")
    return results


def figures_of(results: Mapping[str, StudyResult]) -> dict[str, float]:
    """One number per claim and group of datasets, from one seed's tables."""
    singles = {row["model"]: row for row in results["InVersusOut"].rows if row["kind"] == "ingredient"}
    models = {row["model"]: row for row in results["InVersusOut"].rows if row["kind"] != "ingredient"}
    found: dict[str, float] = {}
    for where, column in WHERE.items():
        pairs = _pairs(results["EnsembleVersusSoup"].rows, column)
        for group, of_group in pairs.items():
            beats = [soup > max(singles[a][column], singles[b][column]) for a, b, soup, _ in of_group]
            found[f"pairs whose average beats both, lr {group}, {where}"] = 100 * statistics.fmean(beats)
            soups, ensembles = ([one[index] for one in of_group] for index in (2, 3))
            found[f"correlation of ensemble and soup, lr {group}, {where}"] = _pearson(soups, ensembles)
            gains = [100 * (ensemble - soup) for soup, ensemble in zip(soups, ensembles, strict=True)]
            found[f"ensemble - soup of pairs, lr {group}, {where}"] = statistics.fmean(gains)
        rows = results["AngleAdvantage"].rows
        angles, gains = [row["angle"] for row in rows], [row[f"gain {column}"] for row in rows]
        found[f"rank correlation of angle and gain, {where}"] = _spearman(angles, gains)
        small = [row for row in rows if str(row["group"]) == _smallest(rows)]
        found[f"rank correlation of angle and gain, smallest lr, {where}"] = _spearman(
            [row["angle"] for row in small], [row[f"gain {column}"] for row in small]
        )
        number = _by_k(results["NumberOfModels"].rows, column)
        greedy = {k: of["greedy soup"] - of["best single"] for k, of in number.items() if k > 1}
        found[f"greedy - best single, mean over k, {where}"] = 100 * statistics.fmean(greedy.values())
        found[f"numbers of models with greedy >= best single, {where}"] = 100 * statistics.fmean(
            gain >= -1e-9 for gain in greedy.values()
        )
        for one, other in (
            *((soup, "best single") for soup in ("uniform soup", "greedy soup", "learned soup", "ensemble of all")),
            *(("greedy soup", "uniform soup"), ("ensemble of all", "uniform soup"), ("ensemble of all", "greedy soup")),
        ):
            found[f"{one} - {other}, {where}"] = 100 * (models[one][column] - models[other][column])
        found[f"ingredients better than the best single, {where}"] = float(
            sum(row[column] > models["best single"][column] + 1e-9 for row in singles.values())
        )
    return found


def _pearson(first: Sequence[float], second: Sequence[float]) -> float:
    return float(stats.pearsonr(first, second).statistic)


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    return float(stats.spearmanr(first, second).statistic)


def _pairs(rows: Rows, column: str) -> dict[str, list[tuple[str, str, float, float]]]:
    """By size of the learning rate: the two models, their soup's metric and their ensemble's."""
    by_pair = {(row["first"], row["second"], row["model"]): row for row in rows}
    groups = sorted({row["group"] for row in rows} - {"all"}, key=_lower)
    sizes = dict(zip(groups, ("small", "moderate", "large"), strict=True))
    found: dict[str, list[tuple[str, str, float, float]]] = {size: [] for size in sizes.values()}
    for (first, second, model), row in by_pair.items():
        if model == "soup" and row["group"] in sizes:
            ensemble = by_pair[first, second, "ensemble"][column]
            found[sizes[row["group"]]].append((first, second, row[column], ensemble))
    return found


def _smallest(rows: Rows) -> str:
    return min({str(row["group"]) for row in rows}, key=_lower)


def _lower(group: str) -> float:
    """The lower end of a group of learning rates, such as 0.001–0.005; other groups come last."""
    try:
        return float(group.split("–")[0])
    except ValueError:
        return float("inf")


def _by_k(rows: Rows, column: str) -> dict[int, dict[str, float]]:
    """Means over orders, by number of models and kind."""

    def key(row: Mapping[str, Any]) -> tuple[int, str]:
        return int(row["k"]), str(row["model"])

    means: dict[int, dict[str, float]] = {}
    for (k, model), of in itertools.groupby(sorted(rows, key=key), key):
        means.setdefault(k, {})[model] = statistics.fmean(row[column] for row in of)
    return means


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, 95 % interval, and how often a number was positive, zero and negative."""
    mean = statistics.fmean(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    signs = [sum(v > 1e-9 for v in values), sum(abs(v) <= 1e-9 for v in values), sum(v < -1e-9 for v in values)]
    return {
        "mean": mean,
        "interval": [mean - half, mean + half],
        "positive_zero_negative": signs,
        "seeds": list(values),
    }


def markdown(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: in distribution and under shift side by side."""
    lines = ["| | in distribution | under shift |", "| --- | ---: | ---: |"]
    for claim in dict.fromkeys(name.rpartition(", ")[0] for name in summary):
        cells = []
        for where in WHERE:
            of = summary[f"{claim}, {where}"]
            low, high = of["interval"]
            cells.append(
                f"{of['mean']:.2f} ({low:.2f} to {high:.2f}; {'/'.join(map(str, of['positive_zero_negative']))})"
            )
        lines.append(f"| {claim} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main(
    rates: Literal["wide", "moderate"] = "wide",
    seeds: int = 5,
    first_seed: int = 0,
    trials: int = 32,
    output: str | None = None,
) -> None:
    """Run the reproduction.

    Args:
        rates: Which learning rates to sweep: up to where averages fail, or those of the demo.
        seeds: How many, at least two.
        first_seed: The first one.
        trials: Fits in each sweep.
        output: Where to write the JSON as well.
    """
    if seeds < 2:
        raise SystemExit(f"An interval needs at least 2 seeds, got {seeds}.")
    sys.argv = sys.argv[:1]  # the CLI would warn about arguments that are not its own
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    per_seed = []
    for seed in range(first_seed, first_seed + seeds):
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
            per_seed.append(figures_of(run_seed(seed, Path(directory), trials, rates)))
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    summary = {name: over_seeds([one[name] for one in per_seed]) for name in per_seed[0]}
    report = {"rates": rates, "seeds": seeds, "first_seed": first_seed, "trials": trials, "findings": summary}
    text = json.dumps(report, indent=2)
    print(text)
    print(markdown(summary))
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
