"""Trackers (`train.args.report_to`): a figure has one name everywhere, and what they write is no part of the artefact.

`metrics.jsonl` has a metric as `loss` or `eval_loss`. Transformers' reporters send the same number as `train/loss` and
`eval/loss`, so that whoever looks for a curve has to know two names for it, and a system's own `act/halt_entropy`
becomes `train/act/halt_entropy`. Here every tracker is sent the names of `metrics.jsonl`. (W&B and trackio also get
`train/global_step`, their x axis.)
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from agentforge.recipe.loading import resolved_yaml
from agentforge.recipe.schema import Recipe
from agentforge.trainers.launch import main_rank

TENSORBOARD = "tensorboard"
TRACKERS = "trackers"
EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]


@contextmanager
def trackers_beside(recipe: Recipe) -> Iterator[None]:
    """Let trackers use the names of `metrics.jsonl`, and write beside the artefact instead of into it.

    A trainer has to be made and used inside. All reporters of transformers rewrite names by one function of their
    module, so this one is replaced; where `integration_utils` has it no longer, the run stops here and not with curves
    of other names.

    Args:
        recipe: names the artefact, and the folder that it lies in.
    """
    rewrite, reporters = integration_utils.rewrite_logs, dict(integration_utils.INTEGRATION_TO_CALLBACK)
    # What they write holds times: in the artefact it would change its content hash with every run. W&B (./wandb) and
    # trackio (its own cache) write elsewhere by themselves, where their commands look for it.
    home = Path(recipe.output_dir)
    place, events = home / TRACKERS / recipe.trained.name, home / TENSORBOARD / recipe.trained.name
    run_before = _wandb_run()
    added = "TENSORBOARD_LOGGING_DIR" not in os.environ
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(events))
    integration_utils.rewrite_logs = dict
    integration_utils.INTEGRATION_TO_CALLBACK.update({name: _writing_to(place, reporters[name]) for name in reporters})
    try:
        yield
    finally:
        integration_utils.INTEGRATION_TO_CALLBACK.update(reporters)
        integration_utils.rewrite_logs = rewrite
        if added:
            os.environ.pop("TENSORBOARD_LOGGING_DIR", None)
        # The parent leaves W&B's run open, and the next training of this process would go on in it.
        if (run := _wandb_run()) is not None and run is not run_before:
            run.finish()
        _drop_links(place)


def _writing_to(place: Path, reporter: type[TrainerCallback]) -> type[TrainerCallback]:
    """Return a reporter that takes ``place`` for the `output_dir`, with links to the checkpoints that it may upload."""

    def event(name: str) -> Callable[..., Any]:
        def call(self: TrainerCallback, args: TrainingArguments, *rest: Any, **kwargs: Any) -> Any:
            place.mkdir(parents=True, exist_ok=True)
            if name in ("on_save", "on_train_end") and main_rank():
                _link_checkpoints(place, Path(str(args.output_dir)))
            moved = copy.copy(args)
            moved.output_dir = str(place)
            return getattr(reporter, name)(self, moved, *rest, **kwargs)

        return call

    return type(reporter.__name__, (reporter,), {name: event(name) for name in EVENTS})


def _link_checkpoints(place: Path, output_dir: Path) -> None:
    _drop_links(place)
    place.mkdir(parents=True, exist_ok=True)
    for checkpoint in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        (place / checkpoint.name).symlink_to(checkpoint.resolve())


def _drop_links(place: Path) -> None:
    if not main_rank() or not place.is_dir():
        return
    for link in place.iterdir():
        if link.is_symlink():
            link.unlink()
    with suppress(OSError):  # most trackers write nothing here
        place.rmdir()


def open_trackers(trainer: Trainer, recipe: Recipe, run_id: str, step: int) -> None:
    """Open the runs of TensorBoard, W&B and trackio before their reporters do, with the resolved recipe in them.

    The reporters of transformers begin a new run with every process, or, trackio's, go on in any run of the name.

    Args:
        trainer: has the reporters, and their project and name in its arguments.
        recipe: logged as it was resolved.
        run_id: of this training, the same after a restart.
        step: that the training goes on from; 0 begins a new run.
    """
    if not trainer.is_world_process_zero():
        return
    for reporter in trainer.callback_handler.callbacks:
        for kind, opened in _OPENERS.items():
            if isinstance(reporter, kind):
                opened(reporter, trainer.args, recipe, run_id, step)


def _open_tensorboard(reporter: Any, args: TrainingArguments, recipe: Recipe, run_id: str, step: int) -> None:
    # Hides what a killed process, or an older run of the name, logged of the steps that are made now.
    reporter.tb_writer = reporter._SummaryWriter(log_dir=reporter.logging_dir, purge_step=step + 1)
    reporter.tb_writer.add_text("recipe", f"```yaml\n{resolved_yaml(recipe)}```")


def _open_wandb(reporter: Any, args: TrainingArguments, recipe: Recipe, run_id: str, step: int) -> None:
    import wandb

    if wandb.run is None:
        project, given = os.environ.get("WANDB_PROJECT", args.project), os.environ.get("WANDB_RUN_ID", run_id)
        wandb.init(project=project, name=args.run_name, id=given, resume="allow")
    wandb.config.update({"recipe": recipe.model_dump(mode="json")}, allow_val_change=True)


def _open_trackio(reporter: Any, args: TrainingArguments, recipe: Recipe, run_id: str, step: int) -> None:
    import trackio

    trackio.init(
        project=args.project,
        name=args.run_name,
        space_id=args.trackio_space_id,
        bucket_id=args.trackio_bucket_id,
        private=args.hub_private_repo,
        resume="allow" if step else "never",
        config={"recipe": recipe.model_dump(mode="json"), "arguments": args.to_dict()},
    )
    reporter._initialized = True


_OPENERS: dict[type, Callable[[Any, TrainingArguments, Recipe, str, int], None]] = {
    integration_utils.TensorBoardCallback: _open_tensorboard,
    integration_utils.WandbCallback: _open_wandb,
    integration_utils.TrackioCallback: _open_trackio,
}


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def add_first(trainer: Trainer, callback: TrainerCallback) -> None:
    """Add a callback that is called before the reporters: what it adds to a line is to reach them too."""
    trainer.callback_handler.callbacks.insert(0, callback)
