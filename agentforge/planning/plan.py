"""What a run needs before it starts: parameters, tokens, memory, disk, hours and dollars. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.errors import CheckRefused
from agentforge.planning import storage
from agentforge.planning.constants import DISK, DOWNLOAD
from agentforge.planning.cost import Range, compute_hours, dollars, transfer_hours
from agentforge.planning.evaluation_time import evaluation_hours
from agentforge.planning.flops import TrainingTokens, count_tokens, flops_per_token
from agentforge.planning.launch import LaunchPlan, plan_launch, refusal
from agentforge.planning.limits.check import check_limits
from agentforge.planning.memory import Memory, estimate_memory
from agentforge.planning.parameters import count_parameters, trained_parameters
from agentforge.planning.rollout_time import playing_hours
from agentforge.planning.shapes import shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.slowdown import slowdown
from agentforge.planning.spec_checks import Verdict, check_claims, claims_for
from agentforge.recipe.hardware import Band, Hardware, load_hardware
from agentforge.recipe.launch import DIVIDED, Strategy
from agentforge.recipe.schema import Recipe


@dataclass(frozen=True)
class StageCost:
    """Hours and dollars of one stage, and the figures they follow from."""

    stage: str
    hours: Range
    dollars: Range
    basis: str


@dataclass(frozen=True)
class Plan:
    """Everything `agentforge plan` prints.

    Attributes:
        parameters: of the base, all of which memory must hold.
        active: those that one token uses; fewer only with experts.
        trained: those that the optimiser updates.
        tokens: what training reads; None where only `prepare` can tell.
        launch: the processes that train.
        memory: of one device with DDP, or alone.
        divided: the same with `divided_by`, what else the devices may share: what the recipe's launch says, or FSDP 2.
            None on one device, and where the training cannot be divided.
        stages: download, train, play, merge, gguf and the evaluations that `run` makes: those whose length can be told.
        downloads, made: what needs space.
        verdicts: on the figures that a specification states for this recipe.
    """

    recipe: Recipe
    hardware: Hardware
    shape: Shape
    parameters: int
    active: float
    trained: int
    tokens: TrainingTokens | None
    launch: LaunchPlan
    memory: Memory
    divided: Memory | None
    divided_by: Strategy | None
    stages: list[StageCost]
    downloads: list[storage.Item]
    made: list[storage.Item]
    verdicts: list[Verdict]

    @property
    def hours(self) -> Range:
        """Of all stages together."""
        return sum((stage.hours for stage in self.stages), Range(0, 0, 0))

    @property
    def dollars(self) -> Range:
        """Of all stages together."""
        return sum((stage.dollars for stage in self.stages), Range(0, 0, 0))

    @property
    def disk(self) -> float:
        """Bytes of everything that is downloaded or made."""
        return storage.total(self.downloads) + storage.total(self.made)

    @property
    def fits(self) -> bool:
        """Whether a device's memory suffices, as the recipe is launched."""
        return self.launched.fits()

    @property
    def launched(self) -> Memory:
        """Memory of one device as the recipe is launched."""
        return self.divided if self.divided is not None and self.launch.strategy == self.divided_by else self.memory


def make_plan(recipe: Recipe, *, measured: Band | None = None) -> Plan:
    """Return the plan of a recipe.

    Args:
        measured: the share of the peak that its training reaches, whatever slows it down; None: that of the hardware.

    Raises:
        UserError: the training would be refused, or the base's shape, a data set or the hardware is not known.
    """
    check_limits(recipe)
    hardware, shape = load_hardware(recipe.hardware), shape_of(recipe)
    launch = plan_launch(recipe)
    divided_by = _divided_by(recipe, launch)
    memory = estimate_memory(recipe, "ddp")
    divided = estimate_memory(recipe, divided_by) if divided_by is not None else None
    used = divided if divided is not None and launch.strategy == divided_by else memory
    tokens = count_tokens(recipe)
    base = storage.base_item(recipe, shape)
    downloads = ([base] if base else []) + storage.data_items(recipe)
    made = storage.made_items(recipe, shape)
    return Plan(
        recipe=recipe,
        hardware=hardware,
        shape=shape,
        parameters=count_parameters(shape).total,
        active=count_parameters(shape).active,
        trained=trained_parameters(recipe, shape),
        tokens=tokens,
        launch=launch,
        memory=memory,
        divided=divided,
        divided_by=divided_by,
        stages=_stages(recipe, hardware, shape, used, tokens, downloads, made, measured),
        downloads=downloads,
        made=made,
        verdicts=check_claims(claims_for(recipe), recipe, shape),
    )


def _divided_by(recipe: Recipe, launch: LaunchPlan) -> Strategy | None:
    if launch.strategy in DIVIDED:
        return launch.strategy
    possible: tuple[Strategy, ...] = ("fsdp2", "zero2") if launch.world > 1 else ()
    return next((strategy for strategy in possible if refusal(recipe, strategy) is None), None)


def _stages(
    recipe: Recipe,
    hardware: Hardware,
    shape: Shape,
    memory: Memory,
    tokens: TrainingTokens | None,
    downloads: list[storage.Item],
    made: list[storage.Item],
    measured: Band | None,
) -> list[StageCost]:
    """Return what each stage costs. The whole machine is paid for during downloads and exports too."""
    costs: list[StageCost] = []

    def add(stage: str, hours: Range, basis: str) -> None:
        costs.append(StageCost(stage, hours, dollars(hours, hardware), basis))

    if missing := storage.total(downloads, missing_only=True):
        add("download", transfer_hours(missing, DOWNLOAD.range), f"{missing / 1e9:.1f} GB at 30 to 400 MB/s")
    if tokens is not None:
        per_token = flops_per_token(recipe, shape, recompute=memory.recomputes)
        add("train", *_training(recipe, hardware, shape, per_token, tokens.slots, measured))
    if recipe.train.method in ("ppo", "grpo"):
        add("play", *playing_hours(recipe, shape, hardware))
    sizes = {item.what: item.size or 0.0 for item in made}
    if merged := sizes.get("merged", 0.0):
        # Read base and adapter, write the result, read both again for the check.
        add("merge", transfer_hours(4 * merged, DISK.range), "four passes over the weights at 0.3 to 2 GB/s")
    if files := sum(size for what, size in sizes.items() if what.startswith("gguf")):
        add("gguf", transfer_hours(3 * files + merged, DISK.range), "written, read back and checked at 0.3 to 2 GB/s")
    for stage in recipe.stages:
        if stage.verb == "evaluate" and stage.recipe is None:
            costs.append(evaluation_cost(recipe, stage.model, f"evaluate {stage.model or ''}".strip()))
    return costs


def _training(
    recipe: Recipe, hardware: Hardware, shape: Shape, per_token: float, slots: int, measured: Band | None
) -> tuple[Range, str]:
    factor, why = slowdown(recipe, shape)
    if measured is not None:  # the steps were as slow as they were
        hardware, factor, why = hardware.model_copy(update={"mfu": measured}), Range(1, 1, 1), f"; {measured.source}"
    share = f"{hardware.mfu.low:.2g} to {hardware.mfu.high:.2g} of {hardware.peak_flops / 1e12:g} TFLOP/s"
    hours = compute_hours(per_token * slots, hardware) * factor
    return hours, f"{per_token / 1e9:.3g} GFLOP per token, {share}{why}"


def evaluation_cost(recipe: Recipe, model: str | None, called: str) -> StageCost:
    """Return what an evaluation costs; the whole machine is paid for while one device or the CPU works."""
    hours, basis = evaluation_hours(recipe, model)
    return StageCost(called, hours, dollars(hours, load_hardware(recipe.hardware)), basis)


def check_budget(plan: Plan) -> None:
    """Refuse a plan whose likely cost is above the recipe's budget, or that cannot fit.

    Raises:
        CheckRefused: it is; the sentence has the figures.
    """
    budget, name = plan.recipe.budget, plan.recipe.full_name
    if budget.max_cost is not None and plan.dollars.mid > budget.max_cost:
        raise CheckRefused(
            f"{name} will probably cost ${plan.dollars.mid:,.2f} ({plan.dollars.low:,.2f} to {plan.dollars.high:,.2f}) "
            f"but budget.max_cost is ${budget.max_cost:,.2f}; raise it, or train for fewer steps"
        )
    if budget.max_hours is not None and plan.hours.mid > budget.max_hours:
        raise CheckRefused(
            f"{name} will probably take {plan.hours.mid:.1f} h ({plan.hours.low:.1f} to {plan.hours.high:.1f}), "
            f"but budget.max_hours is {budget.max_hours:g}; raise it, or train for fewer steps"
        )
    if not plan.fits:
        needed, has = plan.launched.total() / 2**30, plan.hardware.memory_gib
        raise CheckRefused(
            f"{name} needs {needed:.1f} GiB per device and 8 % to spare, but {plan.hardware} has {has:g}; lower "
            "per_device_train_batch_size or data.max_length, set gradient_checkpointing, or use larger hardware"
        )
