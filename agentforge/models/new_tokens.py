"""Rows of the embeddings for tokens that a base does not know: made, given a start, and trained beside LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from agentforge.errors import UserError

INDICES = "trainable_token_indices"
"""PEFT's option: rows of an embedding that are trained, and stored in the adapter as they are."""


def add_rows(model: PreTrainedModel, pieces: Mapping[int, Sequence[int]]) -> None:
    """Give a base a row for each new token, in the embedding and in the head.

    A row starts as the mean of the rows of the pieces into which the base splits the token's text (Gee et al., Fast
    Vocabulary Transfer, 2022). Unlike the mean of all rows it says what the token is called, and tokens differ.
    Rows that a padded vocabulary has free are used first; only what they do not hold makes the embeddings grow.

    Args:
        model: changed in place.
        pieces: id of each new token to the ids of its pieces.
    """
    if not pieces:
        return
    ids = sorted(pieces)
    require_rows(model, ids[-1] + 1)
    weights = {id(part.weight): part.weight for part in _ends(model)}
    biases = [part.bias for part in _ends(model) if getattr(part, "bias", None) is not None]
    with torch.no_grad():
        for parameter in [*weights.values(), *biases]:
            starts = [parameter[list(pieces[token])].float().mean(0) for token in ids]
            parameter[ids] = torch.stack(starts).to(parameter)


def require_rows(model: PreTrainedModel, rows: int) -> None:
    """Let the embeddings grow to ``rows`` if they have fewer. The new ones hold nothing yet."""
    if model.get_input_embeddings().weight.shape[0] < rows:  # type: ignore[index]
        model.resize_token_embeddings(rows, mean_resizing=False)


def rows_of_adapter(directory: Path) -> int:
    """Return how many rows a base must have for an adapter that trains single tokens; 0 if it trains none."""
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    chosen = config.get(INDICES) or []
    listed = list(chosen.values()) if isinstance(chosen, dict) else [chosen]
    return 1 + max((index for indices in listed for index in indices), default=-1)


def refuse_frozen_rows(model: PreTrainedModel) -> None:
    """Refuse to train a model with new tokens if their rows are frozen.

    Raises:
        UserError: they are.
    """
    if not all(part.weight.requires_grad for part in _ends(model)):
        raise UserError("data.add_tokens: train.trainable freezes the embeddings, so new tokens would learn nothing")


def with_trained_rows(model: PreTrainedModel, options: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return fields of `peft.LoraConfig` by which the rows of new tokens are trained beside the LoRA matrices.

    Args:
        model: the base, with its new rows.
        options: the recipe's `train.lora`.
        ids: of the new tokens.

    Raises:
        UserError: PEFT would train a head or an embedding in another way, beside which single rows are lost.
    """
    if not ids:
        return options
    names = {id(module): name for name, module in model.named_modules()}
    whole = options.get("modules_to_save") or []
    chosen = dict(_by_module(names[id(model.get_input_embeddings())], options.get(INDICES)))
    for part in _ends(model):
        name = names[id(part)]
        if _matches(name, whole):
            continue
        if _is_target(name, options.get("target_modules")):
            raise UserError(
                f"data.add_tokens: train.lora.target_modules adapts {name}, so rows of new tokens cannot be trained "
                f"there; take it out, or put it into train.lora.modules_to_save"
            )
        if getattr(part, "bias", None) is not None:
            raise UserError(
                f"data.add_tokens: {name} has a bias, which PEFT leaves out where single rows are trained; put it "
                "into train.lora.modules_to_save"
            )
        known = next((key for key in chosen if _matches(name, [key])), name)
        chosen[known] = sorted({*chosen.get(known, []), *ids})
    return options | ({INDICES: chosen} if chosen else {})


def _by_module(embedding: str, given: Any) -> Mapping[str, list[int]]:
    if isinstance(given, dict):
        return given
    return {embedding: list(given)} if given else {}


def _ends(model: PreTrainedModel) -> list[Any]:
    """Return the input embedding, and the head unless it is the same tensor."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(head, nn.Module) or head.weight is embedding.weight:
        return [embedding]
    return [embedding, head]


def _is_target(name: str, targets: Any) -> bool:
    if isinstance(targets, str):  # a pattern, or PEFT's word for all linear modules but the head
        return targets != "all-linear" and re.fullmatch(targets, name) is not None
    return _matches(name, targets or [])


def _matches(name: str, wanted: Sequence[str]) -> bool:
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in wanted)
