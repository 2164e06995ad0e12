"""The thresholds of a trained model's exits, calibrated on the eval rows when training is over."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from agentforge.errors import UserError
from agentforge.models.adamba.calibration import calibrate_exits
from agentforge.models.adamba.exits import save_exits
from agentforge.recipe.schema import ExitTraining
from agentforge.trainers.launch import main_rank
from agentforge.trainers.loop import GuardedTrainer
from agentforge.trainers.nested_objective import GATES

log = logging.getLogger(__name__)


def calibrate_trained(trainer: GuardedTrainer, asked: ExitTraining, directory: Path) -> dict[str, Any]:
    """Write `exits.json` beside the saved model and return what the manifest says of it; the first process does it.

    Too few eval rows do not fail a training that is over: they are warned of, and a threshold is refused later.

    Args:
        trainer: its model is as it was saved.
        asked: layers, gates and wanted agreement.
        directory: where the model is.
    """
    if asked.agreement is None or not main_rank():
        return {}
    model: Any = trainer.accelerator.unwrap_model(trainer.model).eval()
    gates = {int(layer): gate for layer, gate in getattr(model, GATES).items()} if asked.gates else None
    rows: Any = trainer.eval_dataset if trainer.eval_dataset is not None else []
    batches = DataLoader(rows, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator)
    try:
        exits = calibrate_exits(model, batches, asked.agreement, gates=gates, layers=asked.layers)
    except UserError as error:
        log.warning("train.exits: the exits are not calibrated: %s", error)
        return {}
    save_exits(directory, exits)
    return {"exits": {str(layer): asdict(exit) for layer, exit in exits.items()}}
