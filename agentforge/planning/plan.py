"""What a run needs before it starts: parameters, tokens, memory, disk, hours and dollars. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.errors import CheckRefused
from agentforge.planning import storage
from agentforge.planning.cost import DISK_RATES, DOWNLOAD_RATES, Range, compute_hours, dollars, transfer_hours
from agentforge.planning.flops import TrainingTokens, count_tokens, flops_per_token
from agentforge.planning.memory import Memory, can_be_sharded, estimate_memory, trained_parameters
from agentforge.planning.parameters import count_parameters
from agentforge.planning.rollout_time import playing_hours
from agentforge.planning.shapes import shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.spec_checks import Verdict, check_claims, claims_for
from agentforge.recipe.hardware import Hardware, load_hardware
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
        memory: of one device, as on a plain start; `sharded` with FSDP over all of them, None on one device and where
            the method needs whole weights.
        stages: download, train, play, merge, gguf: those whose length can be told.
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
    memory: Memory
    sharded: Memory | None
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
        """Whether a device's memory suffices, sharded if need be."""
        return self.memory.fits() or (self.sharded is not None and self.sharded.fits())


def make_plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe.

    Raises:
        UserError: the base's shape, a data set or the hardware is not known.
    """
    hardware, shape = load_hardware(recipe.hardware), shape_of(recipe)
    memory = estimate_memory(recipe, sharded=False)
    tokens = count_tokens(recipe)
    shardable = hardware.devices > 1 and can_be_sharded(recipe, shape)
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
        memory=memory,
        sharded=estimate_memory(recipe, sharded=True) if shardable else None,
        stages=_stages(recipe, hardware, shape, memory, tokens, downloads, made),
        downloads=downloads,
        made=made,
        verdicts=check_claims(claims_for(recipe), recipe, shape),
    )


def _stages(
    recipe: Recipe,
    hardware: Hardware,
    shape: Shape,
    memory: Memory,
    tokens: TrainingTokens | None,
    downloads: list[storage.Item],
    made: list[storage.Item],
) -> list[StageCost]:
    """Return what each stage costs. The whole machine is paid for during downloads and exports too."""
    costs: list[StageCost] = []

    def add(stage: str, hours: Range, basis: str) -> None:
        costs.append(StageCost(stage, hours, dollars(hours, hardware), basis))

    if missing := storage.total(downloads, missing_only=True):
        add("download", transfer_hours(missing, DOWNLOAD_RATES), f"{missing / 1e9:.1f} GB at 30 to 400 MB/s")
    if tokens is not None:
        per_token = flops_per_token(recipe, shape, recompute=memory.recomputes)
        share = f"{hardware.mfu.low:.0%} to {hardware.mfu.high:.0%} of {hardware.peak_flops / 1e12:g} TFLOP/s"
        add(
            "train",
            compute_hours(per_token * tokens.slots, hardware),
            f"{per_token / 1e9:.3g} GFLOP per token, {share}",
        )
    if recipe.train.method in ("ppo", "grpo"):
        add("play", *playing_hours(recipe, shape, hardware))
    sizes = {item.what: item.size or 0.0 for item in made}
    if merged := sizes.get("merged", 0.0):
        # Read base and adapter, write the result, read both again for the check.
        add("merge", transfer_hours(4 * merged, DISK_RATES), "four passes over the weights at 0.3 to 2 GB/s")
    if files := sum(size for what, size in sizes.items() if what.startswith("gguf")):
        add("gguf", transfer_hours(3 * files + merged, DISK_RATES), "written, read back and checked at 0.3 to 2 GB/s")
    return costs


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
        needed, has = plan.memory.total() / 2**30, plan.hardware.memory_gib
        raise CheckRefused(
            f"{name} needs {needed:.1f} GiB per device and 8 % to spare, but {plan.hardware} has {has:g}; lower "
            "per_device_train_batch_size or data.max_length, set gradient_checkpointing, or use larger hardware"
        )
