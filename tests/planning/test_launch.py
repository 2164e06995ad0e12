"""How `train.launch` is resolved: by the hardware, by what fits, and by what a training can be divided by."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.planning.launch import launch_lines, plan_launch, refusal
from agentforge.planning.memory import estimate_memory
from agentforge.planning.plan import make_plan
from agentforge.recipe.launch import Strategy
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

LARGE = {
    "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
}  # fmt: skip


def recipe(hardware: str = "8xh200", model: dict[str, Any] | None = None, **train: Any) -> Recipe:
    sections = {"name": "x", "hardware": hardware, "train": train, "data": {"max_length": 2048}}
    return Recipe.model_validate(sections | {"model": {"config": model or LARGE | {"num_hidden_layers": 2}}})


def test_a_copy_on_each_device_if_it_fits() -> None:
    plan = plan_launch(load_recipe("aj/sft", profile="8xh200"))
    assert (plan.strategy, plan.processes, plan.nodes) == ("ddp", 8, 1)
    command = plan.command(["train", "aj", "--profile", "8xh200"])
    assert command == "torchrun --standalone --nproc_per_node 8 -m agentforge train aj --profile 8xh200"


def test_what_does_not_fit_is_divided() -> None:
    all_weights = recipe(model=LARGE, args={"per_device_train_batch_size": 1})
    plan = make_plan(all_weights)
    assert not plan.memory.fits() and plan.launch.strategy == plan.divided_by == "fsdp2" and plan.fits
    assert plan.launched is plan.divided
    played = recipe(model=LARGE, method="grpo", args={"per_device_train_batch_size": 1})
    assert plan_launch(played).strategy == "zero2"  # each process plays with a whole copy


def test_zero_2_divides_all_but_the_weights() -> None:
    ddp, zero2, zero3 = (estimate_memory(recipe(), strategy) for strategy in ("ddp", "zero2", "zero3"))
    assert zero2.weights == ddp.weights == 8 * zero3.weights
    assert zero2.optimizer == zero3.optimizer == ddp.optimizer / 8
    assert zero2.gradients == zero3.gradients == ddp.gradients / 16  # DDP holds its buckets too


def test_rows_of_new_tokens_need_whole_embeddings() -> None:
    one = recipe()
    new = one.model_copy(update={"data": one.data.model_copy(update={"add_tokens": ["<x>"]})})
    assert "data.add_tokens sets rows of the embeddings" in str(refusal(new, "fsdp2"))
    assert refusal(new, "zero2") is None


def test_where_vllm_plays_grpo_may_divide_the_weights() -> None:
    played = {"rollouts": recipe().rollouts.model_copy(update={"engine": "vllm"})}
    assert refusal(recipe(method="grpo").model_copy(update=played), "fsdp2") is None
    assert "ppo's critic reads" in str(refusal(recipe(method="ppo").model_copy(update=played), "zero3"))


@pytest.mark.parametrize("hardware", ["cpu", "1xh200"])
def test_one_device_is_one_process(hardware: str) -> None:
    one = recipe(hardware)
    assert plan_launch(one).world == 1 and plan_launch(one).command(["train", "x"]) == "agentforge train x"
    assert launch_lines(one, ["train", "x"]) == "# train.launch: 1 process: there is one device\n"


def test_processes_on_a_cpu_are_asked_for() -> None:
    two = recipe("cpu", {**LARGE, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}, processes=2)
    assert (plan_launch(two).strategy, plan_launch(two).world) == ("ddp", 2)
    assert "torchrun --standalone --nproc_per_node 2" in launch_lines(two, ["train", "x"])


@pytest.mark.parametrize(
    ("hardware", "train", "words"),
    [
        ("8xh200", {"processes": 4}, "8xh200 has 8 GPU"),
        ("8xh200", {"launch": "none"}, "choose one with a single GPU"),
        ("1xh200", {"launch": "zero3"}, "ZeRO-3 divides among several devices, and 1xh200 has one"),
        ("cpu", {"launch": "fsdp2", "processes": 2}, "FSDP 2 needs GPUs"),
    ],
)
def test_what_the_hardware_cannot_do_is_refused(hardware: str, train: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_launch(recipe(hardware, **train))


@pytest.mark.parametrize(
    ("strategy", "train", "words"),
    [
        ("zero2", {"optimizer": {"name": "mugrokfast"}}, "mugrokfast orthogonalises whole matrices, but with ZeRO-2"),
        ("fsdp2", {"ema": 0.9}, "train.ema averages whole weights, but with FSDP 2"),
        ("zero3", {"method": "grpo"}, "with grpo each process plays its own episodes with a whole copy"),
        (
            "zero2",
            {"nested": {"widths": ["1/2"]}},
            "train.nested reads parts of whole matrices in a loss of its own, which",
        ),
        ("zero2", {"method": "ppo"}, None),
        ("fsdp2", {"method": "ppo"}, "with ppo each process plays its own episodes"),
        ("fsdp2", {"method": "dpo"}, None),
        ("fsdp2", {"lora": {"target_modules": "all-linear"}}, None),
    ],
)
def test_who_cannot_be_divided_says_why(strategy: Strategy, train: dict[str, Any], words: str | None) -> None:
    falcon = load_recipe("adamba/phase1").model.config if "nested" in train else None
    model = {"model": load_recipe("adamba/phase1").model} if falcon is not None else {}
    found = refusal(recipe(**train).model_copy(update=model), strategy)
    assert found is None if words is None else words in str(found)
    if words is not None:
        with pytest.raises(UserError, match=r"train\.launch: "):
            plan_launch(recipe(**train, launch=strategy).model_copy(update=model))
