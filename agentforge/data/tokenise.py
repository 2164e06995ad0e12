"""From clean rows to token ids and masks of at most ``max_length`` tokens; whatever is lost is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from agentforge.data.chat_template import encode_batch, encode_documents
from agentforge.data.cleaning.ingest import Chunk, parse_lines
from agentforge.data.cleaning.ngram_hashing import Hashes, scramble
from agentforge.data.codec import Encoding
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.messages import BadRow
from agentforge.data.row_text import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overflow = Literal["truncate", "split", "drop"]
HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Upper bounds of the token-length histogram's bins; longer rows go into one last bin."""


NOT_RENDERED = "rows_not_rendered: "
"""Begins the name of a count of conversations that the chat template cannot write; then comes the reason."""

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
        full_lengths: tokens of each row before it was cut.
        counts: rows and tokens by what happened to them.
        first_rows: what happened to the number of the first row that it happened to.
    """

    source: int
    ids: bytes
    masks: bytes
    lengths: NDArray[np.int32]
    trained: NDArray[np.int32]
    rows: NDArray[np.int64]
    full_lengths: NDArray[np.int32]
    counts: Counter[str]
    first_rows: dict[str, int]


@dataclass(frozen=True)
class Tokeniser:
    """The worker: a chunk, which of its rows are kept, and its lines in; tokens out."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overflow: Overflow

    def __call__(self, task: tuple[Chunk, NDArray[np.bool_], bytes]) -> Tokenised:
        chunk, keep, lines = task
        numbers = chunk.first + np.flatnonzero(keep)
        kept = [row for row, wanted in zip(parse_lines(lines), keep, strict=True) if wanted]
        counts: Counter[str] = Counter()
        first_rows: dict[str, int] = {}
        pieces: list[tuple[int, NDArray[np.int32], NDArray[np.int8]]] = []
        lengths = []
        for number, row, made in zip(numbers, kept, encode_rows(self.tokenizer, kept), strict=True):
            # A document is always split: any part of it can be trained
            # on, whereas the end of a conversation needs its beginning.
            own: Counter[str] = Counter()
            overflow: Overflow = "split" if "text" in row else self.overflow
            if isinstance(made, BadRow):
                own[NOT_RENDERED + made.reason] += 1
                made = []
            elif len(made) > 1:
                own["conversations_cut_into_rows"] += 1
            for encoding in made:
                lengths.append(len(encoding.input_ids))
                for ids, mask in cut(encoding, self.max_length, overflow, own, whole_turns=calls_tools(row)):
                    pieces.append((int(number), ids, mask))
            counts += own
            for what in own:
                first_rows.setdefault(what, int(number))
        return Tokenised(
            source=chunk.source,
            ids=b"".join(ids.tobytes() for _, ids, _ in pieces),
            masks=b"".join(mask.tobytes() for _, _, mask in pieces),
            lengths=np.array([len(ids) for _, ids, _ in pieces], dtype=np.int32),
            # The first token of a piece is predicted from nothing and gives no loss.
            trained=np.array([mask[1:].sum() for _, _, mask in pieces], dtype=np.int32),
            rows=np.array([number for number, _, _ in pieces], dtype=np.int64),
            full_lengths=np.array(lengths, dtype=np.int32),
            counts=counts,
            first_rows=first_rows,
        )


def calls_tools(row: Row) -> bool:
    """Tell whether a row has a tool call, which is never cut in two."""
    return any("tool_calls" in message for message in row.get("messages", ()))


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[list[Encoding] | BadRow]:
    """Encode conversations (normal messages) by the chat template, documents as text; one call holds one kind.

    Returns:
        for each row what it becomes: several, where the template rewrites earlier turns; or why it becomes nothing.
    """
    encodings: list[list[Encoding] | BadRow] = []
    for start in range(0, len(rows), ENCODE_ROWS):
        batch = rows[start : start + ENCODE_ROWS]
        if "text" in batch[0]:
            encodings += [[one] for one in encode_documents(tokenizer, [row["text"] for row in batch])]
        else:
            encodings += encode_batch(tokenizer, [(row["messages"], row.get("tools")) for row in batch], normal=True)
    return encodings


def cut(
    encoding: Encoding, max_length: int, overflow: Overflow, counts: Counter[str], whole_turns: bool = False
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int8]]]:
    """Yield the pieces of a row that are trained on, and count the rest.

    A piece without a trained token after its first is dropped: a token is predicted from those before it, so the first
    gives no loss.

    Args:
        whole_turns: cut only where a trained turn ends. Half a tool call would teach calls that never end.
    """
    ids = np.array(encoding.input_ids, dtype=np.int32)
    mask = np.array(encoding.assistant_masks, dtype=np.int8)
    spans = kept_spans(mask, max_length, overflow, whole_turns)
    if len(ids) > max_length:
        if overflow == "drop":
            counts["rows_too_long"] += 1
            return
        counts["rows_truncated" if overflow == "truncate" else "rows_split"] += 1
        if lost := len(ids) - sum(end - start for start, end in spans):
            counts["tokens_truncated"] += lost
    # A piece may hold nothing but a long tool result: it is counted and left out.
    yielded = False
    for start, end in spans:
        piece = ids[start:end], mask[start:end]
        if piece[1][1:].any():
            yielded = True
            yield piece
        else:
            counts["tokens_in_untrained_pieces"] += len(piece[0])
    if not yielded:
        counts["rows_without_trained_token"] += 1


def kept_spans(mask: NDArray[np.int8], max_length: int, overflow: Overflow, whole_turns: bool) -> list[tuple[int, int]]:
    """Return (start, end) of the pieces of a row of at most ``max_length`` tokens; see `cut`.

    Args:
        mask: `(tokens,)` 1 for each token that is trained.
    """
    length = len(mask)
    if length <= max_length:
        return [(0, length)]
    if overflow == "drop":
        return []
    spans = (
        _spans_of_turns(mask, max_length)
        if whole_turns
        else [(start, min(start + max_length, length)) for start in range(0, length, max_length)]
    )
    return spans if overflow == "split" else [span for span in spans if span[0] == 0]


def _spans_of_turns(mask: NDArray[np.int8], max_length: int) -> list[tuple[int, int]]:
    """Return pieces that end where trained turns end; a turn that is longer than a piece is in none."""
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
    spans: list[tuple[int, int]] = []
    begin = end = 0  # of the piece that is being filled
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if stop - begin <= max_length:
            end = stop
            continue
        if end > begin:
            spans.append((begin, end))
        if stop - start > max_length:
            begin = end = stop
        else:
            # The turn fits, but not behind all that is read before it: the beginning of that is left out.
            begin, end = max(end, stop - max_length), stop
    return [*spans, (begin, end)] if end > begin else spans


@dataclass
class TokenisedPieces:
    """All pieces: ids and masks in spools, what the mix needs in arrays of one entry a piece.

    Attributes:
        starts: place of each piece, in tokens.
        keys: hash of each piece's content.
        counts: by source.
        first_rows: by source, what happened to the number of the first row that it happened to.
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
    first_rows: list[dict[str, int]]
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
    first_rows: list[dict[str, int]] = [{} for _ in range(sources)]
    histogram = np.zeros(len(HISTOGRAM_EDGES) + 1, dtype=np.int64)
    lengths, trained = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    rows = [np.zeros(0, dtype=np.int64)]
    for result in results:
        ids.append(result.ids)
        masks.append(result.masks)
        counts[result.source].update(result.counts)
        first_rows[result.source] = result.first_rows | first_rows[result.source]
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
        first_rows=first_rows,
        histogram=histogram,
    )


def _piece_numbers(rows: NDArray[np.int64]) -> Hashes:
    """Number each row's pieces from 0; a row's pieces stand together."""
    # [7, 7, 9, 9, 9] gives [0, 1, 0, 1, 2]: the running maximum carries the index of each row's first piece along.
    index = np.arange(len(rows))
    firsts = np.concatenate([[True], rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, dtype=bool)
    return (index - np.maximum.accumulate(np.where(firsts, index, 0))).astype(np.uint64)
