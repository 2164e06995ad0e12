"""A curriculum by epoch: shares, what is missing, figures, and that a restart inside a stage changes nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentforge.data.mixing.curriculum import stages_without
from agentforge.data.sources.source_files import MissingData
from agentforge.errors import UserError
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Data, DataStage, Recipe
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.supervised.epoch_stages import EpochStages
from agentforge.trainers.supervised.method import SupervisedMethod, epochs_of
from agentforge.trainers.supervised.source_schedule import ScheduledSampler
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.test_train import interrupted_at
from tests.trainers.tiny import figures, make_rows, write_prepared

STAGES: list[dict[str, Any]] = [
    {"name": "foundation", "until": 3, "sources": ["a", "b"]},
    {"name": "reasoning", "until": 6, "shares": {"b": 3, "c": 1}},
    {"name": "advanced"},
]
MIX = [{"dataset": name} for name in "abc"]
ROWS = {"a": 60, "b": 30, "c": 10}


def data(stages: list[dict[str, Any]] = STAGES, mix: list[dict[str, str]] = MIX) -> Data:
    return Data.model_validate({"mix": mix, "curriculum": stages})


def test_each_epoch_draws_the_sources_of_its_stage_in_their_shares() -> None:
    names = [name for name, count in ROWS.items() for _ in range(count * 10)]
    stages = EpochStages(data(), Counter(names), [], epochs=10)
    sampler = ScheduledSampler(stages, names, 10, seed=0)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        drawn = Counter(names[row] for row in sampler)
        want = (
            {"a": 2 / 3, "b": 1 / 3}
            if epoch < 3
            else {"b": 0.75, "c": 0.25}
            if epoch < 6
            else {"a": 0.6, "b": 0.3, "c": 0.1}
        )
        assert set(drawn) == set(want), "not one row of another stage"
        assert {name: drawn[name] / 1000 for name in want} == pytest.approx(want, abs=0.05)


def test_a_stage_has_a_number_a_name_and_the_entropy_of_its_shares() -> None:
    stages = EpochStages(data(), ROWS, [], epochs=10)
    first, second, third = stages.at(0), stages.at(3), stages.at(9.99)
    assert [(reading.number, reading.name) for reading in (first, second, third)] == [
        (1, "foundation"), (2, "reasoning"), (3, "advanced"),
    ]  # fmt: skip
    assert second.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert EpochStages(data([{"name": "one", "sources": ["a"]}]), ROWS, [], 1).at(0).entropy == 0
    assert stages.at(2.9999999).number == 1 and stages.shares(0.3) is stages.shares(0.59)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"name": "x", "sources": ["gms8k"]}], r"stage 'x': data.mix has no source 'gms8k'; did you mean 'gsm8k'"),
        ([{"name": "x", "shares": {"zzz": 1}}], "has no source 'zzz'; it has: gsm8k, svamp"),
        ([{"name": "x"}, {"name": "y"}], "only the last stage may lack `until`, but 'x' has none"),
        ([{"name": "x", "until": 2}, {"name": "y", "until": 2}], "'y' must end after epoch 2, where 'x' ends"),
        ([{"name": "x", "until": 1}, {"name": "x"}], "each stage needs a name of its own"),
        ([{"name": "x", "sources": ["svamp"], "shares": {"gsm8k": 1}}], "both `sources` and `shares`"),
        ([{"name": "x", "shares": {"gsm8k": 0}}], "the shares of 'x' must be above 0"),
    ],
)
def test_a_wrong_curriculum_is_refused_when_the_recipe_is_read(
    tmp_path: Path, stages: list[dict[str, Any]], said: str
) -> None:
    mix = [{"dataset": "gsm8k"}, {"dataset": "svamp", "split": "train"}]
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "data": {"mix": mix, "curriculum": stages}}))
    with pytest.raises(UserError, match=said):
        load_recipe(str(tmp_path / "r.yaml"))


# -- sources that are not here --------------------------------------------------------------------------------------


def test_it_is_said_which_stages_change_and_which_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    curriculum = data().curriculum
    assert stages_without(curriculum, []) == {}
    assert stages_without(curriculum, ["c"]) == {"reasoning": ["c"], "advanced": ["c"]}
    assert "stage 'reasoning' goes on with 1 of 2 sources, without c" in caplog.text
    assert "stage 'advanced' goes on with the others, without c" in caplog.text
    with pytest.raises(MissingData, match=r"of stage 'reasoning' no source is here \(b, c\)"):
        stages_without(curriculum, ["b", "c"])


def test_a_missing_source_is_not_drawn_and_one_without_rows_is_refused() -> None:
    rows = {"a": 60, "b": 30}
    stages = EpochStages(data(), rows, ["c"], epochs=10)
    assert stages.shares(0.4) == {"b": 3.0} and stages.shares(0.9) == {"a": 60.0, "b": 30.0}
    with pytest.raises(UserError, match="stage 'reasoning' wants 'c', but the prepared data have no training rows"):
        EpochStages(data(), rows, [], epochs=10)


def test_a_stage_that_never_begins_is_said(caplog: pytest.LogCaptureFixture) -> None:
    EpochStages(data(), ROWS, [], epochs=3)
    assert "stage 'reasoning' never begins: it follows epoch 3 of 3" in caplog.text


def test_lines_of_one_data_set_are_told_apart() -> None:
    mix = [{"dataset": "a"}, {"dataset": "a"}]
    assert data([{"name": "x", "sources": ["a#2"]}], mix).curriculum[0] == DataStage(name="x", sources=["a#2"])
    with pytest.raises(ValueError, match="no source 'a'; it has: a#1, a#2"):
        data([{"name": "x", "sources": ["a"]}], mix)


# -- trained --------------------------------------------------------------------------------------------------------


def staged(recipe: Recipe, name: str) -> Recipe:
    """A recipe of two stages over three epochs of five steps, with its data."""
    rows = make_rows(10, 0)
    for place, row in enumerate(rows):
        row["source"] = ("gsm8k", "svamp")[place % 2]
    changed = recipe.model_copy(update={"name": name, "data": recipe.data.model_copy(update=_two_stages())})
    write_prepared(changed.artifact("data"), rows, make_rows(4, 1))
    return changed


def _two_stages() -> dict[str, Any]:
    stages = [{"name": "first", "until": 1, "sources": ["gsm8k"]}, {"name": "second"}]
    mix = [{"dataset": "gsm8k"}, {"dataset": "svamp", "split": "train"}]
    made = Data.model_validate({"mix": mix, "curriculum": stages})
    return {"mix": made.mix, "curriculum": made.curriculum}


def test_epochs_are_those_of_the_plain_loader_and_a_restart_inside_a_stage_changes_nothing(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_steps": -1, "num_train_epochs": 3, "logging_steps": 1, "save_steps": 2, "packing": False}
    recipe = make_recipe("unused", "sft", **options)
    whole = train(staged(recipe, "whole"))
    lines = [line for line in read_metrics(whole / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 15, "ten rows, two a step: five steps an epoch"
    assert [line["curriculum_stage"] for line in lines] == [1] * 5 + [2] * 10
    assert lines[0]["mixture_entropy"] == 0 and lines[14]["mixture_entropy"] == pytest.approx(math.log(2))
    assert lines[4]["epoch"] == 1 and lines[14]["epoch"] == 3

    victim = staged(recipe, "killed")
    for step in (3, 8, 13):  # within each epoch, once before a checkpoint that is inside the second stage
        with monkeypatch.context() as patched:
            patched.setattr(LimitsCallback, "on_step_end", interrupted_at(step))
            with pytest.raises(KeyboardInterrupt):
                train(victim)
    resumed = train(victim)
    weights = [hashlib.sha256((made / "model.safetensors").read_bytes()).hexdigest() for made in (whole, resumed)]
    assert weights[0] == weights[1]
    assert [line for line in figures(resumed) if "loss" in line] == [line for line in figures(whole) if "loss" in line]


def test_another_curriculum_is_another_training(make_recipe: MakeRecipe) -> None:
    recipe = staged(make_recipe("unused", "sft", num_train_epochs=3, max_steps=-1), "one")
    plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"curriculum": []})})
    assert SupervisedMethod(recipe).relevant() != SupervisedMethod(plain).relevant()
    assert "data" not in SupervisedMethod(plain).relevant()


def test_epochs_of_a_run_of_steps(make_recipe: MakeRecipe) -> None:
    args = SupervisedMethod(make_recipe("steps", max_steps=12, gradient_accumulation_steps=2)).args
    assert epochs_of(args, rows=10) == 12 / 3, "five batches: two steps of two and one of one"
    args = SupervisedMethod(make_recipe("epochs", max_steps=-1, num_train_epochs=2)).args
    assert epochs_of(args, rows=10) == 2
