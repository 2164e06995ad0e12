"""How long a run plays, against the trainer's own count of rollouts and a sum by hand."""

from __future__ import annotations

import pytest

from agentforge.planning.flops import count_tokens
from agentforge.planning.plan import make_plan
from agentforge.planning.rollout_time import LAUNCH, count_rollouts, playing_hours
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
    launches = 100 * 2 * 4096 * 36 * LAUNCH[2] / 3600
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
