"""Layers without attention: the Mamba mixer beside it carries on alone, and each such layer saves its KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agentforge.errors import UserError
from agentforge.systems.adamba.surgery.streaming import SHARD_BYTES, main_dtype, open_adamba, write_adamba


@dataclass(frozen=True)
class Cost:
    """What dropping attention costs, in nats a token.

    Attributes:
        before: loss of the model as it is.
        alone: by layer, the loss when only its attention is dropped (of those that were candidates).
        dropped: the layers that were chosen.
        after: loss without all of them.
        tokens: predicted tokens that each loss is the mean of.
    """

    before: float
    alone: dict[int, float]
    dropped: list[int]
    after: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def mean_loss(model: Any, rows: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Return the mean next-token cross-entropy over all rows, in nats, and the number of predicted tokens."""
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([list(row)], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += len(logits)
    return total / max(tokens, 1), tokens


def choose_layers(model: Any, rows: Sequence[Sequence[int]], layers: int | Sequence[int]) -> Cost:
    """Measure what each layer's attention is worth, and choose.

    Args:
        model: an Adamba; left as it is.
        rows: token ids, none shorter than two.
        layers: which, or how many: those whose loss rises least when each is dropped alone.

    Raises:
        UserError: the model has no such layers, or their attention is dropped already.
    """
    present = _candidates(model.config, layers)
    # Each layer is dropped alone: trying all subsets would take 2^layers runs. `after` tells what the choice costs.
    before, tokens = mean_loss(model, rows)
    alone = {}
    for layer in present:
        with _silenced(model, [layer]):
            alone[layer] = mean_loss(model, rows)[0]
    dropped = sorted(sorted(present, key=lambda layer: alone[layer])[:layers] if isinstance(layers, int) else present)
    with _silenced(model, dropped):
        after = mean_loss(model, rows)[0]
    return Cost(before, alone, dropped, after, tokens)


def _candidates(config: Any, layers: int | Sequence[int]) -> list[int]:
    gone = set(getattr(config, "dropped_attention", None) or [])
    present = [layer for layer in range(config.num_hidden_layers) if layer not in gone]
    if isinstance(layers, int):
        if not 0 < layers <= len(present):
            raise UserError(
                f"drop_attention: surgery.layers is {layers}, but the model has attention in {len(present)} layers"
            )
        return present
    if wrong := [layer for layer in layers if layer not in present]:
        raise UserError(
            f"drop_attention: surgery.indices names {wrong[0]}; there is attention in the layers "
            f"{', '.join(map(str, present))}"
        )
    return sorted(set(layers))


@contextmanager
def _silenced(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Keep `o_proj` of some layers at zero as long as the context lasts."""
    # A zero output projection silences attention without touching the model's structure, and is quickly undone.
    weights = [model.model.layers[layer].self_attn.o_proj.weight.data for layer in layers]
    kept = [weight.clone() for weight in weights]
    for weight in weights:
        weight.zero_()
    try:
        yield
    finally:
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)


def drop_attention(source: Path, target: Path, layers: Sequence[int], shard_bytes: int = SHARD_BYTES) -> None:
    """Write the model with `o_proj` zero in ``layers``, and their indices in the config's `dropped_attention`.

    Raises:
        UserError: the model has no such layers, or their attention is dropped already.
        CheckRefused: the source's tensors are not those of its config.
    """
    config, checkpoint = open_adamba(source)
    chosen = _candidates(config, list(layers))
    config.dropped_attention = sorted({*(config.dropped_attention or []), *chosen})
    write_adamba(target, config, main_dtype(checkpoint), checkpoint.read, shard_bytes)  # which writes their o_proj as 0
