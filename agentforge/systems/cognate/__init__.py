"""Cognate: attention over a short window, gated with a neural memory, and a core of layers that thinks in a loop.

    modeling/    the model: layers, memory, recursion, halting, cache
    training/    the objective, the plan that refuses, the metrics
    ablation/    what each part does, on small synthetic tasks

This file is all that the house reads of it before a model is opened, so it imports nothing heavy.
"""

from __future__ import annotations

from agentforge.systems.base import System
from agentforge.systems.cognate.checkpoint_types import gguf_refusal, is_cognate
from agentforge.systems.cognate.recipe_sections import CognateTrain
from agentforge.systems.cognate.usage import usage

SYSTEM = System(
    name="cognate",
    opens=is_cognate,
    auto_classes="agentforge.systems.cognate.auto",
    model_class="agentforge.systems.cognate.modeling.modeling:CognateForCausalLM",
    sections={"train": CognateTrain},
    training="agentforge.systems.cognate.training.plan:training_plan",
    gguf_refusal=gguf_refusal,
    report={"cognate-ablation": "agentforge.systems.cognate.ablation.page:page_groups"},
    usage=usage,
)
