"""Check `train.args` and `train.lora` against the fields of the config classes, without importing the libraries."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from agentforge.errors import did_you_mean
from agentforge.recipe.methods import METHODS, config_classes
from agentforge.recipe.optimizers import OPTIMIZERS
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of
from agentforge.systems.registry import names_of

if TYPE_CHECKING:
    from jsonschema import ValidationError

UNSET = ("bf16", "report_to")
"""Fields whose null is as if they were left out."""
# Fields that another key of the recipe decides: setting both would leave it open which one holds.
OWNED: dict[str, str] = {
    "output_dir": "the directory follows from `output_dir`, `name` and `version` at the top of the recipe",
    "seed": "set `seed` at the top of the recipe",
    "max_length": "set `data.max_length`",
    "truncation_mode": "set `data.overflow`",
    "dataset_num_proc": "set `data.workers`",
    "dataset_text_field": "the rows are tokenised by `agentforge prepare`; name columns in `data.mix`",
    "dataset_kwargs": "the rows are tokenised by `agentforge prepare`",
    "chat_template_path": "set `data.template`",
    "eos_token": "the chat template decides; set `data.template`",
    "pad_token": "the chat template decides; set `data.template`",
    "model_init_kwargs": "set `model.dtype`, `model.attn_implementation`, `model.quantize` ...",
    "trust_remote_code": "set `model.trust_remote_code`",
    "logging_nan_inf_filter": "it is always off: a NaN must not be logged as zero; see `train.max_nonfinite_steps`",
    "resume_from_checkpoint": "run the same command again; it resumes from the newest complete checkpoint",
    "save_only_model": "training cannot resume from a checkpoint without the optimiser's state; leave it out",
    "load_best_model_at_end": "the artefact is the model of the last step; set `max_steps` to the best step",
    "auto_find_batch_size": "a batch size found by crashing cannot be reproduced; see `agentforge plan`",
    "remove_unused_columns": "the rows have no unused columns",
    "eval_packing": "the eval split is packed like the train split",
    "shuffle_dataset": "the rows are shuffled in each epoch; set `data_seed`",
    "completion_only_loss": "the rows carry masks; set `assistant_only_loss`",
    "push_to_hub": "set `export.hub_repo` and use `agentforge push`",
    "hub_model_id": "set `export.hub_repo` and use `agentforge push`",
    "hub_token": "a token does not belong in a recipe; set HF_TOKEN in the environment",
    "deepspeed": "set `train.launch`",
    "fsdp": "set `train.launch`",
    "fsdp_config": "set `train.launch`",
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"), "it rounds the trained weights themselves, for good; set `model.dtype`"
    ),
    "do_train": "the verb decides: `agentforge train`",
    "do_eval": "set `eval_strategy`",
    "do_predict": "the verb decides: `agentforge evaluate`",
    "local_rank": "the launcher decides; see `train.launch`",
}
PLAYED = "episodes are played by agentforge's own rollouts; see `rollouts`"
# Fields of GRPOConfig (and PPOConfig) that would change nothing, because TRL does not play the episodes.
OWNED |= {
    "temperature": "set `rollouts.temperature`",
    "top_p": "set `rollouts.top_p`",
    "max_completion_length": "set `rollouts.max_length` (of an episode) and `rollouts.max_new_tokens` (of a turn)",
    "reward_weights": "set `weight` in `train.rewards`",
    "mask_truncated_completions": "a reward function sees `episode.truncated`; they are counted in metrics.jsonl",
    "max_tool_calling_iterations": "set `max_turns` of the environment",
    "num_generations_eval": "set `evaluate.environments`",
    "chat_template_kwargs": "set `data.template`",
    **dict.fromkeys(("top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation"), PLAYED),
    **dict.fromkeys(("use_transformers_continuous_batching", "transformers_continuous_batching_config"), PLAYED),
    "use_vllm": "set `rollouts.engine`",
    "vllm_mode": "set `rollouts.vllm.mode`",
    "vllm_enable_sleep_mode": "set `rollouts.vllm.sleep`",
    "vllm_gpu_memory_utilization": "set `rollouts.vllm.gpu_memory_utilization`",
    "vllm_tensor_parallel_size": "set `rollouts.vllm.tensor_parallel`, or start the server with it",
    "vllm_max_model_length": "set `rollouts.max_length`",
    "vllm_group_port": "set `rollouts.vllm.group_port`",
    "vllm_importance_sampling_cap": "set `vllm_importance_sampling_clip_max`",
    **dict.fromkeys(("vllm_server_base_url", "vllm_server_host", "vllm_server_port"), "set `rollouts.vllm.url`"),
    "vllm_server_timeout": "set `rollouts.vllm.timeout`",
    **dict.fromkeys(("vllm_model_impl", "vllm_structured_outputs_regex", "use_transformers_paged"), PLAYED),
    "ds3_gather_for_generation": PLAYED,
    **dict.fromkeys(("log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts"), PLAYED),
    "log_completions_hub_repo": PLAYED,
}
# ... and those that PPO has under its own names, or not at all: it compares no episodes of a group.
PPO_OWNED: dict[str, str] = {
    "num_iterations": "set `ppo_epochs`",
    "epsilon": "set `clip_range`",
    "generation_batch_size": "set `rollout_batch_size`",
    "steps_per_generation": "set `rollout_batch_size`",
    "num_generations": "PPO has a critic and needs no groups; set `rollout_batch_size`",
    "scale_rewards": "PPO's advantages come from its critic",
    "multi_objective_aggregation": "PPO's advantages come from its critic",
}
LORA_OWNED: dict[str, str] = {
    "base_model_name_or_path": "set `model.path`",
    "revision": "set `model.revision`",
    "task_type": "it is always CAUSAL_LM",
    "peft_type": "it is always LORA",
    "peft_version": "it is the installed version",
    "inference_mode": "the verb decides",
}

# What other tools, or earlier versions, call a thing that difflib would not find.
ALIASES: dict[str, str] = {
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "optimizer": "optim",
    "clip_grad": "max_grad_norm",
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy",
    "no_cuda": "use_cpu",
    "num_workers": "dataloader_num_workers",
    "gae_lam": "gae_lambda",
    "lam": "gae_lambda",
    "cliprange": "clip_range",
    "clip_ratio": "clip_range",
    "cliprange_value": "vf_clip_range",
    "num_ppo_epochs": "ppo_epochs",
    "ent_coef": "entropy_coef",
    "kl_coef": "beta",
    "init_kl_coef": "beta",
    "value_coef": "vf_coef",
}
# ... and where it lies if it is no field of the config class.
ELSEWHERE: dict[str, str] = {
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "sequence_length": "data.max_length",
    "sequence_len": "data.max_length",
    "lora_r": "train.lora.r",
    "lora_alpha": "train.lora.lora_alpha",
    "lora_dropout": "train.lora.lora_dropout",
    "lora_target_modules": "train.lora.target_modules",
    "target_modules": "train.lora.target_modules",
    "use_peft": "train.lora",
    "load_in_4bit": "model.quantize",
    "model_name_or_path": "model.path",
    "dtype": "model.dtype",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attn_implementation",
    "dataset_name": "data.mix",
}
SPELT_OUT: dict[str, str] = {
    "min_lr_ratio": (
        "; set lr_scheduler_type to cosine_with_min_lr and lr_scheduler_kwargs to {min_lr_rate: 0.1}: a plain cosine "
        "ends at 0"
    ),
    "min_lr": "; set lr_scheduler_type to cosine_with_min_lr and lr_scheduler_kwargs to {min_lr: 1.0e-6}",
}
LORA_ALIASES = {
    "lora_r": "r",
    "rank": "r",
    "lora_rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "modules": "target_modules",
    "lora_target_modules": "target_modules",
    "target_module": "target_modules",
}

WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
# Fields of LoraConfig that peft compiles as regular expressions: a text, or the keys of a mapping.
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")


def argument_problems(recipe: Recipe) -> list[tuple[tuple[str, ...], str]]:
    """Return what is wrong with names, types and values of `train.args` and `train.lora`: key and sentence."""
    found = problems_in(recipe.train.args, METHODS[recipe.train.method].config, "train.args")
    if recipe.train.lora is not None:
        found += problems_in(recipe.train.lora, "LoraConfig", "train.lora")
    return found + _optimizer_problems(recipe)


def _optimizer_problems(recipe: Recipe) -> list[tuple[tuple[str, ...], str]]:
    """Return what is wrong with `train.optimizer`; a system's optimiser checks its options itself, when it is made."""
    chosen, known = recipe.train.optimizer, [*OPTIMIZERS, *names_of("optimizers")]
    if chosen is None:
        return []
    path = ("train", "optimizer", "name")
    if chosen.name not in known:
        hint = did_you_mean(chosen.name, known) or f"; known: {', '.join(known)}"
        return [(path, f"there is no optimiser '{chosen.name}'{hint}")]
    found: list[tuple[tuple[str, ...], str]] = []
    if "optim" in recipe.train.args:
        found.append((path, "train.optimizer and train.args.optim both choose an optimiser; leave out one of them"))
    if (house := OPTIMIZERS.get(chosen.name)) is None:
        return found
    if recipe.train.lora is not None and house.lora_refusal is not None:
        found.append((path, f"{chosen.name} does not train LoRA: {house.lora_refusal}; leave out train.optimizer"))
    options = house.options.model_json_schema()["properties"]
    for name, value in chosen.options.items():
        key = f"train.optimizer.options.{name}"
        if name not in options:
            hint = did_you_mean(name, list(options)) or f"; known: {', '.join(options)}"
            found.append((tuple(key.split(".")), f"there is no key '{key}': {chosen.name} has no such option{hint}"))
        elif problem := problem_with(value, options[name]):
            found.append((tuple(key.split(".")), f"{key} is {show_value(value)}; {problem}"))
    return found


def problems_in(values: dict[str, Any], config: str, section: str) -> list[tuple[tuple[str, ...], str]]:
    """Return what is wrong with the fields given for a config class: the key and a sentence."""
    fields, owned = allowed_fields(config), owned_fields(config)
    found = []
    for name, value in values.items():
        path = (*section.split("."), name)
        # Only fields of this class: `temperature` under sft is no field at all, and the message must say that.
        if name in owned and name in fields:
            found.append((path, f"{section}.{name} is not set here: {owned[name]}"))
        elif name not in fields:
            hint = _suggest(name, config, section)
            found.append((path, f"there is no key '{section}.{name}': {config} has no such field{hint}"))
        elif value is None and name in UNSET:
            continue
        elif problem := problem_with(value, fields[name]) or _pattern_problem(config, name, value):
            found.append((path, f"{section}.{name} is {show_value(value)}; {problem}"))
    return found


def allowed_fields(config: str) -> dict[str, dict[str, Any]]:
    """Return the fields that a recipe may give for a config class, its own or not: `pretrain` packs as `sft` does."""
    own = {"packing": fields_of("SFTConfig")["packing"]} if config == "TrainingArguments" else {}
    return fields_of(config) | own


def owned_fields(config: str) -> dict[str, str]:
    """Return the fields of a config class that another key of the recipe decides, and which."""
    return LORA_OWNED if config == "LoraConfig" else OWNED | PPO_OWNED if config == "PPOConfig" else OWNED


def _pattern_problem(config: str, name: str, value: Any) -> str | None:
    if config != "LoraConfig" or name not in PATTERNS:
        return None
    for pattern in [value] if isinstance(value, str) else value if isinstance(value, dict) else []:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"which peft reads as a regular expression, and it is none: {error}"
    return None


def _suggest(name: str, config: str, section: str) -> str:
    fields = fields_of(config)
    plain = name.lower().replace("-", "_")
    aliases = LORA_ALIASES if config == "LoraConfig" else ALIASES
    # What other tools call it comes first, similar spelling last: that finds something for almost any word.
    if (alias := aliases.get(plain)) in fields:
        extra = " (below 1 it is a share of all steps)" if plain == "warmup_ratio" else ""
        return f"; did you mean '{section}.{alias}'{extra}?"
    if plain in SPELT_OUT and config != "LoraConfig":
        return SPELT_OUT[plain]
    if plain in ELSEWHERE:
        return f"; did you mean '{ELSEWHERE[plain]}'?"
    if hint := did_you_mean(name, [*fields, *aliases]):
        near = hint.split("'")[1]
        return f"; did you mean '{section}.{aliases.get(near, near)}'?"
    other = next((c for c in config_classes() if name in fields_of(c)), None)
    return f" (it is a field of {other}; see train.method)" if other and config != "LoraConfig" else ""


def problem_with(value: Any, fragment: dict[str, Any]) -> str | None:
    """Return why ``value`` does not fit a JSON-schema fragment of the tables, as the end of a sentence, or None."""
    errors = list(_validator()(fragment).iter_errors(value))
    if not errors:
        return None
    # the choices say more than the type that all of them have
    return _sentence(next((error for error in errors if error.validator == "enum"), errors[0]))


@cache
def _validator() -> Any:
    """Return a validator for Python's own types: 1.0 is no whole number, NaN and infinity are no numbers."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def is_number(_: Any, value: Any) -> bool:
        return is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_number})
    return extend(Draft202012Validator, type_checker=checker)


def _sentence(error: ValidationError) -> str:
    value, wanted = error.instance, cast(Any, error.validator_value)
    if error.validator == "anyOf":
        if isinstance(value, str) and (named := [inner for inner in error.context or () if inner.validator == "enum"]):
            return _about_value(named[0])
        # Of several refusals, the one that is about the value says more than the one about its kind
        kinds = [
            isinstance(value, list) == (wanted[inner.schema_path[0]].get("type") == "array")
            for inner in error.context or ()
        ]
        meant = [inner for inner, fits in zip(error.context or (), kinds, strict=True) if fits]
        return _sentence((meant or list(error.context or ()))[0 if meant else -1])
    if error.relative_path:
        return f"for {show_value(value)}, {_about_value(error)}"
    return _about_value(error)


def _about_value(error: ValidationError) -> str:
    value, wanted = error.instance, cast(Any, error.validator_value)
    if error.validator == "enum":
        choices = [str(choice) for choice in wanted if choice is not None]
        begun = next((f"; did you mean '{choice}'?" for choice in choices if choice.startswith(f"{value}_")), None)
        return f"it must be one of {', '.join(choices)}{begun or did_you_mean(str(value), choices)}"
    if error.validator == "type":
        return _wrong_kind(value, wanted if isinstance(wanted, list) else [wanted])
    return f"it must be {BOUNDS[str(error.validator)]} {wanted}"


def _wrong_kind(value: Any, kinds: list[str]) -> str:
    wanted = " or ".join(WORDS[kind] for kind in kinds if kind != "null")
    if isinstance(value, str) and {"number", "integer"} & set(kinds) and is_number(value):
        return f"it must be {wanted}, not text: write it without quotes"
    return f"it must be {wanted or 'null'}"


def is_number(text: str) -> bool:
    """Tell whether a text reads as a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def show_value(value: Any) -> str:
    """Return a value as a message shows it: as YAML would have it, and short."""
    text = f"'{value}'" if isinstance(value, str) else "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 60 else text[:57] + "..."
