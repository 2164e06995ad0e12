"""Which of `train.args` the weights depend on. With others of the rest, a run that has begun or ended is the same."""

from __future__ import annotations

from typing import Any

from agentforge.recipe.schema import Train

# What is shown, and where.
SHOWN = {
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
    "disable_tqdm",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "skip_memory_metrics",
    "debug",
    "include_num_input_tokens_seen",
    "log_completions",
    "num_completions_to_print",
    "log_unique_prompts",
    "log_completions_hub_repo",
}
# When a checkpoint is saved, and which are kept.
SAVED = {"save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint"}
# How rows get into memory, in the same order.
LOADED = {
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_multiprocessing_context",
    "dataset_num_proc",
    "ddp_timeout",
    "do_train",
    "do_eval",
    "do_predict",
}
# What is computed twice, or moved, to need less memory: the same numbers come out. Their ..._kwargs count, because
# `preserve_rng_state: false` draws another dropout.
SPARED = {"gradient_checkpointing", "activation_checkpointing", "activation_offloading", "torch_empty_cache_steps"}
# When and how the eval rows are read, and which of their figures decides something.
EVALUATED = {
    "metric_for_best_model",
    "greater_is_better",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "prediction_loss_only",
    "batch_eval_metrics",
    "include_for_metrics",
}


def with_effect(train: Train) -> dict[str, Any]:
    """Return those of `train.args` that decide which weights come out.

    An evaluation changes none, unless something is decided by its loss: which model is kept, or the learning rate.
    """
    args = train.args
    decided_by_loss = (
        (train.keep is not None and train.keep.best)
        or args.get("load_best_model_at_end")
        or args.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    )
    without = SHOWN | SAVED | LOADED | SPARED
    # `save_steps` is the default of `eval_steps`.
    without = without - {"save_steps"} if decided_by_loss else without | EVALUATED
    return {key: value for key, value in args.items() if key not in without}
