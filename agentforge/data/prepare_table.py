"""A prepared set at a glance: what each source gave, and what a trainer will see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.artifacts import read_manifest

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS = ("source", "licence", "read", "rejected", "kept", "asked", "got", "epochs", "train rows", "tokens", "trained")


def summary_table(prepared: Path) -> Group:
    """Return a table of the sources in a `-data` artefact's manifest, and a line for each side of the split."""
    from rich.console import Group
    from rich.table import Table

    metrics = read_manifest(prepared)["metrics"]
    table = Table(title=f"{prepared.name}: weights in {metrics['weights_in']}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("source", "licence", "rejected") else "right")
    for name, source in metrics["sources"].items():
        table.add_row(name, *_cells(source))
    return Group(table, *(_side(split, metrics[split]) for split in ("train", "eval")))


def _cells(source: Mapping[str, Any]) -> list[str]:
    rejected = {
        **source["rows_rejected"],
        **({"unreadable": source["rows_unreadable"]} if source["rows_unreadable"] else {}),
    }
    return [
        source["licence"] or "not stated",
        f"{source['rows_read']:,}",
        ", ".join(f"{count:,} {reason}" for reason, count in rejected.items()) or "none",
        f"{source['rows_kept']:,}",
        f"{source['weight_asked']:.1%}",
        f"{source['weight_got']:.1%}{' (capped)' if source['capped'] else ''}",
        f"{source['epochs']:.2f}",
        f"{source['train_rows']:,}",
        f"{source['train_tokens']:,}",
        f"{source['trained_tokens']:,}",
    ]


def _side(split: str, side: Mapping[str, Any]) -> str:
    return (
        f"{split}: {side['rows']:,} rows ({side['unique_rows']:,} different), {side['tokens']:,} tokens, "
        f"{side['trained_tokens']:,} trained; packed: {side['packed_rows']:,} rows, {side['packed_fill']:.1%} full"
    )
