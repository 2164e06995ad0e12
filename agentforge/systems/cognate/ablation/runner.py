"""Runs a battery on a few processes, each with one thread. What is finished is never run again."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from agentforge.artifacts import hash_json, write_json
from agentforge.systems.cognate.ablation.arms import TUNING_SEED, Arm, Battery, Run
from agentforge.systems.cognate.ablation.summary import Outcome

Train = Callable[[Run], dict[str, Any]]
Say = Callable[[str], None]


class Results:
    """The finished runs as files, one for each: a killed battery goes on where it was, and two batteries share runs.

    A file's name is the hash of all that the run depends on, the code of the model included.
    """

    def __init__(self, directory: Path, code: Callable[[bool], str] = lambda own_optimizer: "") -> None:
        """Open a folder of runs.

        Args:
            directory: where results are written.
            code: fingerprint of the code that runs, with or without our optimisers; results of other code are not
                found.
        """
        self.directory, self.code = directory, code
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, run: Run) -> Path:
        """Return the file of a run, whether it is there or not."""
        return self.directory / f"{hash_json([run.identity, self.code(run.arm.own_optimizer)])[:16]}.json"

    def get(self, run: Run) -> Outcome | None:
        """Return what a run found; None: it has not been done."""
        path = self.path(run)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def put(self, run: Run, outcome: Mapping[str, Any]) -> None:
        write_json(self.path(run), outcome)


def tuning_runs(arm: Arm) -> list[Run]:
    """Return the runs that pick an arm's rate; none if there is nothing to pick."""
    return [Run(arm, TUNING_SEED, rate) for rate in arm.rates] if len(arm.rates) > 1 else []


def best_rate(arm: Arm, results: Results) -> float | None:
    """Return an arm's rate; None: it is not known yet, since a tuning run is missing.

    The best rate reached the target first; where none did, it has the best accuracy at the end.
    """
    tuned = tuning_runs(arm)
    if not tuned:
        return arm.rates[0]
    found = [(run.rate, results.get(run)) for run in tuned]
    known = [(rate, outcome) for rate, outcome in found if outcome is not None]
    if len(known) < len(found):
        return None
    return min(known, key=lambda one: (one[1]["reached"] or float("inf"), -one[1]["accuracy"]))[0]


def final_runs(arm: Arm, seeds: Sequence[int], rate: float) -> list[Run]:
    """Return the runs that count."""
    return [Run(arm, seed, rate) for seed in seeds]


def used_runs(battery: Battery, results: Results) -> list[Run]:
    """Return the finished runs of a battery, those that tuned rates included."""
    found = [run for arm in battery.arms for run in tuning_runs(arm)]
    for arm in battery.arms:
        if (rate := best_rate(arm, results)) is not None:
            found += final_runs(arm, battery.seeds, rate)
    return [run for run in found if results.get(run) is not None]


def outcomes(battery: Battery, results: Results) -> dict[str, dict[int, Outcome]]:
    """Return what is known by now: arm to seed to outcome."""
    found: dict[str, dict[int, Outcome]] = {}
    for arm in battery.arms:
        rate = best_rate(arm, results)
        runs = final_runs(arm, battery.seeds, rate) if rate is not None else []
        found[arm.name] = {run.seed: outcome for run in runs if (outcome := results.get(run)) is not None}
    return found


def run_battery(battery: Battery, results: Results, train: Train, workers: int, say: Say) -> None:
    """Do all runs of a battery that are not done yet.

    An arm's own runs wait for its tuning runs. The longest come first, so that no process is left with a long run
    when the others have nothing more to do.

    Args:
        train: does one run; it must be importable by name, since it runs in other processes.
        workers: processes; 1 runs everything here.
        say: prints a line of progress.
    """
    progress = Progress(battery, results, say, workers)
    if workers == 1:
        while ready := list(_ready(battery, results, set())):
            progress.done(ready[0], _keep(ready[0], train(ready[0]), results))
        return
    # Spawned, not forked: a fork of a process in which torch has started threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        running: dict[Future[dict[str, Any]], Run] = {}
        while True:
            for run in _ready(battery, results, {one.key for one in running.values()}):
                if len(running) < workers:
                    running[pool.submit(train, run)] = run
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                progress.done(run, _keep(run, future.result(), results))


def _keep(run: Run, outcome: dict[str, Any], results: Results) -> dict[str, Any]:
    results.put(run, outcome)
    return outcome


def _one_thread() -> None:
    # Two processes with two threads each would fight for two cores. One thread also makes sums the same every time.
    import torch

    torch.set_num_threads(1)


def _ready(battery: Battery, results: Results, busy: set[str]) -> Iterator[Run]:
    """Yield the runs that can start now, the longest arm first, each once."""
    seen = set(busy)
    for arm in sorted(battery.arms, key=lambda arm: -arm.minutes):
        tuned = tuning_runs(arm)
        rate = best_rate(arm, results)
        wanted = tuned if rate is None else final_runs(arm, battery.seeds, rate)
        for run in wanted:
            if run.key not in seen and results.get(run) is None:
                seen.add(run.key)
                yield run


class Progress:
    """Says after each run how many are left and how long they will take."""

    def __init__(self, battery: Battery, results: Results, say: Say, workers: int) -> None:
        self.battery, self.say, self.workers = battery, say, workers
        self.left = missing_minutes(battery, results)
        self.runs = missing_runs(battery, results)
        self.expected, self.started = 0.0, time.monotonic()

    def done(self, run: Run, outcome: Mapping[str, Any]) -> None:
        """Say what a run found, and when the rest will be ready."""
        self.expected += run.arm.minutes
        self.left, self.runs = max(0.0, self.left - run.arm.minutes), self.runs - 1
        # The arms' minutes were measured on another machine: what this one took so far says how they compare.
        pace = (time.monotonic() - self.started) / 60 / self.expected
        tuning = " (tuning)" if run.seed == TUNING_SEED else ""
        self.say(
            f"{run.arm.task.name}: {run.arm.name}, seed {run.seed}{tuning}, rate {run.rate:g}: "
            f"{outcome['accuracy']:.1%} after {outcome['steps']} steps, {outcome['cpu_seconds']:.0f} CPU-s; "
            f"{self.runs} runs left, about {pace * self.left:.0f} minutes"
        )


def missing_runs(battery: Battery, results: Results) -> int:
    """Return how many runs are still to be done."""
    return sum(len(runs) for _, runs in _missing(battery, results))


def missing_minutes(battery: Battery, results: Results) -> float:
    """Return the CPU-minutes of what is still to be done."""
    return sum(arm.minutes * len(runs) for arm, runs in _missing(battery, results))


def _missing(battery: Battery, results: Results) -> Iterator[tuple[Arm, list[float]]]:
    for arm in battery.arms:
        rate = best_rate(arm, results)
        # Before the tuning is done the rate of the others does not matter for counting.
        final = final_runs(arm, battery.seeds, arm.rates[0] if rate is None else rate)
        undone = [run.rate for run in tuning_runs(arm) if results.get(run) is None]
        undone += [run.rate for run in final if rate is None or results.get(run) is None]
        yield arm, undone
