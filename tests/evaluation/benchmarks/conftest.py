"""A tiny model with random weights, and two tasks of twenty rows: one to choose an answer, one to write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from agentforge.recipe.schema import Recipe

CHOICE = """
task: toy_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
WRITE = """
task: toy_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 8}}
num_fewshot: 2
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


def sums() -> list[dict[str, Any]]:
    pairs = [(a, b) for a in range(5) for b in range(4)]
    return [
        {
            "question": f"What is {'very ' * a}{a} plus {b}?",  # of different lengths, so that batches are padded
            "choices": [str(a + b + k) for k in range(4)],
            "gold": 0 if a < 3 else 1,
            "answer": str(a + b),
        }
        for a, b in pairs
    ]


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, str]:
    """Paths of the two task files."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in sums()), encoding="utf-8")
    made = {}
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text.format(rows=rows), encoding="utf-8")
        made[name] = str(file)
    return made


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from agentforge.data import chat_template
    from agentforge.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([json.dumps(sums()), "Question: Answer:"], 400)
    chat_template.install_template(tokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of 32 x 2 with random weights, wide enough apart that no two answers are equally likely."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
    )
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


def recipe_of(directory: Path, model: Path, names: list[str], **benchmarks: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "Toy",
            "output_dir": str(directory / "runs"),
            "model": {"path": str(model), "dtype": "float32"},
            "evaluate": {"batch_size": 4, "benchmarks": {"tasks": names, **benchmarks}},
        }
    )
