"""From raw rows to clean ones: adapt, clean, filter, hash what later steps compare. Rows go to disk, hashes stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class Raws:
    """A chunk of raw rows of one source."""

    source: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Ingested:
    """What became of a chunk.

    Attributes:
        source: index of the source.
        read: raw rows.
        rejected: number of rows by reason.
        lines: the clean rows as JSON lines.
        content: `(rows,)` hash of what is said, whatever its case and spacing; equal for exact duplicates.
        prompts: `(rows,)` hash that decides train | eval.
        characters: `(rows,)` length of the row's text.
        contaminated: `(rows,)` True where an evaluation set is quoted.
        signatures: of the rows, or None without near-duplicate removal.
    """

    source: int
    read: int
    rejected: Counter[str]
    lines: bytes
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
        rejected: Counter[str] = Counter()
        rows: list[Row] = []
        keys: list[str] = []
        asked: list[str] = []
        for raw in raws.rows:
            for row, key, prompt in self._adapt(source, raw, rejected):
                rows.append(row)
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
        if repeated := int((~keep).sum()):
            rejected["repetition"] += repeated
        signed = (
            sign(words, self.minhash.ngram, self.minhash.bands, self.minhash.rows) if self.minhash.enabled else None
        )
        return Ingested(
            source=raws.source,
            read=len(raws.rows),
            rejected=rejected,
            lines=b"".join(_line(row) for row, kept in zip(rows, keep, strict=True) if kept),
            content=np.array([_content_hash(text) for text in texts], dtype=np.uint64)[keep],
            prompts=prompts[keep],
            characters=np.array([len(text) for text in texts], dtype=np.int32)[keep],
            contaminated=contaminated[keep],
            signatures=signed.select(keep) if signed is not None else None,
        )

    def _adapt(self, source: OpenSource, raw: dict[str, Any], rejected: Counter[str]) -> Iterator[tuple[Row, str, str]]:
        """Yield the rows of a raw row that pass, each with the text that decides its side of the split, and its prompt.

        The prompt is that of the conversation, also where the row becomes a document: a question of an evaluation set
        that is too short for an n-gram is recognised as a whole, and the document holds more than the question.
        """
        if reason := source.row_filter.reject_raw(raw):
            rejected[reason] += 1
            return
        rows, reasons = source.adapt(raw)
        rejected.update(reasons)
        for row in rows:
            try:
                ready = self._finish(source, clean(row))
            except BadRow as error:
                rejected[error.reason] += 1
                continue
            if reason := self._reject(source, ready):
                rejected[reason] += 1
                continue
            key = source.split_value(raw) if source.split_key else None
            for part in self._convert(ready):
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

    def _convert(self, row: Row) -> list[Row]:
        if not self.documents:
            return [row]
        return [{"text": part} for part in document_parts(document_text(row))]


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
    content: Hashes
    prompts: Hashes
    characters: NDArray[np.int32]
    contaminated: NDArray[np.bool_]
    signatures: Signatures | None

    def __len__(self) -> int:
        return len(self.content)

    def read(self, chunk: Chunk) -> list[Row]:
        """Return the rows of a chunk."""
        return [json.loads(line) for line in self.spool.read(chunk.place, chunk.length).splitlines()]


@dataclass
class RowCounts:
    """What was counted of one source while its rows were read."""

    read: int = 0
    unreadable: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def collect(results: Iterable[Ingested], spool: DiskBuffer, tallies: Sequence[RowCounts]) -> Rows:
    """Append the chunks' rows to the spool, count, and join what is compared."""
    chunks: list[Chunk] = []
    parts: list[Ingested] = []
    first = 0
    for result in results:
        tally = tallies[result.source]
        tally.read += result.read
        tally.rejected.update(result.rejected)
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
        content=np.concatenate([part.content for part in parts]),
        prompts=np.concatenate([part.prompts for part in parts]),
        characters=np.concatenate([part.characters for part in parts]),
        contaminated=np.concatenate([part.contaminated for part in parts]),
        signatures=Signatures.concatenate(signed) if signed else None,
    )
