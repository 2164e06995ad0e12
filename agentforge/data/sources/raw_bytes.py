"""A source as one text, byte by byte as its files have it, for models and measures that know no rows."""

from __future__ import annotations

from pathlib import Path

from agentforge.data.sources.readers import TEXTS, ReadCounts, part_of, read_part, read_rows
from agentforge.data.sources.source_files import locate
from agentforge.errors import UserError
from agentforge.recipe.schema import Data, Source

SEPARATOR = "\n\n"


def read_bytes(source: Source, data: Data) -> bytes:
    """Return the bytes of a source's files, one after the other, of each the share that `part` names.

    Text files are taken as they are, so the bytes may begin and end within a character; of JSON Lines and Parquet it is
    the column ``text``, with an empty line between rows.

    Raises:
        UserError: there is nothing, or rows have no text.
    """
    part = None if source.part is None else (source.part[0], source.part[1])
    text = b"".join(_bytes_of(path, part) for path in locate(source, data))
    if not text:
        raise UserError(f"{source.dataset} has no bytes to read")
    return text


def _bytes_of(path: Path, part: tuple[float, float] | None) -> bytes:
    if path.suffix in TEXTS:
        return path.read_bytes() if part is None else part_of(path.read_bytes(), part)
    counts, texts = ReadCounts(), []
    for row in read_rows(path, counts) if part is None else read_part(path, part, counts):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{path}: a row has no text; evaluate.bpc reads text files and rows with a column 'text'")
        texts.append(row["text"])
    return SEPARATOR.join(texts).encode("utf-8", errors="surrogateescape")
