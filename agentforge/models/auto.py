"""transformers' Auto classes, for the models of systems too: their classes are registered before they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from agentforge.references import resolve
from agentforge.systems.registry import all_systems, prepare_for


def model_class(path: Any, **options: Any) -> Any:
    """Return the class whose `from_pretrained` opens a checkpoint; its system's, where that has one of its own.

    Args:
        path: a directory or a Hub id.
        options: where and how it is found, as `from_pretrained` takes them (``revision``).
    """
    # Only the JSON is read: AutoConfig would refuse a `model_type` that is not registered yet.
    fields, _ = PretrainedConfig.get_config_dict(path, **options)
    system = prepare_for(fields)
    if system is None or system.model_class is None:
        return AutoModelForCausalLM
    return resolve(system.model_class)


def load_config(path: Any, **options: Any) -> PretrainedConfig:
    """Return the config of a checkpoint, as `AutoConfig.from_pretrained`."""
    fields, _ = PretrainedConfig.get_config_dict(path, **options)
    prepare_for(fields)
    return AutoConfig.from_pretrained(path, **options)


def register(fields: Mapping[str, Any]) -> None:
    """Make transformers know the classes of the system that a config belongs to, if it belongs to one.

    Args:
        fields: of a config.json, or of `model.config` in a recipe.
    """
    prepare_for(fields)


def register_all() -> None:
    """Make transformers know the classes of every system, when it is not known which will be opened."""
    for system in all_systems():
        if system.auto_classes is not None:
            importlib.import_module(system.auto_classes)
