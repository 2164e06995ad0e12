"""A prepared set at a glance: what each source gave, and what a trainer will see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.artifacts import read_manifest

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

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
    notes = [note for name, source in metrics["sources"].items() for note in _notes(name, source)]
    return Group(table, *notes, *(_side(split, metrics[split]) for split in ("train", "eval")))


def _cells(source: Mapping[str, Any]) -> list[str]:
    rejected = {
        **source["rows_rejected"],
        **({"unreadable": source["rows_unreadable"]} if source["rows_unreadable"] else {}),
    }
    return [
        source["licence"] or "not stated",
        f"{source['rows_read']:,}",
        ", ".join(f"{count:,} {reason}{_first(source, reason)}" for reason, count in rejected.items()) or "none",
        f"{source['rows_kept']:,}",
        f"{source['weight_asked']:.1%}",
        f"{source['weight_got']:.1%}{' (capped)' if source['capped'] else ''}",
        f"{source['epochs']:.2f}",
        f"{source['train_rows']:,}",
        f"{source['train_tokens']:,}",
        f"{source['trained_tokens']:,}",
    ]


def _first(source: Mapping[str, Any], reason: str) -> str:
    first = source["first_lines"].get(reason)
    return f" ({first})" if first else ""


CUT = {
    "rows_truncated": "rows were cut",
    "rows_split": "rows were cut into several",
    "rows_too_long": "rows were left out",
    "tokens_truncated": "tokens were cut off",
    "tokens_in_untrained_pieces": "tokens stood in pieces without a trained token",
    "rows_without_trained_token": "rows were dropped, having no trained token left",
}
"""What `cut` counts of rows longer than data.max_length, in words."""


def _notes(name: str, source: Mapping[str, Any]) -> list[Text]:
    """Return what a source lost without losing whole rows, and what could not be read."""
    from rich.text import Text

    notes = []
    if source["left_out"]:
        notes.append(f"{name}: not trained on: {describe_left_out(source['left_out'])}")
    if cut := [f"{source[key]:,} {what}{_first(source, key)}" for key, what in CUT.items() if source.get(key)]:
        notes.append(f"{name}: longer than data.max_length: {', '.join(cut)}")
    if source["rows_unreadable"]:
        notes.append(f"{name}: unreadable: {source['unreadable_lines']}")
    if source["rows_repaired"]:
        notes.append(f"{name}: repaired: {describe_left_out(source['rows_repaired'])}")
    return [Text(note) for note in notes]


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Name what rows hold and the model does not see, with its number, most of it first."""
    return ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _side(split: str, side: Mapping[str, Any]) -> str:
    return (
        f"{split}: {side['rows']:,} rows ({side['unique_rows']:,} different), {side['tokens']:,} tokens, "
        f"{side['trained_tokens']:,} trained; packed: {side['packed_rows']:,} rows, {side['packed_fill']:.1%} full"
    )
