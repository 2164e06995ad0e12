"""PPO: what it relies on in TRL, where its advantages come from, and what becomes of its critic."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentforge.export.merge import merge_stage
from agentforge.losses.advantages import gae, whiten
from agentforge.losses.value import value_loss
from agentforge.models.locate_model import locate_model
from agentforge.recipe.arguments import argument_problems
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.trainers.rl import ppo
from agentforge.trainers.rl.grpo import OF_ROWS
from agentforge.trainers.rl.ppo import PPOTrainer, place_rewards
from agentforge.trainers.rl.ppo_config import PPOConfig
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA

# -- the contract with the pinned TRL -------------------------------------------------------------------------------


def test_two_methods_of_the_parent_are_overridden_and_both_go_through_it() -> None:
    overridden = {name for name in vars(PPOTrainer) if callable(getattr(trl.GRPOTrainer, name, None))}
    assert overridden - {"__init__"} == {"_generate_and_score_completions", "_compute_loss"}
    for name in overridden:
        assert f"super().{name}(" in inspect.getsource(getattr(PPOTrainer, name))


def test_trl_still_has_what_is_relied_upon() -> None:
    parent = trl.GRPOTrainer
    assert list(inspect.signature(parent._generate_and_score_completions).parameters) == ["self", "inputs"]
    assert list(inspect.signature(parent._compute_loss).parameters) == ["self", "model", "inputs"]
    assert "rollout_func" in inspect.signature(parent.__init__).parameters
    logps = inspect.signature(parent._get_per_token_logps_and_entropies).parameters
    taken = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    assert list(logps)[: len(taken)] == taken
    assert {"compute_entropy", "compute_aux_loss", *OF_ROWS} <= set(logps)
    loss = inspect.getsource(parent._compute_loss)
    assert "if advantages.dim() == 1:" in loss, "advantages (B, T) are taken as they are"
    played = inspect.getsource(parent._generate_and_score_completions)
    for needed in ('"prompt_ids"', '"completion_mask"', '"advantages"', 'output["tool_mask"]', "inp[key] = values[i]"):
        assert needed in played
    assert 'extra_fields.pop("env_mask"' in inspect.getsource(parent._generate)
    prepared = inspect.getsource(parent._prepare_inputs)
    for needed in ("shuffle_sequence_dict", "split_tensor_dict", "self._buffered_inputs", "self._step %"):
        assert needed in prepared, "what is added to the output is shuffled and split with the rest"
    assert "log_metric" in inspect.getsource(parent._calculate_rewards)


def test_the_specs_names_are_taken_and_reach_what_they_mean(tmp_path: Path) -> None:
    spec = {
        "ppo_epochs": 4,
        "num_rollouts": 100,
        "rollout_batch_size": 4,
        "clip_range": 0.2,
        "vf_coef": 0.5,
        "entropy_coef": 0.01,
        "gae_lambda": 0.95,
        "gamma": 0.99,
        "learning_rate": 1.0e-5,
        "max_grad_norm": 1.0,
    }
    recipe = Recipe.model_validate({"name": "x", "train": {"method": "ppo", "args": spec}})
    assert argument_problems(recipe) == []
    args = PPOConfig(str(tmp_path), per_device_train_batch_size=2, use_cpu=True, bf16=False, **spec)
    assert (args.num_iterations, args.epsilon, args.generation_batch_size, args.num_generations) == (4, 0.2, 4, 1)
    assert args.max_steps == 100 * 4 * 2, "100 rollouts, 4 epochs, 2 batches of 2"
    joined = PPOConfig(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True, bf16=False, **spec
    )
    assert joined.max_steps == 100 * 4
    given = PPOConfig(str(tmp_path), per_device_train_batch_size=2, use_cpu=True, bf16=False, max_steps=7, **spec)
    assert given.max_steps == 7


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gae_lamda", "did you mean 'train.args.gae_lambda'"),
        ("cliprange", "did you mean 'train.args.clip_range'"),
        ("kl_coef", "did you mean 'train.args.beta'"),
        ("num_iterations", "set `ppo_epochs`"),
        ("epsilon", "set `clip_range`"),
        ("scale_rewards", "come from its critic"),
        ("temperature", "set `rollouts.temperature`"),
        ("use_vllm", "set `rollouts.engine`"),
        ("generation_kwargs", "see `rollouts`"),
    ],
)
def test_other_names_get_the_right_one(name: str, says: str) -> None:
    recipe = Recipe.model_validate({"name": "x", "train": {"method": "ppo", "args": {name: 1}}})
    ((_, sentence),) = argument_problems(recipe)
    assert says in sentence


# -- what is trained ------------------------------------------------------------------------------------------------


def test_what_was_sampled_is_what_is_trained(make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token ids, masks and log-probabilities come from the episodes; values and rewards stand where they belong."""
    seen: list[dict[str, Any]] = []
    original = PPOTrainer._generate_and_score_completions

    def watched(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = original(self, inputs)
        with torch.no_grad():  # the slow way: one episode at a time, the whole model, no padding
            values = torch.zeros_like(output["old_values"])
            for row, example in enumerate(inputs):
                episode = example["episode"]
                ids = torch.tensor([episode.prompt_ids + episode.token_ids])
                hidden = self.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
                before = self.value_head(hidden)[len(episode.prompt_ids) - 1 : -1]
                values[row, : len(before)] = before * torch.tensor(episode.mask)
        seen.append({"inputs": inputs, "output": output, "values": values})
        return output

    monkeypatch.setattr(PPOTrainer, "_generate_and_score_completions", watched)
    rewards = [{"function": "outcome"}, {"function": "potential"}]
    train(make_toy("ppo", train={"rewards": rewards, "args": {"max_steps": 8}}))
    assert len(seen) == 2, "two rollouts of four epochs"
    for batch in seen:
        output, inputs = batch["output"], batch["inputs"]
        for row, example in enumerate(inputs):
            episode = example["episode"]
            length = len(episode.token_ids)
            assert output["completion_ids"][row, :length].tolist() == episode.token_ids
            assert output["tool_mask"][row, :length].tolist() == episode.mask and 0 in episode.mask
            own = torch.tensor(episode.mask).bool()
            sampled = torch.tensor(episode.logprobs)[own]
            assert torch.allclose(output["sampling_per_token_logps"][row, :length][own], sampled)
            assert torch.allclose(output["old_per_token_logps"][row, :length][own], sampled, atol=1e-4)
        mask = (output["completion_mask"] * output["tool_mask"]).float()
        assert torch.allclose(output["old_values"], batch["values"] * mask, atol=1e-5)
        placed, ends = place_rewards(inputs, mask)
        assert (ends.sum(1) == 2).all() and (placed.sum(1) != 0).any()
        advantages = gae(placed, batch["values"] * mask, mask, ends, 0.99, 0.95)
        assert torch.allclose(output["advantages"], whiten(advantages, mask), atol=1e-3)
        assert not output["advantages"][mask == 0].any()
    assert seen[1]["output"]["old_values"].abs().sum() > 0 == seen[0]["output"]["old_values"].abs().sum()


def test_the_loss_is_the_parents_and_the_critics(make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[float, float]] = []
    original = PPOTrainer._compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            alone = super(PPOTrainer, self)._compute_loss(model, inputs)
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            hidden = model(input_ids=ids, attention_mask=attention, output_hidden_states=True).hidden_states[-1]
            length = inputs["completion_ids"].shape[1]
            mask = inputs["completion_mask"] * inputs["tool_mask"]
            values = self.value_head(hidden[:, -length - 1 : -1])
            count = inputs["num_items_in_batch"]  # of both micro-batches
            error = value_loss(values, inputs["old_values"], inputs["returns"], mask, 0.2, count)
        loss = original(self, model, inputs)
        pairs.append((loss.item(), (alone + 0.7 * error).item()))
        return loss

    monkeypatch.setattr(PPOTrainer, "_compute_loss", watched)
    args = {"vf_coef": 0.7, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "ppo_epochs": 2}
    train(make_toy("ppo", train={"args": args | {"rollout_batch_size": 16}}))
    assert len(pairs) == 8
    for loss, expected in pairs:
        assert loss == pytest.approx(expected, abs=1e-5)


CUTS = [(16, 1), (4, 4), (2, 8)]
UNEVEN = {
    "colours": {"class": "tests.trainers.toys:Colours", "rounds": 1},
    "long": {"class": "tests.trainers.toys:Colours", "rounds": 5},
}


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_the_same_episodes_make_the_same_update_however_they_are_cut(make_toy: MakeRecipe, method: str) -> None:
    """Policy and critic, with KL and entropy; plain SGD, for Adam hides what scales a gradient. Two passes: at first
    the critic says 0, and no gradient passes through it."""
    args = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 1e6,
        "max_steps": 2,
        "beta": 0.1,
        "entropy_coef": 0.5,
    }
    own = {"ppo": {"rollout_batch_size": 16, "ppo_epochs": 2}, "grpo": {"num_generations": 2, "num_iterations": 2}}
    made = []
    for rows, steps in CUTS:
        cut = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
        trained = train(
            make_toy(method, f"{rows}x{steps}", environments=UNEVEN, train={"args": args | own[method] | cut})
        )
        weights = load_file(trained / "model.safetensors")
        made.append(weights | (load_file(trained / "value_head.safetensors") if method == "ppo" else {}))
    for other in made[1:]:
        for name, weight in made[0].items():
            torch.testing.assert_close(other[name], weight, atol=2e-6, rtol=0, msg=lambda text, name=name: name + text)


# -- the critic's place ---------------------------------------------------------------------------------------------


def test_the_critic_lies_beside_the_adapter_which_opens_and_merges_without_it(make_toy: MakeRecipe) -> None:
    recipe = make_toy("ppo", train={"lora": LORA, "args": {"beta": 0.05}})
    made = train(recipe)
    names = {path.name for path in made.iterdir()}
    assert {"adapter_model.safetensors", "value_head.safetensors", "base.json"} <= names
    assert not {"ref", "README.md"} & names and not list(made.rglob("*.bin")) + list(made.rglob("*.pt"))
    assert all("lora_" in key for key in load_file(made / "adapter_model.safetensors"))
    head = load_file(made / "value_head.safetensors")
    assert {key: tuple(value.shape) for key, value in head.items()} == {
        "hidden.weight": (32, 32),
        "hidden.bias": (32,),
        "out.weight": (1, 32),
        "out.bias": (1,),
    }
    assert head["out.weight"].abs().sum() > 0, "it was trained although PEFT freezes what is no adapter"
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path)
    PeftModel.from_pretrained(base, str(made))
    open_policy(locate_model(recipe, "lora"))
    merged = merge_stage(recipe)
    assert not list(merged.glob("value_head*"))
    assert not any("value" in key and "head" in key for key in load_file(merged / "model.safetensors"))


def test_a_whole_model_is_saved_without_its_critic(make_toy: MakeRecipe) -> None:
    made = train(make_toy("ppo"))
    assert (made / "value_head.safetensors").is_file()
    assert not any("value_head" in key for key in load_file(made / "model.safetensors"))
    AutoModelForCausalLM.from_pretrained(made)


def test_where_all_earned_the_same_the_critics_errors_are_no_signal(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[bool] = []
    original = ppo.whiten
    monkeypatch.setattr(ppo, "whiten", lambda *a, **k: scales.append(k["scale"]) or original(*a, **k))
    hopeless = {"colours": {"class": "tests.trainers.toys:Colours", "rounds": 4}}
    train(
        make_toy("ppo", environments=hopeless, train={"rewards": [{"function": "tests.trainers.rl.test_ppo:nothing"}]})
    )
    train(make_toy("ppo", "paid"))
    assert scales == [False, True]


def test_a_hard_environment_is_not_measured_against_an_easy_one(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the critic knows them apart: in each environment the better half is better than its own mean."""
    seen: list[tuple[list[str], torch.Tensor, torch.Tensor]] = []
    original = PPOTrainer._generate_and_score_completions

    def watched(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = original(self, inputs)
        mask = (output["completion_mask"] * output["tool_mask"]).float()
        seen.append(([row["environment"] for row in inputs], output["advantages"], mask))
        return output

    monkeypatch.setattr(PPOTrainer, "_generate_and_score_completions", watched)
    toy = {"class": "tests.trainers.toys:Colours"}
    environments = {"easy": {**toy, "rounds": 1}, "hard": {**toy, "rounds": 5}}
    train(make_toy("ppo", environments=environments, train={"args": {"rollout_batch_size": 32}}))
    names, advantages, mask = seen[0]
    for name in ("easy", "hard"):
        rows = torch.tensor([environment == name for environment in names])
        own = advantages[rows][mask[rows].bool()]
        assert own.mean() == pytest.approx(0, abs=1e-5) and own.std(correction=0) == pytest.approx(1, abs=1e-3)
    assert not advantages[mask == 0].any()


def nothing(episode: Any) -> list[float]:
    return [0.0] * len(episode.turns)
