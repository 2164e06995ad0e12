"""Plans as tables for the terminal; the arithmetic is in `plan`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentforge.planning.check import Check
from agentforge.planning.cost import Range
from agentforge.planning.memory import USABLE, Memory
from agentforge.planning.pipeline_plan import Part, PipelinePlan
from agentforge.planning.plan import Plan
from agentforge.planning.spec_checks import Verdict
from agentforge.planning.storage import Item


def plan_table(plan: Plan) -> RenderableType:
    """Return a plan as tables, the verdicts on stated figures last."""
    parts: list[RenderableType] = [_facts(plan), _memory(plan), _stages(plan), _storage(plan)]
    return Group(*parts, *map(_verdict_line, plan.verdicts))


def pipeline_table(system: PipelinePlan) -> RenderableType:
    """Return the training stages of a system as one table, the verdicts on stated figures last."""
    hardware = system.parts[0].plan.hardware
    table = Table(
        *("recipe", "method", "parameters", "trained", "tokens", "GiB per device", "time", "dollars"),
        title=f"{system.recipe.full_name}: expected (low to high)",
        title_justify="left",
    )
    for part in system.parts:
        table.add_row(*_part(part))
    table.add_row("all", "", "", "", "", "", _hours(system.hours), _dollars(system.dollars))
    if (most := system.recipe.budget.max_cost) is not None:
        table.add_row("budget", "", "", "", "", "", "", f"${most:,.2f}")
    rate = f"on {hardware}, ${hardware.dollars_per_gpu_hour:.2f} per GPU-hour on {hardware.price_date}; preparing, "
    notes = Text(f"{rate}surgery and evaluation are not included", style="dim")
    return Group(table, notes, *map(_verdict_line, system.verdicts))


def _part(part: Part) -> list[str]:
    plan = part.plan
    active = f" ({plan.active:,.0f} active)" if plan.active < plan.parameters else ""
    trained = f"{part.trained:,}" + (" new" if part.trained != plan.trained else "")
    row = [part.name, plan.recipe.train.method, f"{plan.parameters:,}{active}", trained]
    memory = f"{_smallest(plan):,.1f}"
    if plan.tokens is None:
        return [*row, "not counted yet", memory, "after prepare", ""]
    return [*row, f"{plan.tokens.slots / 1e6:,.4g} M", memory, _hours(part.hours), _dollars(part.dollars)]


def _smallest(plan: Plan) -> float:
    fitting = plan.memory if plan.memory.fits() or plan.sharded is None else plan.sharded
    return fitting.total() / 2**30


def _verdict_line(verdict: Verdict) -> Text:
    if verdict.wrong:
        return Text(f"cannot be right: {verdict.says}: {verdict.wrong}", style="red")
    if verdict.note:
        return Text(f"note: {verdict.says}: {verdict.note}", style="yellow")
    return Text(f"correct: {verdict.says}", style="green")


def _facts(plan: Plan) -> Table:
    table = Table(title=f"{plan.recipe.full_name} on {plan.hardware}", show_header=False, title_justify="left")
    table.add_row("base", f"{plan.parameters:,} parameters ({plan.shape.model_type})")
    if plan.active < plan.parameters:
        table.add_row("active", f"{plan.active:,.0f} parameters for each token (memory holds all experts)")
    share = plan.trained / (plan.parameters + (plan.trained if plan.recipe.train.lora is not None else 0))
    table.add_row("trained", f"{plan.trained:,} parameters ({share:.2%})")
    table.add_row("tokens", _tokens(plan))
    return table


def _tokens(plan: Plan) -> str:
    tokens = plan.tokens
    if tokens is None:
        return "unknown: run `agentforge prepare`, or set data.size or max_steps"
    text = f"{tokens.slots:,} slots: {tokens.steps:,} steps x {tokens.rows // max(tokens.steps, 1)} rows x "
    text += f"{plan.recipe.row_length}"
    if tokens.measured:
        text += f"; {tokens.real:,} real tokens"
    if tokens.epochs is not None:
        text += (
            f"; {tokens.epochs:.2f} epochs" if tokens.measured else f"; {tokens.epochs:.2f} epochs if no row is dropped"
        )
    return text


def _memory_title(plan: Plan) -> str:
    return "Memory" if plan.shape.config is None else "Memory (activations are a rough estimate for this architecture)"


def _memory(plan: Plan) -> Table:
    table = Table("GiB per device", title=_memory_title(plan), title_justify="left")
    columns = [("plain", plan.memory)] + ([("sharded (FSDP)", plan.sharded)] if plan.sharded else [])
    for name, _ in columns:
        table.add_column(name, justify="right")
    for row in ("weights", "adapters", "gradients", "optimizer", "logits", "overhead"):
        table.add_row(row, *(_gib(getattr(memory, row)) for _, memory in columns))
    kept = "layer inputs (recomputing)" if plan.memory.recomputes else "activations"
    table.add_row(kept, *(_gib(m.checkpoints if m.recomputes else m.activations) for _, m in columns))
    table.add_row("sum", *(_gib(memory.total()) for _, memory in columns))
    table.add_row(f"of {plan.hardware.memory_gib:g}, {USABLE:.0%} usable", *(_fit(memory) for _, memory in columns))
    return table


def _fit(memory: Memory) -> str:
    if memory.fits():
        return "fits"
    return "fits with gradient_checkpointing" if memory.fits(gradient_checkpointing=True) else "does not fit"


def _stages(plan: Plan) -> Table:
    table = Table(
        "stage", "time", "dollars", "basis", title="Time and money: expected (low to high)", title_justify="left"
    )
    for stage in plan.stages:
        table.add_row(stage.stage, _hours(stage.hours), _dollars(stage.dollars), stage.basis)
    rate = f"${plan.hardware.dollars_per_gpu_hour:.2f} per GPU-hour on {plan.hardware.price_date}"
    table.add_row("all", _hours(plan.hours), _dollars(plan.dollars), rate)
    if plan.recipe.budget.max_cost is not None:
        table.add_row("budget", "", f"${plan.recipe.budget.max_cost:,.2f}", "budget.max_cost")
    return table


def _storage(plan: Plan) -> Table:
    table = Table("GB", "size", title="Downloads and disk", title_justify="left")
    for item in plan.downloads:
        table.add_row(f"{item.what}{' (already here)' if item.here else ''}", _gigabytes(item))
    for item in plan.made:
        table.add_row(item.what, _gigabytes(item))
    table.add_row("all", f"{plan.disk / 1e9:,.3g}")
    return table


def _gigabytes(item: Item) -> str:
    return "unknown" if item.size is None else f"{item.size / 1e9:,.3g}"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _hours(span: Range) -> str:
    unit, factor = ("h", 1) if span.mid >= 1 else ("min", 60) if span.mid >= 1 / 60 else ("s", 3600)
    low, mid, high = (f"{value * factor:.3g}" for value in (span.low, span.mid, span.high))
    return f"{mid} {unit} ({low} to {high})"


def _dollars(span: Range) -> str:
    return f"${span.mid:,.2f} ({span.low:,.2f} to {span.high:,.2f})" if span.high else "none"


def checks_table(checks: list[Check]) -> Table:
    """Return what a machine has and lacks, each fault with the command that mends it."""
    table = Table("", "what", "found", box=None, pad_edge=False)
    styles = {"ok": "green", "warn": "yellow", "missing": "red"}
    for check in checks:
        text = Text(check.detail)
        if check.mend:
            text.append(f"\n-> {check.mend}", style="bold")
        table.add_row(Text(check.state, style=styles[check.state]), check.name, text)
    return table
