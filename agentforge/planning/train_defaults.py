"""What `train.args` are where the recipe says nothing, each with its reason: for the trainers, and for `show`.

Imports no torch. docs/performance.md has the sources, and what was left out and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentforge.planning.launch import plan_launch
from agentforge.planning.memory import needs_gradient_checkpointing
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.launch import Strategy
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe

INSTRUCTIONS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Device:
    """What the device that trains can do.

    Attributes:
        gpu: it is one.
        bf16: it multiplies in bf16 in half the time of fp32; others emulate it, and take longer.
        tf32: its tensor cores multiply fp32 with 10 bits of mantissa.
    """

    gpu: bool
    bf16: bool
    tf32: bool


@dataclass(frozen=True)
class Default:
    """A value, and why it is that."""

    value: Any
    why: str


def device_of(recipe: Recipe) -> Device:
    """Return what the recipe's hardware can do; a CPU is taken to be this machine's."""
    hardware = load_hardware(recipe.hardware)
    if hardware.gpus:
        return Device(True, hardware.bf16, hardware.tf32)
    return Device(False, cpu_has_bf16(), False)


def cpu_has_bf16() -> bool:
    """Tell whether this CPU has instructions for bf16."""
    try:
        flags = INSTRUCTIONS.read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def training_defaults(recipe: Recipe, device: Device, strategy: Strategy, *, evaluates: bool) -> dict[str, Default]:
    """Return the values of `train.args` that all methods start from.

    Args:
        recipe: what is trained; its own `train.args` win.
        device: on which.
        strategy: what its processes share.
        evaluates: there are eval rows.
    """
    given = recipe.train.args
    return {
        # The same seed twice: the order of the data must not change when somebody draws another initialisation.
        "seed": Default(recipe.seed, "`seed` of the recipe"),
        "data_seed": Default(recipe.seed, "`seed` of the recipe"),
        **_of_the_device(recipe, device, strategy),
        # Buffers of language models are constants (rotary frequencies, attention that is dropped): DDP would send them
        # from the first process to the others before every forward pass.
        "ddp_broadcast_buffers": Default(False, "a language model's buffers are constants"),
        # HF's default counts a NaN loss as the average of the others, or as 0.
        "logging_nan_inf_filter": Default(False, "a NaN must not be logged as a number"),
        # Not "all": nothing leaves the machine unless the recipe asks for it. `metrics.jsonl` is always written.
        "report_to": Default([], "nothing leaves the machine unasked"),
        # Trackers would draw a name by lot, and file the run under "huggingface".
        "run_name": Default(recipe.trained.name, "the artefact's name"),
        "project": Default(recipe.name, "`name` of the recipe"),
        "disable_tqdm": Default(True, "the stage shows its own progress"),
        # The parent would drop the lengths of packed documents.
        "remove_unused_columns": Default(False, "the rows have only the columns that the collator needs"),
        "logging_steps": Default(10, "agentforge's"),
        "save_total_limit": Default(2, "one complete checkpoint while the next is written"),
        "eval_strategy": Default("steps" if evaluates else "no", f"there are {'' if evaluates else 'no '}eval rows"),
        "eval_steps": Default(given.get("save_steps", 500), "as often as checkpoints are saved"),
        "per_device_eval_batch_size": Default(given.get("per_device_train_batch_size", 8), "as for training"),
    }


def _of_the_device(recipe: Recipe, device: Device, strategy: Strategy) -> dict[str, Default]:
    given = recipe.train.args
    bf16, why = _bf16(recipe, device)
    tf32 = {"tf32": Default(True, "what stays fp32 is multiplied by tensor cores")} if device.tf32 else {}
    # Given under its new name, because TRL sets the old one to True where the new one is left open.
    if "gradient_checkpointing" in given:
        recomputing = Default(given["gradient_checkpointing"], "the recipe's gradient_checkpointing")
    else:
        # It costs a third more time: only where the plan says the run does not fit without.
        needed = device.gpu and needs_gradient_checkpointing(recipe, strategy)
        recomputing = Default(needed, f"the plan {'does not fit' if needed else 'fits'} without recomputing")
    return {
        "bf16": Default(bf16, why),
        **tf32,
        "use_cpu": Default(not device.gpu, "the hardware"),
        "dataloader_pin_memory": Default(device.gpu, "only a GPU copies from pinned memory"),
        "activation_checkpointing": recomputing,
    }


def _bf16(recipe: Recipe, device: Device) -> tuple[bool, str]:
    if recipe.train.args.get("fp16"):
        return False, "the recipe's fp16"
    if not device.gpu and not METHODS[recipe.train.method].supervised:
        return False, "episodes are sampled in fp32: the update must see the same probabilities"
    where = "the GPU" if device.gpu else "this CPU"
    return device.bf16, f"{where} {'multiplies' if device.bf16 else 'would only emulate products'} in bf16"


def explained(recipe: Recipe) -> str:
    """Return `train.args` as they will be, a comment line of YAML each, with where each value comes from."""
    evaluates = METHODS[recipe.train.method].supervised
    defaults = training_defaults(recipe, device_of(recipe), plan_launch(recipe).strategy, evaluates=evaluates)
    given = {key: value for key, value in recipe.train.args.items() if value is not None or key not in defaults}
    values = {key: (default.value, default.why) for key, default in defaults.items()}
    values |= {key: (value, "the recipe") for key, value in given.items() if key != "gradient_checkpointing"}
    lines = ["train.args as they will be; all others are the defaults of the method and of the parent class"]
    for key, (value, why) in sorted(values.items()):
        lines.append(f"  {key}: {_yaml(value)}".ljust(48) + f"  {why}")
    return "".join(f"# {line}\n" for line in lines)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
