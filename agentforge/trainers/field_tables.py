"""Generate the tables from the installed libraries: ``python -m agentforge.trainers.field_tables``.

A version bump of transformers, trl or peft changes the files, and so shows in review and in the tests.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from importlib import metadata
from typing import Any

from agentforge.recipe.tables import HERE, PARENT

CONFIG_CLASSES = (PARENT, "SFTConfig", "DPOConfig", "KTOConfig", "GRPOConfig")
PPO = "PPOConfig"
# Enumerations that a class checks while it trains, or never; everything declared as Enum, Literal or "choices" is read.
CHOICES: dict[tuple[str, str], list[str]] = {
    ("GRPOConfig", "loss_type"): ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"],
    ("GRPOConfig", "scale_rewards"): ["group", "batch", "none"],
    ("GRPOConfig", "importance_sampling_level"): ["token", "sequence"],
    ("GRPOConfig", "multi_objective_aggregation"): ["sum_then_normalize", "normalize_then_sum"],
    ("GRPOConfig", "vllm_mode"): ["colocate", "server"],
    ("GRPOConfig", "vllm_model_impl"): ["vllm", "transformers"],
    ("GRPOConfig", "vllm_importance_sampling_mode"): [
        "token_truncate",
        "token_mask",
        "sequence_truncate",
        "sequence_mask",
    ],
    ("DPOConfig", "f_divergence_type"): ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
}
DPO_LOSSES = (
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft "
    "sigmoid_norm"
)
REPORTERS = (
    "none all azure_ml clearml codecarbon comet_ml dagshub dvclive flyte kubeflow mlflow neptune swanlab tensorboard "
    "trackio wandb"
)
# Fields that take one of these values or a list of them.
ONE_OR_MORE: dict[tuple[str, str], list[str]] = {
    ("DPOConfig", "loss_type"): DPO_LOSSES.split(),
    **{(name, "report_to"): REPORTERS.split() for name in CONFIG_CLASSES},
}
# Bounds that the classes leave to the first step that fails. JSON-schema keywords, by field.
BOUNDS: dict[str, dict[str, float]] = {
    "per_device_train_batch_size": {"minimum": 1},
    "per_device_eval_batch_size": {"minimum": 1},
    "gradient_accumulation_steps": {"minimum": 1},
    "num_train_epochs": {"exclusiveMinimum": 0},
    "max_steps": {"minimum": -1},
    "learning_rate": {"minimum": 0},
    "weight_decay": {"minimum": 0},
    "warmup_steps": {"minimum": 0},
    "max_grad_norm": {"minimum": 0},
    "logging_steps": {"exclusiveMinimum": 0},
    "save_steps": {"exclusiveMinimum": 0},
    "eval_steps": {"exclusiveMinimum": 0},
    "dataloader_num_workers": {"minimum": 0},
    "temperature": {"exclusiveMinimum": 0},
    "num_generations": {"minimum": 2},
    "max_completion_length": {"minimum": 1},
    "beta": {"minimum": 0},
    "ppo_epochs": {"minimum": 1},
    "num_rollouts": {"minimum": 1},
    "rollout_batch_size": {"minimum": 2},
    "clip_range": {"exclusiveMinimum": 0},
    "vf_coef": {"minimum": 0},
    "vf_clip_range": {"exclusiveMinimum": 0},
    "gae_lambda": {"minimum": 0, "maximum": 1},
    "gamma": {"minimum": 0, "maximum": 1},
    "r": {"minimum": 1},
    "lora_alpha": {"exclusiveMinimum": 0},
    "lora_dropout": {"minimum": 0, "maximum": 1},
    "initializer_range": {"minimum": 0, "maximum": 1},
}
# Sizes of a model; transformers finds one below 1 only when it builds the tensors, if at all.
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
    *("mamba_d_ssm", "mamba_n_heads", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"),
)
BOUNDS |= {name: {"minimum": 1} for name in SIZES}
PRIMITIVES = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object", type(None): "null"}


def classes() -> dict[str, type]:
    """Return the config classes by name."""
    from peft import LoraConfig
    from transformers import TrainingArguments
    from trl import DPOConfig, GRPOConfig, KTOConfig, SFTConfig

    from agentforge.trainers.rl.ppo_config import PPOConfig

    trl = (SFTConfig, DPOConfig, KTOConfig, GRPOConfig)
    return {c.__name__: c for c in (TrainingArguments, *trl, PPOConfig, LoraConfig)}


def model_configs() -> dict[str, type]:
    """Return the config classes of the architectures whose fields are checked without torch, by name."""
    from agentforge.models import config_check

    return {name: config_check.config_class(model_type) for model_type, name in config_check.CONFIG_CLASSES.items()}


def fragments_of(annotation: Any) -> list[dict[str, Any]]:
    """Return the alternatives of a type annotation as JSON-schema fragments."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [fragment for alternative in inner for fragment in fragments_of(alternative)]
    if origin is typing.Literal:
        # peft writes a pattern as a literal: "pissa_niter_[number of iters]"
        return [{"enum": [str(v).replace("[number of iters]", "4") if isinstance(v, str) else v for v in inner]}]
    if origin in (list, tuple):
        item = inner[0] if inner else Any
        return [{"type": "array"} if item is Any or origin is tuple else {"type": "array", "items": fragment_of(item)}]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [{"enum": [member.value for member in annotation]}]
    if annotation is Any:
        return [{"type": kind} for kind in (*PRIMITIVES.values(), "array")]
    if annotation in PRIMITIVES:
        return [{"type": PRIMITIVES[annotation]}]
    return [{"type": "object"}]  # dict[...], and dataclasses such as LoftQConfig, which take their fields


def fragment_of(annotation: Any) -> dict[str, Any]:
    """Return one fragment: primitive alternatives become a list of types; text beside an enum is its spelling."""
    found = fragments_of(annotation)
    values = [value for fragment in found for value in fragment.get("enum", [])]
    kinds = sorted({fragment["type"] for fragment in found if list(fragment) == ["type"]})
    if values and all(isinstance(value, str) for value in values) and "boolean" not in kinds:
        return {"enum": values + ([None] if "null" in kinds else [])}
    if values or any("items" in fragment for fragment in found):
        rest = [fragment for fragment in found if list(fragment) != ["type"]]
        alternatives = ([{"type": _one_or_all(kinds)}] if kinds else []) + rest
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    return {"type": _one_or_all(kinds)}


def _one_or_all(kinds: list[str]) -> str | list[str]:
    return kinds[0] if len(kinds) == 1 else kinds


def describe(cls: type, field: dataclasses.Field[Any], annotation: Any) -> dict[str, Any]:
    """Return the fragment of one field with its choices, bounds, default and the first sentence of its help."""
    fragment = fragment_of(annotation)
    names = [parent.__name__ for parent in cls.__mro__]
    choices = next((CHOICES[key] for name in names if (key := (name, field.name)) in CHOICES), None)
    if choices := choices or field.metadata.get("choices"):
        fragment = {"enum": [*choices, *([None] if "null" in fragment.get("type", []) else [])]}
    if one_or_more := next((ONE_OR_MORE[key] for name in names if (key := (name, field.name)) in ONE_OR_MORE), None):
        fragment = {"anyOf": [{"enum": one_or_more}, {"type": "array", "items": {"enum": one_or_more}}]}
    fragment |= BOUNDS.get(field.name, {})
    default = field.default.value if isinstance(field.default, enum.Enum) else field.default
    if default is not None and isinstance(default, str | int | float | bool):
        fragment["default"] = default
    if help_text := _first_sentence(field.metadata.get("help", "")):
        fragment["description"] = help_text
    return fragment


def _first_sentence(text: str) -> str:
    sentence = re.split(r"(?<=[.!])\s", " ".join(text.split()), maxsplit=1)[0]
    return sentence if len(sentence) <= 160 else sentence[:157].rsplit(" ", 1)[0] + " ..."


def table_of(cls: type, parent: str | None, parent_fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the table of a class; fields that the class it extends has alike are left out."""
    hints = _hints(cls)
    fields = {f.name: describe(cls, f, hints[f.name]) for f in dataclasses.fields(cls) if f.init}
    own = {name: fragment for name, fragment in fields.items() if fragment != (parent_fields or {}).get(name)}
    if missing := set(parent_fields or {}) - set(fields):
        raise RuntimeError(f"{cls.__name__} lacks fields of its parent: {sorted(missing)}")
    modules = [parent.__module__.partition(".")[0] for parent in cls.__mro__]
    library = next(module for module in modules if module != "agentforge")
    return {
        "class": f"{modules[0]}.{cls.__name__}",
        "version": metadata.version(library),
        "extends": parent,
        "fields": own,
    }


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # transformers' configs have resolved all of their annotations but a few of the base class
        return {f.name: typing.Any if isinstance(f.type, str) else f.type for f in dataclasses.fields(cls)}


def all_tables() -> dict[str, dict[str, Any]]:
    """Return every table by class name."""
    found = classes()
    tables = {name: table_of(found[name], None) for name in (PARENT, "LoraConfig")}
    for name in found.keys() - tables.keys() - {PPO}:
        tables[name] = table_of(found[name], PARENT, tables[PARENT]["fields"])
    tables |= {name: table_of(found, None) for name, found in model_configs().items()}
    tables[PPO] = table_of(found[PPO], "GRPOConfig", tables[PARENT]["fields"] | tables["GRPOConfig"]["fields"])
    return tables


def to_json(table: dict[str, Any]) -> str:
    """Return a table as JSON with one line a field, so that a difference is readable."""
    fields = ",\n".join(f"    {json.dumps(name)}: {json.dumps(body)}" for name, body in table["fields"].items())
    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items() if key != "fields")
    return f'{{\n{head},\n  "fields": {{\n{fields}\n  }}\n}}\n'


def main() -> None:
    """Write the tables beside this file."""
    for name, table in all_tables().items():
        (HERE / f"{name}.json").write_text(to_json(table), encoding="utf-8")


if __name__ == "__main__":
    main()
