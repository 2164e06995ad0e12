"""What lies beside a trained Adamba so that less than all of it can be used: thresholds of exits, and a router.

Both are measured on the eval rows when training is over, on the model as it was saved, by the first process. Too few
rows do not fail a training that has come to its end: they are warned of, and what needs the file is refused later.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Subset

from agentforge.errors import UserError
from agentforge.systems.adamba.exits.calibration import calibrate_exits
from agentforge.systems.adamba.exits.exits import save_exits
from agentforge.systems.adamba.recipe_sections import AdambaTrain, ExitTraining
from agentforge.systems.adamba.training.objective import GATES
from agentforge.systems.adamba.widths.router import fit_router, save_router
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.launch import main_rank

log = logging.getLogger(__name__)


def calibrate_after_training(trainer: GuardedTrainer, train: AdambaTrain, directory: Path) -> dict[str, Any]:
    """Write what the recipe asks for beside the saved model, and return what the manifest says of it."""
    if not main_rank() or (train.exits is None and train.nested is None):
        return {}
    model: Any = trainer.accelerator.unwrap_model(trainer.model).eval()
    rows: Any = trainer.eval_dataset if trainer.eval_dataset is not None else []
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))  # or half of it would be padding
    batches = DataLoader(
        Subset(rows, by_length), trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    made: dict[str, Any] = {}
    try:
        if train.exits is not None and (wanted := train.exits.agreement) is not None:
            made["exits"] = _calibrate(model, batches, train.exits, wanted, directory)
        if train.nested is not None and (tolerance := train.nested.router) is not None:
            made["router"] = _fit(model, batches, train.nested.widths, tolerance, directory)
    except UserError as error:
        log.warning("the eval rows are not enough to calibrate exits or fit a router: %s", error)
    return made


def _calibrate(model: Any, batches: Any, asked: ExitTraining, wanted: float, directory: Path) -> dict[str, Any]:
    gates = {int(layer): gate for layer, gate in getattr(model, GATES).items()} if asked.gates else None
    exits = calibrate_exits(model, batches, wanted, gates=gates, layers=asked.layers)
    save_exits(directory, exits)
    return {str(layer): asdict(exit) for layer, exit in exits.items()}


def _fit(model: Any, batches: Any, widths: list[str], tolerance: float, directory: Path) -> dict[str, Any]:
    router = fit_router(model, batches, widths, tolerance)
    save_router(directory, router)
    return router.report
