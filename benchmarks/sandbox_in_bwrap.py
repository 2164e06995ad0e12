"""The sandbox's launcher in a world that bubblewrap has made, for `benchmarks.sandbox`. Run as a script."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from agentforge.environments.sandbox import kernel, launcher
from agentforge.environments.sandbox.program import run

sys.path.pop()


def isolate(setup: dict[str, Any], control: socket.socket) -> None:
    """Take the place of `launcher.isolate`: bubblewrap has done it."""
    setup["ids"] = os.getuid(), os.getgid()
    setup["count_processes"] = not kernel.binds_processes()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


if __name__ == "__main__":
    launcher.isolate = isolate
    case = launcher.start(json.loads(sys.argv[1]))
    os.close(case["status"])
    run(case["files"]["main.py"])
