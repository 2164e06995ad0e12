"""A model is the same however it came to be: what `__init__` sets, loading does not undo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import agentforge.systems.adamba.auto  # noqa: F401
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from tests.systems.adamba.checkpoints import NANOCHAT
from tests.systems.adamba.modeling.test_modeling import MULTIPLIERS, adamba, tokens

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True, "dropped_attention": [0, 2], **MULTIPLIERS},
    "nanochat": NANOCHAT | {"dropped_attention": [1], "ssm_multipliers": [0.9, 1.1, 1.2, 0.8, 0.7]},
}


def from_config(model: Any, directory: Path) -> Any:
    made = AutoModelForCausalLM.from_config(model.config)
    made.load_state_dict(model.state_dict())
    return made


def from_pretrained(model: Any, directory: Path) -> Any:
    model.save_pretrained(directory / "one")
    return AdambaForCausalLM.from_pretrained(directory / "one")


def round_trip(model: Any, directory: Path) -> Any:
    from_pretrained(model, directory).save_pretrained(directory / "two")
    return AdambaForCausalLM.from_pretrained(directory / "two")


def deepcopy(model: Any, directory: Path) -> Any:
    return copy.deepcopy(model)


def emptied(model: Any, directory: Path) -> Any:
    """As FSDP and deferred initialisation do it: memory holds anything until the weights are loaded."""
    with torch.device("meta"):
        made = AdambaForCausalLM(model.config)
    made.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*made.parameters(), *made.buffers()]:
            tensor.fill_(7.0)
    made.load_state_dict(model.state_dict())
    return made


def assigned(model: Any, directory: Path) -> Any:
    with torch.device("meta"):
        made = AdambaForCausalLM(model.config)
    made.to_empty(device="cpu").load_state_dict(model.state_dict(), assign=True)
    return made


def resized(model: Any, directory: Path) -> Any:
    """There and back: transformers makes another head each time."""
    made = copy.deepcopy(model)
    made.resize_token_embeddings(80, mean_resizing=False)
    made.resize_token_embeddings(64, mean_resizing=False)
    return made


def described(model: Any) -> dict[str, Any]:
    """Everything about a model but the values of its parameters."""
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return {
        "classes": {name: type(module).__name__ for name, module in model.named_modules()},
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "buffers": {name: buffer.tolist() for name, buffer in model.named_buffers()},
        "tied": [names for names in shared.values() if len(names) > 1],
        "stored": sorted(model.state_dict()),
    }


@pytest.mark.parametrize("way", [from_config, from_pretrained, round_trip, deepcopy, emptied, assigned, resized])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_to_a_model_leads_to_the_same(tmp_path: Path, variant: str, way: Callable[[Any, Path], Any]) -> None:
    model = adamba(**VARIANTS[variant])
    made = way(model, tmp_path).eval()
    assert described(made) == described(model)
    assert torch.equal(made(tokens()).logits, model(tokens()).logits)


def test_a_resized_nanochat_keeps_its_cap() -> None:
    model = adamba(**NANOCHAT)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
        before = model(tokens()).logits
        model.resize_token_embeddings(80, mean_resizing=False)
        after = model(tokens()).logits
    assert after.abs().max() <= 15
    assert (after[..., :64] - before).abs().max() < 1e-6
    assert before.abs().max() > 14
