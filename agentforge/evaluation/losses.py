"""Next-token loss on held-out rows, of a model, of the narrower models inside it and of its early exits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.loss_results import FULL
from agentforge.models.adamba.depth import hidden_after
from agentforge.models.adamba.elastic import head
from agentforge.models.adamba.exits import Exits, confidence_of
from agentforge.models.adamba.submodels import submodel
from agentforge.proportions import Array

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGITS = 1 << 28
"""Logits that are held at once: 1 GiB in float32."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class HeldOut:
    """Rows that are measured on.

    Attributes:
        ids: token ids of each row.
        counted: for each row, which of its tokens but the first are predicted: (T - 1,) bool.
        bytes: of the text of the counted tokens, all rows together; None: the tokenizer's tokens are no bytes.
    """

    ids: list[list[int]]
    counted: list[list[bool]]
    bytes: int | None

    @property
    def tokens(self) -> Array:
        """(rows,) counted tokens of each row."""
        return np.array([sum(row) for row in self.counted], dtype=float)

    @property
    def hash(self) -> str:
        """What identifies the rows: losses on other rows cannot be put beside them."""
        return hashlib.sha256(repr((self.ids, self.counted)).encode()).hexdigest()


def held_out(prepared: Dataset, limit: int | None, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Return the first rows of a prepared split that have a trained token after their first.

    Raises:
        UserError: there are fewer than two, so there is no interval.
    """
    ids, counted = [], []
    for row in prepared:
        mask = [bool(flag) for flag in row["assistant_masks"][1:]]
        if any(mask):
            ids.append(list(row["input_ids"]))
            counted.append(mask)
        if limit is not None and len(ids) == limit:
            break
    if len(ids) < 2:
        raise UserError(
            f"a loss with an interval needs at least two eval rows, not {len(ids)}; raise data.eval_fraction"
        )
    targets = [
        token for row, mask in zip(ids, counted, strict=True) for token, flag in zip(row[1:], mask, strict=True) if flag
    ]
    return HeldOut(ids, counted, count_bytes(targets, tokenizer))


def count_bytes(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many bytes of text tokens stand for; special ones stand for none. None: not a byte-level tokenizer."""
    from tokenizers.decoders import ByteLevel

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, ByteLevel):
        return None
    added = tokenizer.added_tokens_decoder
    sizes = {}
    for token in set(tokens):
        if token in added:
            sizes[token] = 0 if added[token].special else len(added[token].content.encode())
        else:  # a byte-level token is written with one character for each of its bytes
            sizes[token] = len(tokenizer.convert_ids_to_tokens(token) or "")
    return sum(sizes[token] for token in tokens)


@dataclass
class Read:
    """What one way of reading the rows gave.

    Attributes:
        loss: (rows,) sum of the loss over the counted tokens, in nats.
        agreeing: (rows,) counted tokens whose likeliest token is that of full depth; only of exits.
    """

    loss: Array
    agreeing: Array | None = None


@dataclass
class Measured:
    """All that was read.

    Attributes:
        widths: by width.
        exits: by the number of layers before the exit.
        together: each token read at the first calibrated exit that is sure of it, else at full depth.
        left: (exits and full depth) tokens that were read there, by layer; of `together`.
    """

    widths: dict[str, Read] = field(default_factory=dict)
    exits: dict[int, Read] = field(default_factory=dict)
    together: Read | None = None
    left: dict[int, int] = field(default_factory=dict)


@torch.no_grad()
def measure(
    model: Any,
    rows: HeldOut,
    *,
    widths: Sequence[str] = (FULL,),
    exits: Sequence[int] = (),
    calibrated: Exits | None = None,
    batch_size: int = 16,
) -> Measured:
    """Read the rows at each width and each exit.

    Args:
        model: a causal language model in evaluation mode; an Adamba or FalconH1 where there are narrower widths or
            exits.
        widths: shares of the model's width; ``"1"`` is the model itself.
        exits: layers after which the head reads.
        calibrated: thresholds of exits, and their gates.
        batch_size: rows at once; fewer where their logits would be too many.

    Raises:
        CheckRefused: the rows hold tokens that the model does not have.
    """
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    largest = max(max(row) for row in rows.ids)
    if largest >= vocabulary:
        raise CheckRefused(
            f"the rows hold token {largest}, the model has {vocabulary}; it was made with another tokenizer than the "
            "recipe's data"
        )
    reader = _Reader(len(rows.ids), exits, calibrated)
    for numbers in batches(rows, batch_size, vocabulary):
        batch = collate(rows, numbers, model.device)
        if FULL in widths or exits:
            reader.add_full(model, batch, FULL in widths)
        for width in widths:
            if width != FULL:
                logits = submodel(model, width)(**batch.inputs).logits
                reader.add_width(width, batch, logits[:, :-1][batch.counted])
    return reader.measured


@dataclass(frozen=True)
class Batch:
    """Rows of about the same length, padded on the right.

    Attributes:
        inputs: ``input_ids`` and ``attention_mask`` `(B, T)`.
        counted: `(B, T - 1)` bool, positions whose next token counts.
        targets: `(N,)` those tokens.
        places: `(N,)` the row of each.
    """

    inputs: Mapping[str, Any]
    counted: Tensor
    targets: Tensor
    places: Numbers


def batches(rows: HeldOut, batch_size: int, vocabulary: int) -> Iterator[list[int]]:
    """Yield numbers of rows, the longest first, so that what does not fit into memory shows at once."""
    order = sorted(range(len(rows.ids)), key=lambda number: -len(rows.ids[number]))
    start = 0
    while start < len(order):
        fitting = max(1, LOGITS // (len(rows.ids[order[start]]) * vocabulary))
        taken = order[start : start + min(batch_size, fitting)]
        yield taken
        start += len(taken)


def collate(rows: HeldOut, numbers: Sequence[int], device: torch.device) -> Batch:
    """Return rows as a batch. What follows a token cannot reach it, so the padding may stand behind it."""
    length = len(rows.ids[numbers[0]])
    ids = torch.zeros(len(numbers), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    counted = torch.zeros(len(numbers), length - 1, dtype=torch.bool)
    for place, number in enumerate(numbers):
        row = rows.ids[number]
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
        counted[place, : len(row) - 1] = torch.tensor(rows.counted[number])
    places = np.array(numbers, dtype=np.int64)[counted.nonzero()[:, 0].numpy()]
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    return Batch(inputs, counted.to(device), ids[:, 1:][counted].to(device), places)


class _Reader:
    """Adds up what the heads say of each batch."""

    def __init__(self, rows: int, exits: Sequence[int], calibrated: Exits | None) -> None:
        self.rows, self.exits, self.measured = rows, sorted(exits), Measured()
        entries = calibrated.calibrated if calibrated else {}
        self.thresholds = {k: e.threshold for k, e in sorted(entries.items()) if e.threshold is not None}
        self.entries, self.gates = entries, calibrated.gates if calibrated else {}

    def add_width(self, width: str, batch: Batch, logits: Tensor) -> None:
        read = self.measured.widths.setdefault(width, Read(np.zeros(self.rows)))
        read.loss += self._summed(batch, losses_of(logits, batch.targets))

    def add_full(self, model: Any, batch: Batch, wanted: bool) -> None:
        if not self.exits:
            self.add_width(FULL, batch, model(**batch.inputs).logits[:, :-1][batch.counted])
            return
        with hidden_after(model, self.exits) as hidden:
            last = model.model(**batch.inputs).last_hidden_state
        full = head(model, last[:, :-1][batch.counted])
        if wanted:
            self.add_width(FULL, batch, full)
        best = full.argmax(-1)
        together = losses_of(full, batch.targets)
        agrees = torch.ones_like(best, dtype=torch.bool)
        staying = torch.ones_like(best, dtype=torch.bool)
        for layer in self.exits:
            normed = model.model.final_layernorm(hidden[layer][:, :-1][batch.counted])
            logits = head(model, normed)
            losses, agreeing = losses_of(logits, batch.targets), logits.argmax(-1) == best
            self._add_agreeing(self.measured.exits.setdefault(layer, self._empty()), batch, losses, agreeing)
            if layer in self.thresholds:
                sure = confidence_of(self.entries[layer].confidence, normed, logits, self.gates.get(layer))
                leaving = staying & (sure >= self.thresholds[layer])
                together, agrees = torch.where(leaving, losses, together), torch.where(leaving, agreeing, agrees)
                self._leave(layer, leaving)
                staying &= ~leaving
        if self.thresholds:
            self._leave(model.config.num_hidden_layers, staying)
            self.measured.together = self.measured.together or self._empty()
            self._add_agreeing(self.measured.together, batch, together, agrees)

    def _empty(self) -> Read:
        return Read(np.zeros(self.rows), np.zeros(self.rows))

    def _leave(self, layer: int, leaving: Tensor) -> None:
        self.measured.left[layer] = self.measured.left.get(layer, 0) + int(leaving.sum())

    def _add_agreeing(self, read: Read, batch: Batch, losses: Tensor, agreeing: Tensor) -> None:
        assert read.agreeing is not None
        read.loss += self._summed(batch, losses)
        read.agreeing += self._summed(batch, agreeing)

    def _summed(self, batch: Batch, values: Tensor) -> Array:
        return np.bincount(batch.places, values.double().cpu().numpy(), self.rows).astype(np.float64)


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy `(N,)` in nats, in float32, of logits `(N, V)`."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
