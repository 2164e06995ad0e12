"""CPU seconds to start each verb that answers before anything is spent, beside what the same second costs elsewhere.

    python -m benchmarks.startup

User and system time of the child process, the least of five runs, all in turn so that a busy machine slows them alike.
Byte code is cached, as in an ordinary installation (PYTHONDONTWRITEBYTECODE would compile this package at every start).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

RUNS = 5
BIN = Path(sys.executable).parent
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "agentforge --help": [str(BIN / "agentforge"), "--help"],
    "agentforge show aj": [str(BIN / "agentforge"), "show", "aj"],
    "agentforge plan aj": [str(BIN / "agentforge"), "plan", "aj"],
    "agentforge doctor aj": [str(BIN / "agentforge"), "doctor", "aj"],
    "trl --help": [str(BIN / "trl"), "--help"],
    "accelerate launch --help": [str(BIN / "accelerate"), "launch", "--help"],
}


def cpu_seconds(command: list[str]) -> float:
    """Return the user and system seconds of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    least = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            least[name] = min(least[name], cpu_seconds(command))
    print("| command | CPU seconds |\n|---|---|")
    for name, seconds in least.items():
        print(f"| `{name}` | {seconds:.2f} |")


if __name__ == "__main__":
    main()
