"""RL as a stage: it learns from the reward and from nothing else, and no kill changes what comes out."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Recipe
from agentforge.trainers import train as stage
from agentforge.trainers.rl.rollout import RolloutFunction
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA
from tests.trainers.toys import Colours

LEARNS: dict[str, dict[str, Any]] = {
    "ppo": {"max_steps": 60, "per_device_train_batch_size": 48, "ppo_epochs": 4, "learning_rate": 1e-3},
    "grpo": {"max_steps": 40, "per_device_train_batch_size": 48, "num_generations": 8, "learning_rate": 1e-3},
}


LONG = {"colours": {"class": "tests.trainers.rl.test_grpo:Wordy", "colours": 1}}


class Wordy(Colours):
    """Has more instructions than the context holds."""

    instructions = "say the colour " * 20


def rates(made: Path, key: str = "success") -> list[float]:
    return [line[key] for line in read_metrics(made / "metrics.jsonl") if key in line]


def digest(made: Path) -> str:
    names = ("adapter_model.safetensors", "model.safetensors")
    return hashlib.sha256(next(p for n in names if (p := made / n).is_file()).read_bytes()).hexdigest()


def figures(made: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock and on the machine."""
    clock = ("seconds", "_per_second", "_time", "minutes", "mem_allocated", "mem_reserved")
    return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in read_metrics(made / "metrics.jsonl")]


def shuffle_rewards(patch: pytest.MonkeyPatch) -> None:
    """Give each episode the rewards of another one of its batch."""
    original, rng = RolloutFunction.__call__, random.Random(0)

    def shuffled(self: RolloutFunction, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        played = original(self, prompts, trainer)
        order = list(range(len(prompts)))
        rng.shuffle(order)
        for key in ("turn_rewards", "reward_columns"):
            played[key] = [played[key][i] for i in order]
        return played

    patch.setattr(RolloutFunction, "__call__", shuffled)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_success_rises_and_with_rewards_shuffled_between_episodes_it_does_not(
    make_toy: MakeRecipe, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"train": {"args": LEARNS[method]}}
    learnt = rates(train(make_toy(method, "real", **sections)))
    shuffle_rewards(monkeypatch)
    idle = rates(train(make_toy(method, "shuffled", **sections)))
    assert learnt[0] == idle[0] < 0.2, "both begin alike"
    assert sum(learnt[-3:]) / 3 > 0.5
    assert sum(idle[-3:]) / 3 < 0.3


def test_what_is_left_behind_and_what_is_logged(make_toy: MakeRecipe) -> None:
    recipe = make_toy("grpo", train={"lora": LORA, "curriculum": {"start": 0}, "collapse": {}, "args": {"beta": 0.1}})
    made = train(recipe)
    assert made == recipe.artifact("lora")
    assert {path.name for path in made.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
        "chat_template.jinja",
        "manifest.json",
        "metrics.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    metrics = read_manifest(made)["metrics"]
    assert metrics["steps"] == 4 and metrics["trainable_parameters"] == 2 * 4 * ((32 + 32) + (32 + 16))
    assert 0 < metrics["trained_tokens"] < metrics["tokens"]
    lines = read_metrics(made / "metrics.jsonl")
    played = next(line for line in lines if "success" in line)
    assert {"success/colours", "score/colours", "valid_actions", "turn_tokens", "turns", "truncated"} <= played.keys()
    assert played["level/colours"] == 0 and played["environment_failed"] == 0 and played["turns"] == 2
    assert played["rewards/outcome/mean"] == played["score/colours"]
    assert all("kl" in line for line in lines if "loss" in line)


@pytest.mark.parametrize(
    ("method", "train_section"), [("ppo", {"lora": LORA}), ("grpo", {}), ("ppo", {"curriculum": {"window": 8}})]
)
def test_stopped_in_the_middle_of_a_rollout_it_goes_on_to_the_same_weights(
    make_toy: MakeRecipe, method: str, train_section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {"max_steps": 9, "save_steps": 3, "logging_steps": 2, "gradient_accumulation_steps": 2}
    args |= {"ppo_epochs": 2, "rollout_batch_size": 64} if method == "ppo" else {"generation_batch_size": 64}
    sections = {"train": train_section | {"args": args | {"per_device_train_batch_size": 8}}}
    whole = train(make_toy(method, "whole", **sections))
    victim: Recipe = make_toy(method, "victim", **sections)
    for step in (3, 6):
        with monkeypatch.context() as patched:
            stop_after(step, patched)
            with pytest.raises(KeyboardInterrupt):
                train(victim)
    made = train(victim)
    assert digest(made) == digest(whole)
    assert figures(made) == figures(whole)


def stop_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """Die as by a kill, just after the checkpoint of a step."""
    original = stage.GuardedTrainer._save_checkpoint

    def dying(self: Any, model: Any, trial: Any) -> None:
        original(self, model, trial)
        if self.state.global_step == step:
            raise KeyboardInterrupt

    patch.setattr(stage.GuardedTrainer, "_save_checkpoint", dying)


def test_a_broken_environment_costs_its_episodes_and_not_the_run(make_toy: MakeRecipe) -> None:
    environments = {"colours": {"class": "tests.trainers.toys:Colours", "colours": 1, "broken": 3}}
    made = train(make_toy("ppo", environments=environments))
    (failed,) = rates(made, "environment_failed")
    assert 0.1 < failed < 0.7


def test_a_collapsed_policy_ends_the_run_and_the_checkpoint_is_from_before(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RolloutFunction._row

    def spoilt(self: RolloutFunction, episode: Any, pad: int) -> dict[str, Any]:
        if calls.append(1) or len(calls) > 48:
            episode.turns[:] = [turn.__class__(**(vars(turn) | {"valid_action": False})) for turn in episode.turns]
        return original(self, episode, pad)

    calls: list[int] = []
    monkeypatch.setattr(RolloutFunction, "_row", spoilt)
    collapse = {"min_valid_actions": 0.3, "patience": 2}
    recipe = make_toy(
        "grpo", train={"collapse": collapse, "args": {"num_iterations": 1, "max_steps": 9, "save_steps": 1}}
    )
    with pytest.raises(CheckRefused, match=r"0% of the turns hold a valid action.*after step 5; .* from before") as end:
        train(recipe)
    assert end.value.exit_code == 3 and "\n" not in str(end.value)
    partial = recipe.trained.with_name(f".{recipe.trained.name}.partial")
    assert sorted(path.name for path in partial.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    state = json.loads((partial / "checkpoint-3" / "rollout-0.json").read_text())
    assert state["keeps"]["collapse"]["in_a_row"] == 0


@pytest.mark.parametrize(
    ("method", "sections", "words"),
    [
        ("ppo", {"model": {"config": {"model_type": "qwen3"}}}, "ppo needs model.path"),
        ("ppo", {"environments": {}}, "needs `environments`"),
        ("grpo", {"rollouts": {"temperature": 0.0}}, r"rollouts\.temperature is 0"),
        (
            "grpo",
            {"rollouts": {"top_p": 0.9}},
            r"rollouts\.top_p is 0\.9, but grpo must train on the whole",
        ),
        ("grpo", {"train": {"args": {"max_steps": -1}}}, "the run needs a number of steps"),
        ("grpo", {"train": {"args": {"eval_strategy": "steps"}}}, "RL has no eval split"),
        ("grpo", {"train": {"args": {"sapo_temperature_pos": 2.0}}}, "no effect with loss_type dapo; it needs sapo"),
        (
            "grpo",
            {"train": {"args": {"loss_type": "sapo", "epsilon": 0.1}}},
            "epsilon has no effect with loss_type sapo",
        ),
        ("grpo", {"train": {"args": {"sync_ref_model": True}}}, "no effect without a KL term"),
        ("grpo", {"train": {"collapse": {"max_kl": 1.0}}}, "only computed with"),
        ("grpo", {"train": {"args": {"num_generations": 7}}}, "must be divisible by num_generations"),
        ("grpo", {"train": {"rewards": [{}, {"function": "potential"}]}}, "would have no effect"),
        ("ppo", {"train": {"args": {"loss_type": "cispo", "clip_range": 0.1}}}, "clip_range has no effect"),
    ],
)
def test_what_cannot_work_or_would_have_no_effect_is_refused(
    make_toy: MakeRecipe, method: str, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(make_toy(method, **sections))


def test_prompts_that_fill_the_context_are_refused(make_toy: MakeRecipe) -> None:
    with pytest.raises(CheckRefused, match=r"no episode has room for a turn: prompts have up to \d+ tokens"):
        train(make_toy("ppo", rollouts={"max_length": 16, "max_new_tokens": 4}, environments=LONG))


def test_a_reward_function_that_fails_ends_the_run_with_its_name(make_toy: MakeRecipe) -> None:
    rewards = [{"function": "tests.trainers.rl.test_rewards:too_short"}]
    with pytest.raises(UserError, match=r"too_short, colours, task \d+: it returned 0 rewards for 2 turns"):
        train(make_toy("ppo", train={"rewards": rewards}))
