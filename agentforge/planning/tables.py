"""Plans as tables for the terminal; the arithmetic is in `plan`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentforge.planning.calibrate import Calibration
from agentforge.planning.check import Check
from agentforge.planning.cost import Range
from agentforge.planning.launch import refusal
from agentforge.planning.memory import USABLE, Memory
from agentforge.planning.pipeline_plan import Part, PipelinePlan
from agentforge.planning.plan import Plan
from agentforge.planning.spec_checks import Verdict
from agentforge.planning.storage import Item
from agentforge.recipe.hardware import Hardware, load_hardware
from agentforge.recipe.launch import CALLED, DIVIDED
from agentforge.recipe.methods import METHODS
from agentforge.recipe.prices import offers_of


def plan_table(plan: Plan, words: Sequence[str] = ()) -> RenderableType:
    """Return a plan as tables, the verdicts on stated figures last.

    Args:
        words: of the command that trains it (``train aj --profile 8xh200``), to show what that starts; none: not shown.
    """
    parts: list[RenderableType] = [
        _facts(plan, words),
        _memory(plan),
        _stages(plan),
        *_prices(plan.hardware, plan.hours),
    ]
    return Group(*parts, _storage(plan), *map(_verdict_line, plan.verdicts))


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
    if system.evaluations:
        hours, dollars = system.evaluated
        table.add_row(f"{len(system.evaluations)} evaluations", "", "", "", "", "", _hours(hours), _dollars(dollars))
    table.add_row("all", "", "", "", "", "", _hours(system.hours), _dollars(system.dollars))
    if (most := system.recipe.budget.max_cost) is not None:
        table.add_row("budget", "", "", "", "", "", "", f"${most:,.2f}")
    notes = Text(f"on {hardware}; preparing and surgery are not included", style="dim")
    return Group(table, notes, *_prices(hardware, system.hours), *map(_verdict_line, system.verdicts))


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
    return plan.launched.total() / 2**30


def _verdict_line(verdict: Verdict) -> Text:
    if verdict.wrong:
        return Text(f"cannot be right: {verdict.says}: {verdict.wrong}", style="red")
    if verdict.note:
        return Text(f"note: {verdict.says}: {verdict.note}", style="yellow")
    return Text(f"correct: {verdict.says}", style="green")


def calibration_table(found: Calibration) -> RenderableType:
    """Return what twenty steps showed, beside what had been expected of them, and the plan with it."""
    table = Table("", "expected", "measured here", "expected is", title="Twenty steps", title_justify="left")
    likely = found.expected.hardware.mfu
    share = f"{likely.mid:.2g} ({likely.low:.2g} to {likely.high:.2g})"
    mfu = found.mfu
    table.add_row("share of the peak", share, f"{mfu.mid:.2g} ({mfu.low:.2g} to {mfu.high:.2g})", "")
    rate = found.tokens_per_second
    table.add_row(
        *("tokens a second and device", f"{rate / (1 + found.time_off):,.0f}", f"{rate:,.0f}"),
        f"{found.time_off:+.0%} in time",
    )
    if found.peak is not None and found.memory_off is not None:
        memory = found.expected.memory
        expected = _gib(memory.total() - memory.overhead)
        off = f"{found.memory_off:+.0%}"
        table.add_row("GiB of a step, without the runtime", expected, _gib(found.peak), off)
    return Group(table, plan_table(found.plan))


def _facts(plan: Plan, words: Sequence[str] = ()) -> Table:
    table = Table(title=f"{plan.recipe.full_name} on {plan.hardware}", show_header=False, title_justify="left")
    table.add_row("base", f"{plan.parameters:,} parameters ({plan.shape.model_type})")
    if plan.active < plan.parameters:
        table.add_row("active", f"{plan.active:,.0f} parameters for each token (memory holds all experts)")
    share = plan.trained / (plan.parameters + (plan.trained if plan.recipe.train.lora is not None else 0))
    table.add_row("trained", f"{plan.trained:,} parameters ({share:.2%})")
    table.add_row("tokens", _tokens(plan))
    table.add_row("launch", str(plan.launch))
    if plan.launch.world > 1:
        for why, strategies in _impossible(plan):
            table.add_row("not possible", f"{', '.join(strategies)}: {why}")
    if words and plan.launch.world > 1:
        table.add_row("", f"agentforge {shlex.join(words)} starts what this would: {plan.launch.command(words)}")
    return table


def _impossible(plan: Plan) -> list[tuple[str, list[str]]]:
    """Return why the recipe cannot be divided, each reason with the words of `train.launch` that it rules out."""
    reasons: dict[str, list[str]] = {}
    for strategy in sorted(DIVIDED):
        if why := refusal(plan.recipe, strategy):
            reasons.setdefault(why.replace(CALLED[strategy], "it"), []).append(strategy)
    return list(reasons.items())


def _tokens(plan: Plan) -> str:
    tokens = plan.tokens
    if tokens is None:
        return "unknown until `agentforge prepare` has counted the rows"
    most = "" if METHODS[plan.recipe.train.method].supervised else "at most "
    text = f"{most}{tokens.slots:,} slots: {tokens.steps:,} steps x {tokens.rows // max(tokens.steps, 1)} rows x "
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
    columns = [("plain", plan.memory)]
    if plan.divided is not None and plan.divided_by is not None:
        columns.append((f"divided ({CALLED[plan.divided_by]})", plan.divided))
    for name, _ in columns:
        table.add_column(name, justify="right")
    for row in ("weights", "adapters", "gradients", "optimizer", "logits", "overhead"):
        table.add_row(row, *(_gib(getattr(memory, row)) for _, memory in columns))
    kept = "activations (recomputing)" if plan.memory.recomputes else "activations"
    table.add_row(kept, *(_gib(m.checkpoints + m.layer if m.recomputes else m.activations) for _, m in columns))
    how = " (gradients come as activations go)" if not plan.memory.gradients_stay else ""
    how = " (measured here)" if plan.memory.measured is not None else how
    table.add_row(f"peak{how}", *(_gib(memory.total()) for _, memory in columns))
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
    table.add_row("all", _hours(plan.hours), _dollars(plan.dollars), _rate(plan.hardware))
    if plan.recipe.budget.max_cost is not None:
        table.add_row("budget", "", f"${plan.recipe.budget.max_cost:,.2f}", "budget.max_cost")
    return table


def _rate(hardware: Hardware) -> str:
    price = f"${hardware.dollars_per_gpu_hour:.2f} per GPU-hour"
    return f"{price} from {hardware.provider or hardware.name} on {hardware.price_date}"


def _prices(hardware: Hardware, hours: Range) -> list[Table]:
    """Return what the same hours cost elsewhere, the cheapest first; nothing where no provider has such a card."""
    own = load_hardware(hardware.name)
    offers = [(offer.provider, offer) for offer in offers_of(hardware.gpu)]
    if not offers:
        return []
    rows = [(name, o.dollars_per_gpu_hour, o.date, o.source) for name, o in offers]
    rows.append((f"{own.name}.yaml", own.dollars_per_gpu_hour, own.price_date, own.price_source))
    title = f"Prices of a {hardware.gpu}: for the expected time (this plan's marked *)"
    table = Table("from", "per GPU-hour", "all", "on", "source", title=title, title_justify="left")
    chosen = hardware.provider or f"{own.name}.yaml"
    for name, price, date, source in sorted(rows, key=lambda row: row[1]):
        mark = "*" if name == chosen else ""
        total = f"${hours.mid * hardware.devices * price:,.2f}"
        table.add_row(f"{name}{mark}", f"${price:.2f}", total, str(date), source)
    return [table]


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
