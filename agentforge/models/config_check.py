"""Whether `model.config` is one that `train` can build a model from. `show` and `plan` ask the same.

The architectures that ship with tables of their fields are checked without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentforge.errors import UserError, did_you_mean, first_line
from agentforge.recipe.arguments import problem_with, show_value
from agentforge.recipe.schema import Model
from agentforge.recipe.tables import fields_of
from agentforge.systems.registry import all_systems, system_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# model_type to the class whose fields are in recipe/tables, with those of systems
CONFIG_CLASSES: dict[str, str] = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "falcon_h1": "FalconH1Config",
    **{kind: table for system in all_systems() for kind, table in system.config_tables.items()},
}


def check_model(model: Model) -> None:
    """Check the config of a model from scratch; a base from elsewhere has its own.

    Raises:
        UserError: no or an unknown `model_type`, a field that the config class does not have, or a value of another
            type than the field's.
    """
    if model.path is not None:
        return
    fields = dict(model.config)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_CLASSES:
        _check_by_class(config_class(model_type), fields)
        return
    table = fields_of(CONFIG_CLASSES[model_type])
    _check_names(model_type, fields, list(table))
    for name, value in fields.items():
        if problem := problem_with(value, table[name]) or _whole_number(value, table[name]):
            raise UserError(f"model.config.{name} is {show_value(value)}; {problem}")
    values = {name: field.get("default") for name, field in table.items()} | fields
    if "num_key_value_heads" in table:
        _check_sizes(model_type, values)
    if "mamba_d_ssm" in table:
        _check_mixer(values)
    if (system := system_of(model.config)) is not None:
        system.check_config(values)


def _check_names(model_type: str, fields: dict[str, Any], known: list[str]) -> None:
    for name in fields:
        if name not in known:
            raise UserError(f"model.config: a {model_type} has no field '{name}'{did_you_mean(name, known)}")


def _whole_number(value: Any, fragment: dict[str, Any]) -> str | None:
    """Return what is wrong with a whole number: the config classes take no 1 where they want a 1.0."""
    for alternative in fragment.get("anyOf", [fragment]):
        kinds = alternative.get("type", [])
        if isinstance(value, list) and "items" in alternative:
            return next((why for item in value if (why := _whole_number(item, alternative["items"]))), None)
        if type(value) is int and "number" in kinds and "integer" not in kinds:
            return f"it must have a decimal point: {float(value)}"
    return None


def _check_sizes(model_type: str, values: dict[str, Any]) -> None:
    hidden, heads, layers = (values[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    groups = values["num_key_value_heads"] or heads
    if heads % groups:
        raise UserError(
            f"model.config.num_attention_heads is {heads}; it must be a multiple of num_key_value_heads, {groups}"
        )
    # LlamaConfig insists on this even with a head_dim of its own; the other classes take whatever head_dim they are
    # given.
    if (hidden % heads and model_type == "llama") or (hidden < heads and not values.get("head_dim")):
        raise UserError(f"model.config.hidden_size is {hidden}; it must be a multiple of num_attention_heads, {heads}")
    if (kinds := values.get("layer_types")) is not None and len(kinds) != layers:
        raise UserError(f"model.config.layer_types has {len(kinds)} entries; it must have num_hidden_layers, {layers}")


def _check_mixer(values: dict[str, Any]) -> None:
    inner, heads, d_head = (values[name] for name in ("mamba_d_ssm", "mamba_n_heads", "mamba_d_head"))
    # FalconH1Config computes it like this when the recipe does not set it.
    inner = values["mamba_expand"] * values["hidden_size"] if inner is None else inner
    if not heads or inner % heads:
        raise UserError(f"model.config.mamba_n_heads is {show_value(heads)}; it must divide mamba_d_ssm, {inner}")
    if d_head not in ("auto", channels := inner // heads):
        raise UserError(
            f"model.config.mamba_d_head is {show_value(d_head)}; it must be mamba_d_ssm / mamba_n_heads, {channels}"
        )


def _check_by_class(kind: type[PretrainedConfig], fields: dict[str, Any]) -> None:
    import dataclasses

    from huggingface_hub.errors import StrictDataclassError

    _check_names(kind.model_type, fields, [field.name for field in dataclasses.fields(kind)])
    try:
        kind(**fields)
    except StrictDataclassError as error:  # its first line says that there is an error, its last which
        raise UserError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.config does not make a {kind.model_type}: {first_line(error)}") from error


def config_class(model_type: str | None) -> type[PretrainedConfig]:
    """Return the config class of a `model_type`, our own included.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if model_type is None:
        raise UserError(
            "the recipe names no base: set model.path, or set model.config with a model_type to start from scratch"
        )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from agentforge.models.auto import register_all

    register_all()
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(model_type, list(CONFIG_MAPPING))
        raise UserError(f"model.config.model_type '{model_type}' is unknown to transformers{hint}")
    found: type[PretrainedConfig] = CONFIG_MAPPING[model_type]
    return found
