"""The manifest of a prepared set: what came in, what went out and why, and what a trainer will see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentforge.data.cleaning.decontaminate import EvaluationSet
from agentforge.data.cleaning.ingest import NOWHERE, RowCounts, Rows, place_name
from agentforge.data.mixing.mix_tokens import Mixture
from agentforge.data.packing_fill import packing
from agentforge.data.sources.open_sources import OpenSource
from agentforge.data.tokenise import HISTOGRAM_EDGES, TokenisedPieces
from agentforge.recipe.schema import Data


def mix_metrics(
    data: Data,
    sources: Sequence[OpenSource],
    tallies: Sequence[RowCounts],
    rows: Rows,
    keep: NDArray[np.bool_],
    tokens: TokenisedPieces,
    mixture: Mixture,
) -> dict[str, Any]:
    """Return what is known about the sources, both sides of the split, and the row lengths.

    Args:
        keep: `(rows,)` the rows that were tokenised.
    """
    left = np.bincount(rows.sources[keep], minlength=len(sources))
    total_weight = sum(source.weight for source in sources if not source.held_out)
    total_quota = sum(mixture.allocation.quotas)
    source_of = rows.sources[tokens.rows]
    described = {}
    for index, (source, tally) in enumerate(zip(sources, tallies, strict=True)):
        quota, available = mixture.allocation.quotas[index], mixture.available[index]
        own = mixture.train[source_of[mixture.train] == index]
        cut = {
            what: place_name(source.files, place)
            for what, row in tokens.first_rows[index].items()
            if (place := int(rows.places[row])) != NOWHERE
        }
        described[source.name] = {
            "dataset": source.dataset,
            "licence": source.licence,
            "revision": source.revision,
            "rows_read": tally.read,
            "rows_unreadable": tally.unreadable,
            "unreadable_lines": tally.unreadable_lines,
            "rows_repaired": dict(sorted(tally.repaired.items())),
            "rows_rejected": dict(sorted(tally.rejected.items())),
            "first_lines": dict(sorted((tally.first_lines(source.files) | cut).items())),
            "left_out": dict(sorted(tally.left_out.items())),
            "rows_kept": int(left[index]),
            **dict(sorted(tokens.counts[index].items())),
            # Asked and got differ where a source was capped at its max_repeats; both are shares of `weights_in`.
            "weight_asked": 0.0 if source.held_out else round(source.weight / total_weight, 6),
            "weight_got": round(quota / total_quota, 6),
            "capped": index in mixture.allocation.capped,
            "epochs": round(quota / available, 4) if available else 0.0,
            "train_rows": len(own),
            "eval_rows": int((source_of[mixture.eval] == index).sum()),
            "train_tokens": int(tokens.lengths[own].sum()),
            "trained_tokens": int(tokens.trained[own].sum()),
        }
    return {
        "sources": described,
        "weights_in": data.weights,
        "train": _side(tokens, mixture.train, data.max_length),
        "eval": _side(tokens, mixture.eval, data.max_length),
        "row_tokens": _histogram(tokens.histogram),
    }


def evaluation_metrics(evaluation: EvaluationSet | None) -> dict[str, Any] | None:
    """Return what the rows were compared with."""
    if evaluation is None:
        return None
    return {"rows": evaluation.rows, "ngrams": len(evaluation.grams), "short_prompts": len(evaluation.prompts)}


def _side(tokens: TokenisedPieces, pieces: NDArray[np.int64], max_length: int) -> dict[str, Any]:
    lengths = tokens.lengths[pieces].astype(np.int64)
    # `plan` counts the steps of a packed run by this, so it must be what TRL will make of the rows.
    packed = packing(lengths, max_length)
    return {
        "rows": len(pieces),
        "unique_rows": len(np.unique(pieces)),
        "tokens": int(lengths.sum()),
        "trained_tokens": int(tokens.trained[pieces].sum()),
        "packed_rows": packed.rows,
        "packed_fill": round(packed.fill, 4),
    }


def _histogram(counts: NDArray[np.int64]) -> dict[str, int]:
    labels = [f"<={edge}" for edge in HISTOGRAM_EDGES] + [f">{HISTOGRAM_EDGES[-1]}"]
    return dict(zip(labels, counts.tolist(), strict=True))
