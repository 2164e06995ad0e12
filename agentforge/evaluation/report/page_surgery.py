"""What manifests say about surgery and routers, on a report's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentforge.artifacts import read_manifest


def surgery_groups(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the proofs of all surgery, and the reports of all routers, as far as there are any."""
    manifests = [(path.name, read_manifest(path)) for path in artifacts]
    surgeries = [(name, manifest["metrics"]) for name, manifest in manifests if manifest["stage"] == "surgery"]
    routers = [(name, manifest["metrics"]["router"]) for name, manifest in manifests if "router" in manifest["metrics"]]
    groups = []
    if surgeries:
        groups.append(_surgery(surgeries))
    if routers:
        groups.append(_routers(routers))
    return groups


def _surgery(surgeries: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    # Not every operation has a proof to show, and only one that drops attention has a cost.
    proved = [
        [name, metrics["operation"], f"{proof['max_logit_difference']:.2g}", f"{proof['bound']:.2g}",
         f"{proof['largest_logit']:.3g}", f"{proof['tokens']:,}", _shape(metrics)]
        for name, metrics in surgeries
        if (proof := metrics.get("proof"))
    ]  # fmt: skip
    dropped = [
        [name, ", ".join(map(str, cost["dropped"])), f"{cost['before']:.4f}", f"{cost['after']:.4f}"]
        for name, metrics in surgeries
        if (cost := metrics.get("cost"))
    ]
    resized = [
        [name, cost["what"], f"{cost['loss'] - cost['change']['value']:.4f}", f"{cost['loss']:.4f}", _change(cost)]
        for name, metrics in surgeries
        for cost in metrics.get("costs", [])
    ]
    headings = ["artefact", "operation", "largest difference of logits", "bound", "largest logit", "tokens", "shape"]
    tables = [
        {
            "headings": headings,
            "rows": proved,
            "caption": "In float32, old against new; a slice against itself in place.",
        },
        {
            "headings": ["artefact", "attention dropped in layers", "loss before", "loss after"],
            "rows": dropped,
            "caption": "In nats a token, on the rows that the layers were chosen by.",
        },
        {
            "headings": ["artefact", "what of its memory could stay", "loss before", "loss after", "change"],
            "rows": resized,
            "caption": "In nats a token, before any training; where there are several, the least is what was made.",
        },
    ]
    return {
        "id": "surgery",
        "title": "Surgery",
        "explanation": "What each operation changed in what the model computes. A proof that fails publishes nothing.",
        "charts": [],
        "tables": [table for table in tables if table["rows"]],
        "tiles": [],
    }


def _change(cost: dict[str, Any]) -> str:
    change = cost["change"]
    return f"{change['value']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"


def _shape(metrics: dict[str, Any]) -> str:
    if branch := metrics.get("branch"):
        heads, layers = branch["memory_heads"], len(branch["memory_layers"])
        return f"exit threshold {branch['exit_threshold']}; {heads} memory heads in {layers} layers"
    shape = metrics.get("shape", {})
    return f"{shape['hidden_size']} wide, {shape['num_hidden_layers']} layers" if shape else ""


def _routers(routers: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    rows = []
    for name, report in routers:
        saved = report["saved"]
        shares = ", ".join(f"{width}: {share:.0%}" for width, share in report["shares"].items())
        rows.append([name, f"{report['prompts']:,}", f"{report['tolerance']:g}", shares, f"{report['parameters']:.1%}",
                     f"{report['regret']:.4f}", f"{report['within_tolerance']:.1%}", f"{report['random']:.4f}",
                     f"{saved['mean']:+.4f} [{saved['low']:+.4f}, {saved['high']:+.4f}]"])  # fmt: skip
    headings = ["model", "prompts", "tolerance", "widths picked", "parameters used", "regret", "within tolerance",
                "regret, dealt blindly", "saved"]  # fmt: skip
    explanation = (
        "The router picks a width from the prompt. Regret: how much more the picked width loses than the full model on "
        "what follows, in nats a token, on prompts that it was not fitted to. Saved: against the same widths dealt out "
        "without looking, with a 95% interval; where that includes 0, it has learnt nothing."
    )
    table = {"headings": headings, "rows": rows, "caption": None}
    return {
        "id": "router",
        "title": "Router",
        "explanation": explanation,
        "charts": [],
        "tables": [table],
        "tiles": [],
    }
