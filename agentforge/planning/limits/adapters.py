"""Names and numbers of `train.lora` that fit nothing in the base: peft ignores most of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentforge.errors import UserError, did_you_mean
from agentforge.planning.parameters import adapted_modules, inventory_of, matches
from agentforge.planning.sizes import Shape


def adapter_problems(shape: Shape, lora: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each.

    Args:
        shape: of the base.
        lora: fields of `peft.LoraConfig`, checked one by one and with each other.
    """
    problems = [*_layers(shape, lora), *_saved(shape, lora)]
    if problems:  # peft's own message would be about what is left without them
        yield from problems
        return
    try:
        chosen = adapted_modules(shape, lora)
    except UserError as error:
        yield str(error)
        return
    if not chosen:
        yield (
            "train.lora adapts no module: target_modules, exclude_modules, layers_to_transform and modules_to_save "
            "leave none"
        )
        return
    yield from _patterns(chosen, lora)
    yield from _excluded(shape, lora)
    if lora.get("use_dora") and (found := [name for name in chosen if name.endswith("embed_tokens")]):
        yield f"train.lora.use_dora with {found[0]} cannot be merged: DoRA is for linear modules; leave one of them out"


def module_names(shape: Shape) -> list[str]:
    """Return the modules of a model that hold weights, themselves or in others, and a head that is tied."""
    parts = [parameter.name.split(".")[:-1] for parameter in inventory_of(shape).parameters]
    names = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    return sorted({*names, *(["lm_head"] if shape.tie_word_embeddings else [])})


def _layers(shape: Shape, lora: dict[str, Any]) -> Iterator[str]:
    given = lora.get("layers_to_transform")
    numbers = [] if given is None else [given] if isinstance(given, int) else given
    if given is not None and not numbers:
        yield "train.lora.layers_to_transform is empty; leave it out for all layers"
    for number in numbers:
        if not 0 <= number < shape.num_hidden_layers:
            yield (
                f"train.lora.layers_to_transform names layer {number}; the base has the layers 0 to "
                f"{shape.num_hidden_layers - 1}"
            )
    patterns = lora.get("layers_pattern") or []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not any(re.match(rf"(?:^|.*?\.){pattern}\.\d+(\.|$)", name) for name in module_names(shape)):
            yield f"train.lora.layers_pattern: the base has no list of layers called '{pattern}'"


def _saved(shape: Shape, lora: dict[str, Any]) -> Iterator[str]:
    names = module_names(shape)
    for wanted in lora.get("modules_to_save") or []:
        # as peft does it: the end of a name, also within a word
        if not any(name.endswith(wanted) for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names if not name.rsplit(".", 1)[-1].isdigit()})
            hint = did_you_mean(wanted, known) or f"; it has {', '.join(known)}"
            yield f"train.lora.modules_to_save: this {shape.model_type} has no '{wanted}'{hint}"


def _patterns(chosen: dict[str, tuple[int, int, int]], lora: dict[str, Any]) -> Iterator[str]:
    for field in ("rank_pattern", "alpha_pattern"):
        for key in lora.get(field) or {}:
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in chosen):
                known = sorted({name.rsplit(".", 1)[-1] for name in chosen})
                yield (
                    f"train.lora.{field}: '{key}' fits no module that is adapted{did_you_mean(key, known)}; they are "
                    f"{', '.join(known)}"
                )


def _excluded(shape: Shape, lora: dict[str, Any]) -> Iterator[str]:
    excluded = lora.get("exclude_modules") or []
    for entry in [excluded] if isinstance(excluded, str) else excluded:
        wanted = excluded if isinstance(excluded, str) else [entry]
        if not any(matches(name, wanted) for name in module_names(shape)):
            known = sorted({name.rsplit(".", 1)[-1] for name in module_names(shape)})
            yield (
                f"train.lora.exclude_modules: this {shape.model_type} has no '{entry}'{did_you_mean(entry, known)}, so "
                "nothing would be left out"
            )
