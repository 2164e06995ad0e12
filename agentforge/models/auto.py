"""transformers' Auto classes with this package's models in them: importing this module registers Adamba."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from agentforge.systems.adamba.modeling.configuration import PLAIN_TYPE, AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM, AdambaModel

AutoConfig.register(AdambaConfig.model_type, AdambaConfig)
AutoModel.register(AdambaConfig, AdambaModel)
AutoModelForCausalLM.register(AdambaConfig, AdambaForCausalLM)


def model_class(path: Any, **options: Any) -> Any:
    """Return the class whose `from_pretrained` opens a checkpoint.

    Adamba writes what plain transformers opens as a FalconH1. Here such a checkpoint is opened as the Adamba that it
    is, whose mixer is faster and whose dropped attention is not computed; the logits are the same.

    Args:
        path: a directory or a Hub id.
        options: where and how it is found, as `from_pretrained` has them (``revision``).
    """
    fields, _ = PretrainedConfig.get_config_dict(path, **options)
    is_adamba = fields.get("model_type") == PLAIN_TYPE and "base_hidden_size" in fields
    return AdambaForCausalLM if is_adamba else AutoModelForCausalLM
