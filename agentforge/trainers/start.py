"""Whether `train` starts its processes itself. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agentforge.errors import UserError
from agentforge.launching import Node, is_launched, launch
from agentforge.planning.launch import plan_launch
from agentforge.recipe.hardware import load_hardware, this_machine
from agentforge.recipe.schema import Recipe


def start_processes(
    recipe: Recipe, words: Sequence[str], node_rank: int | None = None, rendezvous: str | None = None
) -> int | None:
    """Run the training in its processes, if it has several and nobody else has started them.

    Args:
        recipe: its `train.launch` and `hardware` say how many.
        words: of the command line that trains it.
        node_rank: which of several nodes this is.
        rendezvous: ``HOST:PORT`` where their processes meet.

    Returns:
        the exit code; None: this process is to train.

    Raises:
        UserError: there are fewer GPUs here, or nodes of which this one does not know which it is.
    """
    if is_launched():
        return None
    plan, hardware = plan_launch(recipe), load_hardware(recipe.hardware)
    if (node_rank is None) != (rendezvous is None):
        raise UserError("--node-rank and --rendezvous belong together: give both on each node, or neither")
    node = None
    if node_rank is not None and rendezvous is not None:
        if plan.nodes == 1:
            raise UserError(f"--node-rank: {hardware.name} is one machine; set `nodes` in its configs/hardware file")
        node = Node.parse(node_rank, rendezvous, plan.nodes)
    elif plan.nodes > 1:
        raise UserError(
            f"{hardware.name} has {plan.nodes} nodes: run `agentforge train` on each, with --node-rank 0 to "
            f"{plan.nodes - 1} and the same --rendezvous HOST:PORT"
        )
    if plan.world == 1:
        return None
    if hardware.gpus:
        here = visible_gpus()
        if not here:  # the recipe of a larger machine, tried out here
            return None
        if here < plan.processes:
            raise UserError(
                f"hardware is {hardware}, but here are {this_machine()} and {here} of them may be used; choose another "
                "profile"
            )
    return launch([sys.executable, "-m", "agentforge", *words], plan.processes, node, plan.nodes)


def visible_gpus() -> int:
    """Return how many GPUs a process started from here can use."""
    found = len(this_machine().gpus)
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if listed is None else min(found, len([name for name in listed.split(",") if name.strip()]))
