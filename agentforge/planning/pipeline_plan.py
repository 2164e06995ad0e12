"""What a system takes: the plans of its training stages as one sum, and what has been stated of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from agentforge.environments.registry import check_options
from agentforge.errors import CheckRefused, UserError
from agentforge.planning.cost import Range
from agentforge.planning.plan import Plan, StageCost, check_budget, evaluation_cost, make_plan
from agentforge.planning.shapes import shape_of
from agentforge.planning.spec_checks import TOLERANCE, Claim, Verdict, claims_for
from agentforge.planning.step_work import step_work
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import load_recipe, load_stages
from agentforge.recipe.schema import Recipe

COUNTED = {"train", "play"}
TOKENS_FROM_SCRATCH = 20
"""Tokens a parameter that a model made from scratch has use for (Hoffmann et al., arXiv 2203.15556)."""


@dataclass(frozen=True)
class Part:
    """A training stage.

    Attributes:
        name: of its recipe.
        trained: parameters that the stage is there to train: of an expanded model only the new ones.
    """

    name: str
    plan: Plan
    trained: int

    @property
    def hours(self) -> Range:
        """Of training and playing."""
        return sum((cost.hours for cost in self.plan.stages if cost.stage in COUNTED), Range(0, 0, 0))

    @property
    def dollars(self) -> Range:
        """Of the same."""
        return sum((cost.dollars for cost in self.plan.stages if cost.stage in COUNTED), Range(0, 0, 0))


@dataclass(frozen=True)
class PipelinePlan:
    """What `agentforge plan` prints of a recipe with several training stages."""

    recipe: Recipe
    parts: list[Part]
    evaluations: list[StageCost] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def hours(self) -> Range:
        """Of all parts and evaluations."""
        return sum((part.hours for part in self.parts), self.evaluated[0])

    @property
    def dollars(self) -> Range:
        """Of all parts and evaluations."""
        return sum((part.dollars for part in self.parts), self.evaluated[1])

    @property
    def evaluated(self) -> tuple[Range, Range]:
        """Hours and dollars of the evaluations alone."""
        costs = self.evaluations
        return sum((c.hours for c in costs), Range(0, 0, 0)), sum((c.dollars for c in costs), Range(0, 0, 0))


def is_pipeline(recipe: Recipe) -> bool:
    """Tell whether more than one of the recipe's stages train."""
    return sum(stage.verb == "train" for stage in recipe.stages) > 1


def make_pipeline_plan(
    recipe: Recipe, name: str, overrides: Sequence[str] = (), profile: str | None = None
) -> PipelinePlan:
    """Return the plan of a system.

    Args:
        recipe: the one that lists the stages.
        name: what it was loaded by; stages without a recipe of their own are called so, and other profiles are loaded.
        overrides: of all stages' recipes.
        profile: of all stages' recipes.

    Raises:
        UserError: a recipe is wrong, or a shape or a data set is not known.
    """
    plan = _without_verdicts(recipe, name, overrides, profile)
    claims = claims_for(recipe) if profile is None else []
    others = {
        other: _without_verdicts(load_recipe(name, overrides, other), name, overrides, other)
        for other in {claim.profile for claim in claims} - {None}
    }
    return replace(plan, verdicts=[_verdict(claim, plan, others) for claim in claims])


def _without_verdicts(recipe: Recipe, name: str, overrides: Sequence[str], profile: str | None) -> PipelinePlan:
    read = load_stages(recipe, overrides, profile)
    for _, each in read:
        check_options(each.environments)
    trained = [(stage.recipe or name, make_plan(each)) for stage, each in read if stage.verb == "train"]
    parts = [Part(called, plan, _purpose(plan)) for called, plan in trained]
    evaluations = [
        evaluation_cost(each, stage.model, f"evaluate {stage.recipe or name} {stage.model or ''}".strip())
        for stage, each in read
        if stage.verb == "evaluate"
    ]
    return PipelinePlan(recipe, parts, evaluations)


def _purpose(plan: Plan) -> int:
    """Return the parameters that a stage is there for."""
    purpose = step_work(plan.recipe, shape_of(plan.recipe)).purpose
    return plan.trained if purpose is None else purpose


def _verdict(claim: Claim, system: PipelinePlan, others: dict[str | None, PipelinePlan]) -> Verdict:
    return Verdict(
        claim.says,
        "; ".join(_objections(claim, system, others)) or None,
        "; ".join(_notes(claim, system, others)) or None,
    )


def _objections(claim: Claim, system: PipelinePlan, others: dict[str | None, PipelinePlan]) -> Iterator[str]:
    hours = _part(claim, system).hours if claim.recipe else system.hours
    if claim.hours is not None and not hours.low <= claim.hours <= hours.high:
        yield f"{hours.mid:.3g} h are expected ({hours.low:.3g} to {hours.high:.3g})"
    if claim.dollars is not None and not system.dollars.low <= claim.dollars <= system.dollars.high:
        yield f"${system.dollars.mid:,.0f} are expected ({system.dollars.low:,.0f} to {system.dollars.high:,.0f})"
    if claim.saves is not None:
        saved = _saved(system, others[claim.profile])
        if not saved.low <= claim.saves <= saved.high:
            yield f"{_saving(claim, saved)}: the stages after it are smaller too"


def _notes(claim: Claim, system: PipelinePlan, others: dict[str | None, PipelinePlan]) -> Iterator[str]:
    if claim.recipe is not None:
        part = _part(claim, system)
        tokens = part.plan.tokens
        share = None if tokens is None else tokens.slots / part.trained
        if part.plan.recipe.train.method == "pretrain" and share is not None and share < TOKENS_FROM_SCRATCH:
            yield (
                f"{share:.2g} tokens for each parameter that the stage is there to train; from scratch "
                f"{TOKENS_FROM_SCRATCH} are usual"
            )
        return
    if claim.dollars_per_hour is not None:
        yield _beside_the_table(claim.dollars_per_hour, system)
    if claim.hours is not None and system.hours.low <= claim.hours <= system.hours.high:
        yield f"{system.hours.mid:.3g} h are expected, plus preparing and surgery"
    if claim.dollars is not None and system.dollars.low <= claim.dollars <= system.dollars.high:
        yield f"${system.dollars.mid:,.0f} are expected, {system.dollars.mid / claim.dollars:.2g} times as much"
    if claim.saves is not None and (saved := _saved(system, others[claim.profile])).low <= claim.saves <= saved.high:
        yield _saving(claim, saved)


def _saved(system: PipelinePlan, other: PipelinePlan) -> Range:
    return system.dollars + other.dollars * -1


def _saving(claim: Claim, saved: Range) -> str:
    return f"--profile {claim.profile} would save ${saved.mid:,.0f} ({saved.low:,.0f} to {saved.high:,.0f})"


def _beside_the_table(price: float, system: PipelinePlan) -> str:
    """Say how a price that someone pays compares: it is never wrong, only dearer or cheaper."""
    table, hours = load_hardware(system.parts[0].plan.hardware.name), system.hours.mid
    listed = table.dollars_per_hour
    if abs(price - listed) <= TOLERANCE * listed:
        return f"as configs/hardware/{table.name}.yaml has it ({table.price_date})"
    return (
        f"{abs(1 - price / listed):.0%} {'cheaper' if price < listed else 'dearer'} than configs/hardware/"
        f"{table.name}.yaml, which has ${listed:.2f} ({table.price_date}): for the expected {hours:.3g} h "
        f"${price * hours:,.0f} instead of ${listed * hours:,.0f}"
    )


def _part(claim: Claim, system: PipelinePlan) -> Part:
    for part in system.parts:
        if part.name == claim.recipe:
            return part
    raise UserError(f"configs/claims: '{claim.says}' is about {claim.recipe}, which no training stage reads")


def check_pipeline_budget(system: PipelinePlan) -> None:
    """Refuse a system that will probably cost more than its budget, or one of whose stages cannot run.

    Raises:
        CheckRefused: the sentence has the figures.
    """
    budget, name = system.recipe.budget, system.recipe.full_name
    for likely, most, unit in (
        (system.dollars.mid, budget.max_cost, "dollars"),
        (system.hours.mid, budget.max_hours, "hours"),
    ):
        if most is not None and likely > most:
            raise CheckRefused(
                f"{name} will probably take {likely:,.1f} {unit}, but its budget is {most:,g}; raise it, or train less"
            )
    for part in system.parts:
        check_budget(part.plan)
