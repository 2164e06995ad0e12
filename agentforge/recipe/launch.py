"""The words of `train.launch`: what the processes of a training share, and what a launcher may have asked for."""

from __future__ import annotations

import os
from typing import Literal

Launch = Literal["auto", "none", "ddp", "fsdp2", "zero2", "zero3"]
Strategy = Literal["none", "ddp", "fsdp2", "zero2", "zero3"]

CALLED = {"none": "one process", "ddp": "DDP", "fsdp2": "FSDP 2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
# Each process holds a part of the weights, of the gradients and of the optimiser's states ...
SHARDED: frozenset[Strategy] = frozenset({"fsdp2", "zero3"})
# ... or at least of the latter two. DDP repeats everything.
DIVIDED: frozenset[Strategy] = SHARDED | {"zero2"}


# Set where a training has asked transformers and accelerate itself for FSDP or DeepSpeed, by the same variables.
OURS = "AGENTFORGE_STRATEGY"


def asked_for(name: str) -> bool:
    """Tell whether `accelerate launch` asked this process for ``FSDP`` or ``DEEPSPEED``, by a file of its own."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"


def launched_strategy() -> Strategy | None:
    """Return what `accelerate launch` asked this process for; None: nothing, or DDP, for which it sets no variable."""
    if OURS in os.environ:
        return None
    if asked_for("FSDP"):
        return "fsdp2"
    if asked_for("DEEPSPEED"):
        return "zero3" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else "zero2"
    return None
