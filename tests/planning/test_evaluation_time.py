"""How long evaluations take, against sums by hand."""

import json
from pathlib import Path

import pytest

from agentforge.evaluation.evaluate import load_questions
from agentforge.planning.constants import DISK, EPISODE_SHARE, LAYER_SECONDS
from agentforge.planning.evaluation_time import _questions, evaluation_hours
from agentforge.planning.parameters import count_parameters
from agentforge.planning.shapes import shape_of
from agentforge.recipe.loading import load_recipe


def test_questions_are_those_that_are_asked() -> None:
    recipe = load_recipe("aj")
    reading, asked = _questions(recipe), load_questions(recipe)
    assert reading is not None and reading.answers == len(asked)
    limited = _questions(load_recipe("aj", ["evaluate.tool_calls.limit=7"]))
    assert limited is not None and limited.answers == 7 and limited.own.mid < reading.own.mid


def test_tokens_are_about_those_of_a_tokenizer() -> None:
    recipe = load_recipe("aj")
    reading = _questions(recipe)
    assert reading is not None
    characters = sum(len(json.dumps(question.context, ensure_ascii=False)) for question in load_questions(recipe))
    assert reading.own.low < characters / 3.8 < 1.3 * reading.own.high


def test_a_gguf_reads_its_file_once_for_each_token() -> None:
    recipe = load_recipe("aj", ["evaluate.tool_calls.max_new_tokens=4000"])  # so that writing is nearly all of it
    hours, basis = evaluation_hours(recipe, "q8")
    total = count_parameters(shape_of(recipe)).total
    written = 243 * 4000 * EPISODE_SHARE.range.mid * (8.5 / 8 * total / (20 * 6e9)) / 3600
    assert hours.mid == pytest.approx(written, rel=0.05)
    assert basis == "243 questions; llama.cpp on 20 cores"
    assert evaluation_hours(recipe, "q4km")[0].mid < 0.65 * hours.mid


def test_episodes_are_played_in_waves() -> None:
    recipe = load_recipe("affine", ["evaluate.environments.tasks=80", "evaluate.environments.names=['affine:sat']"])
    shape = shape_of(recipe)
    waves = -(-80 // recipe.rollouts.batch_size)
    launches = waves * recipe.episode_length * shape.num_hidden_layers * LAYER_SECONDS.range.mid / 3600
    loading = DISK.range.mid * 2 * count_parameters(shape).total / 1e9 / 3600
    hours, basis = evaluation_hours(recipe, "lora")
    assert hours.mid == pytest.approx(launches * EPISODE_SHARE.range.mid + loading, rel=0.1)
    assert basis == "80 episodes; one device"


def test_what_is_not_counted_is_said() -> None:
    assert evaluation_hours(load_recipe("agiformer"), None)[1].endswith("not counted: bpc")


def test_losses_are_read_at_the_share_of_the_peak(tmp_path: Path) -> None:
    recipe = load_recipe("adamba/phase1", [f"output_dir={tmp_path}"])
    hours, basis = evaluation_hours(recipe, "model")
    forward = 1000 * 2048 * 2 * count_parameters(shape_of(recipe)).multiplied / (989e12 * 0.35) / 3600
    loading = DISK.range.mid * 2 * count_parameters(shape_of(recipe)).total / 1e9 / 3600
    assert hours.mid == pytest.approx(forward + loading) and "the loss of whole rows" in basis
    without = evaluation_hours(
        load_recipe("adamba/phase1", [f"output_dir={tmp_path}", "evaluate.loss.rows=null"]), "model"
    )
    assert without[0].mid == pytest.approx(loading)


def test_a_comparison_of_models_that_others_make_stops_no_plan() -> None:
    hours, basis = evaluation_hours(load_recipe("cognate/diversity"), None)
    assert (hours.low, hours.high) == (0, 0) and basis == "not counted: the comparison of a set of models"
