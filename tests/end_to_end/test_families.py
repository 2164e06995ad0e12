"""Families of models from their own base to an answer: prepare, train, merge, GGUF, chat; two layers each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentforge.data.prepare import prepare
from agentforge.errors import CheckRefused
from agentforge.export.gguf import gguf
from agentforge.export.merge import merge_stage
from agentforge.models.locate_model import locate_model
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.trainers.train import train
from tests.data.dialects.families import BY_NAME
from tests.data.dialects.test_families import CALLS, PLAIN
from tests.data.small_tokenizers import TOOLS
from tests.end_to_end.family_models import MODELS, save_model
from tests.export.export_models import LACKS

NO_GGUF = {
    # the converter of these architectures reads sentencepiece's own file, which their real bases have
    "Gemma 1 and 2": "tokenizer.model",
    "Phi-3": "tokenizer.model",
    "gpt-oss": "rounds the ends of YaRN's range",
}
"""Families whose small model gets no GGUF, and what the refusal says."""

QUANTISED_ALWAYS = ("Llama 3.1", "Gemma 3")
"""The others' GGUFs take minutes: `make test-families` sets FAMILIES=all."""

ASKED = [{"role": "user", "content": "Which one?"}]
pytestmark = pytest.mark.end_to_end


def family_recipe(base: Path, directory: Path) -> Recipe:
    """Return a recipe of two steps of LoRA on a few conversations, some with tools."""
    short = [
        [{"role": "user", "content": f"Say {number}."}, {"role": "assistant", "content": f"It is {number}."}]
        for number in range(12)
    ]
    rows = [{"messages": messages} for messages in (PLAIN, *short)] + [{"messages": CALLS, "tools": TOOLS}]
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none"}
    return Recipe.model_validate(
        {
            "name": "Family",
            "output_dir": str(directory / "runs"),
            "model": {"path": str(base), "dtype": "float32"},
            "data": {"mix": [{"dataset": str(data)}], "eval_fraction": 0, "workers": 1, "minhash": {"enabled": False}},
            "train": {"method": "sft", "lora": {"r": 4, "target_modules": "all-linear"}, "args": args},
            # of two layers with random weights even q8 changes too many next tokens
            "export": {"dtype": "float32", "gguf": ["f16"]},
        }
    )


@pytest.mark.parametrize("name", [name for name in MODELS if BY_NAME[name].source is not None])
def test_from_its_own_base_to_an_answer(name: str, tmp_path: Path) -> None:
    recipe = family_recipe(save_model(name, tmp_path / "base"), tmp_path)
    prepare(recipe)
    train(recipe)
    merged = merge_stage(recipe)
    own = (tmp_path / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    assert (merged / "chat_template.jinja").read_text(encoding="utf-8") == own, "the base's template goes with it"
    policy = open_policy(locate_model(recipe, "merged"))
    prompt = policy.encode(ASKED)
    assert policy.chat(ASKED, sampling=Sampling(4)).token_ids
    if LACKS is not None or (os.environ.get("FAMILIES") != "all" and name not in QUANTISED_ALWAYS):
        return
    if name in NO_GGUF:
        with pytest.raises(CheckRefused, match=NO_GGUF[name]):
            gguf(recipe)
        return
    gguf(recipe)
    quantised = open_policy(locate_model(recipe, "f16"))
    assert quantised.encode(ASKED) == prompt, "the GGUF reads the very tokens, its begin token once"
    assert set(policy.stop_ids) <= set(quantised.stop_ids)
    assert quantised.chat(ASKED, sampling=Sampling(4)).token_ids
