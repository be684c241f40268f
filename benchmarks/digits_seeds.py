"""Run the digits demo on several seeds and report means, spread, wins, ties and losses.

    python benchmarks/digits_seeds.py --seeds 10 --output digits_seeds.json

Each seed has its own split of the data, shifts, pretraining, sweep and soups. Prints JSON, and a Markdown table of
mean ± standard deviation over seeds.
"""

import json
import logging
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

from digits_runs import pretrain_and_sweep, shared_arguments
from jsonargparse import auto_cli

from lightning_soups import Soup, SoupCLI
from lightning_soups.demos.compare import compare

CONFIGS = Path(__file__).parents[1] / "configs" / "digits"


def run_seed(seed: int, trials: int, directory: Path) -> dict[str, dict[str, float]]:
    """One whole demo; returns accuracies by model and dataset."""
    shared = shared_arguments(seed, CONFIGS / "digits.yaml", directory)
    pretrain_and_sweep(seed, shared, CONFIGS / "pretrain.yaml", CONFIGS / "sweep.yaml", directory, trials)
    for recipe in ("UniformSoup", "GreedySoup"):
        SoupCLI(args=["cook", *shared, "--ingredients", str(directory), "--recipe", recipe])
    compare(str(directory), seed=seed, mnist=True, output=str(directory / "rows.json"))
    rows: dict[str, dict[str, float]] = json.loads((directory / "rows.json").read_text())
    rows["greedy soup"]["members"] = len(Soup.load(directory / "soups" / "greedy.ckpt").ingredients)
    return rows


def summarize(runs: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """Means and deviations in %, and how often each soup beat the best single model."""
    models, columns = list(runs[0]), list(runs[0]["best single"])
    values = {model: {column: [100 * run[model][column] for run in runs] for column in columns} for model in models}
    spread = {
        model: {column: [statistics.mean(of), statistics.stdev(of)] for column, of in row.items()}
        for model, row in values.items()
    }
    against: dict[str, dict[str, object]] = {}
    for soup in ("uniform soup", "greedy soup"):
        against[soup] = {}
        for column in columns:
            pairs = zip(values[soup][column], values["best single"][column], strict=True)
            gains = [round(ours - best, 9) for ours, best in pairs]
            outcome = [sum(gain > 0 for gain in gains), gains.count(0), sum(gain < 0 for gain in gains)]
            against[soup][column] = {"mean_gain": statistics.mean(gains), "wins_ties_losses": outcome}
    members = [int(run["greedy soup"]["members"]) for run in runs]
    return {"seeds": len(runs), "mean_and_deviation": spread, "against_best_single": against, "greedy_members": members}


def markdown(summary: dict[str, object]) -> str:
    """The README's table."""
    spread, against = summary["mean_and_deviation"], summary["against_best_single"]
    assert isinstance(spread, dict)
    assert isinstance(against, dict)
    columns = list(spread["best single"])
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for model, row in spread.items():
        cells = [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in row.values()]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    for soup, row in against.items():
        cells = [f"{of['mean_gain']:+.2f} ({'/'.join(map(str, of['wins_ties_losses']))})" for of in row.values()]
        lines.append(f"| {soup} − best single (wins/ties/losses) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(seeds: int = 10, first_seed: int = 0, trials: int = 32, output: str | None = None) -> None:
    """Run the demo on several seeds.

    Args:
        seeds: How many, at least two.
        first_seed: The first one.
        trials: Fits in each sweep.
        output: Where to write the JSON as well.
    """
    if seeds < 2:
        raise SystemExit(f"A spread needs at least 2 seeds, got {seeds}.")
    sys.argv = sys.argv[:1]  # the CLI would warn about arguments that are not its own
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs = []
    for seed in range(first_seed, first_seed + seeds):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(run_seed(seed, trials, Path(directory)))
    summary = summarize(runs)
    text = json.dumps({**summary, "trials": trials, "first_seed": first_seed, "runs": runs}, indent=2)
    print(text)
    print(markdown(summary))
    if output is not None:
        Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
