"""What Muon leaves alone, by name and size, and how much it takes at once: also for `plan`, which has no torch."""

from __future__ import annotations

import re

# What modules with fused projections are called. One whose layout nobody has proved (`fused_matrices`) is AdamW's.
FUSED_NAME = re.compile(r"qkv|query_key_value|c_attn|w_pack|in_proj|x_proj|gate_up_proj|^wi$", re.IGNORECASE)
GATES = ("gate", "gates", "router", "routers")
# Fewer outputs (or inputs) than this are decisions: a value head, a gate for each head, experts to choose from.
SMALL = 16
# Matrices are orthogonalised in stacks of at most this many numbers: enough to keep a GPU busy, and little memory.
STACK = 2**25


def decides(name: str, inputs: int, outputs: int) -> bool:
    """Tell whether a linear module is a router, a gate or a small head, by its full name and its features."""
    return min(inputs, outputs) < SMALL or any(part in GATES for part in name.split("."))
