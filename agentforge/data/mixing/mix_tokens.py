"""The mix of tokenised rows: which pieces are trained on, in which order, and which are held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentforge.data.cleaning.ingest import Rows
from agentforge.data.mixing.quotas import Allocation, RowChoice, allocate, select, shuffled
from agentforge.data.sources.open_sources import OpenSource
from agentforge.data.tokenise import TokenisedPieces
from agentforge.data.train_eval_split import is_eval
from agentforge.recipe.schema import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixture:
    """Indices of pieces, in the order in which they are stored.

    Attributes:
        train: with repeats.
        eval: each at most once.
        available: rows or tokens that each source has for training.
        allocation: what each source gives.
    """

    train: NDArray[np.int64]
    eval: NDArray[np.int64]
    available: list[int]
    allocation: Allocation


def mix_tokens(data: Data, seed: int, sources: Sequence[OpenSource], rows: Rows, tokens: TokenisedPieces) -> Mixture:
    """Choose and order the pieces of both sides.

    The mix (`data.size`, weights, repeats) is what is trained on. The share of a source's held-out rows that is used
    equals that of its other rows, and none is used twice.
    """
    source_of = rows.sources[tokens.rows]
    # Decided by row and spread to its pieces, so that no row is half trained on and half held out.
    held_out = is_eval(rows.prompts, data.eval_fraction)[tokens.rows]
    held_out |= np.array([source.held_out for source in sources])[source_of]
    amounts = tokens.lengths.astype(np.int64) if data.weights == "tokens" else np.ones(len(tokens.rows), dtype=np.int64)
    train = [np.flatnonzero((source_of == source) & ~held_out) for source in range(len(sources))]
    available = [int(amounts[own].sum()) for own in train]
    repeats = [source.max_repeats for source in sources]
    allocation = allocate(available, [source.weight for source in sources], repeats, data.size)
    _tell(data, sources, available, allocation)
    chosen: list[tuple[NDArray[np.int64], RowChoice]] = []
    kept_out: list[tuple[NDArray[np.int64], RowChoice]] = []
    for source, own in enumerate(train):
        quota = allocation.quotas[source]
        chosen.append((own, select(tokens.keys[own], amounts[own], quota, seed)))
        asked = np.flatnonzero((source_of == source) & held_out)
        # A source of which a tenth is trained on gives a tenth of
        # its held-out rows: eval mirrors the mix, not the sources.
        share = min(1.0, quota / available[source]) if available[source] else 1.0
        part = round(share * int(amounts[asked].sum()))
        kept_out.append((asked, select(tokens.keys[asked], amounts[asked], part, seed)))
    return Mixture(_ordered(tokens, chosen, seed), _ordered(tokens, kept_out, seed), available, allocation)


def _ordered(
    tokens: TokenisedPieces, chosen: list[tuple[NDArray[np.int64], RowChoice]], seed: int
) -> NDArray[np.int64]:
    pieces = np.concatenate([own[selection.rows] for own, selection in chosen])
    copies = np.concatenate([selection.copies for _, selection in chosen])
    return pieces[shuffled(tokens.keys[pieces], copies, seed)]


def _tell(data: Data, sources: Sequence[OpenSource], available: list[int], allocation: Allocation) -> None:
    for source, amount in zip(sources, available, strict=True):
        if not amount and not source.held_out:
            log.warning("%s: no rows are left to train on; the other sources share its weight", source.name)
    for index in allocation.capped:
        log.warning(
            "%s: at weight %g its %d %s would repeat more than max_repeats %g; it gives %d, the others share the rest",
            *(sources[index].name, sources[index].weight, available[index], data.weights, sources[index].max_repeats),
            allocation.quotas[index],
        )
    if (limit := allocation.limited_by) is not None:
        log.warning(
            "%s limits the mix: its %d %s repeat %g times; set data.size to let the other sources give more",
            *(sources[limit].name, available[limit], data.weights, sources[limit].max_repeats),
        )
    if data.size and sum(allocation.quotas) < data.size:
        log.warning(
            "the mix has only %d %s, data.size is %d: every source has reached max_repeats",
            sum(allocation.quotas),
            data.weights,
            data.size,
        )
