"""How many processes train a recipe and what they share: `train.launch`, resolved by the hardware and by what fits."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from agentforge.errors import UserError
from agentforge.planning.memory import estimate_memory
from agentforge.planning.shapes import shape_of
from agentforge.planning.step_work import step_work
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.launch import CALLED, DIVIDED, SHARDED, Strategy, launched_strategy
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe

WITH_DDP = "set train.launch to ddp"


@dataclass(frozen=True)
class LaunchPlan:
    """The processes of one training.

    Attributes:
        strategy: what they share.
        processes: on each node.
        nodes: machines.
        reason: why this strategy, as the end of a sentence.
    """

    strategy: Strategy
    processes: int
    nodes: int
    reason: str

    @property
    def world(self) -> int:
        """Processes on all nodes together."""
        return self.processes * self.nodes

    def __str__(self) -> str:
        where = f" on each of {self.nodes} nodes" if self.nodes > 1 else ""
        many = f"{self.processes} process{'es' if self.processes > 1 else ''}{where}"
        return f"{many}, {CALLED[self.strategy]}: {self.reason}" if self.world > 1 else f"{many}: {self.reason}"

    def command(self, words: Sequence[str]) -> str:
        """Return the torchrun command that starts the same processes; ``words`` follow ``agentforge``."""
        if self.world == 1:
            return shlex.join(["agentforge", *words])
        where = "--standalone"
        if self.nodes > 1:
            where = f"--nnodes {self.nodes} --node_rank RANK --master_addr HOST --master_port PORT"
        return f"torchrun {where} --nproc_per_node {self.processes} -m {shlex.join(['agentforge', *words])}"


def plan_launch(recipe: Recipe) -> LaunchPlan:
    """Return the processes that a recipe asks for.

    Raises:
        UserError: `train.launch` or `train.processes` asks for what this hardware or this recipe cannot do.
    """
    hardware, wanted = load_hardware(recipe.hardware), recipe.train.launch
    nodes, gpus = hardware.nodes, hardware.gpus // hardware.nodes
    processes = recipe.train.processes or max(gpus, 1)
    if gpus and processes != gpus:
        raise UserError(
            f"train.processes is {processes}, but {hardware.name} has {gpus} GPU(s) in a machine, and each has one "
            "process; leave it out"
        )
    world = processes * nodes
    if wanted == "none" or (world == 1 and wanted in ("auto", "ddp")):
        if world > 1 and gpus:
            raise UserError(
                f"train.launch is none, but hardware is {hardware}; choose one with a single GPU, or leave it out"
            )
        return LaunchPlan("none", 1, 1, "train.launch is none" if world > 1 else "there is one device")
    if wanted == "auto":
        strategy, reason = _fitting(recipe)
        return LaunchPlan(strategy, processes, nodes, reason)
    if world == 1:
        raise UserError(f"train.launch: {CALLED[wanted]} divides among several devices, and {hardware.name} has one")
    if why := refusal(recipe, wanted):
        raise UserError(f"train.launch: {why}")
    return LaunchPlan(wanted, processes, nodes, "train.launch says so")


def launch_lines(recipe: Recipe, words: Sequence[str]) -> str:
    """Return the processes of a recipe's training as comment lines of YAML; ``words`` follow ``agentforge``."""
    plan = plan_launch(recipe)
    lines = f"# train.launch: {plan}\n"
    return lines if plan.world == 1 else f"{lines}#   starts what this would: {plan.command(words)}\n"


def _fitting(recipe: Recipe) -> tuple[Strategy, str]:
    """Return DDP where a copy of everything fits on each device, since it is fastest; else what divides most."""
    try:
        if estimate_memory(recipe, "ddp").fits():
            return "ddp", "all of it fits on each device"
        divided: list[Strategy] = ["fsdp2", "zero2"]
        allowed = [strategy for strategy in divided if refusal(recipe, strategy) is None]
        chosen = min(allowed, key=lambda strategy: estimate_memory(recipe, strategy).total(), default=None)
    except UserError:
        return "ddp", "how much memory it needs is not known"
    if chosen is None:
        why = refusal(recipe, "fsdp2")
        return "ddp", f"it does not fit on a device and cannot be divided ({why})"
    fits = "" if estimate_memory(recipe, chosen).fits() else ", and divided it does not fit either"
    return chosen, f"a copy of everything does not fit on a device{fits}"


def refusal(recipe: Recipe, strategy: Strategy) -> str | None:
    """Return why a recipe cannot be trained with what its processes share, as a sentence; None: it can."""
    if strategy not in DIVIDED:
        return None
    train, called = recipe.train, CALLED[strategy]
    parts = "parts of them" if strategy in SHARDED else "them flattened, and parts of their states"
    if strategy == "fsdp2" and not load_hardware(recipe.hardware).gpus:
        return f"FSDP 2 needs GPUs: on CPUs it would silently be DDP; {WITH_DDP}"
    if train.optimizer is not None:
        return (
            f"{train.optimizer.name} orthogonalises whole matrices, but with {called} each process holds {parts}; "
            f"{WITH_DDP}, or leave out train.optimizer"
        )
    if train.ema is not None:
        return f"train.ema averages whole weights, but with {called} each process holds {parts}; {WITH_DDP}"
    try:
        why = step_work(recipe, shape_of(recipe)).undivided
    except UserError:  # of a base whose shape is not known
        why = None
    if why is not None:
        return f"{why}, which {called} cannot divide; {WITH_DDP}"
    if strategy not in SHARDED:
        return None
    if METHODS[train.method].plays and recipe.rollouts.engine != "vllm":
        return (
            f"with {train.method} each process plays its own episodes with a whole copy of the model, but {called} "
            "divides it; set train.launch to ddp or zero2, or let vLLM play (rollouts.engine: vllm)"
        )
    if train.method == "ppo":
        return (
            f"ppo's critic reads hidden states from inside the model, which {called} does not gather for it; train "
            "with grpo, or set train.launch to ddp or zero2"
        )
    if recipe.data.add_tokens:
        return f"data.add_tokens sets rows of the embeddings, which {called} divides; {WITH_DDP} or zero2"
    if recipe.model.quantize is not None:
        return f"4-bit weights cannot be divided by {called}; {WITH_DDP}"
    return None


def strategy_here(recipe: Recipe) -> Strategy:
    """Return what this process shares with others: what `accelerate launch` asked for, else what the recipe says.

    Raises:
        UserError: both say something, and not the same; or it cannot be.
    """
    wanted, asked = recipe.train.launch, launched_strategy()
    if asked is None:
        return plan_launch(recipe).strategy
    if asked == "fsdp2" and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("accelerate launch asks for FSDP 1, whose weights are saved in other ways; set fsdp_version: 2")
    if wanted not in ("auto", asked):
        raise UserError(
            f"accelerate launch asks for {CALLED[asked]}, but train.launch is {wanted}; leave out one of them"
        )
    if why := refusal(recipe, asked):
        raise UserError(f"accelerate launch: {why}")
    return asked
