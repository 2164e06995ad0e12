"""The batteries: which arms there are, and which questions they answer.

Every arm is the real model in a tiny size. Two arms of a pair differ in one thing; what cannot be held equal besides
(parameters, FLOPs) stands beside them in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.systems.cognate.ablation.arms import Arm, Battery, Question
from agentforge.systems.cognate.ablation.tasks.modular_addition import ModularAddition
from agentforge.systems.cognate.ablation.tasks.recall import Recall
from agentforge.systems.cognate.ablation.tasks.state_tracking import RunningProduct
from agentforge.systems.cognate.ablation.tasks.sudoku import Sudoku

SIZE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_prelude_layers": 1,
    "num_core_layers": 1,
    "memory_heads": 1,
    "memory_head_dim": 32,
    "memory_layers": [],
    "persistent_tokens": 2,
    "gate_rank": 8,
    "sliding_window": 512,
    "max_position_embeddings": 512,
    "max_recursions": 1,
    "recursion": "plain",
    "halting": "none",
    # The labels of these tasks are not the next token, so the head has another vocabulary than the embedding.
    "tie_word_embeddings": False,
}
"""Two layers of 64 channels, no memory, no loop, attention over everything: each arm says what it adds."""


def tiny(**changes: Any) -> dict[str, Any]:
    """Return the config of a tiny model."""
    return {**SIZE, **changes}


# ---- memory: pairs, noise, then keys -----------------------------------------------------------------------------
# A window of 8 in two layers reaches 14 tokens back. The gap is 16 or more, so without a memory nothing about the pairs
# can have arrived at the queries: that arm can only be at chance, and is, unless something leaks.
RECALL = Recall()
WINDOW = 8
MEMORY = (
    Arm("neural memory", RECALL, tiny(sliding_window=WINDOW, memory_layers=None)),
    Arm("with momentum", RECALL, tiny(sliding_window=WINDOW, memory_layers=None, memory_momentum=True)),
    Arm("EMA memory", RECALL, tiny(sliding_window=WINDOW, memory_layers=None), ema_memory=True),
    Arm("no memory", RECALL, tiny(sliding_window=WINDOW)),
    Arm("full attention", RECALL, tiny(), steps=2000),
)
MEMORY_QUESTIONS = (
    Question(
        "Does the memory recall what attention can no longer see?",
        "accuracy",
        tuple(arm.name for arm in MEMORY),
        (("neural memory", "no memory"), ("neural memory", "EMA memory"), ("EMA memory", "no memory")),
        "All arms but full attention have a window of 8; the pairs are 32 or more tokens away.",
    ),
    Question(
        "Does momentum help the memory?",
        "steps to target",
        ("neural memory", "with momentum"),
        (("with momentum", "neural memory"),),
    ),
)
