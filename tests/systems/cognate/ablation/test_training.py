"""One run of the real model, in a size that trains in a second; and the command from start to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused
from agentforge.systems.cognate.ablation import __main__ as command
from agentforge.systems.cognate.ablation.arms import Arm, Battery, Question, Run
from agentforge.systems.cognate.ablation.battery import FULL, QUICK, tiny
from agentforge.systems.cognate.ablation.controls import EmaMemory, flops_per_token
from agentforge.systems.cognate.ablation.findings import read_findings
from agentforge.systems.cognate.ablation.measuring import score, score_logits
from agentforge.systems.cognate.ablation.page import page_groups
from agentforge.systems.cognate.ablation.tasks.base import seeded
from agentforge.systems.cognate.ablation.tasks.recall import Recall
from agentforge.systems.cognate.ablation.tasks.state_tracking import RunningProduct
from agentforge.systems.cognate.ablation.training import make_model, rate_at, train

SMALL = tiny(hidden_size=16, intermediate_size=16, num_attention_heads=2, head_dim=8, memory_head_dim=8, gate_rank=4)
SHORT = Arm("short", RunningProduct(length=4, test_rows=32), SMALL, steps=20, batch=16, every=10, rates=(0.01,))
HALTING = replace(SHORT, name="halting", model={**SMALL, "max_recursions": 3, "halting": "expected"})


def test_a_run_is_the_same_every_time_and_learns() -> None:
    one, same, other = train(Run(SHORT, 0, 0.01)), train(Run(SHORT, 0, 0.01)), train(Run(SHORT, 1, 0.01))
    same["cpu_seconds"] = one["cpu_seconds"]
    assert one == same and one["curve"] != other["curve"]
    longer = train(Run(replace(SHORT, steps=150, every=50), 0, 0.01))
    assert longer["accuracy"] > SHORT.task.trivial and longer["loss"] < one["loss"]
    assert longer["by_position"][0] > 0.9, "the first product is the first element"


def test_a_run_stops_when_its_task_is_solved_twice_in_a_row() -> None:
    run = train(Run(replace(SHORT, steps=100, target=0.0, stop=0.0), 0, 0.01))
    assert run["steps"] == 20 and run["reached"] == 10 and run["budget"] == 100


def test_a_model_with_halting_is_measured_at_every_depth_and_threshold() -> None:
    run = train(Run(HALTING, 0, 0.01))
    fixed, adaptive = run["exits"]["fixed"], run["exits"]["adaptive"]
    assert [one["steps"] for one in fixed] == [1, 2, 3]
    assert fixed[-1]["accuracy"] == run["accuracy"], "the last depth is the whole model"
    steps = [one["steps"] for one in adaptive]
    assert steps == sorted(steps) and steps[0] >= 1 and steps[-1] <= 3, "a higher threshold thinks longer"
    assert all(len(one["by_position"]) == 4 for one in adaptive)
    picture = run["picture"]
    assert picture["most"] == 3 and all(len(row["tokens"]) == len(row["steps"]) == 4 for row in picture["rows"])


def test_scores_count_only_what_is_scored() -> None:
    batch = SHORT.task.train_batch(8, seeded(0))
    logits = torch.nn.functional.one_hot(batch.labels.clamp(min=0), 7).float().roll(-1, 1) * 9
    perfect = score_logits(logits, batch)
    assert perfect.accuracy == perfect.solved_rows == 1.0 and perfect.by_position == [1.0] * 4
    batch.labels[0, 2] = (batch.labels[0, 2] + 1) % 6
    one_wrong = score_logits(logits, batch)
    assert one_wrong.accuracy == 31 / 32 and one_wrong.solved_rows == 7 / 8
    batch.scored[0, 2] = False
    assert score_logits(logits, batch).accuracy == 1.0


def test_equal_flops_are_equal_and_a_loop_has_no_more_parameters() -> None:
    batch = SHORT.task.train_batch(4, seeded(0))
    looped, single, deep = (
        make_model(replace(SHORT, model={**SMALL, **changes}))
        for changes in ({"max_recursions": 4}, {}, {"num_prelude_layers": 4})
    )
    flops = [flops_per_token(model, batch) for model in (looped, single, deep)]
    assert flops[0] == flops[2] > 1.5 * flops[1]
    assert looped.num_parameters() == single.num_parameters() < deep.num_parameters()
    # Two layers of attention over 5 tokens and 2 persistent ones, three matrices of the MLP, and the head.
    d, rows, tokens, persistent = 16, 4, 5, 2
    projections = 4 * 2 * d * d * tokens * rows + 2 * 2 * d * d * persistent
    products = 2 * 2 * d * tokens * (tokens + persistent) * rows
    layer = projections + products + 3 * 2 * d * 16 * tokens * rows
    assert flops[1] * rows * tokens == 2 * layer + 2 * d * 7 * tokens * rows


def test_the_control_is_causal_and_cannot_address() -> None:
    arm = Arm("ema", Recall(test_gaps=(4,), test_rows=8), {**SMALL, "memory_layers": None}, ema_memory=True)
    model = make_model(arm).eval()
    assert all(isinstance(layer.memory, EmaMemory) for layer in (*model.model.prelude, *model.model.core))
    ids = arm.task.train_batch(2, seeded(0)).input_ids
    changed = ids.clone()
    changed[:, 10:] = 49
    with torch.no_grad():
        one, other = (model(input_ids=x, use_cache=False).logits[:, :10] for x in (ids, changed))
    assert torch.equal(one, other)
    assert 0 <= score(model, arm.task.test_batches()["gap 4"]).accuracy <= 1


def test_rates_warm_up_and_fall() -> None:
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == 0.02 and max(rates) == 1.0 and rates.index(1.0) in (49, 50)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_the_batteries_ask_about_arms_that_they_have() -> None:
    for battery in (FULL, QUICK):
        asked = {name for question in battery.questions for name in question.arms}
        assert asked == {arm.name for arm in battery.arms}, "no arm is trained for nothing"
        assert len(battery.seeds) >= 3
    assert all(arm in FULL.arms for arm in QUICK.arms), "the full battery goes on from the quick one's runs"


def test_the_command_makes_an_artefact_once_and_goes_on_from_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = Question("Do three steps help?", "accuracy", ("halting", "short"), (("halting", "short"),))
    battery = Battery("micro", (SHORT, HALTING), (question,), (0, 1))
    monkeypatch.setattr(command, "FULL", battery)
    words = ["--output", str(tmp_path), "--workers", "1"]
    assert command.main([*words, "--plan"]) == 0 and not list(tmp_path.iterdir())
    assert "halting" in capsys.readouterr().out
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "0 runs left" in said and "Do three steps help?" in said
    artefact = tmp_path / "ablation-micro"
    assert read_manifest(artefact)["metrics"]["runs"] == 4 and len(list((artefact / "runs").iterdir())) == 4
    assert len(page_groups([artefact])[0]["tables"]) == 3
    assert command.main(words) == 0 and "runs left" not in capsys.readouterr().out, "it is there already"
    # Another question over the same arms trains nothing again, but it must be asked for.
    monkeypatch.setattr(command, "FULL", replace(battery, questions=(replace(question, title="Another?"),)))
    assert command.main(words) == CheckRefused.exit_code
    assert command.main([*words, "--replace"]) == 0 and "runs left" not in capsys.readouterr().out
    assert read_findings(artefact).answers[0].question.title == "Another?"
