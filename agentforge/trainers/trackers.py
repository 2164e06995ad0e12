"""Trackers (`train.args.report_to`): a figure has one name everywhere, and what they write is no part of the artefact.

`metrics.jsonl` has a metric as `loss` or `eval_loss`. Transformers' reporters send the same number as `train/loss` and
`eval/loss`, so that whoever looks for a curve has to know two names for it, and a system's own `act/halt_entropy`
becomes `train/act/halt_entropy`. Here every tracker is sent the names of `metrics.jsonl`. (W&B and trackio also get
`train/global_step`, their x axis.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from agentforge.recipe.schema import Recipe

TENSORBOARD = "tensorboard"


@contextmanager
def trackers_beside(recipe: Recipe) -> Iterator[None]:
    """Let trackers use the names of `metrics.jsonl`, and TensorBoard write beside the artefact instead of into it.

    A trainer has to be made and used inside. All reporters of transformers rewrite names by one function of their
    module, so this one is replaced; where `integration_utils` has it no longer, the run stops here and not with curves
    of other names.

    Args:
        recipe: names the artefact, and the folder that it lies in.
    """
    rewrite = integration_utils.rewrite_logs
    # Event files have the time in their names: in the artefact they would change its content hash with every run.
    # W&B (./wandb) and trackio (its own cache) write elsewhere by themselves, where their commands look for it.
    places = {
        "TENSORBOARD_LOGGING_DIR": str(Path(recipe.output_dir) / TENSORBOARD / recipe.trained.name),
        "WANDB_PROJECT": "agentforge",
    }
    run_before = _wandb_run()
    added = [name for name in places if name not in os.environ]
    os.environ.update({name: places[name] for name in added})
    integration_utils.rewrite_logs = dict
    try:
        yield
    finally:
        integration_utils.rewrite_logs = rewrite
        for name in added:
            os.environ.pop(name, None)
        # The parent leaves W&B's run open, and the next training of this process would go on in it.
        if (run := _wandb_run()) is not None and run is not run_before:
            run.finish()


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def add_first(trainer: Trainer, callback: TrainerCallback) -> None:
    """Add a callback that is called before the reporters: what it adds to a line is to reach them too."""
    trainer.callback_handler.callbacks.insert(0, callback)
