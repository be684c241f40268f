"""Kills recording and cooking at many points and checks after each kill that what the design promises holds.

    python -m tests.reliability.kills --kills 200 --seed 0 --json faults.json

Prints a table; exits with 1 when anything was violated. A round can be run again alone by its number: ``--first 17
--kills 1``.
"""

import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from jsonargparse import auto_cli

from tests.reliability import processes
from tests.reliability.cooking import cooks
from tests.reliability.recording import recordings
from tests.reliability.steps import SYNC, How, Kill

# In turn. Half of all kills are at steps; a third does to what is not on the disk what a crash of the machine may do.
_HOW: tuple[How, ...] = ("step", "torn", "step", "power", "time", "step")
_AGAIN = 4  # one round in so many kills the process that resumes as well


class Scenario(Protocol):
    """What is killed, and what must hold."""

    name: str
    steps: list[str]  # of an undisturbed process
    seconds: float  # that one takes

    def prepare(self, folder: Path) -> None: ...
    def victim(self, folder: Path, kill: Kill | None = None) -> processes.Outcome: ...
    def check(self, folder: Path) -> list[str]: ...
    def check_resumed(self, folder: Path, value: Any) -> list[str]: ...


def choose(scenario: Scenario, visit: int, seed: int, only: str = "", where: str = "") -> list[Kill]:
    """Decide how a round goes: every step has its turn, in random order, before one comes a second time.

    Args:
        scenario: What is killed.
        visit: How many rounds it had before.
        seed: Of the run.
        only: The one way to kill; all by default.
        where: A text that the names of the steps have in them; all by default.
    """
    ways = tuple(one for one in _HOW if only in one)
    chance = random.Random(f"{seed} {scenario.name} {visit}")
    kills = []
    for again in range(1 + (visit % _AGAIN == _AGAIN - 1)):
        turn = visit + again
        how = ways[turn % len(ways)]
        if how == "time":
            kills.append(Kill(how, chance.uniform(0, 1.1 * scenario.seconds)))
            continue
        before = turn // len(ways) * ways.count(how) + ways[: turn % len(ways)].count(how)
        places = [
            number
            for number, step in enumerate(scenario.steps)
            if where in step and (how != "torn" or step.startswith(SYNC))
        ]
        random.Random(f"{seed} {scenario.name} {how}").shuffle(places)
        kills.append(Kill(how, places[before % len(places)], visit))
    return kills


def play(scenario: Scenario, folder: Path, kills: list[Kill]) -> tuple[list[str], list[str]]:
    """Play one round: kill, look, and go on undisturbed to the end.

    Returns:
        What was violated, and the ways in which processes were killed.
    """
    scenario.prepare(folder)
    found: list[str] = []
    died: list[str] = []
    for kill in [*kills, None]:
        outcome = scenario.victim(folder, kill)
        if outcome.error:
            return [*found, f"process {len(died) + 1} failed: {outcome.error}"], died
        if kill is None or not outcome.killed:  # it may be done before its time has come
            break
        died.append(kill.how)
        found += _checked(processes.run(scenario.check, folder))
    return [*found, *_checked(processes.run(scenario.check_resumed, folder, outcome.value))], died


def _checked(outcome: processes.Outcome) -> list[str]:
    return [f"a check failed: {outcome.error}"] if outcome.error else outcome.value


def kill_many(
    kills: int,
    seed: int = 0,
    first: int = 0,
    only: str = "",
    how: str = "",
    where: str = "",
    keep: bool = False,
    stop: bool = False,
) -> dict[str, Any]:
    """Play rounds until so many processes were killed.

    Args:
        kills: See :func:`main`.
        seed: See :func:`main`.
        first: See :func:`main`.
        only: See :func:`main`.
        how: See :func:`main`.
        where: See :func:`main`.
        keep: See :func:`main`.
        stop: Whether to stop at the first violation.

    Returns:
        Counts, and what was violated.
    """
    started = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(root)  # what Lightning leaves when it is killed goes there
    scenarios: list[Scenario] = [*recordings(root, only), *cooks(root, only)]
    violations: list[dict[str, Any]] = []
    died: Counter[str] = Counter()
    by_scenario: dict[str, Counter[str]] = {one.name: Counter(steps=len(one.steps)) for one in scenarios}
    for number in itertools.count(first):
        if sum(died.values()) >= kills or (stop and violations):
            break
        scenario, visit = scenarios[number % len(scenarios)], number // len(scenarios)
        folder = root / f"round {number}"
        plan = choose(scenario, visit, seed, how, where)
        found, ways = play(scenario, folder, plan)
        died.update(ways)
        by_scenario[scenario.name].update(rounds=1, kills=len(ways), violations=len(found))
        points = [
            f"{kill.at:.2f} s" if kill.how == "time" else f"{kill.how} {scenario.steps[int(kill.at)]}" for kill in plan
        ]
        for text in found:
            violations.append({"round": number, "scenario": scenario.name, "kills": points, "violated": text})
            print(json.dumps(violations[-1]), file=sys.stderr)
        if not (keep and found):
            shutil.rmtree(folder, ignore_errors=True)
    if not keep:
        shutil.rmtree(root, ignore_errors=True)
    return {
        "kills": sum(died.values()),
        "seed": seed,
        "by how": dict(died),
        "by scenario": by_scenario,
        "violations": violations,
        "seconds": round(time.monotonic() - started),
    }


def main(
    kills: int = 200,
    seed: int = 0,
    first: int = 0,
    only: str = "",
    how: str = "",
    where: str = "",
    json_path: str | None = None,
    keep: bool = False,
) -> None:
    """Run.

    Args:
        kills: How many processes to kill.
        seed: Decides where.
        first: Number of the first round.
        only: A text that the names of the scenarios to run have in them; all by default.
        how: One of ``step``, ``torn``, ``power`` and ``time``, to kill in this way only.
        where: A text that the names of the steps to kill at have in them, such as ``.json``; all by default.
        json_path: A file to write the results to.
        keep: Whether to keep the folders of rounds in which something was violated.
    """
    result = kill_many(kills, seed, first, only, how, where, keep)
    if json_path is not None:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("| scenario | steps | rounds | kills | violations |\n| --- | ---: | ---: | ---: | ---: |")
    for name, row in result["by scenario"].items():
        print(f"| {name} | {row['steps']} | {row['rounds']} | {row['kills']} | {row['violations']} |")
    print(
        f"\n{result['kills']} kills ({result['by how']}), {len(result['violations'])} violations, {result['seconds']} s"
    )
    sys.exit(bool(result["violations"]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    auto_cli(main)
