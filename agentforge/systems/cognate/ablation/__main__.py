"""The command: ``python -m agentforge.systems.cognate.ablation [--quick] [--plan] ...``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentforge.artifacts import stage_directory
from agentforge.errors import UserError
from agentforge.recipe.hardware import available_cores
from agentforge.systems.cognate.ablation.arms import Battery
from agentforge.systems.cognate.ablation.battery import FULL, QUICK
from agentforge.systems.cognate.ablation.findings import findings_of, write_findings
from agentforge.systems.cognate.ablation.page import STAGE, TABLES, write_tables_and_pictures
from agentforge.systems.cognate.ablation.runner import Results, outcomes, run_battery, tuning_runs, used_runs
from agentforge.systems.cognate.ablation.sources import code_fingerprint

OUTPUT = Path("runs/cognate")
RUNS = "ablation-runs"
"""Folder of finished runs, kept between batteries; deleting it costs time and nothing else."""


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    battery = QUICK if options.quick else FULL
    try:
        if options.plan:
            print(budget(battery, options.workers))
            return 0
        target = ablate(battery, options.output, options.workers, options.replace, _say)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print((target / TABLES).read_text(encoding="utf-8"))
    print(f"{target}: tables, pictures, and a file for each run")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # into a file, too, each line when it is said


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m agentforge.systems.cognate.ablation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the questions with the largest answers")
    parser.add_argument("--plan", action="store_true", help="show the runs and their minutes, and do nothing")
    parser.add_argument("--replace", action="store_true", help="make the tables again, from runs that are still valid")
    parser.add_argument("--workers", type=int, default=min(2, available_cores()), help="processes of one thread each")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of the artefact")
    return parser.parse_args(words)


def ablate(
    battery: Battery, output: Path, workers: int, replace: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Run a battery, or go on with one that was stopped.

    Returns:
        the artefact ``ablation-NAME``; the runs lie beside it in ``ablation-runs``, for this battery and others.

    Raises:
        UserError: the artefact was made from other runs, or is being made.
    """
    from agentforge.systems.cognate.ablation.training import train

    results = Results(output / RUNS, code_fingerprint)
    depends = {"code": code_fingerprint(True), "battery": describe(battery)}
    with stage_directory(output / f"ablation-{battery.name}", stage=STAGE, recipe=depends, replace=replace) as work:
        if not work.done:
            run_battery(battery, results, train, workers, say)
            used = used_runs(battery, results)
            seconds = sum(found["cpu_seconds"] for run in used if (found := results.get(run)) is not None)
            findings = findings_of(battery, outcomes(battery, results), seconds)
            write_findings(work.path, findings)
            write_tables_and_pictures(work.path, findings)
            (work.path / "runs").mkdir()
            for run in used:  # the figures behind the tables, for those who want other tables
                shutil.copy(results.path(run), work.path / "runs")
            work.metrics = {"runs": len(used), "cpu_minutes": round(findings.cpu_minutes, 1)}
    return work.target


def describe(battery: Battery) -> dict[str, Any]:
    """Return what makes the tables what they are: seeds, arms and questions."""
    described = asdict(battery)
    for arm in described["arms"]:
        del arm["minutes"]
    return described


def budget(battery: Battery, workers: int) -> str:
    """Return the plan: runs and CPU-minutes of each arm."""
    lines = [f"{'arm':60} {'runs':>5} {'CPU-min':>8}"]
    total = 0.0
    for arm in battery.arms:
        runs = len(tuning_runs(arm)) + len(battery.seeds)
        total += runs * arm.minutes
        lines.append(f"{arm.task.name + ': ' + arm.name:60} {runs:5} {runs * arm.minutes:8.1f}")
    lines.append(f"{'together':60} {'':5} {total:8.1f}, about {total / workers:.0f} minutes with {workers} processes")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
