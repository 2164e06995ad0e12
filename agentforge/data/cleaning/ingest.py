"""From raw rows to clean ones: adapt, clean, filter, hash what later steps compare. Rows go to disk, hashes stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from agentforge.data.cleaning.decontaminate import EvaluationSet
from agentforge.data.cleaning.dedup import Signatures, sign
from agentforge.data.cleaning.ngram_hashing import Hashes, repetition, word_hashes
from agentforge.data.cleaning.repair_encoding import clean, fold
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.messages import BadRow, normalize
from agentforge.data.row_text import Row, document_text, prompt_text, row_text
from agentforge.data.sources.open_sources import OpenSource
from agentforge.data.train_eval_split import split_hash
from agentforge.recipe.schema import MinHash

REPETITION_NGRAM = 10
DOCUMENT_CHARACTERS = 1 << 16


LINE_BITS = 40
NOWHERE = -1
"""Place of a row that was put together from several lines."""


def place(file: int, line: int) -> int:
    """Return where a row stands as one number: index of the file and line (of Parquet and arrays: the row)."""
    return file << LINE_BITS | line


def place_name(files: Sequence[Path], place: int) -> str:
    """Return a place as ``file:line``."""
    return f"{files[place >> LINE_BITS].name}:{place & ((1 << LINE_BITS) - 1)}"


@dataclass(frozen=True)
class Raws:
    """A chunk of raw rows of one source, and the `place` of each."""

    source: int
    rows: list[dict[str, Any]]
    places: list[int]


@dataclass(frozen=True)
class Ingested:
    """What became of a chunk.

    Attributes:
        source: index of the source.
        read: raw rows.
        rejected: number of rows by reason.
        first_places: reason to the place of the first row that was rejected for it.
        left_out: number by name of what rows hold that is not in the clean ones.
        lines: the clean rows as JSON lines.
        places: `(rows,)` where each stands.
        content: `(rows,)` hash of what is said, whatever its case and spacing; equal for exact duplicates.
        prompts: `(rows,)` hash that decides train | eval.
        characters: `(rows,)` length of the row's text.
        contaminated: `(rows,)` True where an evaluation set is quoted.
        signatures: of the rows, or None without near-duplicate removal.
    """

    source: int
    read: int
    rejected: Counter[str]
    first_places: dict[str, int]
    left_out: Counter[str]
    lines: bytes
    places: NDArray[np.int64]
    content: Hashes
    prompts: Hashes
    characters: NDArray[np.int32]
    contaminated: NDArray[np.bool_]
    signatures: Signatures | None


@dataclass(frozen=True)
class Ingestor:
    """The worker: a chunk of raw rows in, clean rows and their hashes out.

    Attributes:
        sources: all sources of the mix.
        minhash: how to sign rows.
        evaluation: what must not be trained on.
        documents: conversations become plain text (pre-training); otherwise documents are rejected.
        tools: schemas offered in conversations that bring none.
    """

    sources: Sequence[OpenSource]
    minhash: MinHash
    evaluation: EvaluationSet | None
    documents: bool
    tools: list[dict[str, Any]] | None

    def __call__(self, raws: Raws) -> Ingested:
        source = self.sources[raws.source]
        tally = _Tally()
        rows: list[Row] = []
        places: list[int] = []
        keys: list[str] = []
        asked: list[str] = []
        for raw, where in zip(raws.rows, raws.places, strict=True):
            tally.place = where
            for row, key, prompt in self._adapt(source, raw, tally):
                rows.append(row)
                places.append(where)
                keys.append(key)
                asked.append(prompt)
        texts = [row_text(row) for row in rows]
        # Hashed once for three uses: repetition, contamination and near-duplicates.
        words = word_hashes(texts)
        keep = repetition(words, REPETITION_NGRAM) <= source.row_filter.filters.max_ngram_repetition
        prompts = np.array([split_hash(key) for key in keys], dtype=np.uint64)
        contaminated = np.zeros(len(rows), dtype=bool)
        if self.evaluation is not None:
            # Not `keys`: with a split_key these hold a column's value, not what was asked.
            questions = np.array([split_hash(prompt) for prompt in asked], dtype=np.uint64)
            contaminated = self.evaluation.contaminated(words, questions)
        for where, kept in zip(places, keep.tolist(), strict=True):
            if not kept:
                tally.place = where
                tally.reject("repetition")
        signed = (
            sign(words, self.minhash.ngram, self.minhash.bands, self.minhash.rows) if self.minhash.enabled else None
        )
        return Ingested(
            source=raws.source,
            read=len(raws.rows),
            rejected=tally.rejected,
            first_places=tally.first_places,
            left_out=tally.left_out,
            lines=b"".join(_line(row) for row, kept in zip(rows, keep, strict=True) if kept),
            places=np.array(places, dtype=np.int64)[keep],
            content=np.array([_content_hash(text) for text in texts], dtype=np.uint64)[keep],
            prompts=prompts[keep],
            characters=np.array([len(text) for text in texts], dtype=np.int32)[keep],
            contaminated=contaminated[keep],
            signatures=signed.select(keep) if signed is not None else None,
        )

    def _adapt(self, source: OpenSource, raw: dict[str, Any], tally: _Tally) -> Iterator[tuple[Row, str, str]]:
        """Yield the rows of a raw row that pass, each with the text that decides its side of the split, and its prompt.

        The prompt is that of the conversation, also where the row becomes a document: a question of an evaluation set
        that is too short for an n-gram is recognised as a whole, and the document holds more than the question.
        """
        if reason := source.row_filter.reject_raw(raw):
            tally.reject(reason)
            return
        adapted = source.adapt(raw)
        for reason in adapted.rejected:
            tally.reject(reason)
        left_out = adapted.left_out
        for row in adapted.rows:
            try:
                ready = self._finish(source, clean(row))
            except BadRow as error:
                tally.reject(error.reason)
                continue
            if reason := self._reject(source, ready):
                tally.reject(reason)
                continue
            # Of a raw row of which nothing is left, the reason above says all.
            tally.left_out.update(left_out)
            left_out = Counter()
            key = source.split_value(raw) if source.split_key else None
            for part in self._convert(ready, tally):
                # A part of a document is a prompt of its own, so that
                # one book can give rows to both sides of the split.
                own = ready if "document" in ready else part
                yield (
                    part,
                    prompt_text(own) if key is None else key,
                    prompt_text(ready if "messages" in ready else part),
                )

    def _finish(self, source: OpenSource, row: Row) -> Row:
        if "messages" not in row:
            return row
        messages = normalize(row["messages"])
        if source.system and messages and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": source.system}, *messages]
        tools = row.get("tools") or self.tools
        kept = {"document": row["document"]} if self.documents and "document" in row else {}
        return {"messages": messages, **({"tools": tools} if tools else {}), **kept}

    def _reject(self, source: OpenSource, row: Row) -> str | None:
        if "messages" in row:
            if not any(message["role"] == "assistant" for message in row["messages"]):
                return "no assistant turn"
        elif not self.documents:
            return "a document, not a conversation"
        return source.row_filter.reject(row)

    def _convert(self, row: Row, tally: _Tally) -> list[Row]:
        if not self.documents:
            return [row]
        if "messages" in row and "document" not in row:
            tally.left_out.update({"system turn": int(row["messages"][0]["role"] == "system")})
            tally.left_out.update({"tools": int("tools" in row)})
        return [{"text": part} for part in document_parts(document_text(row))]


@dataclass
class _Tally:
    """What is counted of a chunk; `place` is that of the row at hand."""

    rejected: Counter[str] = field(default_factory=Counter)
    first_places: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    place: int = NOWHERE

    def reject(self, reason: str) -> None:
        self.rejected[reason] += 1
        self.first_places.setdefault(reason, self.place)


def document_parts(text: str) -> Iterator[str]:
    """Cut a long document into parts of at most `DOCUMENT_CHARACTERS`, at blank lines if possible, else at line ends.

    So a book in one file can be split into train and eval, and no chunk outgrows memory.
    """
    while len(text) > DOCUMENT_CHARACTERS:
        # No border (-1) and a border at the very beginning (0) both fall through to the next kind.
        cut = max(text.rfind("\n\n", 0, DOCUMENT_CHARACTERS), 0) or max(text.rfind("\n", 0, DOCUMENT_CHARACTERS), 0)
        cut = cut or DOCUMENT_CHARACTERS
        yield text[:cut]
        text = text[cut:].lstrip("\n")
    if text:
        yield text


def parse_lines(lines: bytes) -> list[Row]:
    """Return the rows of a chunk's lines."""
    return [json.loads(line) for line in lines.splitlines()]


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _content_hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(fold(text).encode("utf-8", "replace"))


@dataclass(frozen=True)
class Chunk:
    """Where a chunk's rows stand: bytes in the spool, and the range of row numbers."""

    place: int
    length: int
    source: int
    first: int
    end: int


@dataclass
class Rows:
    """All clean rows: texts in the spool, what is compared in arrays of one entry a row."""

    spool: DiskBuffer
    chunks: list[Chunk]
    sources: NDArray[np.int16]
    places: NDArray[np.int64]
    content: Hashes
    prompts: Hashes
    characters: NDArray[np.int32]
    contaminated: NDArray[np.bool_]
    signatures: Signatures | None

    def __len__(self) -> int:
        return len(self.content)

    def lines(self, chunk: Chunk) -> bytes:
        """Return the rows of a chunk as lines of JSON."""
        return self.spool.read(chunk.place, chunk.length)

    def read(self, chunk: Chunk) -> list[Row]:
        """Return the rows of a chunk."""
        return parse_lines(self.lines(chunk))


@dataclass
class RowCounts:
    """What was counted of one source while its rows were read.

    Attributes:
        unreadable: lines that hold no row; `unreadable_lines` says of which kinds, and where the first ones are.
        repaired: rows by what was repaired.
        first_places: reason to the place of the first row that was rejected for it.
        left_out: number by name of what rows hold that is not trained on: columns, keys of turns, kinds of turns.
    """

    read: int = 0
    unreadable: int = 0
    unreadable_lines: str = ""
    repaired: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    first_places: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def first_lines(self, files: Sequence[Path]) -> dict[str, str]:
        """Return the first ``file:line`` of each reason, as far as it is known."""
        return {reason: place_name(files, where) for reason, where in self.first_places.items() if where != NOWHERE}

    def describe_rejected(self, files: Sequence[Path], most: int | None = None) -> str:
        """Name each reason with its count and first line: ``empty turn: 2 (first: a.jsonl:7)``."""
        first = self.first_lines(files)
        return ", ".join(
            f"{reason}: {count:,}" + (f" (first: {first[reason]})" if reason in first else "")
            for reason, count in self.rejected.most_common(most)
        )


def collect(results: Iterable[Ingested], spool: DiskBuffer, tallies: Sequence[RowCounts]) -> Rows:
    """Append the chunks' rows to the spool, count, and join what is compared."""
    chunks: list[Chunk] = []
    parts: list[Ingested] = []
    first = 0
    for result in results:
        tally = tallies[result.source]
        tally.read += result.read
        tally.rejected.update(result.rejected)
        tally.left_out.update(+result.left_out)
        # Results come in the order of the rows, so what is there already stands before.
        tally.first_places = result.first_places | tally.first_places
        end = first + len(result.content)
        # Results arrive in the order of the chunks, so a row's number does not depend on the number of workers.
        chunks.append(Chunk(*spool.append(result.lines), result.source, first, end))
        # The text is on disk now; kept here as well, the whole data set would end up in memory.
        parts.append(replace(result, lines=b""))
        first = end
    return _join(parts, chunks, spool)


def _join(parts: list[Ingested], chunks: list[Chunk], spool: DiskBuffer) -> Rows:
    signed = [part.signatures for part in parts if part.signatures is not None]
    return Rows(
        spool=spool,
        chunks=chunks,
        sources=np.repeat([part.source for part in parts], [len(part.content) for part in parts]).astype(np.int16),
        places=np.concatenate([part.places for part in parts]),
        content=np.concatenate([part.content for part in parts]),
        prompts=np.concatenate([part.prompts for part in parts]),
        characters=np.concatenate([part.characters for part in parts]),
        contaminated=np.concatenate([part.contaminated for part in parts]),
        signatures=Signatures.concatenate(signed) if signed else None,
    )
