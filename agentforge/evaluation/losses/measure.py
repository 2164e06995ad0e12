"""Next-token loss on held-out rows: of a whole model, and in whatever other ways its system reads it."""

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
from agentforge.evaluation.losses.decoding_speed import Decode
from agentforge.evaluation.losses.loss_results import FULL
from agentforge.evaluation.statistics.intervals import Array
from agentforge.models.row_isolation import require
from agentforge.progress import watched

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGITS = 1 << 28
"""Logits that are held at once: 1 GiB in float32."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class HeldOut:
    """The rows to measure on.

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
        # Shifted by one: the first token is predicted from nothing.
        mask = [bool(flag) for flag in row["assistant_masks"][1:]]
        if any(mask):
            ids.append(list(row["input_ids"]))
            counted.append(mask)
        if limit is not None and len(ids) == limit:
            break
    # The interval is over rows, and a single row has none.
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

    if (own := getattr(tokenizer, "count_bytes", None)) is not None:  # a tokenizer of bytes, say, that a system brings
        return int(own(tokens))
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
    """Yield numbers of rows, the longest first, so that a batch too large for memory fails at once."""
    order = sorted(range(len(rows.ids)), key=lambda number: -len(rows.ids[number]))
    start = 0
    while start < len(order):
        # With a vocabulary of 150,000 the logits, not the activations, are what fills the memory.
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
    # `nonzero` and boolean indexing both go row by row, so a token's place and target have the same index.
    places = np.array(numbers, dtype=np.int64)[counted.nonzero()[:, 0].numpy()]
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    return Batch(inputs, counted.to(device), ids[:, 1:][counted].to(device), places)


@dataclass
class Read:
    """What one way of reading the rows gave.

    Attributes:
        loss: (rows,) sum of the loss over the counted tokens, in nats.
        agreeing: (rows,) counted tokens whose likeliest token is that of full depth; only of exits and thresholds.
        steps: (rows,) sum of the steps of thinking that the counted tokens took; only of thresholds.
        seconds: wall time of reading all rows, a warm-up left out; only of thresholds.
        flops: operations a token, counted where they are executed; None: they were not.
    """

    loss: Array
    agreeing: Array | None = None
    steps: Array | None = None
    seconds: float = 0.0
    flops: float | None = None


@dataclass
class Measured:
    """All that was read.

    Attributes:
        rows: how many there are.
        widths: by width.
        exits: by the number of layers before the exit.
        together: each token read at the first calibrated exit that is sure of it, else at full depth.
        left: (exits and full depth) tokens that were read there, by layer; of `together`.
        thresholds: of models that stop thinking token by token: by the threshold at which a token stops, and `NEVER`.
    """

    rows: int
    widths: dict[str, Read] = field(default_factory=dict)
    exits: dict[int, Read] = field(default_factory=dict)
    together: Read | None = None
    left: dict[int, int] = field(default_factory=dict)
    thresholds: dict[str, Read] = field(default_factory=dict)

    def add_width(self, width: str, batch: Batch, logits: Tensor) -> None:
        """Add what a width says `(N, V)` of the counted tokens of a batch."""
        read = self.widths.setdefault(width, Read(np.zeros(self.rows)))
        read.loss += self.summed(batch, losses_of(logits, batch.targets))

    def summed(self, batch: Batch, values: Tensor) -> Array:
        """Return (rows,) the sums of values `(N,)` over the tokens of each row."""
        # In float64: a long row is a sum of thousands of losses.
        return np.bincount(batch.places, values.double().cpu().numpy(), self.rows).astype(np.float64)


class LossReadings:
    """The ways in which a model's losses are read: here the whole model alone. A system's subclass adds others.

    Attributes:
        widths: names of the widths, the widest first.
        calibrated: of exits, by layer: what is known of them.
        exit_thresholds: at which a token stops thinking; `read` then fills `Measured.thresholds`, with `NEVER` too.
        most_steps: that a token can take; 1 for models that do not think in steps.
    """

    widths: Sequence[str] = (FULL,)
    calibrated: Mapping[int, Any] = {}
    exit_thresholds: Sequence[float] = ()
    most_steps: int = 1

    def __init__(self, model: Any) -> None:
        self.model = model

    def read(self, batch: Batch, measured: Measured) -> None:
        """Read a batch in every way, and add what it says."""
        measured.add_width(FULL, batch, self.model(**batch.inputs).logits[:, :-1][batch.counted])

    def parameters(self, width: str) -> int:
        """Return how many parameters compute at a width."""
        return int(self.model.num_parameters())

    def steps(self, ids: Tensor) -> Tensor | None:
        """Return the steps `(1, T)` that the tokens `(1, T)` take as the model is configured; None: it has none."""
        return None

    def decoders(self) -> dict[str, Decode]:
        """Return what continues a prompt: by width, ``exits`` if there are calibrated ones, ``threshold NAME``."""

        def decode(ids: Tensor, new: int) -> Any:
            mask = torch.ones_like(ids)
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            return self.model.generate(ids, attention_mask=mask, **options)

        return {FULL: decode}


@torch.no_grad()
def measure(readings: LossReadings, rows: HeldOut, *, batch_size: int = 16) -> Measured:
    """Read the rows in every way that the model has.

    Args:
        readings: of a causal language model in evaluation mode.
        rows: held-out.
        batch_size: rows at once; fewer where their logits would be too many.

    Raises:
        CheckRefused: the rows hold tokens that the model does not have.
        UserError: padding behind a row changes what the model says of it: it is not causal.
    """
    require(readings.model, "right", "losses of rows that are read together")
    # The rows of the head, not the config: embeddings are often padded beyond the tokenizer's last token.
    vocabulary = int(readings.model.get_output_embeddings().weight.shape[0])
    largest = max(max(row) for row in rows.ids)
    if largest >= vocabulary:
        raise CheckRefused(
            f"the rows contain token {largest}, but the model has only {vocabulary}; it was made with a different "
            "tokenizer from the recipe's data"
        )
    measured = Measured(len(rows.ids))
    for numbers in watched(
        batches(rows, batch_size, vocabulary), "reading held-out rows", "rows", len(rows.ids), amount=len
    ):
        readings.read(collate(rows, numbers, readings.model.device), measured)
    return measured


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy `(N,)` in nats, in float32, of logits `(N, V)`."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
