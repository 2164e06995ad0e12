"""How long a run plays, against the trainer's own count of rollouts and a sum by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentforge.planning.constants import LAYER_SECONDS, SAMPLER_READS
from agentforge.planning.flops import count_tokens
from agentforge.planning.parameters import count_parameters
from agentforge.planning.plan import make_plan
from agentforge.planning.rollout_time import count_rollouts, playing_hours, sampler_seconds
from agentforge.planning.samplers import load_samplers
from agentforge.planning.shapes import shape_of
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import load_recipe
from agentforge.trainers.rl.arguments import rl_defaults


@pytest.mark.parametrize(
    ("name", "overrides", "devices", "expected"),
    [
        ("affine/ppo", [], 1, (100, 4)),
        ("affine/ppo", ["train.args.rollout_batch_size=64"], 8, (100, 8)),
        ("affine/ppo", ["train.args.max_steps=40"], 1, (10, 4)),
        ("affine/grpo", [], 1, (100, 16)),
        ("affine/grpo", ["train.args.num_iterations=1", "train.args.steps_per_generation=4"], 1, (1600, 4)),
    ],
)
def test_rollouts_are_those_of_the_run(
    name: str, overrides: list[str], devices: int, expected: tuple[int, int]
) -> None:
    assert count_rollouts(load_recipe(name, overrides), devices) == expected


def test_playing_is_tokens_one_after_another() -> None:
    recipe = load_recipe("affine/ppo", ["rollouts.batch_size=3"])  # 4 episodes: two waves
    hours, basis = playing_hours(recipe, shape_of(recipe), load_hardware("1xh200"))
    launches = 100 * 2 * 4096 * 36 * LAYER_SECONDS.range.high / 3600
    assert launches < hours.high < 1.1 * launches, "at 4B parameters the arithmetic is hidden behind the launches"
    assert hours.low < hours.mid < hours.high and "100 rollouts of 4 episodes" in basis


def test_a_plan_of_rl_has_the_playing_and_one_of_sft_has_not() -> None:
    costs = {stage.stage: stage for stage in make_plan(load_recipe("affine/ppo")).stages}
    assert costs["play"].hours.mid > costs["train"].hours.mid
    assert costs["play"].dollars.mid == pytest.approx(3.5 * costs["play"].hours.mid)
    assert "play" not in {stage.stage for stage in make_plan(load_recipe("affine/sft")).stages}


@pytest.mark.parametrize("name", ["affine/ppo", "affine/grpo"])
def test_a_row_of_rl_is_an_episode_wherever_it_is_counted(name: str) -> None:
    """GRPO's rows (and PPO's with max_steps) were priced as long as `data.max_length`, whatever an episode may have."""
    recipe = load_recipe(name, ["rollouts.max_length=1024", "train.args.max_steps=8"])
    assert recipe.data.max_length == 4096 and recipe.episode_length == recipe.row_length == 1024
    tokens = count_tokens(recipe)
    assert tokens is not None and tokens.slots == tokens.rows * 1024
    assert rl_defaults(recipe)["max_completion_length"] == 1024
    supervised = load_recipe("affine/sft", ["rollouts.max_length=1024"])
    assert (supervised.episode_length, supervised.row_length) == (1024, 4096)


def test_vllm_reads_the_weights_once_a_token() -> None:
    recipe = load_recipe("affine/ppo", ["rollouts.engine=vllm"])
    shape, hardware = shape_of(recipe), load_hardware("1xh200")
    seconds = sampler_seconds(recipe, shape, 16, hardware)
    assert seconds is not None
    reading = 2 * count_parameters(shape).total / 4.8e12
    assert 1.7 * reading < seconds.mid < 2.5 * reading, "at 16 rows most of it is reading"
    own, _ = playing_hours(load_recipe("affine/ppo"), shape, hardware)
    hours, basis = playing_hours(recipe, shape, hardware)
    assert hours.mid < own.mid / 5 and "by vLLM (transformers: about" in basis


def test_a_plan_says_which_engine_to_take() -> None:
    h200, cpu = load_hardware("1xh200"), load_hardware("cpu")
    recipe = load_recipe("affine/grpo")
    assert "; rollouts.engine: vllm would take about" in playing_hours(recipe, shape_of(recipe), h200)[1]
    assert "vllm" not in playing_hours(recipe, shape_of(recipe), cpu)[1]
    unknown = h200.model_copy(update={"gpu": "B9000"})
    assert "how fast vLLM is on B9000 is not in" in playing_hours(recipe, shape_of(recipe), unknown)[1]
    served = load_recipe("affine/grpo", ["rollouts.engine=vllm", "rollouts.vllm={mode: server, url: 'http://h:1'}"])
    assert "the GPUs of the server are not counted" in playing_hours(served, shape_of(served), h200)[1]
    hybrid = replace(shape_of(recipe), model_type="adamba")
    assert "vLLM does not know the models of adamba" in playing_hours(recipe, hybrid, h200)[1]


def test_the_range_of_vllm_holds_what_was_measured() -> None:
    table = load_samplers()
    for one in table.measured:
        bandwidth = table.bandwidth(one.card)
        assert bandwidth is not None
        multiple = one.rows / one.tokens_per_second / (2 * one.parameters / bandwidth)
        assert SAMPLER_READS.range.low * 0.98 <= multiple <= SAMPLER_READS.range.high, one
