"""Adamba: Mamba-2 grafted beside the attention of a transformer, nested widths, early exits, exact expansion.

    modeling/    the model, its mixer and the scan; shapes
    surgery/     graft, order, expand, slice, drop attention, each with its proof
    widths/      narrow models inside the full one, and the router that picks one
    exits/       leaving between the layers: gates, thresholds, decoding
    training/    the objective of all widths and exits, and how expanded entries are held back
    evaluation/  losses at each width and exit

This file is all that the house reads of it before a model is opened, so it imports nothing heavy.
"""

from __future__ import annotations

from agentforge.systems.adamba.checkpoint_types import OWN_TYPE, adapter_refusal, check_config, gguf_refusal, is_adamba
from agentforge.systems.adamba.operations import OPERATIONS
from agentforge.systems.adamba.recipe_sections import AdambaLoss, AdambaSurgery, AdambaTrain
from agentforge.systems.adamba.usage import usage
from agentforge.systems.base import System

SYSTEM = System(
    name="adamba",
    opens=is_adamba,
    auto_classes="agentforge.systems.adamba.auto",
    model_class="agentforge.systems.adamba.modeling.modeling:AdambaForCausalLM",
    sections={"train": AdambaTrain, "surgery": AdambaSurgery, "evaluate.loss": AdambaLoss},
    training="agentforge.systems.adamba.training.plan:training_plan",
    lora="agentforge.systems.adamba.training.lora:lora_options",
    surgery=OPERATIONS,
    loss_readings="agentforge.systems.adamba.evaluation.readings:loss_readings",
    step_work="agentforge.systems.adamba.planning:step_work",
    config_tables={OWN_TYPE: "AdambaConfig"},
    check_config=check_config,
    gguf_refusal=gguf_refusal,
    adapter_refusal=adapter_refusal,
    usage=usage,
)
