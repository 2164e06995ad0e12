"""Make the model that a recipe names: from a config, from a directory or from the Hub, with or without LoRA."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file, extract_commit_hash

from agentforge.artifacts import hash_json
from agentforge.errors import CheckRefused, UserError, first_line
from agentforge.models.auto import load_config, register
from agentforge.models.config_check import check_model
from agentforge.models.new_tokens import add_rows
from agentforge.models.open_model import check_place, open_model
from agentforge.recipe.schema import Model
from agentforge.references import resolve
from agentforge.systems.registry import system_of

log = logging.getLogger(__name__)


def build_model(
    model: Model,
    vocab_size: int,
    *,
    seed: int,
    train_all: bool,
    device: torch.device | None = None,
    new_tokens: Mapping[int, Sequence[int]] | None = None,
) -> PreTrainedModel:
    """Return the base model, ready for training.

    Args:
        model: the recipe's section.
        vocab_size: number of tokens of the tokenizer that the data were made with.
        seed: of the weights of a model from scratch.
        train_all: all weights are trained, none is frozen; they are then held in fp32 whatever `model.dtype` is,
            because an AdamW update is smaller than half a unit in the last place of a bf16 weight and would be lost.
        device: where a quantised model is put; ordinary ones are moved by the Trainer.
        new_tokens: of `data.add_tokens`: id to the pieces from whose rows it starts (see `new_tokens.add_rows`).

    Raises:
        UserError: the config, the path or the revision is wrong.
        CheckRefused: the tokenizer has more tokens than the model has embeddings, or a shard is damaged.
    """
    dtype = torch.float32 if train_all else getattr(torch, model.dtype)
    if model.path is None:
        return from_scratch(model, vocab_size, seed=seed, dtype=dtype)
    built = load_model(model, dtype=dtype, device=device)
    add_rows(built, new_tokens or {})
    weight: Any = built.get_input_embeddings().weight
    rows = int(getattr(weight, "ds_shape", weight.shape)[0])  # under ZeRO-3 each process holds a part, of no shape
    if rows < vocab_size:
        raise CheckRefused(
            f"the data's tokenizer has {vocab_size} tokens, but the model {model.path} has embeddings for only {rows}; "
            "run `agentforge prepare` with this model's own tokenizer, or name what is new in data.add_tokens"
        )
    return built


def from_scratch(model: Model, vocab_size: int, *, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a freshly initialised model of `model.config`; its vocabulary is the tokenizer's.

    Raises:
        UserError: no or an unknown `model_type`, a field that the config class does not have, or a value that does
            not fit.
    """
    check_model(model)
    fields = dict(model.config)
    model_type = fields.pop("model_type")
    register(model.config)
    fields.setdefault("vocab_size", vocab_size)
    if fields["vocab_size"] < vocab_size:
        raise UserError(
            f"model.config.vocab_size is {fields['vocab_size']}, but the tokenizer has {vocab_size}; leave it out"
        )
    set_seed(seed)
    try:
        config = AutoConfig.for_model(model_type, **fields)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **_attention(model))
    except StrictDataclassError as error:  # its first line says that there is an error, its last which
        raise UserError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"model.config does not make a {model_type}: {first_line(error)}") from error


def config_of(model: Model) -> PretrainedConfig:
    """Return the config of a recipe's base, without its weights.

    Raises:
        UserError: it cannot be read, or is not that of a model.
    """
    try:
        if model.path is not None:
            return load_config(model.path, revision=model.revision or "main", trust_remote_code=model.trust_remote_code)
        register(model.config)
        fields = dict(model.config)
        return AutoConfig.for_model(fields.pop("model_type", ""), **fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"model {model.path or 'model.config'} cannot be read: {first_line(error)}") from error


def load_model(model: Model, *, dtype: torch.dtype, device: torch.device | None = None) -> PreTrainedModel:
    """Return the model at `model.path`, a directory or a Hub id. Only safetensors are read: a pickle runs code.

    Raises:
        UserError: nothing is there, or the Hub does not answer.
        CheckRefused: a shard is damaged or missing.
    """
    assert model.path is not None
    return open_model(
        model.path,
        revision=model.revision,
        dtype=dtype,
        trust_remote_code=model.trust_remote_code,
        **_attention(model),
        **_quantization(model, device),
    )


def _attention(model: Model) -> dict[str, Any]:
    return {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}


def check_base(model: Model) -> None:
    """Refuse a base that cannot be opened here, before anything is begun; what the Hub has is seen when it is opened.

    Raises:
        UserError: `model.path` is an adapter or no model, or it shall be quantised and there is no GPU.
        CheckRefused: a shard is cut off.
    """
    if model.path is not None:
        check_place(model.path)
    if model.quantize is not None and not torch.cuda.is_available():
        raise UserError(
            "model.quantize: nf4 needs a CUDA GPU and bitsandbytes; leave it out, or choose a profile with a GPU"
        )


def _quantization(model: Model, device: torch.device | None) -> dict[str, Any]:
    if model.quantize is None:
        return {}
    check_base(model)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, model.dtype),
    )
    return {
        "quantization_config": config,
        "device_map": {"": device or torch.device("cuda", torch.cuda.current_device())},
    }


def add_lora(model: PreTrainedModel, options: dict[str, Any], *, seed: int) -> PeftModel:
    """Return ``model`` with its weights frozen and LoRA matrices beside the named ones (Hu et al., arXiv 2106.09685).

    Args:
        model: the base.
        options: fields of `peft.LoraConfig`.
        seed: of the A matrices; B starts at zero, so that the first step starts from the base.

    Raises:
        UserError: a name in `target_modules` matches nothing; the names that exist are given.
    """
    # B is zero, but A is random: two runs of one recipe must begin with the same adapter.
    set_seed(seed)
    if getattr(model, "is_quantized", False):
        from peft import prepare_model_for_kbit_training

        # The Trainer switches checkpointing on by itself if the arguments ask for it.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return attach_lora(model, options)


def attach_lora(model: PreTrainedModel, options: dict[str, Any]) -> PeftModel:
    """Return ``model`` with LoRA matrices; `plan` counts them on the meta device, where no seed is needed.

    Raises:
        UserError: a name in `target_modules` matches nothing; the names that exist are given.
    """
    targets = options.get("target_modules")
    # A string is a pattern, or `all-linear`. In a list, PEFT ignores a name that matches nothing as long as another one
    # does.
    if not isinstance(targets, str) and (unknown := sorted(set(targets or []) - _last_names(model))):
        raise UserError(
            f"train.lora.target_modules: this {model.config.model_type} has no {', '.join(unknown)}; "
            f"it has {', '.join(linear_names(model))}"
        )
    if targets == "all-linear" and has_fused_experts(model):
        options = options | {"target_modules": _linear_beside_experts(model)}
    system = system_of(model.config.to_dict())
    if system is not None and system.lora is not None:
        options = resolve(system.lora)(model, options)
    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    except (ValueError, TypeError) as error:
        known = ", ".join(linear_names(model))
        raise UserError(f"train.lora: {first_line(error)} (linear modules here: {known})") from error


def linear_names(model: torch.nn.Module) -> list[str]:
    """Return the distinct last names of all linear modules: what `target_modules` may hold."""
    linear = (torch.nn.Linear, Conv1D)  # Conv1D is GPT-2's, of the same meaning
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, linear)})


EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "gate", "router")
"""Of linear modules that PEFT takes for parts of a mixture's experts or for its router, wherever they stand."""


def has_fused_experts(model: torch.nn.Module) -> bool:
    """Tell whether a mixture of experts keeps all experts of a layer in one parameter."""
    return any(parameter.dim() == 3 and ".experts." in name for name, parameter in model.named_parameters())


def _linear_beside_experts(model: PreTrainedModel) -> list[str]:
    """Return the linear modules of a mixture but for its experts, its router and its head.

    PEFT's own `all-linear` also trains the router, which undoes its balance, and the fused experts, which no merge
    shard by shard can write. Whoever wants them names them in `target_parameters`.
    """
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and name.rsplit(".", 1)[-1] not in EXPERT_NAMES
    ]


def _last_names(model: torch.nn.Module) -> set[str]:
    # peft matches an entry that is a module's name or the end of it after a dot
    parts = [name.split(".") for name, _ in model.named_modules() if name]
    return {".".join(part[start:]) for part in parts for start in range(len(part))}


def identify_base(model: Model) -> Path | str:
    """Return what a stage's result depends on: the directory, the Hub id with its commit, or the config's hash."""
    if model.path is None:
        return hash_json(model.config)
    if Path(model.path).is_dir():
        return Path(model.path)
    return f"{model.path}@{_commit(model.path, model.revision)}"


def _commit(path: str, revision: str | None) -> str:
    file = cached_file(path, "config.json", revision=revision or "main", local_files_only=True)
    return extract_commit_hash(file, None) or revision or "main"
