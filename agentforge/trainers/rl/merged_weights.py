"""The weights of a model that is being trained, one after another, as a checkpoint without its adapter would have them.

What is merged is a copy. PEFT's `merge_adapter` and `unmerge_adapter` change the base itself: in bf16, adding a delta
and taking it away again leaves other weights than before, and every sync would move the base a little further.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.tensor import DTensor

from agentforge.errors import UserError

# What wrappers add to a parameter's name, and PEFT to that of a module which is trained as a whole.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "modules_to_save.default.")
PEFT_PREFIX = "base_model.model."


class Weight(NamedTuple):
    """A weight before it is gathered and merged.

    Attributes:
        name: in a checkpoint of the plain model.
        parameter: of the base.
        layer: the LoRA layer that it is the base of; None: none.
    """

    name: str
    parameter: nn.Parameter
    layer: LoraLayer | None


def plain_weights(model: nn.Module, without: tuple[str, ...] = ()) -> list[Weight]:
    """Return the weights that a checkpoint of the merged model has; those that are tied, once.

    Args:
        model: with or without LoRA, its parameters whole or sharded (FSDP 2, ZeRO-3).
        without: submodules that are only needed for training (a critic).

    Raises:
        UserError: an adapter that cannot be merged into a copy tensor by tensor, or quantised weights.
    """
    bases: dict[int, LoraLayer] = {}
    adapters: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        for attribute in module.adapter_layer_names:
            adapters |= {id(parameter) for parameter in getattr(module, attribute).parameters()}
        weight = _base_weight(name, module)
        if weight is not None:
            bases[id(weight)] = module  # type: ignore[assignment]
    found = []
    for name, parameter in model.named_parameters():
        plain = _plain_name(name)
        if id(parameter) in adapters or ".original_module." in name or plain.split(".")[0] in without:
            continue
        if not parameter.is_floating_point():
            raise UserError(
                f"rollouts.engine vllm: {plain} is quantised, and vLLM is given whole weights; leave out model.quantize"
            )
        found.append(Weight(plain, parameter, bases.get(id(parameter))))
    return found


def announced(weights: list[Weight], dtype: torch.dtype) -> list[tuple[str, str, list[int]]]:
    """Return name, dtype (as vLLM spells it) and shape of what `merged` will yield, without gathering anything."""
    spelt = str(dtype).removeprefix("torch.")
    return [(w.name, spelt, list(getattr(w.parameter, "ds_shape", w.parameter.shape))) for w in weights]


def merged(weights: list[Weight], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight whole and with its adapter in it: W + scaling B A, added in fp32, then rounded once.

    With sharded weights this is a collective operation: every process iterates to the end, whatever it does with them.
    No more than one weight is whole at a time.
    """
    for weight in weights:
        with torch.no_grad(), _gathered(weight):
            copy = _whole(weight.parameter).to(torch.float32, copy=True)
            if weight.layer is not None:
                for adapter in weight.layer.active_adapters:
                    copy += _delta(weight.layer, adapter)
            copy = copy.to(dtype)
        yield weight.name, copy


def _base_weight(name: str, module: BaseTunerLayer) -> nn.Parameter | None:
    """Return the weight that a LoRA layer adds to; None if it has no adapter that is used.

    Raises:
        UserError: it does not simply add B A to it.
    """
    if isinstance(module, (Linear, Embedding)):
        used = [adapter for adapter in module.active_adapters if adapter in module.scaling]
        odd = [adapter for adapter in used if module.lora_variant.get(adapter) or module.lora_bias.get(adapter)]
        if not odd and not module.merged:
            return module.get_base_layer().weight if used else None  # type: ignore[return-value]
    raise UserError(
        f"rollouts.engine vllm: the adapter of {_plain_name(name)} is not a plain LoRA of a linear layer or embedding "
        "(DoRA, lora_bias, target_parameters, convolutions), so it is not merged into the weights that vLLM gets; "
        "leave that option out, or play with engine: transformers"
    )


def _delta(layer: LoraLayer, adapter: str) -> torch.Tensor:
    """Return scaling B A in the shape of the base's weight, computed in fp32 (Hu et al., arXiv 2106.09685)."""
    if isinstance(layer, Embedding):
        first, second = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        transposed = True  # an embedding's weight has a row for each token
    else:
        first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        transposed = bool(getattr(layer, "fan_in_fan_out", False))
    product = _whole(second).float() @ _whole(first).float() * layer.scaling[adapter]
    return product.T if transposed else product


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor that FSDP 2 may have sharded."""
    data = parameter.detach()
    return data.full_tensor() if isinstance(data, DTensor) else data


def _gathered(weight: Weight) -> AbstractContextManager[Any]:
    """Return a context in which ZeRO-3 holds a weight and its adapter whole; elsewhere one that does nothing."""
    if not hasattr(weight.parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    together = [weight.parameter]
    if weight.layer is not None:
        for attribute in weight.layer.adapter_layer_names:
            together += list(getattr(weight.layer, attribute).parameters())
    return deepspeed.zero.GatheredParameters(together)


def _plain_name(name: str) -> str:
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
