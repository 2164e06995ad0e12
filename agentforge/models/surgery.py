"""`surgery`: one operation on a checkpoint, and the proof that it did what it says before the result is published.

The operations belong to systems (`systems.base.Operation`); here is what all of them share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentforge.artifacts import stage_directory
from agentforge.data.store import load_prepared
from agentforge.errors import UserError
from agentforge.models.build import identify_base
from agentforge.models.checkpoint import checkpoint_directory
from agentforge.models.checkpoint_files import TOKENIZER_FILES, copy_present
from agentforge.models.history import check_history
from agentforge.recipe.schema import Recipe, Surgery
from agentforge.references import resolve
from agentforge.systems.base import Operation
from agentforge.systems.registry import operations


@dataclass(frozen=True)
class Job:
    """One operation: where the old checkpoint is, where the new one goes, and what the recipe says."""

    recipe: Recipe
    chosen: Surgery
    base: Path
    target: Path
    operation: Operation

    def measuring_rows(self, limit: int) -> list[list[int]]:
        """Return the token ids of up to ``limit`` rows of the recipe's prepared data, each of two tokens or more."""
        split = self.operation.reads
        assert split is not None, "this operation reads no data"
        data = load_prepared(self.recipe.artifact("data"))[split]
        rows = [list(row) for row in data[:limit]["input_ids"] if len(row) > 1]
        if not rows:
            raise UserError(
                f"{self.recipe.artifact('data')} has no {split} rows to measure on; raise data.eval_fraction"
            )
        return rows


def surgery(recipe: Recipe, replace: bool = False) -> Path:
    """Make the checkpoint that `surgery.operation` makes of `model.path`.

    Returns:
        the artefact `Recipe.operated`: a checkpoint with its tokenizer; its manifest's metrics hold the proof.

    Raises:
        UserError: the recipe asks for what cannot be made.
        CheckRefused: the proof failed, the base's tensors are not those of its config, or it is of another phase.
    """
    chosen, operation = _checked(recipe)
    assert recipe.model.path is not None
    base = checkpoint_directory(recipe.model.path, recipe.model.revision)
    settings = {
        "surgery": chosen.model_dump(exclude_none=True),
        "seed": recipe.seed,
    }
    # The data count only for operations that measure on them: new data must not make a graft outdated.
    inputs: dict[str, Path | str] = {"base": identify_base(recipe.model)}
    if operation.reads is not None and operation.measures(chosen):
        inputs["data"] = recipe.artifact("data")
    with stage_directory(recipe.operated, stage="surgery", recipe=settings, inputs=inputs, replace=replace) as work:
        if not work.done:
            # The operation writes into the unpublished directory and raises
            # if its proof fails: then nothing is published.
            metrics = resolve(operation.run)(Job(recipe, chosen, base, work.path, operation))
            work.metrics = {"operation": chosen.operation, **metrics}
            copy_present(base, work.path, (*TOKENIZER_FILES, "generation_config.json"))
    return work.target


def _checked(recipe: Recipe) -> tuple[Surgery, Operation]:
    chosen = recipe.surgery
    if chosen is None:
        raise UserError("the recipe has no `surgery:` section; add one, with an operation such as graft")
    if recipe.model.path is None:
        raise UserError(f"surgery {chosen.operation}: set model.path to the checkpoint to operate on")
    check_history(recipe.model)
    operation = operations()[chosen.operation]
    if operation.check is not None:
        operation.check(chosen)
    return chosen, operation
