"""Markers that a base lacks, through the whole chain: prepare, train, merge, GGUF, chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentforge.data.prepare import prepare
from agentforge.data.tokenizer import load_tokenizer, train_tokenizer
from agentforge.errors import UserError
from agentforge.export.gguf import gguf
from agentforge.export.merge import merge_stage
from agentforge.models.checkpoint import Checkpoint
from agentforge.models.locate_model import locate_model
from agentforge.planning.parameters import trained_parameters
from agentforge.planning.shapes import shape_of
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Conversation, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.trainers.train import train
from tests.end_to_end.test_init import ASKED, write_messages
from tests.export.export_models import LACKS

pytestmark = pytest.mark.end_to_end
MARKERS = ["<|im_start|>", "<|im_end|>"]


def save_base(directory: Path, *, tied: bool, free_rows: int) -> Path:
    """Save a random model whose tokenizer knows the end of a document and no marker of turns."""
    description = json.loads(train_tokenizer([*ASKED, *ASKED.values()], 500).backend_tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"] == "<|endoftext|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + free_rows,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_recipe(base: Path, directory: Path, lora: dict[str, Any] | None, **data: Any) -> Recipe:
    args = {"max_steps": 120, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "packing": False}
    return Recipe.model_validate(
        {
            "name": "Added",
            "output_dir": str(directory / "runs"),
            "model": {"path": str(base), "dtype": "float32"},
            "data": {
                "mix": [{"dataset": str(write_messages(directory))}],
                "template": "chatml",
                "add_tokens": MARKERS,
                "max_length": 256,
                **{"eval_fraction": 0, "workers": 1, "minhash": {"enabled": False}, **data},
            },
            "train": {"method": "sft", "lora": lora, "args": {**args, "report_to": "none"}},
            "export": {"dtype": "float32", "gguf": ["f16"]},
        }
    )


def answers(recipe: Recipe, which: str) -> list[str]:
    asked = [Conversation([{"role": "user", "content": question}]) for question in ASKED]
    return [one.text.strip() for one in open_policy(locate_model(recipe, which)).generate(asked, Sampling(12))]


@pytest.mark.parametrize(("tied", "free_rows"), [(True, 0), (True, 7), (False, 0), (False, 7)])
def test_markers_are_trained_merged_and_exported(tmp_path: Path, tied: bool, free_rows: int) -> None:
    base = save_base(tmp_path / "base", tied=tied, free_rows=free_rows)
    rows = Checkpoint(base).tensors["model.embed_tokens.weight"].shape[0]
    recipe = make_recipe(base, tmp_path, {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"})
    prepare(recipe)
    answers(recipe, "base")  # with markers that mean nothing yet
    train(recipe)
    merged = Checkpoint(merge_stage(recipe))
    tokens = len(load_tokenizer(merged.directory))
    assert merged.config["vocab_size"] == merged.tensors["model.embed_tokens.weight"].shape[0] == max(rows, tokens)
    assert merged.config["tie_word_embeddings"] == tied
    old, new = (Checkpoint(at).read("model.embed_tokens.weight") for at in (base, merged.directory))
    ids = load_tokenizer(merged.directory).convert_tokens_to_ids(MARKERS)
    assert ids == [tokens - 2, tokens - 1]
    assert torch.equal(old[: ids[0]], new[: ids[0]]), "no other row is touched"
    said = answers(recipe, "lora")
    assert said == answers(recipe, "merged")
    known = sum(answer == right for answer, right in zip(said, ASKED.values(), strict=True))
    assert known >= len(ASKED) - 2, said
    lora = json.loads((recipe.trained / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert trained_parameters(recipe, shape_of(recipe)) == lora["trainable_parameters"]
    if LACKS is None:
        gguf(recipe)
        assert answers(recipe, "f16") == said


def test_all_weights(tmp_path: Path) -> None:
    recipe = make_recipe(save_base(tmp_path / "base", tied=True, free_rows=0), tmp_path, None)
    prepare(recipe)
    train(recipe)
    known = sum(a == right for a, right in zip(answers(recipe, "model"), ASKED.values(), strict=True))
    assert known >= len(ASKED) - 2


def test_what_would_not_be_trained_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=False, free_rows=0)
    recipe = make_recipe(base, tmp_path, {"r": 4, "target_modules": ["q_proj", "lm_head"]})
    prepare(recipe)
    with pytest.raises(UserError, match="adapts lm_head, so rows of new tokens cannot be trained there"):
        train(recipe)
    frozen = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"lora": None, "trainable": ["*.mlp.*"]})}
    )
    with pytest.raises(UserError, match="freezes the embeddings"):
        train(frozen)


def test_the_choice_is_named_where_it_is_needed(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True, free_rows=0)
    without = make_recipe(base, tmp_path, {"r": 4}, add_tokens=[])
    with pytest.raises(UserError, match=r"data.add_tokens to \[\"<|im_start|>\", \"<|im_end|>\"\]"):
        prepare(without)
