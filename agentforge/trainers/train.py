"""The training stage: from a base and data or environments to an adapter (``-lora``) or a whole model (``-model``)."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from agentforge.artifacts import Workspace, stage_directory, write_json
from agentforge.errors import CheckRefused, Stopped
from agentforge.models.build import check_base
from agentforge.models.checkpoint import Overflow
from agentforge.models.history import check_history
from agentforge.planning.limits.check import check_limits
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe
from agentforge.references import resolve
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.callbacks.metrics import MetricsCallback
from agentforge.trainers.callbacks.progress import ProgressCallback
from agentforge.trainers.callbacks.steps import StepsCallback
from agentforge.trainers.callbacks.watchdog import WatchdogCallback
from agentforge.trainers.checkpoints import has_sealed, newest_complete, step_of
from agentforge.trainers.guarded_trainer import GuardedTrainer, RunCounters
from agentforge.trainers.kept_models import KeptModels, kept_in
from agentforge.trainers.launch import (
    StrategyCheck,
    check_launch,
    check_shared_directory,
    main_rank,
    share,
    wanted_strategy,
)
from agentforge.trainers.method import CACHE, Method
from agentforge.trainers.published import save_published
from agentforge.trainers.trackers import add_first, open_trackers, trackers_beside
from agentforge.training_log import METRICS

log = logging.getLogger(__name__)

# Written last, with everything that the manifest needs: training is over, what remains is to tidy up.
FINISHED = "training.json"


def train(recipe: Recipe, replace: bool = False, restart: bool = False) -> Path:
    """Run the recipe's training stage; run again after a kill or a signal, it goes on from the newest checkpoint.

    Args:
        recipe: its `train` section says what is done.
        replace: make the artefact again if it is there from another recipe.
        restart: delete the checkpoints of a stopped run and begin at step 0.

    Returns:
        the directory: ``-lora`` or ``-model``.

    Raises:
        UserError: the recipe or an input is wrong.
        CheckRefused: the base is of another phase, an input is damaged, a checkpoint lacks a file, the loss stays
            non-finite, or the budget is used up.
        Stopped: a signal ended the run after a checkpoint.
    """
    check_limits(recipe)
    check_base(recipe.model)
    check_history(recipe.model)
    # Made before the directory is opened: whatever can be refused is refused in its constructor.
    method: Method = resolve(METHODS[recipe.train.method].implementation)(recipe)
    try:
        check_launch(recipe, method.args)
        with _shared_directory(method, replace) as work:
            if not work.done:
                method.args.output_dir = str(work.path)
                if not (work.path / FINISHED).is_file():
                    _train_in(work.path, method, restart)
                if main_rank():
                    work.metrics = _tidy(work.path)
                    work.identities = dict.fromkeys((METRICS, FINISHED))  # they hold times
    finally:
        method.close()
    return recipe.trained


@contextmanager
def _shared_directory(method: Method, replace: bool) -> Iterator[Workspace]:
    """Open the artefact's directory on the first process only; the others get its path and write nothing."""
    target = method.recipe.trained
    if not main_rank():
        # `share` is a broadcast: the others wait here until the first process holds the lock and knows the path.
        path, done = share(None)
        if not done:
            check_shared_directory(None)
        yield Workspace(Path(path), target, done=done)
        return
    with stage_directory(
        target,
        stage="train",
        recipe=method.relevant(),
        inputs=method.inputs(),
        resumable=True,
        worth_keeping=lambda partial: has_sealed(partial) or (partial / FINISHED).is_file(),
        goes_on=functools.partial(_only_published_otherwise, method),
        replace=replace,
    ) as work:
        share((str(work.path), work.done))
        if not work.done:
            check_shared_directory(work.path)
        yield work


def _only_published_otherwise(method: Method, partial: Path, left: Mapping[str, Any]) -> bool:
    """Tell whether a stopped run of the recipe ``left`` has trained what ``method`` would have.

    A whole model is held in fp32 until it is published, so a run that float16 has refused goes on in bfloat16. Not
    behind `FINISHED`, where it is published already.
    """
    now = json.loads(json.dumps(method.relevant(), default=str))
    same = {**left, "model": {**left["model"], "dtype": now["model"]["dtype"]}} == now
    if method.recipe.train.lora is not None or (partial / FINISHED).is_file() or not same:
        return False
    for kept in kept_in(partial):
        log.warning("%s was kept as %s, and stays so", kept.name, left["model"]["dtype"])
    return True


def _train_in(directory: Path, method: Method, restart: bool) -> None:
    checkpoint = _agreed_checkpoint(directory, method.args, restart)
    counters = RunCounters.load(checkpoint) if checkpoint else RunCounters()
    price = load_hardware(method.recipe.hardware).dollars_per_hour
    limits = LimitsCallback(method.recipe.budget, price, counters.seconds)
    with trackers_beside(method.recipe):
        _train_and_save(method, directory, checkpoint, counters, limits)


def _train_and_save(
    method: Method, directory: Path, checkpoint: Path | None, counters: RunCounters, limits: LimitsCallback
) -> None:
    progress, watchdog = ProgressCallback(), WatchdogCallback(method.recipe.train.watchdog_minutes)
    trainer = method.make_trainer(directory, counters, limits, [progress, watchdog])
    trainer.add_callback(StrategyCheck(trainer, wanted_strategy(method.recipe)))
    add_first(trainer, MetricsCallback(directory))
    trainer.add_callback(StepsCallback())
    # The parent adds it where tqdm is off; it prints each logged line to stdout as a dict.
    trainer.remove_callback(PrinterCallback)
    kept = _kept_models(trainer, method, directory)
    if checkpoint:
        log.info("continuing from %s", checkpoint.name)
        # What the parent does not know of; it reads the rest itself in `train`.
        trainer.restore(checkpoint)
    open_trackers(trainer, method.recipe, counters.run_id, step_of(checkpoint) if checkpoint else 0)
    try:
        with limits.listening(), watchdog.watching():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
    # An early end returns from `train` like a proper one; without this it would be published as a finished model.
    _raise_if_ended(limits, trainer)
    method.check(trainer)
    metrics = _final_metrics(trainer, limits) | method.metrics(trainer)
    # Everything that is published is made from the same weights as the evaluation: the average, where one is kept.
    with _checkpoint_kept(trainer), trainer.published_weights():
        _save_final(trainer, method.recipe, directory)
        metrics |= method.finish(trainer, directory)
    if kept is not None:
        metrics |= {"kept": kept.finish()}
    if main_rank():
        write_json(directory / FINISHED, {"metrics": metrics, "arguments": _shown(method.args)})
    trainer.accelerator.wait_for_everyone()


@contextmanager
def _checkpoint_kept(trainer: GuardedTrainer) -> Iterator[None]:
    """Keep what was trained if its dtype cannot hold it: `save_strategy` may have saved nothing at the last step."""
    try:
        yield
    except Overflow as refused:
        trainer.keep_checkpoint()
        raise CheckRefused(
            f"{refused}: it is published then without training again, from the checkpoint of step "
            f"{trainer.state.global_step}"
        ) from refused


def _agreed_checkpoint(directory: Path, args: TrainingArguments, restart: bool) -> Path | None:
    # verifying hashes gigabytes and deletes: one process does it
    if not main_rank():
        found = share(None)
        return Path(found) if found else None
    checkpoint = newest_complete(directory, world_size=args.world_size, restart=restart)
    share(str(checkpoint) if checkpoint else None)
    return checkpoint


def _raise_if_ended(limits: LimitsCallback, trainer: GuardedTrainer) -> None:
    where = f"after step {trainer.state.global_step} of {trainer.state.max_steps}, and a checkpoint is saved"
    if limits.exceeded:
        raise CheckRefused(f"{limits.exceeded}: stopped {where}; raise the budget and run the same command to continue")
    if limits.stopped:
        raise Stopped(f"stopped by a signal {where}; run the same command again to continue")


def _final_metrics(trainer: GuardedTrainer, limits: LimitsCallback) -> dict[str, Any]:
    counters = trainer.counters
    last = [
        line for line in trainer.state.log_history if line["step"] == trainer.state.global_step and "eval_loss" in line
    ]
    # The loop may have evaluated the last step already.
    evaluated = last[-1] if last else trainer.evaluate() if trainer.eval_dataset is not None else {}
    seconds = trainer.seconds()
    model = trainer.accelerator.unwrap_model(trainer.model)
    # under ZeRO-3 what is left of a parameter between two passes is empty
    parameters = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return {
        "loss": counters.loss,
        "eval_loss": evaluated.get("eval_loss"),
        "steps": trainer.state.global_step,
        "skipped_steps": counters.skipped_steps,
        "tokens": counters.tokens,
        "trained_tokens": counters.trained_tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(counters.tokens / seconds, 1),
        "dollars": round(limits.dollars(), 2),
        "parameters": sum(count for count, _ in parameters),
        "trainable_parameters": sum(count for count, trainable in parameters if trainable),
        "processes": trainer.args.world_size,
    }


def _save_final(trainer: GuardedTrainer, recipe: Recipe, directory: Path) -> None:
    save_published(trainer, recipe, directory)
    if recipe.train.lora is None and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        # From fp32 masters, for good: what `finish` measures is to be the model as it was saved.
        trainer.accelerator.unwrap_model(trainer.model).to(getattr(torch, recipe.model.dtype))


def _kept_models(trainer: GuardedTrainer, method: Method, directory: Path) -> KeptModels | None:
    """Return what keeps the models of `train.keep`, as one of the trainer's callbacks."""
    keep = method.recipe.train.keep
    if keep is None:
        return None

    def save(target: Path) -> None:
        with trainer.published_weights():
            save_published(trainer, method.recipe, target)

    kept = KeptModels(keep, directory, save)
    trainer.add_callback(kept)
    return kept


def _tidy(directory: Path) -> dict[str, Any]:
    """Delete what only a running training needs, and return the metrics for the manifest."""
    for leftover in [*directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), directory / CACHE]:
        shutil.rmtree(leftover, ignore_errors=True)
    (directory / METRICS).touch()
    metrics: dict[str, Any] = json.loads((directory / FINISHED).read_text(encoding="utf-8"))["metrics"]
    return metrics


def _shown(args: TrainingArguments) -> dict[str, Any]:
    # the directory and the machine are not what the result depends on
    hidden = {"output_dir", "logging_dir", "run_name"}
    return {key: value for key, value in args.to_dict().items() if key not in hidden and not key.endswith("token")}
