"""Sections that systems add to a report's page, from artefacts of their own stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.recipe.schema import Recipe
from agentforge.references import Reference, resolve
from agentforge.systems.registry import all_systems


@dataclass(frozen=True)
class Shown:
    """What one system shows of one stage: the function that makes the sections, and what it is given."""

    function: Reference
    artifacts: list[Path]


def shown_by_systems(recipes: Sequence[Recipe]) -> list[Shown]:
    """Return what systems show of what lies in the recipes' output directories, whether a recipe made it or not."""
    hooks = [hook for system in all_systems() for hook in system.report.items()]
    if not hooks:
        return []
    by_stage: dict[str, list[tuple[str, Path]]] = {}
    for directory in sorted({Path(recipe.output_dir) for recipe in recipes}):
        for file in directory.glob(f"*/{MANIFEST}"):
            manifest = read_manifest(file.parent)
            by_stage.setdefault(manifest["stage"], []).append((str(manifest["finished"]), file.parent))
    # In the order they were made, as everywhere on the page.
    return [
        Shown(function, [path for _, path in sorted(by_stage[stage])]) for stage, function in hooks if stage in by_stage
    ]


def system_groups(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the sections."""
    return [group for one in shown for group in resolve(one.function)(one.artifacts)]
