"""From clean rows to token ids and masks of at most ``max_length`` tokens; whatever is lost is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from agentforge.data.chat_template import Encoding, encode_batch, encode_documents
from agentforge.data.cleaning.ingest import Chunk, Rows
from agentforge.data.cleaning.ngram_hashing import Hashes, scramble
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.row_text import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overflow = Literal["truncate", "split", "drop"]
HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Upper bounds of the token-length histogram's bins; longer rows go into one last bin."""


ENCODE_ROWS = 64
"""Rows per call of the tokenizer, whose results are large."""


@dataclass(frozen=True)
class Tokenised:
    """The tokens of a chunk's rows, cut into pieces.

    Attributes:
        source: index of the source.
        ids: int32 token ids of all pieces, one after another, as bytes.
        masks: int8, as bytes.
        lengths: `(pieces,)` tokens.
        trained: `(pieces,)` tokens that give a loss.
        rows: `(pieces,)` row number of each piece.
        full_lengths: `(rows,)` tokens of each row before it was cut.
        counts: rows and tokens by what happened to them.
    """

    source: int
    ids: bytes
    masks: bytes
    lengths: NDArray[np.int32]
    trained: NDArray[np.int32]
    rows: NDArray[np.int64]
    full_lengths: NDArray[np.int32]
    counts: Counter[str]


@dataclass(frozen=True)
class Tokeniser:
    """The worker: a chunk and which of its rows are kept in, tokens out."""

    rows: Rows
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overflow: Overflow

    def __call__(self, task: tuple[Chunk, NDArray[np.bool_]]) -> Tokenised:
        chunk, keep = task
        numbers = chunk.first + np.flatnonzero(keep)
        kept = [row for row, wanted in zip(self.rows.read(chunk), keep, strict=True) if wanted]
        encodings = encode_rows(self.tokenizer, kept)
        counts: Counter[str] = Counter()
        pieces: list[tuple[int, NDArray[np.int32], NDArray[np.int8]]] = []
        for number, row, encoding in zip(numbers, kept, encodings, strict=True):
            # A document is always split: any part of it can be trained
            # on, whereas the end of a conversation needs its beginning.
            for ids, mask in cut(encoding, self.max_length, "split" if "text" in row else self.overflow, counts):
                pieces.append((int(number), ids, mask))
        return Tokenised(
            source=chunk.source,
            ids=b"".join(ids.tobytes() for _, ids, _ in pieces),
            masks=b"".join(mask.tobytes() for _, _, mask in pieces),
            lengths=np.array([len(ids) for _, ids, _ in pieces], dtype=np.int32),
            # The first token of a piece is predicted from nothing and gives no loss.
            trained=np.array([mask[1:].sum() for _, _, mask in pieces], dtype=np.int32),
            rows=np.array([number for number, _, _ in pieces], dtype=np.int64),
            full_lengths=np.array([len(encoding.input_ids) for encoding in encodings], dtype=np.int32),
            counts=counts,
        )


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Encoding]:
    """Encode conversations by the chat template, documents as text; one call holds one kind."""
    encodings: list[Encoding] = []
    for start in range(0, len(rows), ENCODE_ROWS):
        batch = rows[start : start + ENCODE_ROWS]
        if "text" in batch[0]:
            encodings += encode_documents(tokenizer, [row["text"] for row in batch])
        else:
            encodings += encode_batch(tokenizer, [(row["messages"], row.get("tools")) for row in batch])
    return encodings


def cut(
    encoding: Encoding, max_length: int, overflow: Overflow, counts: Counter[str]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int8]]]:
    """Yield the pieces of a row that are trained on, and count the rest.

    A piece without a trained token after its first is dropped: a token is predicted from those before it, so the first
    gives no loss.
    """
    ids = np.array(encoding.input_ids, dtype=np.int32)
    mask = np.array(encoding.assistant_masks, dtype=np.int8)
    excess = len(ids) - max_length
    if excess > 0:
        if overflow == "drop":
            counts["rows_too_long"] += 1
            return
        if overflow == "truncate":
            counts["rows_truncated"] += 1
            counts["tokens_truncated"] += excess
            ids, mask = ids[:max_length], mask[:max_length]
        else:
            counts["rows_split"] += 1
    # Pieces are cut blindly, so one may hold nothing but a long tool result: it is counted and left out.
    yielded = False
    for start in range(0, len(ids), max_length):
        piece = ids[start : start + max_length], mask[start : start + max_length]
        if piece[1][1:].any():
            yielded = True
            yield piece
        else:
            counts["tokens_in_untrained_pieces"] += len(piece[0])
    if not yielded:
        counts["rows_without_trained_token"] += 1


@dataclass
class TokenisedPieces:
    """All pieces: ids and masks in spools, what the mix needs in arrays of one entry a piece.

    Attributes:
        starts: place of each piece, in tokens.
        keys: hash of each piece's content.
        counts: by source.
        histogram: rows by token length before cutting; the bins end at `HISTOGRAM_EDGES`.
    """

    ids: DiskBuffer
    masks: DiskBuffer
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    trained: NDArray[np.int32]
    rows: NDArray[np.int64]
    keys: Hashes
    counts: list[Counter[str]]
    histogram: NDArray[np.int64]

    def read(self, piece: int) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Return token ids and mask of a piece."""
        start, length = int(self.starts[piece]), int(self.lengths[piece])
        # Four bytes a token for its id, one for its mask.
        ids = np.frombuffer(self.ids.read(4 * start, 4 * length), dtype=np.int32)
        return ids, np.frombuffer(self.masks.read(start, length), dtype=np.int8)


def collect_tokens(
    results: Iterable[Tokenised], ids: DiskBuffer, masks: DiskBuffer, content: Hashes, sources: int
) -> TokenisedPieces:
    """Append the chunks' tokens to the spools, and join the rest.

    Args:
        content: `(rows,)` hashes of the rows.
        sources: number of sources.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(sources)]
    histogram = np.zeros(len(HISTOGRAM_EDGES) + 1, dtype=np.int64)
    lengths, trained = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    rows = [np.zeros(0, dtype=np.int64)]
    for result in results:
        ids.append(result.ids)
        masks.append(result.masks)
        counts[result.source].update(result.counts)
        # searchsorted counts the edges below a length: 64 falls into "<=64", 65 into "<=128".
        histogram += np.bincount(np.searchsorted(HISTOGRAM_EDGES, result.full_lengths), minlength=len(histogram))
        lengths.append(result.lengths)
        trained.append(result.trained)
        rows.append(result.rows)
    all_lengths, all_rows = np.concatenate(lengths), np.concatenate(rows)
    ends = np.cumsum(all_lengths, dtype=np.int64)
    return TokenisedPieces(
        ids=ids,
        masks=masks,
        starts=ends - all_lengths,
        lengths=all_lengths,
        trained=np.concatenate(trained),
        rows=all_rows,
        # The key is what the row says and which piece of it this is, not where it stands: adding a source hardly
        # changes which pieces of the others are chosen.
        keys=scramble(content[all_rows] + _piece_numbers(all_rows)),
        counts=counts,
        histogram=histogram,
    )


def _piece_numbers(rows: NDArray[np.int64]) -> Hashes:
    """Number each row's pieces from 0; a row's pieces stand together."""
    # [7, 7, 9, 9, 9] gives [0, 1, 0, 1, 2]: the running maximum carries the index of each row's first piece along.
    index = np.arange(len(rows))
    firsts = np.concatenate([[True], rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, dtype=bool)
    return (index - np.maximum.accumulate(np.where(firsts, index, 0))).astype(np.uint64)
