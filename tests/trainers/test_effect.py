"""Every field of every config class is decided: it changes the weights, it does not, or a recipe may not set it."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.recipe.arguments import OWNED, PPO_OWNED
from agentforge.recipe.methods import METHODS, config_classes
from agentforge.recipe.schema import Train
from agentforge.recipe.tables import fields_of
from agentforge.trainers.effect import EVALUATED, LOADED, SAVED, SHOWN, SPARED, with_effect

WITHOUT = SHOWN | SAVED | LOADED | SPARED | EVALUATED
# With another value of these, other weights come out: other rows in another order, another loss or schedule, or the
# same in another rounding (`bf16`, `ddp_bucket_cap_mb`, `use_cpu`).
WITH = {
    # steps and rows
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "data_seed",
    "dataloader_drop_last", "dataloader_in_order", "train_sampling_strategy", "length_column_name", "label_names",
    "ignore_data_skip", "restore_callback_states_from_checkpoint", "accelerator_config", "parallelism_config",
    "packing", "packing_strategy", "padding_free", "pad_to_multiple_of", "assistant_only_loss",
    # optimiser and schedule
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args",
    "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    # loss
    "average_tokens_across_devices", "label_smoothing_factor", "neftune_noise_alpha", "router_aux_loss_coef",
    "loss_type", "use_cache",
    # arithmetic
    "bf16", "fp16", "tf32", "full_determinism", "use_cpu", "use_liger_kernel",
    "liger_kernel_config", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "ddp_backend", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_find_unused_parameters", "ddp_static_graph", "cast_lm_head_to_fp32",
    # dpo and kto
    "beta", "loss_weights", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "label_smoothing",
    "use_weighting", "discopop_tau", "disable_dropout", "precompute_ref_log_probs", "precompute_ref_batch_size",
    "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "desirable_weight", "undesirable_weight",
    # grpo and ppo
    "delta", "epsilon", "epsilon_high", "num_iterations", "num_generations", "generation_batch_size",
    "steps_per_generation", "scale_rewards", "multi_objective_aggregation", "importance_sampling_level",
    "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg",
    "vespo_lambda_neg", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min",
    "entropy_coef_max", "entropy_coef_delta", "entropy_target", "off_policy_mask_threshold", "use_bias_correction_kl",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
    "ppo_epochs", "num_rollouts", "rollout_batch_size", "clip_range", "vf_coef", "vf_clip_range", "gae_lambda", "gamma",
}  # fmt: skip
FIELDS = {name for config in config_classes() for name in fields_of(config)}


def test_every_field_is_decided() -> None:
    """A new version of transformers or TRL with a new field fails here until somebody says whether it has an effect.

    Whoever adds it reads what it does. In doubt it has an effect: a training made once too often is better than one
    that is taken for another.
    """
    undecided = FIELDS - WITH - WITHOUT - OWNED.keys()
    assert not undecided, f"which of these change the weights that come out? {sorted(undecided)}"
    assert not (WITH | WITHOUT) - FIELDS, "no library has these any more"


def test_no_field_is_decided_twice() -> None:
    assert not WITH & WITHOUT
    assert not WITH & OWNED.keys(), "a recipe may not set these at all"
    groups = [SHOWN, SAVED, LOADED, SPARED, EVALUATED]
    assert sum(map(len, groups)) == len(WITHOUT)
    assert PPO_OWNED.keys() <= FIELDS


@pytest.mark.parametrize("method", METHODS)
def test_each_field_counts_as_it_was_decided(method: Any) -> None:
    for name in fields_of(METHODS[method].config):
        counts = name in with_effect(Train(method=method, args={name: 1}))
        assert counts == (name not in WITHOUT), name


def test_what_an_evaluation_decides_counts() -> None:
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau"}
    for decided in ({"args": plateau}, {"args": {}, "keep": {"best": True}}):
        for name in EVALUATED | {"save_steps"}:
            train = Train.model_validate({**decided, "args": {**decided["args"], name: 1}})
            assert name in with_effect(train), name
        for name in SHOWN | LOADED | SPARED | SAVED - {"save_steps"}:
            train = Train.model_validate({**decided, "args": {**decided["args"], name: 1}})
            assert name not in with_effect(train), name
