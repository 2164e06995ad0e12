"""The batteries: which arms there are, and which questions they answer.

Every arm is the real model in a tiny size. Two arms of a pair differ in one thing; what cannot be held equal besides
(parameters, FLOPs) stands beside them in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
# can have arrived at the first query: that arm can only be at chance, and is, unless something leaks.
RECALL = Recall()
WINDOW = 8
REMEMBERS = tiny(sliding_window=WINDOW, memory_layers=None)
MEMORY = (
    Arm("neural memory", RECALL, REMEMBERS, steps=1000, minutes=0.5),
    Arm("neural memory with momentum", RECALL, {**REMEMBERS, "memory_momentum": True}, steps=1000, minutes=0.7),
    Arm("EMA memory", RECALL, REMEMBERS, steps=1000, ema_memory=True, minutes=0.8),
    Arm("no memory", RECALL, tiny(sliding_window=WINDOW), steps=1000, minutes=0.7),
    Arm("full attention", RECALL, tiny(), steps=1000, minutes=0.7),
)
MEMORY_QUESTIONS = (
    Question(
        "Does the memory recall what attention cannot see?",
        "accuracy",
        ("neural memory", "EMA memory", "no memory", "full attention"),
        (("neural memory", "EMA memory"), ("neural memory", "no memory"), ("EMA memory", "no memory")),
        "All but full attention, the upper control, have a window of 8; the pairs are 32 or more tokens away.",
    ),
    Question(
        "Does momentum make the memory learn faster?",
        "steps to target",
        ("neural memory", "neural memory with momentum"),
        (("neural memory with momentum", "neural memory"),),
    ),
)

# ---- recursion and halting: the running product, whose depth grows with the row -------------------------------------
PRODUCT = RunningProduct(length=10)
LOOPS = 4
HALTING: dict[str, Any] = {"halting": "expected", "entropy_weight": 0.1, "correctness_weight": 0.1}


def product_arm(name: str, minutes: float, **changes: Any) -> Arm:
    """Return an arm of the running product."""
    return Arm(name, PRODUCT, tiny(**changes), steps=1000, batch=64, rates=(2e-3, 4e-3), every=100, minutes=minutes)


RECURSION = (
    product_arm("one pass", 0.4),
    product_arm("4 loops", 0.8, max_recursions=LOOPS),
    # The same five calls of a layer, each with weights of its own: what the loop's FLOPs buy otherwise.
    product_arm("5 layers, no loop", 0.8, num_prelude_layers=LOOPS),
    # z and y, 2 x 2 calls of the core: the FLOPs of 4 plain loops.
    product_arm("2 loops of y and z", 0.8, recursion="trm", max_recursions=2, micro_steps=1),
    product_arm("4 loops, halting", 0.9, max_recursions=LOOPS, halting_practice=0.5, **HALTING),
    product_arm("4 loops, halting, no practice", 0.9, max_recursions=LOOPS, **HALTING),
)  # fmt: skip
RECURSION_QUESTIONS = (
    Question(
        "Does a loop track a state further?",
        "accuracy",
        ("one pass", "4 loops", "5 layers, no loop"),
        (("4 loops", "one pass"), ("4 loops", "5 layers, no loop")),
        "One pass and 4 loops have equal parameters; 4 loops and 5 layers have equal FLOPs.",
    ),
    Question(
        "Is TRM's answer-and-thought recursion better than the plain loop?",
        "accuracy",
        ("4 loops", "2 loops of y and z"),
        (("2 loops of y and z", "4 loops"),),
        "Equal parameters (but for one start vector) and equal FLOPs.",
    ),
    Question(
        "Does learning when to halt cost accuracy?",
        "accuracy",
        ("4 loops", "4 loops, halting"),
        (("4 loops, halting", "4 loops"),),
        "Both at full depth; what early exits save is in the next tables.",
    ),
    Question(
        "Must exits be practised in training?",
        "accuracy",
        ("4 loops, halting", "4 loops, halting, no practice"),
        (("4 loops, halting", "4 loops, halting, no practice"),),
        "Both at full depth. A model that never saw a token stop while others went on loses at its exits: see there.",
    ),
)

# ---- a puzzle -------------------------------------------------------------------------------------------------------
SUDOKU = Sudoku()


def sudoku_arm(name: str, minutes: float, **changes: Any) -> Arm:
    """Return an arm of Sudoku."""
    return Arm(name, SUDOKU, tiny(**changes), steps=500, batch=64, rates=(3e-3,), every=100, minutes=minutes)


PUZZLE = (
    sudoku_arm("Sudoku: one pass", 0.6),
    sudoku_arm("Sudoku: 4 loops", 1.1, max_recursions=LOOPS),
    sudoku_arm("Sudoku: 5 layers, no loop", 1.1, num_prelude_layers=LOOPS),
)
PUZZLE_QUESTIONS = (
    Question(
        "Does a loop solve more of a puzzle?",
        "accuracy",
        tuple(arm.name for arm in PUZZLE),
        (("Sudoku: 4 loops", "Sudoku: one pass"), ("Sudoku: 4 loops", "Sudoku: 5 layers, no loop")),
        "Empty cells of puzzles whose solutions were never trained on.",
    ),
)

# ---- optimisers: grokking -------------------------------------------------------------------------------------------
ADDITION = ModularAddition()
RATES = (1e-3, 3e-3)


def addition_arm(name: str, minutes: float, **changes: Any) -> Arm:
    """Return an arm of modular addition: one layer, strong decay, and the run ends when it has generalised."""
    return Arm(name, ADDITION, tiny(num_prelude_layers=0), steps=2500, batch=256, rates=RATES, weight_decay=1.0,
               stop=0.95, minutes=minutes, **changes)  # fmt: skip


OPTIMIZERS = (
    addition_arm("AdamW", 1.0),
    addition_arm("Muon", 0.8, optimizer="muon"),
    addition_arm("AdamW + Grokfast", 1.0, grokfast=2.0),
    addition_arm("Muon + Grokfast", 0.8, optimizer="muon", grokfast=2.0),
)
OPTIMIZER_QUESTIONS = (
    Question(
        "Which optimiser generalises first?",
        "steps to target",
        tuple(arm.name for arm in OPTIMIZERS),
        (("Muon", "AdamW"), ("AdamW + Grokfast", "AdamW"), ("Muon + Grokfast", "Muon")),
        "A demonstration of grokking, not evidence about language models: there Grokfast did harm.",
    ),
)

SEEDS = (0, 1, 2, 3, 4)
FEWER = SEEDS[:3]
FULL = Battery(
    "full",
    (*MEMORY, *RECURSION, *PUZZLE, *OPTIMIZERS),
    (*MEMORY_QUESTIONS, *RECURSION_QUESTIONS, *PUZZLE_QUESTIONS, *OPTIMIZER_QUESTIONS),
    SEEDS,
)
QUICK = Battery(
    "quick",
    (MEMORY[0], MEMORY[2], MEMORY[3], RECURSION[0], RECURSION[1], RECURSION[4]),
    (
        replace(MEMORY_QUESTIONS[0], arms=("neural memory", "EMA memory", "no memory")),
        Question(
            "Does a loop track a state further, and does halting cost accuracy?",
            "accuracy",
            ("one pass", "4 loops", "4 loops, halting"),
            (("4 loops", "one pass"), ("4 loops, halting", "4 loops")),
            "Equal parameters (but for the halting head), not equal FLOPs: the full battery has that control.",
        ),
    ),
    FEWER,
)
"""Fewer of the same arms and seeds: its runs count for the full battery too."""
