"""The runner: nothing is done twice, rates are tuned on a seed of their own, and a killed battery goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentforge.systems.cognate.ablation import sources
from agentforge.systems.cognate.ablation.arms import TUNING_SEED, Arm, Battery, Run
from agentforge.systems.cognate.ablation.runner import (
    Results,
    best_rate,
    missing_minutes,
    missing_runs,
    outcomes,
    run_battery,
    used_runs,
)
from agentforge.systems.cognate.ablation.tasks.recall import Recall

PLAIN = Arm("plain", Recall(), minutes=1)
TUNED = Arm("tuned", Recall(), {"hidden_size": 8}, rates=(0.1, 0.2, 0.3), minutes=2)
BATTERY = Battery("small", (PLAIN, TUNED), (), (0, 1))


class Pretended:
    """Trains nothing: the middle rate is the best, and some call can be made to fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.done: list[tuple[str, int, float]] = []
        self.fails_at = fails_at

    def __call__(self, run: Run) -> dict[str, Any]:
        if len(self.done) == self.fails_at:
            raise KeyboardInterrupt
        self.done.append((run.arm.name, run.seed, run.rate))
        return pretended(run)


def pretended(run: Run) -> dict[str, Any]:
    reached = {0.1: None, 0.2: 100, 0.3: 200}.get(run.rate, 50)
    return {"accuracy": run.rate, "reached": reached, "steps": 5, "cpu_seconds": 1.0, "seed": run.seed}


def silent(_: str) -> None:
    return None


def test_rates_are_picked_on_their_own_seed_and_only_the_best_is_run_on(tmp_path: Path) -> None:
    results, train = Results(tmp_path), Pretended()
    assert best_rate(TUNED, results) is None and best_rate(PLAIN, results) == PLAIN.rates[0]
    run_battery(BATTERY, results, train, 1, silent)
    tuned = [one for one in train.done if one[0] == "tuned"]
    assert tuned == [("tuned", TUNING_SEED, rate) for rate in (0.1, 0.2, 0.3)] + [("tuned", s, 0.2) for s in (0, 1)]
    assert train.done[0][0] == "tuned", "the longest arm is begun first"
    found = outcomes(BATTERY, results)
    assert {name: sorted(seeds) for name, seeds in found.items()} == {"plain": [0, 1], "tuned": [0, 1]}
    assert len(used_runs(BATTERY, results)) == 2 + 3 + 2


def test_of_rates_that_never_reach_the_target_the_most_accurate_is_taken(tmp_path: Path) -> None:
    results, arm = Results(tmp_path), replace(TUNED, rates=(0.4, 0.6))
    for rate, accuracy in ((0.4, 0.9), (0.6, 0.3)):
        results.put(Run(arm, TUNING_SEED, rate), {"accuracy": accuracy, "reached": None})
    assert best_rate(arm, results) == 0.4


def test_a_battery_that_was_killed_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    first, second = Pretended(fails_at=4), Pretended()
    with pytest.raises(KeyboardInterrupt):
        run_battery(BATTERY, Results(tmp_path), first, 1, silent)
    assert missing_runs(BATTERY, Results(tmp_path)) == 3
    run_battery(BATTERY, Results(tmp_path), second, 1, silent)
    assert len(first.done) + len(second.done) == 7 and not set(first.done) & set(second.done)
    run_battery(BATTERY, Results(tmp_path), Pretended(fails_at=0), 1, silent)
    assert missing_minutes(BATTERY, Results(tmp_path)) == 0


def test_a_run_is_found_by_what_it_depends_on(tmp_path: Path) -> None:
    results = Results(tmp_path, lambda own_optimizer: f"this code, {own_optimizer}")
    results.put(Run(PLAIN, 0, 0.003), {"accuracy": 1.0})
    renamed = replace(PLAIN, name="another name", minutes=9, rates=(0.003, 0.1))
    assert results.get(Run(renamed, 0, 0.003)) is not None
    for other in (replace(PLAIN, steps=2), replace(PLAIN, task=Recall(pairs=3)), replace(PLAIN, model={"a": 1})):
        assert results.get(Run(other, 0, 0.003)) is None
    assert results.get(Run(PLAIN, 1, 0.003)) is None
    assert Results(tmp_path, lambda own_optimizer: "other code").get(Run(PLAIN, 0, 0.003)) is None


def test_a_comment_or_a_docstring_is_no_other_code() -> None:
    one = sources.bare('"""A."""\nX = 1\n"""Says."""\ndef f():\n    """B."""\n    return X\n')
    assert (
        one
        == sources.bare("X = 1  # one\ndef f():\n\n    return X\n")
        != sources.bare("X = 2\ndef f():\n    return X\n")
    )


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    said: list[str] = []
    run_battery(BATTERY, Results(tmp_path / "two"), pretended, 2, said.append)
    run_battery(BATTERY, Results(tmp_path / "one"), pretended, 1, silent)
    assert outcomes(BATTERY, Results(tmp_path / "two")) == outcomes(BATTERY, Results(tmp_path / "one"))
    assert len(said) == 7 and "0 runs left" in said[-1] and sum("(tuning)" in line for line in said) == 3


def test_the_fingerprint_follows_imports_to_the_model_and_leaves_out_what_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    original = sources.file_of

    def watched(module: str) -> Path | None:
        read.append(module)
        return original(module)

    monkeypatch.setattr(sources, "file_of", watched)
    sources.code_fingerprint.__wrapped__(True)
    ours = {name.removeprefix("agentforge.") for name in read}
    assert {"systems.cognate.modeling.neural_memory", "losses.halting", "optim.mugrokfast"} <= ours
    assert {"systems.cognate.ablation.training", "systems.cognate.ablation.tasks.sudoku"} <= ours
    assert not {name for name in ours if name.endswith((".tables", ".drawing", ".page", ".artifacts"))}
    read.clear()
    sources.code_fingerprint.__wrapped__(False)
    assert not [name for name in read if name.startswith("agentforge.optim")]
