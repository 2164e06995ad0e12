"""Adapters and recipes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from agentforge.errors import UserError
from agentforge.export.llama_cpp import converter_source, require_library
from agentforge.models.fingerprint import write_base
from agentforge.recipe.schema import Recipe

MakeBase = Callable[..., Path]


def make_adapter(base: Path, directory: Path, seed: int = 1, record: bool = True, **lora: Any) -> PeftModel:
    """Save an adapter with random factors (as if trained) and return the live model it was saved from."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
        **lora,
    }
    live = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    live.save_pretrained(directory)
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(directory)
    if record:
        write_base(directory, base)
    return live.eval()


def make_recipe(output: Path, base: Path, **export: Any) -> Recipe:
    """A recipe whose artefacts lie in ``output``."""
    return Recipe.model_validate(
        {
            "name": "Tiny",
            "version": "1.0.0",
            "output_dir": str(output),
            "model": {"path": str(base)},
            "train": {"lora": {"r": 4}},
            "export": {"dtype": "float32", **export},
        }
    )


def _llama_cpp_lacks() -> str | None:
    try:
        require_library()
        converter_source()
    except UserError as error:
        return str(error)
    return None


LACKS = _llama_cpp_lacks()
needs_llama_cpp = pytest.mark.skipif(LACKS is not None, reason=str(LACKS))
