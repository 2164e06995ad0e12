"""Cognate: attention over a short window, gated with a neural memory, and a core of layers that thinks in a loop.

    modeling/    the model: layers, memory, recursion, halting, cache
    training/    the objective, the plan that refuses, the metrics
    surgery/     one trunk becomes a specialisation, with its proof
    evaluation/  losses at exit thresholds, and what its models tell of themselves
    ablation/    what each part does, on small synthetic tasks

This file is all that the house reads of it before a model is opened, so it imports nothing heavy.
"""

from __future__ import annotations

from agentforge.systems.base import System
from agentforge.systems.cognate.checkpoint_types import (
    OWN_TYPE,
    adapter_refusal,
    check_config,
    gguf_refusal,
    is_cognate,
)
from agentforge.systems.cognate.operations import OPERATIONS
from agentforge.systems.cognate.recipe_sections import CognateLoss, CognateSurgery, CognateTrain
from agentforge.systems.cognate.usage import usage

SYSTEM = System(
    name="cognate",
    opens=is_cognate,
    auto_classes="agentforge.systems.cognate.auto",
    model_class="agentforge.systems.cognate.modeling.modeling:CognateForCausalLM",
    sections={"train": CognateTrain, "surgery": CognateSurgery, "evaluate.loss": CognateLoss},
    training="agentforge.systems.cognate.training.plan:training_plan",
    lora="agentforge.systems.cognate.training.lora:lora_options",
    surgery=OPERATIONS,
    loss_readings="agentforge.systems.cognate.evaluation.readings:loss_readings",
    behaviour="agentforge.systems.cognate.evaluation.behaviour:behaviour",
    step_work="agentforge.systems.cognate.planning:step_work",
    config_tables={OWN_TYPE: "CognateConfig"},
    check_config=check_config,
    gguf_refusal=gguf_refusal,
    adapter_refusal=adapter_refusal,
    report={"cognate-ablation": "agentforge.systems.cognate.ablation.page:page_groups"},
    usage=usage,
)
