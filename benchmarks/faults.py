"""Break something on purpose, wherever it can break: what holds, and whether anything is lost.

The faults are the tests marked ``fault(what, where, holds, times)``. `make test` runs most of them too, with fewer
kills.

    python -m benchmarks.faults               # everything, kill -9 three times in each of the seven stages
    python -m benchmarks.faults tests/export  # those of a folder
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

KILLS = "3"


@dataclass
class Row:
    """One fault in one place.

    Attributes:
        times: how often something was broken.
        lost: tests in which what should hold does not.
        skipped: those that this machine cannot run, with the reason.
    """

    holds: str
    times: int = 0
    seconds: float = 0.0
    lost: int = 0
    skipped: str | None = None


def measure(where: list[str]) -> tuple[dict[tuple[str, str], Row], str]:
    """Run the marked tests; return the rows by fault and place, and what pytest said."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "fault", "-n0", f"--junitxml={report}", *where]
        kills = {"AGENTFORGE_KILLS": os.environ.get("AGENTFORGE_KILLS", KILLS), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, env=os.environ | kills, stdout=subprocess.PIPE, text=True)
        return (rows_of(report.read_text(encoding="utf-8")) if report.is_file() else {}), run.stdout


def rows_of(report: str) -> dict[tuple[str, str], Row]:
    """Read pytest's report: the cases of one fault in one place are one row."""
    rows: dict[tuple[str, str], Row] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        said = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        if "fault" not in said:
            continue
        row = rows.setdefault((said["fault"], said["where"]), Row(said["holds"]))
        row.seconds += float(case.get("time", "0"))
        if (skipped := case.find("skipped")) is not None:
            row.skipped = skipped.get("message", "")
        else:
            row.times += int(said["times"])
            row.lost += case.find("failure") is not None or case.find("error") is not None
    return rows


def table(rows: dict[tuple[str, str], Row]) -> str:
    """Return the rows as Markdown, in the order of the tests."""
    lines = ["| fault | where | times | what holds | lost | seconds |", "|---|---|--:|---|---|--:|"]
    for (fault, where), row in sorted(rows.items()):
        lost = f"not run: {row.skipped}" if row.skipped and not row.times else str(row.lost) if row.lost else "nothing"
        lines.append(f"| {fault} | {where} | {row.times} | {row.holds} | {lost} | {row.seconds:.0f} |")
    times, lost = sum(row.times for row in rows.values()), sum(row.lost for row in rows.values())
    seconds = sum(row.seconds for row in rows.values())
    lines.append(f"| **all** | | **{times}** | | **{lost or 'nothing'}** | **{seconds:.0f}** |")
    return "\n".join(lines)


def main() -> None:
    rows, said = measure(sys.argv[1:])
    print(table(rows))
    if not rows or any(row.lost for row in rows.values()):
        raise SystemExit(said)


if __name__ == "__main__":
    main()
