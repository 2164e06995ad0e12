"""LoRA on a Cognate: every adapter that is attached learns, and one that never could is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from agentforge.errors import UserError
from agentforge.models.build import attach_lora
from agentforge.systems.cognate.checkpoint_types import adapter_refusal
from tests.systems.cognate.trunks import trunk

IDS = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(0))


def gradients(model: Any) -> dict[str, bool]:
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    found = {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}
    return {name: seen for name, seen in found.items() if "lora_B" in name}


def test_every_adapter_learns() -> None:
    learning = gradients(attach_lora(trunk(), {"r": 2, "target_modules": "all-linear"}))
    assert len(learning) > 20 and all(learning.values()), [name for name, seen in learning.items() if not seen]


@pytest.mark.parametrize("targets", [["q_proj", "q_conv"], ["memory.k_conv"], r".*conv", r".*\.memory\..*"])
def test_an_adapter_that_is_never_run_is_refused(targets: Any) -> None:
    with pytest.raises(UserError, match="is a convolution of a memory"):
        attach_lora(trunk(), {"r": 2, "target_modules": targets})


def test_peft_alone_would_not_say_so() -> None:
    """Why: at a rank that the groups divide, peft takes it, and the loss does not depend on it."""
    model = get_peft_model(trunk(), LoraConfig(r=16, target_modules=["q_conv"]))
    assert not model.train()(input_ids=IDS, labels=IDS).loss.requires_grad


def test_a_foreign_adapter_on_a_convolution_is_not_merged() -> None:
    assert adapter_refusal({}, "model.core.0.memory.q_conv.weight") is not None
    assert adapter_refusal({}, "model.core.0.memory.q_proj.weight") is None
