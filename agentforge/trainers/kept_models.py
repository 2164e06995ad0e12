"""Models that stay beside the final one: that of every n-th epoch, and the best on the eval rows.

A kept model is what would be published at that moment (the averaged weights, where there are any), so each directory
opens with `from_pretrained` and with ``--model PATH``. It is no checkpoint: nothing is resumed from it.
"""

# What is kept must be a function of the steps that count, whenever the process was killed. Four rules make it one:
#
#   1. A directory gets its name by one rename, when all its files are written; `kept.json` says of which step it is.
#   2. While training runs the best is called best-STEP, so that a better one never replaces it in place.
#   3. A worse best is deleted only behind a sealed checkpoint that is not older than the better one.
#   4. A run that goes on from step N deletes what is of later steps; it makes those steps, and their models, again.

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentforge.artifacts import write_json
from agentforge.recipe.schema import Keep
from agentforge.trainers.launch import main_rank, share

log = logging.getLogger(__name__)

RECORD = "kept.json"
BEST = "best"
EPOCH = "epoch"


class Kept(NamedTuple):
    """A kept model: its directory, and what its record says (``step``, ``epoch``, and ``eval_loss`` of the best)."""

    path: Path
    record: dict[str, Any]


def kept_in(directory: Path) -> list[Path]:
    """Return the models that a run has kept so far."""
    found = (file.parent for name in (BEST, EPOCH) for file in directory.glob(f"{name}*/{RECORD}"))
    return sorted(kept for kept in found if kept.suffix != ".partial")


class KeptModels(TrainerCallback):
    """Saves the models that `train.keep` asks for.

    Attributes:
        keep: what is kept.
        directory: where, beside the checkpoints.
    """

    def __init__(self, keep: Keep, directory: Path, save: Callable[[Path], None]):
        """Make the callback.

        Args:
            keep: what is kept.
            directory: where.
            save: writes what would be published now into a directory, called on every process.
        """
        self.keep, self.directory, self._save = keep, directory, save
        self._best_loss = math.inf

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what a killed run kept after the checkpoint that this one goes on from."""
        if main_rank():
            for partial in self.directory.glob("*.partial"):
                shutil.rmtree(partial)
            for kept in self._found():
                if kept.record["step"] > state.global_step:
                    shutil.rmtree(kept.path)
            self._drop_worse()
        best = self._best() if main_rank() else None
        self._best_loss = share(best.record["eval_loss"] if best else math.inf)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the model of an epoch that is over.

        Here and not in `on_epoch_end`, which a run that was killed behind the checkpoint of an epoch's last step never
        comes to: it goes on with the first step of the next.
        """
        if self.keep.epochs is None or not state.epoch or not float(state.epoch).is_integer():
            return
        epoch = int(state.epoch)
        if epoch % self.keep.epochs == 0:
            self._keep(f"{EPOCH}-{epoch}", {"step": state.global_step, "epoch": epoch})

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep a model whose eval loss is lower than any before."""
        loss = (metrics or {}).get("eval_loss", math.inf)
        if self.keep.best and loss < self._best_loss:
            self._best_loss = loss
            self._keep(
                f"{BEST}-{state.global_step}", {"step": state.global_step, "epoch": state.epoch, "eval_loss": loss}
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Delete the bests that are so no longer: a checkpoint behind the better one is sealed now."""
        if main_rank():
            self._drop_worse()

    def finish(self) -> dict[str, Any]:
        """Give the best its final name when training is over; return the records by name, for the manifest."""
        if not main_rank():
            return {}
        self._drop_worse()
        best = self._best()
        if best is not None and best.path.name != BEST:
            best.path.rename(self.directory / BEST)
        return {kept.path.name: kept.record for kept in sorted(self._found(), key=lambda kept: kept.record["step"])}

    def _keep(self, name: str, record: dict[str, Any]) -> None:
        target = self.directory / name
        partial = self.directory / f"{name}.partial"
        log.info("keeping the model of step %d as %s", record["step"], name)
        self._save(partial)
        if main_rank():
            write_json(partial / RECORD, record)
            # Of the same step, kept by a process that died before the checkpoint of that step.
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)

    def _found(self) -> list[Kept]:
        return [Kept(kept, json.loads((kept / RECORD).read_text(encoding="utf-8"))) for kept in kept_in(self.directory)]

    def _bests(self) -> list[Kept]:
        found = [kept for kept in self._found() if "eval_loss" in kept.record]
        return sorted(found, key=lambda kept: (kept.record["eval_loss"], kept.record["step"]))

    def _best(self) -> Kept | None:
        return next(iter(self._bests()), None)

    def _drop_worse(self) -> None:
        for kept in self._bests()[1:]:
            shutil.rmtree(kept.path)
