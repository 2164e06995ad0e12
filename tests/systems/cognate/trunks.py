"""Tiny trunks whose every part is heard, for the tests of surgery and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agentforge.recipe.schema import Recipe
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from tests.trainers.tiny import VOCABULARY, make_rows, write_prepared

SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_prelude_layers": 2},
    **{"num_core_layers": 1, "num_attention_heads": 2, "head_dim": 8, "sliding_window": 16, "memory_heads": 2},
    **{"memory_head_dim": 8, "gate_rank": 4, "persistent_tokens": 2, "initializer_range": 0.2},
}


def trunk(seed: int = 0, **fields: Any) -> Any:
    """Return a random Cognate whose tokens stop at different steps."""
    torch.manual_seed(seed)
    model = CognateForCausalLM(CognateConfig(**(SIZES | fields)))
    if model.model.halting_head is not None:
        torch.nn.init.normal_(model.model.halting_head.weight, std=0.3)
        torch.nn.init.constant_(model.model.halting_head.bias, 0.0)
    return model.eval()


def recipe_on(tmp_path: Path, base: Path, **sections: Any) -> Recipe:
    """Return a recipe on a trunk, with prepared data."""
    raw = {"name": "C", "output_dir": str(tmp_path), "model": {"path": str(base), "dtype": "float32"}}
    recipe = Recipe.model_validate(raw | sections)
    if not recipe.artifact("data").is_dir():
        write_prepared(recipe.artifact("data"), make_rows(4, 0), make_rows(8, seed=3))
    return recipe
