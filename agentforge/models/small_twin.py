"""A small model of the same make as a large one: its class, its attention, one layer at least of every kind it has.

What a model computes of a row beside other rows depends on its code, not on its size. So a question about the code is
asked of a twin that is built in a fraction of a second. How to make a config smaller is written down nowhere: each
class has its own names and its own rules of what must divide what. So this tries, and checks what came out. A twin
counts only if it is made of the same kinds of modules as the whole model, which is built without memory (on `meta`) to
be compared.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

LARGEST = 150_000_000
"""Parameters of a twin, 0.6 GB; a larger one would take longer than a look at the real model."""
VOCABULARY = 128
WINDOW = 4
"""Tokens of a sliding window, and of a chunk that a scan works on: less than a row of the probe has."""

NARROWEST = 16
"""Channels; of fewer, chance may leave a path without any effect."""
FEED_FORWARD_WIDTH = 64

HEADS = re.compile(r"(?<!d_)heads?$|n_groups$|num_groups$")
WIDTHS = re.compile(r"hidden_size|n_embd|d_model|d_ssm|d_inner|lru_width|embed_proj_dim")
FEED_FORWARD = re.compile(r"intermediate|ffn|n_inner|ff_dim")
EXPERTS = re.compile(r"^(moe_)?num_(local_)?experts$|^n_routed_experts$")
WINDOWS = re.compile(r"window(_size)?$|chunk_size$")
TOKENS = re.compile(r"_token_ids?$")


def small_twin(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel | None:
    """Return a small model in fp32, with random weights through which every path matters; None if there is none.

    Args:
        model_class: of the whole model.
        config: of the whole model; it is not changed.
    """
    try:
        wanted = kinds(_on_meta(model_class, config))
    except Exception:  # a class may refuse in any way; then there is nothing to compare a twin with
        return None
    too_large: set[tuple[bool, bool]] = set()
    for smaller, made_so in _smaller(config):
        if made_so in too_large:  # it was with fewer layers
            continue
        try:
            empty = _on_meta(model_class, smaller)
            if sum(p.numel() for p in empty.parameters()) > LARGEST:
                too_large.add(made_so)
                continue
            if kinds(empty) != wanted:
                continue
            twin = scatter(model_class(smaller)).eval()
            twin(input_ids=torch.ones(1, 2 * WINDOW, dtype=torch.long), use_cache=False)
        except Exception:  # this way of making it smaller broke a rule of the class: the next is less bold
            continue
        return twin
    return None


def kinds(model: nn.Module) -> set[tuple[Any, ...]]:
    """Return what sorts of modules a model has: their classes, and the switches that choose between ways to compute."""
    return {(type(module), *_switches(module)) for module in model.modules()}


def _switches(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name == "training":
            continue
        if value is None or isinstance(value, bool | str):
            yield name, value
        elif WINDOWS.search(name):
            yield name, "set"  # how wide a window is makes no other kind of layer; that there is one does


def scatter(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draw weights anew so that what each part adds is as large as what it is added to.

    As classes initialise them, a recurrent path may be a thousandth of the residual stream, or be switched off by a
    gate that is 0: what flows through it would be lost in rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator).to(weight)
            if weight.dim() < 2:  # norms, biases, gates, rates of decay: near where the class puts them
                weight.add_(0.3 * drawn)
            else:
                fan_in = weight[0].numel()
                weight.copy_(drawn / math.sqrt(fan_in))
        embeddings = model.get_input_embeddings().weight
        embeddings.mul_(math.sqrt(embeddings.shape[1]))  # type: ignore[operator,index]
    return model


def _on_meta(model_class: type[PreTrainedModel], config: PretrainedConfig) -> nn.Module:
    # the class itself and not its `from_config`, which under ZeRO-3 would hand each process a part of the weights
    with no_init_weights(), torch.device("meta"):
        return model_class(copy.deepcopy(config))


def _smaller(config: PretrainedConfig) -> Iterator[tuple[PretrainedConfig, tuple[bool, bool]]]:
    """Yield configs, the boldest first, with what was done to their widths and experts beside fewer layers."""
    # a model that counts no layers, such as one GRU, is kept whole
    layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
    for kept in [*_layers_to_keep(config.get_text_config(), layers), list(range(layers))]:
        for widths, experts in ((True, True), (True, False), (False, True), (False, False)):
            smaller = copy.deepcopy(config)
            if hasattr(smaller, "quantization_config"):
                del smaller.quantization_config
            text = smaller.get_text_config()
            try:
                _keep_layers(text, kept, layers)
                _shorten(text)
                if experts:
                    _fewer_experts(text)
                if widths:
                    _narrow(text)
            except Exception:  # a field that cannot be set: the class computes it, or checks it against another
                continue
            yield smaller, (widths, experts)


def _layers_to_keep(config: PretrainedConfig, layers: int) -> Iterator[list[int]]:
    """Yield choices of layers: one of each description that the config gives, then ever longer beginnings."""
    described = list(zip(*(map(str, value) for _, value in _per_layer(config, layers)), strict=True))
    if described:
        first = sorted({description: i for i, description in reversed(list(enumerate(described)))}.values())
        if len(first) == 1 < layers:
            first = [0, 1]
        if len(first) < layers:
            yield first
    length = 2
    while length < layers:
        yield list(range(length))
        length *= 2


def _per_layer(config: PretrainedConfig, layers: int) -> list[tuple[str, list[Any]]]:
    found = vars(config).items()
    return [(name, list(v)) for name, v in found if isinstance(v, list | tuple) and len(v) == layers]


def _keep_layers(config: PretrainedConfig, kept: list[int], layers: int) -> None:
    if len(kept) == layers:
        return
    lists = _per_layer(config, layers)
    numbers = [
        (name, value)
        for name, value in vars(config).items()
        if "layer" in name and isinstance(value, list) and len(value) != layers and all(type(i) is int for i in value)
    ]
    config.num_hidden_layers = len(kept)
    for name, value in lists:
        setattr(config, name, [value[i] for i in kept])
    for name, value in numbers:  # layers by their number, such as `attn_layer_indices`
        setattr(config, name, [place for place, layer in enumerate(kept) if layer in value])


def _integers(config: PretrainedConfig) -> list[tuple[str, int]]:
    return [(name, value) for name, value in vars(config).items() if type(value) is int and value > 1]


def _shorten(config: PretrainedConfig) -> None:
    for name, value in _integers(config):
        if name.startswith("vocab_size"):
            setattr(config, name, min(value, VOCABULARY))
        elif WINDOWS.search(name):
            setattr(config, name, min(value, WINDOW))
        elif TOKENS.search(name) and value >= VOCABULARY:
            setattr(config, name, 0)


def _fewer_experts(config: PretrainedConfig) -> None:
    chosen = max((v for n, v in _integers(config) if "per_tok" in n or "top_k" in n), default=1)
    for name, value in _integers(config):
        if EXPERTS.search(name):
            setattr(config, name, min(value, max(4, 2 * chosen)))


def _narrow(config: PretrainedConfig) -> None:
    """Divide all numbers of heads, and with them all widths, by the most that divides each of them.

    What is inside a feed-forward layer has nothing to divide.
    """
    heads = [(name, value) for name, value in _integers(config) if HEADS.search(name)]
    widths = [(n, v) for n, v in _integers(config) if WIDTHS.search(n) and not FEED_FORWARD.search(n)]
    common = math.gcd(*(value for _, value in heads + widths))
    most = min((value for _, value in widths), default=NARROWEST) // NARROWEST
    factor = max((d for d in range(1, min(common, most) + 1) if common % d == 0), default=1)
    for name, value in heads + widths:
        setattr(config, name, value // factor)
    for name, value in _integers(config):
        if FEED_FORWARD.search(name):
            setattr(config, name, min(value, FEED_FORWARD_WIDTH))


def concrete_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class that `AutoModelForCausalLM` makes of a config.

    Raises:
        KeyError: it makes none of it.
    """
    found: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return cast(type[PreTrainedModel], found)
