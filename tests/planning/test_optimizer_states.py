"""What optimisers keep, against the states that they really have after a step."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

from agentforge.models.auto import register_all
from agentforge.optim.mugrokfast import make_mugrokfast
from agentforge.optim.parameter_split import split_parameters
from agentforge.planning.memory import estimate_memory
from agentforge.planning.optimizer_states import muon_parameters, optimizer_bytes, state_bytes
from agentforge.planning.shapes import shape_of
from agentforge.planning.storage import made_items
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe
from tests.planning.test_parameters import CONFIGS, HYBRIDS, TINY

register_all()
GPT2 = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
MIXTRAL = {"model_type": "mixtral", **TINY, "num_local_experts": 4, "num_experts_per_tok": 2}


def recipe(config: dict[str, Any], **train: Any) -> Recipe:
    optimizer = {"name": "mugrokfast", "options": train.pop("options", {})}
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"config": config},
            "data": {"max_length": 64},
            "train": {"method": "pretrain", "optimizer": optimizer, **train},
        }
    )


def model_of(config: dict[str, Any]) -> torch.nn.Module:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields))


@pytest.mark.parametrize("config", [*CONFIGS, *HYBRIDS[:2]], ids=lambda config: config["model_type"])
def test_the_tables_know_what_muon_moves(config: dict[str, Any]) -> None:
    one = recipe({key: value for key, value in config.items() if key != "head_dim" or config["model_type"] == "qwen3"})
    shape = shape_of(one)
    assert shape.config is None, "else the count below is the model's own"
    expected = sum(matrix.numel() for matrix in split_parameters(model_of(one.model.config)).hidden)
    assert muon_parameters(one, shape, []) == expected > 0


@pytest.mark.parametrize("config", [CONFIGS[0], GPT2, MIXTRAL], ids=lambda config: config["model_type"])
@pytest.mark.parametrize(
    "options", [{}, {"grokfast_lambda": 0.5}, {"preset": "phase7", "qk_clip": None}, {"adamw": ["*.0.*"]}], ids=str
)
def test_mugrokfast_keeps_what_is_counted(config: dict[str, Any], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    one = recipe(config, options=options)
    model = model_of(config)
    made = make_mugrokfast(model, TrainingArguments(output_dir="unused", use_cpu=True), **options)
    ids = torch.randint(0, 96, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    made.step()
    kept = sum(state.nbytes for of in made.state.values() for state in of.values() if state.ndim > 0)
    assert kept == state_bytes(one, shape_of(one))


def test_frozen_matrices_have_no_state() -> None:
    one = recipe(CONFIGS[0], trainable=["*.mlp.*"])
    assert state_bytes(one, shape_of(one)) == 4 * 3 * 3 * 32 * 48, "one momentum of each MLP's three matrices"


def test_an_average_of_the_weights_is_memory_and_disk() -> None:
    plain, averaged = recipe(CONFIGS[0]), recipe(CONFIGS[0], ema=0.99)
    shape = shape_of(plain)
    weights = estimate_memory(plain).weights
    assert estimate_memory(averaged).optimizer - estimate_memory(plain).optimizer == weights
    sizes = [{item.what: item.size for item in made_items(one, shape)}["3 checkpoints"] for one in (plain, averaged)]
    assert sizes[1] is not None and sizes[0] is not None and sizes[1] - sizes[0] == 3 * weights


def test_an_optimiser_of_a_system_counts_as_adamw() -> None:
    one = load_recipe("agiformer", ["train.optimizer={name: mugrokfast_rows}"])
    shape = shape_of(one)
    assert state_bytes(one, shape) >= 8 * muon_parameters(one, shape, []) > 0


@pytest.mark.parametrize(
    ("optim", "size"),
    [("adamw_torch_fused", 8), ("paged_adamw_8bit", 2), ("sgd", 0), ("lion_32bit", 4), ("lion_8bit", 1)],
)
def test_optimizers_of_transformers(optim: str, size: float) -> None:
    one = Recipe.model_validate({"name": "x", "model": {"config": CONFIGS[0]}, "train": {"args": {"optim": optim}}})
    assert optimizer_bytes(one) == size
