"""Count an architecture that has no table, on torch's meta device: the real modules, without memory for their weights.

Only `plan` and `doctor` of such an architecture import this module, and with it torch and transformers.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from agentforge.errors import UserError, first_line
from agentforge.models.build import attach_lora
from agentforge.models.config_check import config_class
from agentforge.models.row_isolation import isolation_of
from agentforge.optim.parameter_split import split_parameters
from agentforge.planning.inventory import EMBEDDING, HEAD, LAYER, LINEAR, OTHER, Inventory, Parameter, Projection
from agentforge.planning.sizes import Shape

# What config classes call the number of experts that a router picks for a token.
PICKED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
# The quadratic kind of attention, by what transformers calls its modules and layers. The others carry a state instead.
ATTENTION = re.compile(r"(Attention|MLA)$")
LINEAR_ATTENTION = re.compile(r"Linear|Delta|Lightning|Rwkv")
LINEAR_LAYER = re.compile(r"linear|mamba|conv|recurrent|mlp|moe")
# Parts that have nothing to do when text alone is trained
IDLE = re.compile(r"vision|visual|image|audio|encoder_attn|cross_?attn|crossattention", re.IGNORECASE)

# What a model's constructor raises over a config that does not fit it; each model has its own way.
UNFIT = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(ZeroDivisionError, RuntimeError, ImportError),
)


@dataclass(frozen=True)
class Adapter:
    """What peft adds.

    Attributes:
        trained: parameters.
        modules: full name to (in, out, rank).
    """

    trained: int
    modules: dict[str, tuple[int, int, int]]


def packs_by_default(text: str) -> bool:
    """Tell whether training will pack rows for an architecture, by the probe that training asks too.

    A class may also say that packing does not pay (``unpacked_by_default``, see `trainers.batching.choose_packing`).

    Args:
        text: config.json of a `Shape`.
    """
    model = meta_model(text)
    return isolation_of(model.config).allows("packed") and not getattr(model, "unpacked_by_default", "")


def measured_shape(config: dict[str, Any]) -> Shape:
    """Return the shape of any causal language model that transformers can build.

    Raises:
        UserError: it cannot build this one; the sentence says why.
    """
    text = json.dumps(config, sort_keys=True)
    model = meta_model(text)
    sizes = model.config.get_text_config()
    # Where layers differ (Gemma 4), the estimates take what most of them have.
    sizes.allow_global_per_layer_attribute_access = True
    heads = getattr(sizes, "num_attention_heads", None) or 0
    hidden = _required(sizes, "hidden_size")
    return Shape(
        model_type=str(config["model_type"]),
        vocab_size=_required(sizes, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_mean(getattr(sizes, "intermediate_size", None)) or 4 * hidden,
        num_hidden_layers=getattr(sizes, "num_hidden_layers", None) or _layers(model)[1],
        num_attention_heads=heads,
        num_key_value_heads=getattr(sizes, "num_key_value_heads", None) or heads,
        head_dim=_head_dim(sizes, heads),
        tie_word_embeddings=bool(getattr(sizes, "tie_word_embeddings", False)),
        attention_windows=tuple(_windows(model)) if heads else (),
        config=text,
    )


def _mean(value: int | list[int] | None) -> int:
    return sum(value) // len(value) if isinstance(value, list) else value or 0


def _required(sizes: PretrainedConfig, name: str) -> int:
    value = getattr(sizes, name, None)
    if not isinstance(value, int):
        raise UserError(f"a {sizes.model_type} has no {name}, so `plan` cannot count it; take another base")
    return value


def _head_dim(sizes: PretrainedConfig, heads: int) -> int:
    if not heads:
        return 0
    if nope := getattr(sizes, "qk_nope_head_dim", None):  # latent attention: queries are longer than values
        return int(nope + sizes.qk_rope_head_dim + sizes.v_head_dim) // 2
    return int(getattr(sizes, "head_dim", None) or sizes.hidden_size // heads)


@lru_cache(maxsize=4)
def meta_model(config: str) -> PreTrainedModel:
    """Return the model of a config.json (as JSON), with its parameters on the meta device.

    Raises:
        UserError: the `model_type` is unknown, is no causal language model, or its fields do not fit.
    """
    fields = json.loads(config)
    fields.pop("quantization_config", None)  # how the published weights are packed; sizes are those of the plain model
    kind = config_class(fields.get("model_type"))
    try:
        with torch.device("meta"):  # not under `no_init_weights`, which would leave a tied head untied
            model: PreTrainedModel = AutoModelForCausalLM.from_config(kind.from_dict(fields))
    except StrictDataclassError as error:
        raise UserError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except UNFIT as error:
        raise UserError(f"model.config does not make a {kind.model_type}: {first_line(error)}") from error
    return model


def measured_inventory(config: str) -> Inventory:
    """Return every parameter of the model, and the projections of its layers."""
    model = meta_model(config)
    prefix, _ = _layers(model)
    shares = {name: share for name, share, _ in _expert_tensors(model)}
    uses = _uses(model)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    ends = {id(p) for module in (embedding, head) if module is not None for p in module.parameters()}  # biases too
    linear = {f"{name}.weight" for name, module in model.named_modules() if _features(module) is not None}
    found = []
    for name, parameter in model.named_parameters():
        if embedding is not None and parameter is getattr(embedding, "weight", None):
            role = EMBEDDING
        elif head is not None and parameter is getattr(head, "weight", None):
            role = HEAD
        elif name.startswith(prefix) and id(parameter) not in ends:
            role = LINEAR if name in linear else LAYER
        else:
            role = OTHER
        found.append(Parameter(name, parameter.numel(), role, uses[id(parameter)], shares.get(name, 1.0)))
    return Inventory(tuple(found), tuple(_projections(model, prefix)))


def _text_part(model: PreTrainedModel) -> torch.nn.Module:
    """Return the decoder; a vision or audio tower beside it has no work when only text is trained."""
    decoder = model.get_decoder()
    has_layers = decoder is not None and any(isinstance(module, torch.nn.ModuleList) for module in decoder.modules())
    return decoder if has_layers else model


def _layers(model: PreTrainedModel) -> tuple[str, int]:
    """Return the prefix of the decoder's layers and their number: of all lists the one with most parameters.

    A model without a list counts as one layer, which is all of it: the prefix is empty.
    """
    decoder = _text_part(model)
    inside = {id(module) for module in decoder.modules()}
    lists = [
        (sum(p.numel() for p in module.parameters()), f"{name}.", len(module))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and id(module) in inside
    ]
    return max(lists)[1:] if lists else ("", 1)


def _uses(model: PreTrainedModel) -> dict[int, int]:
    """Return how often a token is multiplied with each parameter, by its id.

    A module that transformers lists in several layers (Zamba's shared block) works in each of them, and an embedding
    works only as the head that is tied to it.
    """
    decoder, head = _text_part(model), model.get_output_embeddings()
    uses: dict[int, int] = defaultdict(int)
    for root in (decoder, head):
        inside = [] if root is None else root.named_modules(remove_duplicate=False)
        for name, module in inside:
            if (module is head and root is decoder) or IDLE.search(name):
                continue
            for parameter in module.parameters(recurse=False):
                uses[id(parameter)] += not isinstance(module, torch.nn.Embedding)
    return uses


def _features(module: torch.nn.Module) -> tuple[int, int] | None:
    """Return (in, out) features of a linear module; GPT-2's Conv1D is one."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    return (module.nx, module.nf) if isinstance(module, Conv1D) else None


def _projections(model: PreTrainedModel, prefix: str) -> Iterator[Projection]:
    for name, module in model.named_modules(remove_duplicate=False):
        if not name.startswith(prefix) or module is model.get_output_embeddings():
            continue
        if (size := _features(module)) is not None:
            yield Projection(name, *size, uses=_share_in_list(model, f"{name}.weight"))
        elif isinstance(module, torch.nn.Conv1d):
            yield Projection(name, module.in_channels, module.out_channels)
        elif isinstance(module, torch.nn.RNNBase):
            for part, weight in module.named_parameters():
                if weight.ndim == 2:
                    yield Projection(f"{name}.{part}", weight.shape[1], weight.shape[0])
    for name, share, parameter in _expert_tensors(model):
        if name.startswith(prefix) and parameter.ndim == 3:
            experts, first, second = parameter.shape
            yield Projection(name, first, second, uses=share * experts)


def _expert_tensors(model: PreTrainedModel) -> Iterator[tuple[str, float, torch.nn.Parameter]]:
    """Yield the parameters of routed experts: name, share of them that a token uses, and the parameter.

    transformers 5 keeps the experts of a layer in one tensor (E, out, in), in a module called ...Experts; older code
    keeps a list of modules called experts. The router and shared experts work on every token.
    """
    for prefix, module in model.named_modules():
        kind = type(module).__name__
        if "Expert" not in kind or "shared" in prefix.rsplit(".", 1)[-1]:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            experts = getattr(module, "num_experts", None) or getattr(module, "moe_num_experts", None)
            experts = parameter.shape[0] if parameter.ndim == 3 else experts
            if parameter.ndim > 1 and experts:
                yield f"{prefix}.{name}", min(_picked(model) / experts, 1.0), parameter
    for name, parameter in model.named_parameters():
        if (share := _share_in_list(model, name)) < 1:
            yield name, share, parameter


def _share_in_list(model: PreTrainedModel, name: str) -> float:
    found = re.match(r"(.*\bexperts)\.\d+\.", name)
    if found is None:
        return 1.0
    experts = model.get_submodule(found.group(1))
    return min(_picked(model) / len(experts), 1.0) if isinstance(experts, torch.nn.ModuleList) else 1.0


def _picked(model: PreTrainedModel) -> int:
    sizes = model.config.get_text_config()
    for config in (sizes, getattr(sizes, "ffn_config", None)):
        for name in PICKED:
            if isinstance(value := getattr(config, name, None), int):
                return value
    raise UserError(
        f"the config of this {model.config.model_type} does not say how many experts a token uses; set {PICKED[0]}"
    )


def _windows(model: PreTrainedModel) -> Iterator[int | None]:
    """Yield for each attention the tokens that a query sees, None for all."""
    sizes = model.config.get_text_config()
    kinds = getattr(sizes, "layer_types", None) or []
    outermost: list[str] = []
    for name, module in _text_part(model).named_modules(remove_duplicate=False):
        if ATTENTION.search(type(module).__name__) is None or IDLE.search(name):
            continue
        if any(name.startswith(f"{outer}.") for outer in outermost):
            continue
        outermost.append(name)
        number = re.search(r"(?:^|\.)(\d+)\.", name)
        layer = int(number.group(1)) if number else len(kinds)
        kind = kinds[layer] if layer < len(kinds) else None
        linear = LINEAR_LAYER.search(kind) if kind else LINEAR_ATTENTION.search(type(module).__name__)
        if not linear:
            yield _window(sizes, kind)


def _window(sizes: PretrainedConfig, kind: str | None) -> int | None:
    if kind is not None and "chunked" in kind:
        return getattr(sizes, "attention_chunk_size", None)
    if kind is not None and "sliding" not in kind:
        return None
    window = getattr(sizes, "sliding_window", None) or getattr(sizes, "attention_window_size", None)
    return window if isinstance(window, int) else None


@lru_cache(maxsize=8)
def measured_adapter(config: str, options: str) -> Adapter:
    """Return what peft itself adds to the model for `train.lora` (as sorted JSON).

    Raises:
        UserError: `train` would refuse it; the linear modules that exist are named.
    """
    model = meta_model.__wrapped__(config)  # one of its own: peft changes the model in place
    with torch.device("meta"):
        adapted = attach_lora(model, json.loads(options))
    modules = {
        name.removeprefix("base_model.model."): (int(module.in_features), int(module.out_features), module.r["default"])
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer) and module.in_features and module.out_features
    }
    return Adapter(int(adapted.get_nb_trainable_parameters()[0]), modules)


@lru_cache(maxsize=8)
def measured_muon(config: str, trainable: tuple[str, ...], adamw: tuple[str, ...]) -> int:
    """Return how many parameters `train.optimizer: mugrokfast` gives to Muon, by the split that training makes.

    Args:
        trainable: patterns of `train.trainable`; none: everything is trained.
        adamw: patterns of the option of that name.

    Raises:
        UserError: training would refuse it.
    """
    model = meta_model.__wrapped__(config)  # one of its own: what is frozen in it stays so
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not trainable or any(fnmatchcase(name, pattern) for pattern in trainable))
    return sum(matrix.numel() for matrix in split_parameters(model, adamw).hidden)
