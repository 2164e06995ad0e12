"""AGIFORMER: a byte-level model that thinks in patches.

    modeling/    the model: documents, n-grams, patches, global stack, thinking, decoder
    tokenizer    bytes
    training/    the optimiser of the n-gram tables, bits in the log
    evaluation/  what the thinking steps are worth, in figures and on a report's page

This file is all that the house reads of it before a model is opened, so it imports nothing heavy.
"""

from __future__ import annotations

from agentforge.systems.agiformer.checkpoint_types import OWN_TYPE, check_config, gguf_refusal, is_agiformer
from agentforge.systems.agiformer.recipe_sections import AgiformerEvaluate
from agentforge.systems.agiformer.usage import usage
from agentforge.systems.base import System

SYSTEM = System(
    name="agiformer",
    opens=is_agiformer,
    auto_classes="agentforge.systems.agiformer.auto",
    model_class="agentforge.systems.agiformer.modeling.causal_lm:AgiformerForCausalLM",
    sections={"evaluate": AgiformerEvaluate},
    training="agentforge.systems.agiformer.training.plan:training_plan",
    optimizers={"mugrokfast_rows": "agentforge.systems.agiformer.training.row_optimizer:make_row_mugrokfast"},
    evaluations={"thinking": "agentforge.systems.agiformer.evaluation.thinking:evaluate_thinking"},
    report={"evaluate": "agentforge.systems.agiformer.evaluation.page:page_groups"},
    config_tables={OWN_TYPE: "AgiformerConfig"},
    tokenizers={"bytes": "agentforge.systems.agiformer.tokenizer:AgiformerTokenizer"},
    check_config=check_config,
    gguf_refusal=gguf_refusal,
    usage=usage,
    step_work="agentforge.systems.agiformer.planning:step_work",
)
