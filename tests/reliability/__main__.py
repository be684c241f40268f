"""The long checks: kills, damaged files, a soak run, and whether the checks notice what is broken on purpose.

python -m tests.reliability --directory reliability
"""

import subprocess
import sys
from pathlib import Path

from jsonargparse import auto_cli


def main(
    kills: int = 300, cases: int = 2000, minutes: float = 5.0, seed: int = 0, directory: str = "reliability"
) -> None:
    """Run all, each in a process of its own.

    Args:
        kills: See ``tests.reliability.kills``.
        cases: Of each kind, see ``tests.reliability.fuzz``.
        minutes: See ``tests.reliability.soak``.
        seed: Of all of them.
        directory: Where the results go, one JSON file for each.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    options = {
        "kills": [f"--kills={kills}", f"--seed={seed}"],
        "fuzz": [f"--cases={cases}", f"--seed={seed}"],
        "soak": [f"--minutes={minutes}"],
        "breaks": [f"--seed={seed}"],
    }
    failed = []
    for name, arguments in options.items():
        print(f"\n## {name}\n", flush=True)
        command = [
            sys.executable,
            "-m",
            f"tests.reliability.{name}",
            *arguments,
            f"--json_path={directory}/{name}.json",
        ]
        if subprocess.run(command).returncode:
            failed.append(name)
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nNothing was violated.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    auto_cli(main)
