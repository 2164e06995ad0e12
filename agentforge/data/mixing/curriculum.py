"""A curriculum whose sources are not all here: which stages change, and which cannot be."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agentforge.data.sources.source_files import MissingData
from agentforge.recipe.schema import DataStage

log = logging.getLogger(__name__)


def stages_without(curriculum: Sequence[DataStage], missing: Sequence[str]) -> dict[str, list[str]]:
    """Return which missing sources each stage would have drawn, and say so; stages that keep all theirs are left out.

    Args:
        curriculum: `data.curriculum`.
        missing: sources of the mix that are not here, or off (with `data.allow_missing`).

    Raises:
        MissingData: a stage has no source left.
    """
    changed: dict[str, list[str]] = {}
    for stage in curriculum:
        # A stage that names none takes all that are there, and there is at least one.
        lost = [name for name in stage.named or missing if name in missing]
        if not lost:
            continue
        if stage.named and len(lost) == len(stage.named):
            raise MissingData(
                f"data.curriculum: of stage '{stage.name}' no source is here ({', '.join(lost)}); download one of them "
                "(`agentforge download`), or take the stage out"
            )
        changed[stage.name] = lost
        left = f"{len(stage.named) - len(lost)} of {len(stage.named)} sources" if stage.named else "the others"
        log.warning("stage '%s' goes on with %s, without %s", stage.name, left, ", ".join(lost))
    return changed
