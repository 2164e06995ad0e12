"""Training and decoding on one GPU: tokens a second, MFU and peak memory, each against a peer in the same run.

    python -m benchmarks gpu [--part sft --part cognate ...] [--seconds 60] [--rows rows.jsonl] [--tiny]

Each part runs in a process of its own, so that none finds memory in use, and none ends the others: what fails, does not
fit or is not done in time has a line that says so, and so has vLLM where it is not installed. A part has a time of its
own (`SECONDS`, eight minutes together), which ``--seconds`` scales (60: as it is). ``--rows`` names a file to which
each line is added as JSON as soon as it is known. ``--tiny`` takes shapes that a CPU computes in seconds, to see that
all runs.

A step's time is the median of steps between two synchronisations of the device; the first steps are thrown away.
Memory is what tensors held at most (`max_memory_allocated`). The speed beside a peer's is its tokens a second over the
peer's, so more than 1 is faster. How MFU is computed: `benchmarks.on_gpu.measuring`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = {
    "sft": 60,
    "pretrain": 60,
    "cognate": 90,
    "agiformer": 70,
    "grpo": 110,  # two engines of vLLM start in it
    "hybrid": 40,
    "memory": 30,
    "optimizers": 20,
}
GRACE = 10
"""Seconds after which a part that does not end is killed."""
IMPORTS = 120
"""Seconds in which it must have imported its libraries."""
Row = dict[str, Any]


def start(part: str, seconds: float, tiny: bool) -> subprocess.Popen[str]:
    """Start a part, which imports what it needs and then waits for a line."""
    return spawn(["-m", "benchmarks.on_gpu.worker", part, str(seconds), *(["--tiny"] if tiny else [])])


def spawn(arguments: list[str]) -> subprocess.Popen[str]:
    """Start Python in a process group of its own: torch.compile's workers would hold the pipe of one that is killed."""
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def rows_of(part: str, process: subprocess.Popen[str], seconds: float) -> Iterator[Row]:
    """Let a part run, and return its lines; those that it planned and did not reach too."""
    assert process.stdin is not None and process.stdout is not None
    waiting: list[str] = [part]
    timer = _killing(process, IMPORTS)
    try:
        for line in process.stdout:
            said = json.loads(line)
            if said.get("ready"):
                timer.cancel()
                timer = _killing(process, seconds + GRACE)
                with contextlib.suppress(BrokenPipeError):  # it is dead already, as its exit code will say
                    process.stdin.write("go\n")
                    process.stdin.flush()
            elif "planned" in said:
                waiting = said["planned"]
            else:
                waiting.remove(said["name"])
                yield said
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # what ends by itself has an exit code to tell
    finally:
        timer.cancel()
        kill(process)
        code = process.wait()
    why = "took too long and was killed" if code == -signal.SIGKILL else f"its process ended with {code}"
    for place, name in enumerate(waiting):
        yield {"part": part, "name": name, "note": why if place == 0 else f"not reached: {why}"}


def _killing(process: subprocess.Popen[str], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, kill, [process])
    timer.start()
    return timer


def measured(parts: list[str], scale: float, tiny: bool) -> Iterator[Row]:
    """Run the parts one after the other; all import their libraries at once, and wait for their turn."""
    processes = {part: start(part, SECONDS[part] * scale, tiny) for part in parts}
    try:
        for part in parts:
            yield from rows_of(part, processes.pop(part), SECONDS[part] * scale)
    finally:
        for process in processes.values():
            kill(process)
            process.wait()


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, with the speed of each beside its peer's."""
    speeds = {(row["part"], row["name"]): _speed(row) for row in rows if "seconds" in row}
    machine = next((row["machine"] for row in rows if "machine" in row), "no line was measured")
    lines = [
        f"{machine}.",
        "",
        "| part | what | tokens/s | step, ms | MFU | peak GiB | speed | of | note |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in rows:
        own, peer = speeds.get((row["part"], row["name"])), speeds.get((row["part"], row.get("peer")))
        cells = [
            row["part"],
            row["name"],
            f"{row['tokens'] / row['seconds']:,.0f}" if row.get("tokens") else "",
            f"{1e3 * row['seconds']:,.2f}" if "seconds" in row else "",
            f"{row['mfu']:.1%}" if row.get("mfu") is not None else "",
            f"{row['peak_gib']:.2f}" if row.get("peak_gib") is not None else "",
            f"{own / peer:.{2 if own > peer / 10 else 4}f}" if own and peer else "",
            row.get("peer") or "",
            " ".join(row.get("note", "").replace("|", "/").split()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _speed(row: Row) -> float:
    return float((row.get("tokens") or 1.0) / row["seconds"])


def main(arguments: list[str] | None = None) -> None:
    """Print the table of all parts; also when the run is ended early."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument("--part", action="append", choices=SECONDS)
    parser.add_argument("--seconds", type=float, default=60.0, help="for a part that has 60; the others in proportion")
    parser.add_argument("--rows", type=Path, help="a file to which each line is added as JSON")
    parser.add_argument("--tiny", action="store_true", help="shapes for a CPU")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rows: list[Row] = []
    try:
        for row in measured(options.part or list(SECONDS), options.seconds / 60, options.tiny):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if options.rows is not None:
                with options.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    finally:
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
