"""`plan --calibrate`: take twenty steps here, and plan with what was measured instead of what was assumed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from agentforge.errors import UserError
from agentforge.planning.flops import flops_per_token, rows_per_step, training_processes
from agentforge.planning.plan import Plan, make_plan
from agentforge.recipe.hardware import Band, Hardware, load_hardware, this_machine
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe

STEPS, FOR_MEMORY = 20, 3


@dataclass(frozen=True)
class Calibration:
    """What twenty steps showed.

    Attributes:
        seconds: of a step: the fastest tenth, the median, the slowest tenth.
        tokens_per_second: of one device, at the median.
        mfu: share of the peak that the steps reached, as a band.
        peak: bytes of tensors at the most (on a CPU: of the process, beyond what it held before); None: not measured.
        expected: the plan with assumed figures.
        plan: the plan with measured ones.
    """

    seconds: tuple[float, float, float]
    tokens_per_second: float
    mfu: Band
    peak: int | None
    expected: Plan
    plan: Plan

    @property
    def time_off(self) -> float:
        """How much longer training was expected to take than it does, as a share: 0.5 is half as long again."""
        before, after = (_training(plan) for plan in (self.expected, self.plan))
        return before / after - 1

    @property
    def memory_off(self) -> float | None:
        """The same of memory, without the runtime's overhead."""
        if self.peak is None:
            return None
        memory = self.expected.memory
        return (memory.total() - memory.overhead) / self.peak - 1


def calibrate(recipe: Recipe) -> Calibration:
    """Take the steps, and plan with what they show.

    Raises:
        UserError: the recipe is for another machine than this one, its method reads no rows, or its length is unknown.
    """
    hardware = load_hardware(recipe.hardware)
    _check(recipe, hardware)
    expected = make_plan(recipe)
    if expected.tokens is None:
        raise UserError("how much the recipe trains is not known, so there is nothing to compare; run `prepare` first")
    from agentforge.trainers.trial_steps import take_steps

    meter = take_steps(recipe, STEPS, for_memory=FOR_MEMORY)
    seconds = sorted(meter.seconds[FOR_MEMORY:])
    tenth = max(len(seconds) // 10, 1)
    fast, likely, slow = seconds[tenth - 1], statistics.median(seconds), seconds[-tenth]
    tokens = rows_per_step(recipe) / training_processes(recipe) * recipe.row_length
    work = flops_per_token(recipe, expected.shape, recompute=expected.memory.recomputes) * tokens
    low, mid, high = (work / each / hardware.peak_flops for each in (slow, likely, fast))
    mfu = Band(low=low, mid=mid, high=high, source=f"measured here in {len(seconds)} steps")
    plan = make_plan(recipe, measured=mfu)
    if meter.peak is not None:
        plan = replace(plan, memory=replace(plan.memory, measured=float(meter.peak)))
    return Calibration((fast, likely, slow), tokens / likely, mfu, meter.peak, expected, plan)


def _check(recipe: Recipe, hardware: Hardware) -> None:
    machine = this_machine()
    here = machine.matching(hardware) > 0 if hardware.gpus else not machine.gpus
    if not here:
        raise UserError(
            f"--calibrate measures this machine ({machine}), but the recipe is for {hardware}; choose another "
            "--profile, or run it there"
        )
    if not METHODS[recipe.train.method].supervised:
        reading = " and ".join(name for name, method in METHODS.items() if method.supervised)
        raise UserError(f"--calibrate takes steps of {reading} only; {recipe.train.method} has no rows to repeat")


def _training(plan: Plan) -> float:
    return next(stage.hours.mid for stage in plan.stages if stage.stage == "train")
