"""Count parameters from a shape, exactly, without making the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from agentforge.errors import UserError, did_you_mean
from agentforge.planning.inventory import EMBEDDING, HEAD, LAYER, LINEAR, Inventory, Parameter, table_inventory
from agentforge.planning.sizes import Shape
from agentforge.recipe.schema import Recipe

# peft's own choice for these architectures if `target_modules` is left out
DEFAULT_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters.

    Attributes:
        total: all of them: what memory and disk must hold.
        active: those that one token uses. Fewer than ``total`` where a router picks a few of many experts.
        embedding: the input embedding; looked up, not multiplied, unless it is also the head.
        head: an untied output head.
        layers: the decoder layers together.
        linear: the weights of their linear modules, which nf4 quantises. Experts in one large tensor are none.
        multiplied: parameters that each token is multiplied with, an expert's by the share of tokens that it gets.
        multiplied_in_layers: those of them that are computed again under gradient checkpointing.
    """

    total: int
    active: float
    embedding: int
    head: int
    layers: int
    linear: int
    multiplied: float
    multiplied_in_layers: float


@lru_cache(maxsize=64)  # the plan of a system asks some hundred times
def inventory_of(shape: Shape) -> Inventory:
    """Return every parameter of the model."""
    if shape.config is None:
        return table_inventory(shape)
    from agentforge.planning.meta import measured_inventory

    return measured_inventory(shape.config)


@lru_cache(maxsize=64)
def count_parameters(shape: Shape) -> Counts:
    """Return the numbers of parameters of the model."""
    parameters = inventory_of(shape).parameters
    in_layers = [p for p in parameters if p.role in (LINEAR, LAYER)]
    return Counts(
        total=sum(p.size for p in parameters),
        active=sum(p.size * p.share for p in parameters),
        embedding=sum(p.size for p in parameters if p.role == EMBEDDING),
        head=sum(p.size for p in parameters if p.role == HEAD),
        layers=sum(p.size for p in in_layers),
        linear=sum(p.size for p in in_layers if p.role == LINEAR),
        multiplied=_multiplied(parameters),
        multiplied_in_layers=_multiplied(in_layers),
    )


def _multiplied(parameters: list[Parameter] | tuple[Parameter, ...]) -> float:
    return sum(p.size * p.uses * p.share for p in parameters)


def count_matching(shape: Shape, patterns: list[str]) -> int:
    """Return how many parameters have a name that one of the patterns (`*.mamba.*`) fits."""
    return sum(parameter.size for parameter in _matching(shape, patterns))


def multiplied_matching(shape: Shape, patterns: list[str]) -> float:
    """Return with how many parameters of such a name each token is multiplied."""
    return _multiplied(list(_matching(shape, patterns)))


def _matching(shape: Shape, patterns: list[str]) -> Iterator[Parameter]:
    for parameter in inventory_of(shape).parameters:
        if any(fnmatchcase(parameter.name, pattern) for pattern in patterns):
            yield parameter


def adapted_modules(shape: Shape, lora: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Return the modules that `train.lora` adapts: full name to (in, out, rank), chosen as peft chooses.

    Args:
        shape: of the base.
        lora: fields of `peft.LoraConfig`.

    Raises:
        UserError: a name in `target_modules` fits no module.
    """
    return _adapted(shape, json.dumps(lora, sort_keys=True))


@lru_cache(maxsize=8)  # a plan asks a dozen times, and a 70B model has 560 modules
def _adapted(shape: Shape, options: str) -> dict[str, tuple[int, int, int]]:
    if shape.config is not None:
        from agentforge.planning.meta import measured_adapter

        return measured_adapter(shape.config, options).modules
    lora = json.loads(options)
    everywhere = {p.name: (p.inputs, p.outputs) for p in inventory_of(shape).projections}
    modules = everywhere | {
        "lm_head": (shape.hidden_size, shape.vocab_size),
        "model.embed_tokens": (shape.vocab_size, shape.hidden_size),
    }
    targets = lora.get("target_modules") or DEFAULT_TARGETS
    if targets == "all-linear":
        modules, targets = everywhere, ".*"
    _check_targets(shape, targets, modules)
    excluded, layers = lora.get("exclude_modules") or [], lora.get("layers_to_transform")
    numbers = None if layers is None else {layers} if isinstance(layers, int) else set(layers)
    return {
        name: (*size, rank_of(name, lora))
        for name, size in modules.items()
        if matches(name, targets)
        and not matches(name, excluded)
        and (numbers is None or _layer_number(name) in numbers)
        and not any(re.match(rf"(^|.*\.){saved}($|\..*)", name) for saved in lora.get("modules_to_save") or [])
    }


def _check_targets(shape: Shape, targets: list[str] | str, modules: dict[str, tuple[int, int]]) -> None:
    # `train` refuses such a name too (models.build.add_lora), but only after the base is downloaded and loaded.
    wanted = [targets] if isinstance(targets, str) else targets
    known = sorted({name.rsplit(".", 1)[-1] for name in modules})
    for target in wanted:
        if not any(matches(name, targets if isinstance(targets, str) else [target]) for name in modules):
            hint = did_you_mean(target, known)
            raise UserError(
                f"train.lora.target_modules: this {shape.model_type} has no '{target}'{hint}; it has {', '.join(known)}"
            )


def matches(name: str, wanted: list[str] | str) -> bool:
    """Tell whether a module is meant, as peft does: a pattern of the whole name, or the end of it after a dot."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in wanted)


def _layer_number(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def rank_of(name: str, lora: dict[str, Any]) -> int:
    """Return a module's rank: `rank_pattern` where one of its keys fits, else `r`."""
    pattern = lora.get("rank_pattern") or {}
    found = next((rank for key, rank in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), None)
    return int(lora.get("r", 8) if found is None else found)


def count_lora(shape: Shape, lora: dict[str, Any]) -> int:
    """Return an adapter's parameters: r (in + out) for each adapted module (Hu et al., arXiv 2106.09685).

    `use_dora` adds a magnitude, `lora_bias` a bias for each output; `modules_to_save` are trained whole.

    Raises:
        UserError: a name in `target_modules` fits no module.
    """
    if shape.config is not None:
        from agentforge.planning.meta import measured_adapter

        return measured_adapter(shape.config, json.dumps(lora, sort_keys=True)).trained
    per_output = bool(lora.get("use_dora")) + bool(lora.get("lora_bias"))
    adapted = adapted_modules(shape, lora).values()
    count = sum(rank * (rows + columns) + per_output * columns for rows, columns, rank in adapted)
    embedding = shape.vocab_size * shape.hidden_size
    return count + embedding * sum(name in ("lm_head", "embed_tokens") for name in lora.get("modules_to_save") or [])


def new_token_parameters(recipe: Recipe, shape: Shape) -> int:
    """Return what rows of `data.add_tokens` have beside LoRA: all tokens, since nobody knows which the base has."""
    ends = ["embed_tokens"] if shape.tie_word_embeddings else ["embed_tokens", "lm_head"]
    whole = (recipe.train.lora or {}).get("modules_to_save") or []
    return len(recipe.data.add_tokens) * shape.hidden_size * sum(end not in whole for end in ends)


def trained_parameters(recipe: Recipe, shape: Shape) -> int:
    """Return how many parameters the optimiser moves; of an expanded model all, whose old entries it then puts back."""
    if recipe.train.lora is not None:
        return count_lora(shape, recipe.train.lora) + new_token_parameters(recipe, shape)
    if recipe.train.trainable:
        return count_matching(shape, recipe.train.trainable)
    return count_parameters(shape).total
