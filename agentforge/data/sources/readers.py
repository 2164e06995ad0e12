"""Raw rows of JSON Lines, JSON arrays, tables, XML and text files: streamed, and every unreadable row counted.

What can be repaired without guessing (a byte order mark, raw control characters inside strings, half surrogate pairs)
is repaired and counted; everything else is counted as bad, with the numbers of the first lines.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase, BufferedReader
from itertools import islice
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any

from agentforge.data.sources.file_kinds import HEAD, refuse_foreign, unpacked
from agentforge.data.sources.tables import read_arrow, read_csv, read_parquet
from agentforge.data.sources.xml_rows import read_xml
from agentforge.errors import CheckRefused, UserError

Raw = dict[str, Any]

BOM = b"\xef\xbb\xbf"
CHUNK_CHARACTERS = 1 << 20
TEXT_CHARACTERS = 1 << 24
"""A text file is one document up to this size (a herbal is 2 MB); a longer one is cut at an empty line."""
LONGEST_ROW = 1 << 28
FIRST_LINES = 5

_STRICT, _LAX = json.JSONDecoder(), json.JSONDecoder(strict=False)
_BLANK = re.compile(r"[\s,]*")
_UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass
class ReadCounts:
    """What reading found; one object may serve all files of a source.

    Attributes:
        rows: rows that were read, the repaired ones included.
        repaired: number of repaired rows by kind.
        bad_kinds: number of unreadable rows by kind.
        first_lines: kind to the first few places, as ``file:line`` (of arrays and Parquet: the row's number).
        file, line: where the row that was read last stands; the file is a number that the caller sets.
    """

    rows: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    bad_kinds: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, list[str]] = field(default_factory=dict)
    file: int = 0
    line: int = 0

    @property
    def bad(self) -> int:
        """Number of unreadable rows."""
        return sum(self.bad_kinds.values())

    def count_bad(self, kind: str, path: Path, line: int) -> None:
        """Count an unreadable row and remember where the first ones stand."""
        self.bad_kinds[kind] += 1
        places = self.first_lines.setdefault(kind, [])
        if len(places) < FIRST_LINES:
            places.append(f"{path.name}:{line}")

    def describe_bad(self) -> str:
        """Name each kind with its count and first places: ``2 not JSON (a.jsonl:7, a.jsonl:9)``."""
        return "; ".join(
            f"{n} {kind} ({', '.join(self.first_lines[kind])})" for kind, n in self.bad_kinds.most_common()
        )

    def check(self, what: str, max_bad_rows: float) -> None:
        """Refuse a source with too many unreadable rows.

        Args:
            what: the file or source, for the message.
            max_bad_rows: the share that is let pass, from ``data.max_bad_rows``.

        Raises:
            CheckRefused: above it.
        """
        if self.bad > max_bad_rows * (self.rows + self.bad):
            share = self.bad / (self.rows + self.bad)
            raise CheckRefused(
                f"{what}: {self.bad} of {self.rows + self.bad} rows ({share:.1%}) cannot be read: "
                f"{self.describe_bad()}; correct the file"
                + (f", or set data.max_bad_rows above {share:.2g}" if max_bad_rows else "")
            )


def read_rows(path: Path, counts: ReadCounts, columns: Sequence[str] | None = None) -> Iterator[Raw]:
    """Yield the raw rows of a file, in constant memory.

    A `.txt` or `.md` file gives rows ``{"text": ...}``. Parquet's and Arrow's structs have every key in every row: keys
    whose value is None are dropped, at any depth, because Arrow cannot tell them from absent ones and a tool call must
    not get arguments that nobody gave it. (JSON can: an explicit null there stays.)

    Args:
        path: `.jsonl` or `.json` (lines, or an array), `.csv`, `.tsv`, `.parquet`, `.arrow`, `.xml`, `.txt` or `.md`;
            all but Parquet and Arrow also as `.gz` or `.zst`.
        counts: is added to.
        columns: of Parquet, the columns to read; None for all.

    Raises:
        CheckRefused: the file is damaged so that the rest cannot be read, or not of the kind that its name says.
        UserError: the kind of file is unknown, or it does not exist.
    """
    if not path.is_file():
        raise UserError(f"the data file {path} does not exist")
    counts.line = 0
    kind = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    with path.open("rb") as file:
        head = file.read(HEAD)
    refuse_foreign(head, path, path.suffix)
    if path.suffix == ".parquet":
        yield from read_parquet(path, counts, columns)
    elif path.suffix == ".arrow":
        yield from read_arrow(path, counts)
    elif (reader := _READERS.get(kind)) is None:
        raise UserError(
            f"{path}: {path.suffix or 'no suffix'} is not a known kind of data file; known: {', '.join(SUFFIXES)}, "
            f"and those of text with {' or '.join(PACKED)}"
        )
    else:
        try:
            with unpacked(path) as file:
                refuse_foreign(file.peek(HEAD)[:HEAD], path, kind)
                yield from reader(file, path, counts)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CheckRefused(
                f"{path} is a gzip file that is damaged after {counts.rows} rows ({error}); download or make it again"
            ) from None


def read_part(path: Path, part: tuple[float, float], counts: ReadCounts) -> Iterator[Raw]:
    """Yield the rows of a share of a file: a text's bytes from ``part[0]`` to ``part[1]`` of its length, else its rows.

    Raises:
        CheckRefused, UserError: as `read_rows`.
    """
    if path.suffix in TEXTS:
        yield from _read_text(io.BytesIO(part_of(path.read_bytes(), part, whole_characters=True)), path, counts)
        return
    total = sum(1 for _ in read_rows(path, ReadCounts()))
    yield from islice(read_rows(path, counts), round(part[0] * total), round(part[1] * total))


def part_of(text: bytes, part: tuple[float, float], *, whole_characters: bool = False) -> bytes:
    """Return the bytes from ``part[0]`` to ``part[1]`` of a text's length.

    Args:
        text: all of it.
        part: two shares.
        whole_characters: leave out the bytes at either end that belong to a character of UTF-8 which was cut.
    """
    text = text[round(part[0] * len(text)) : round(part[1] * len(text))]
    if not whole_characters:
        return text
    # a character's first byte is never 10xxxxxx; one that is not complete stays in the decoder
    start = next((place for place, byte in enumerate(text[:4]) if byte & 0xC0 != 0x80), 0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(text[max(start, len(text) - 8) :])
    return text[start : len(text) - len(decoder.getstate()[0])]


def _read_lines(file: BufferedIOBase, path: Path, counts: ReadCounts) -> Iterator[Raw]:
    for number, line in enumerate(file, 1):
        # A last line without its newline that is not JSON was cut off by a broken download, and is counted as that.
        whole = line.endswith(b"\n")
        # On any line: files joined by `cat` have theirs in the middle.
        if line.startswith(BOM):
            line = line.removeprefix(BOM)
            counts.repaired["byte order mark"] += 1
        if not line.strip():
            continue
        counts.line = number
        row = _decode_line(line, whole, path, number, counts)
        if row is not None:
            counts.rows += 1
            yield row


def _decode_line(line: bytes, whole: bool, path: Path, number: int, counts: ReadCounts) -> Raw | None:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        counts.count_bad("broken UTF-8", path, number)
        return None
    try:
        row = json.loads(text)
    except RecursionError:
        counts.count_bad("nested too deeply", path, number)
        return None
    except ValueError:
        try:
            row = json.loads(text, strict=False)
        except ValueError:
            counts.count_bad("not JSON" if whole else "cut last line", path, number)
            return None
        counts.repaired["control characters"] += 1
    if not isinstance(row, dict):
        counts.count_bad("not an object", path, number)
        return None
    return _whole_characters(row, counts) if "\\u" in text else row


def _whole_characters(row: Raw, counts: ReadCounts) -> Raw:
    r"""Replace what ``\ud83d`` without its other half leaves: no tokenizer and no file takes it."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        counts.repaired["half surrogate pairs"] += 1
        mended: Raw = json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
        return mended
    return row


def _read_json(file: BufferedReader, path: Path, counts: ReadCounts) -> Iterator[Raw]:
    """Read lines or an array, whatever the name says: both are met under `.json` and under `.jsonl`."""
    head = file.peek(HEAD).removeprefix(BOM).lstrip()
    first, _, more = head.partition(b"\n")
    # `[{...}]` in a line of its own, and another line behind it, is no array of rows. An object that is printed over
    # several lines begins with its brace alone.
    lines = bool(more.strip()) and _is_json(first) if head.startswith(b"[") else first.strip() != b"{"
    yield from _read_lines(file, path, counts) if lines else _read_array(file, path, counts)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _read_array(file: BufferedReader, path: Path, counts: ReadCounts) -> Iterator[Raw]:
    """Decode one element after the other from a buffer; broken bytes become lone surrogates, to be counted by row.

    Objects that follow each other without an array around them are read too.
    """
    buffer = file.read(CHUNK_CHARACTERS)
    if buffer.startswith(BOM):
        counts.repaired["byte order mark"] += 1
    # The array may be larger than memory, so it is decoded element by element from a window. An element that the window
    # cuts off looks like an error near the window's end: more is read, and it is decoded again from its start. Even one
    # that decodes may have been cut, if it ends with the window: `12` of `1234`.
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    text, ended = decoder.decode(buffer), False
    bracketed = text.lstrip().startswith("[")
    position, number = text.index("[") + 1 if bracketed else 0, 0
    while True:
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        if text.startswith("]", position) or (not bracketed and ended and position == len(text)):
            return
        found = _next_element(text, position)
        if found is None or (found[1] == len(text) and not ended):
            if ended:
                what = "JSON array" if bracketed else "last object"
                raise CheckRefused(
                    f"{path} ends inside its {what}, after {number} rows: it is cut off; download or make it again"
                )
            # The window doubles, so that a huge element is decoded a few times, not once for each megabyte of it.
            more = file.read(max(CHUNK_CHARACTERS, len(text) - position))
            text, ended = text[position:] + decoder.decode(more, final=not more), not more
            position = 0
            continue
        value, end, lax = found
        number += 1
        counts.line = number
        if value is _UNREADABLE:
            raise CheckRefused(
                f"{path}: row {number} of the JSON {'array' if bracketed else 'objects'} is not JSON, so the rest "
                "cannot be read; get a correct file"
            )
        if (row := _array_row(value, text[position:end], path, number, counts, lax)) is not None:
            yield row
        position = end


_UNREADABLE = object()


def _next_element(text: str, position: int) -> tuple[Any, int, bool] | None:
    """Decode the element at ``position``: value, end, whether it had raw control characters; None if it may go on."""
    message, place = "", 0
    for decoder, lax in ((_STRICT, False), (_LAX, True)):
        try:
            return (*decoder.raw_decode(text, position), lax)
        except JSONDecodeError as error:
            message, place = error.msg, error.pos  # the error itself would keep the whole chunk alive
            if not message.startswith("Invalid control character"):
                break
        except RecursionError:
            return _UNREADABLE, position, False
    # What a chunk's end cuts is an unterminated string, or a problem at the very end; a bad row may look like it too.
    unfinished = message.startswith("Unterminated string") or place >= len(text) - len("-Infinity")
    return None if unfinished and len(text) - position < LONGEST_ROW else (_UNREADABLE, position, False)


def _array_row(value: Any, text: str, path: Path, number: int, counts: ReadCounts, lax: bool) -> Raw | None:
    if _UNDECODED.search(text):
        counts.count_bad("broken UTF-8", path, number)
        return None
    if not isinstance(value, dict):
        counts.count_bad("not an object", path, number)
        return None
    if lax:
        counts.repaired["control characters"] += 1
    counts.rows += 1
    # Only an escape can write half a pair; UTF-8 cannot.
    return _whole_characters(value, counts) if "\\u" in text else value


def _read_text(file: BufferedIOBase, path: Path, counts: ReadCounts) -> Iterator[Raw]:
    """Yield the file as one document; a file of more than 16 MB in pieces that end at an empty line."""
    held, number = b"", 0
    while True:
        read = file.read(TEXT_CHARACTERS)
        held += read
        # Without a blank line rfind returns -1 and the cut is 1: the piece keeps growing.
        cut = len(held) if not read else held.rfind(b"\n\n") + 2
        if read and (len(held) < TEXT_CHARACTERS or cut < 2):
            continue
        piece, held = held[:cut], held[cut:]
        number += 1
        counts.line = number
        if piece.startswith(BOM):
            counts.repaired["byte order mark"] += 1
        try:
            text = piece.removeprefix(BOM).decode()
        except UnicodeDecodeError:
            counts.count_bad("broken UTF-8", path, number)
        else:
            if text.strip():
                counts.rows += 1
                yield {"text": text}
        if not read:
            return


def _read_xml(file: BufferedIOBase, path: Path, counts: ReadCounts) -> Iterator[Raw]:
    for row in read_xml(file, path, counts.rows):
        counts.rows += 1
        counts.line += 1
        yield row


_READERS: dict[str, Callable[[BufferedReader, Path, ReadCounts], Iterator[Raw]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".xml": _read_xml,
    ".txt": _read_text,
    ".md": _read_text,
}
SUFFIXES = (*_READERS, ".parquet", ".arrow")
PACKED = (".gz", ".zst")
NO_DATA = frozenset(
    {"README.md", "LICENSE.md", "LICENSE.txt", "CHANGELOG.md", "requirements.txt", "dataset_dict.json"}
    | {"dataset_info.json", "dataset_infos.json", "state.json"}
)
"""Files beside data, in repositories and in folders that `datasets` has saved."""
TEXTS = (".txt", ".md")


def is_data_name(name: str) -> bool:
    """Tell whether a file of this name, with or without its folders, may hold rows."""
    name = name.rpartition("/")[2]
    plain = name.removesuffix(".gz").removesuffix(".zst")
    packable = plain == name or not plain.endswith((".parquet", ".arrow"))
    # `datasets` keeps results of `map` beside a saved set, as cache-*.arrow.
    return plain.endswith(SUFFIXES) and packable and name not in NO_DATA and not name.startswith((".", "cache-"))
