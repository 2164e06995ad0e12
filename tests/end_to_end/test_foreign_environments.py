"""Environments of other libraries, with a tiny model: episodes of experts or of chance, SFT on them, RL, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.evaluation.scores_file import read_scores
from agentforge.training_log import read_metrics
from tests.end_to_end.conftest import agentforge

pytestmark = pytest.mark.end_to_end

SUM = {"max_level": 0, "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
LAKE = {"options": {"is_slippery": False}, "actions": ["left", "down", "right", "up"], "max_turns": 4}
SHAPE = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
ARGS = {"per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 6, "logging_steps": 1, "learning_rate": 1e-3}


def write_recipes(directory: Path, name: str, options: dict[str, Any], policy: str, method: str) -> None:
    """Write ``sft.yaml`` (collect, prepare, train) and ``rl.yaml``, which goes on from its model."""
    shared = {
        "output_dir": "runs",
        "environments": {name: options},
        "rollouts": {"max_new_tokens": 6, "batch_size": 8},
        "evaluate": {"environments": {"tasks": 4}},
    }
    mix = [{"dataset": "runs/Foreign-SFT-v0.1.0-episodes/rows.jsonl"}]
    data = {"max_length": 768, "mix": mix, "template": "chatml", "workers": 1, "minhash": {"enabled": False}}
    data |= {"eval_fraction": 0, "filters": {"max_ngram_repetition": 1.0}}
    sft = shared | {
        "name": "Foreign-SFT",
        "model": {"config": SHAPE, "tokenizer": {"vocab_size": 400}, "dtype": "float32"},
        "collect": {"policy": policy, "episodes": 24, "min_score": 0.0},
        "data": data,
        "train": {"method": "sft", "args": ARGS},
    }
    groups = {"num_generations": 4} if method == "grpo" else {}
    rl = shared | {
        "name": "Foreign-RL",
        "model": {"path": "runs/Foreign-SFT-v0.1.0-model", "dtype": "float32"},
        "data": {"max_length": 768, "template": "chatml"},
        "train": {"method": method, "collapse": None, "args": {**ARGS, **groups, "max_steps": 3, "save_steps": 3}},
    }
    for file, recipe in (("sft", sft), ("rl", rl)):
        (directory / f"{file}.yaml").write_text(json.dumps(recipe), encoding="utf-8")


@pytest.mark.parametrize(
    ("package", "name", "options", "policy", "method"),
    [
        ("reasoning_gym", "reasoning-gym:chain_sum", SUM, "expert", "grpo"),
        ("gymnasium", "gymnasium:FrozenLake-v1", LAKE, "random", "ppo"),
    ],
)
def test_from_episodes_to_scores(
    tmp_path: Path, package: str, name: str, options: dict[str, Any], policy: str, method: str
) -> None:
    pytest.importorskip(package)
    write_recipes(tmp_path, name, options, policy, method)
    for words in (["collect", "sft.yaml"], ["prepare", "sft.yaml"], ["train", "sft.yaml"]):
        agentforge(tmp_path, *words)
    agentforge(tmp_path, "train", "rl.yaml")
    agentforge(tmp_path, "evaluate", "rl.yaml", "--model", "model")
    runs = tmp_path / "runs"
    losses = [
        line["loss"] for line in read_metrics(runs / "Foreign-SFT-v0.1.0-model" / "metrics.jsonl") if "loss" in line
    ]
    assert len(losses) >= 6 and losses[-1] < losses[0]
    played = [
        line for line in read_metrics(runs / "Foreign-RL-v0.1.0-model" / "metrics.jsonl") if f"success/{name}" in line
    ]
    assert played  # PPO takes several steps with one rollout
    assert name in str(read_scores(runs / "Foreign-RL-v0.1.0-eval-model"))
