"""LayerSkip (Elhoushi et al., arXiv 2404.16710): what each exit's loss counts, and how often a layer is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence


def exit_weights(exits: Sequence[int], depth: int, scale: float) -> dict[int, float]:
    """Return the weight of each exit's cross-entropy, and of the full depth's, which add up to 1.

    Section 4.1.2 with layers counted from 0: ``e(l) = scale * (0 + 1 + ... + l)`` before the last layer, and
    ``L - 1 + scale * (0 + 1 + ... + L-2)`` for it, both divided by the sum over what is trained in the step. The deeper
    an exit, the more it counts; the last layer the most.

    Args:
        exits: numbers of layers that have run, each below ``depth``.
        depth: L.
        scale: 0 trains the last layer only; the paper has 0.1 to 1.
    """
    # the sum is 0 for an exit after the first layer, which would never be trained: half of the second's instead
    weights = {exit: scale * max(_triangle(exit - 1), 0.5) for exit in exits}
    weights[depth] = depth - 1 + scale * _triangle(depth - 2)
    total = sum(weights.values()) or 1.0
    return {exit: weight / total for exit, weight in weights.items()} if len(weights) > 1 else {depth: 1.0}


def _triangle(last: int) -> float:
    return last * (last + 1) / 2


def rotated(exits: Sequence[int], step: int) -> list[int]:
    """Return the one exit that is trained in this step (section 4.1.2, rotational curriculum): a head less each."""
    return [exits[step % len(exits)]] if exits else []


def layer_dropout(depth: int, maximum: float, progress: float = 1.0) -> list[float]:
    """Return for each layer the probability that a row skips it: ``p(l, t) = S(t) * D(l) * maximum``.

    Section 4.1.1: ``D(l) = exp(l ln2 / (L-1)) - 1`` grows from 0 to 1 with depth, so that early layers, from which
    exits read, are always there. ``S(t)`` is 1 for a model that is trained on, else ``exp(t ln2 / (T-1)) - 1``.

    Args:
        depth: L.
        maximum: of the last layer.
        progress: ``t / (T-1)``, share of the run that is over; 1 for continual training.
    """
    scale = math.exp(progress * math.log(2)) - 1
    return [scale * (math.exp(layer * math.log(2) / max(depth - 1, 1)) - 1) * maximum for layer in range(depth)]
