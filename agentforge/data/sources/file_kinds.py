"""What a file is: unpacked where its name says so, refused where its first bytes say something else than its name."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from agentforge.errors import CheckRefused, first_line

HEAD = 512
"""Bytes that tell."""
BUFFER = 1 << 20

_FOREIGN: tuple[tuple[bytes, tuple[str, ...], str], ...] = (
    (b"\x1f\x8b", (".gz",), "is compressed with gzip; give it a name that ends in .gz"),
    (b"\x28\xb5\x2f\xfd", (".zst",), "is compressed with zstd; give it a name that ends in .zst"),
    (b"PK\x03\x04", (), "is a zip archive; unpack it"),
    (b"BZh", (), "is compressed with bzip2; unpack it"),
    (b"\xfd7zXZ\x00", (), "is compressed with xz; unpack it"),
    (b"PAR1", (".parquet",), "is Parquet; give it a name that ends in .parquet"),
    (b"ARROW1", (".arrow",), "is Arrow; give it a name that ends in .arrow"),
    (b"\xff\xfe", (), "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", (), "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"version https://git-lfs", (), "is a Git LFS pointer and not the data; fetch them: git lfs pull"),
)
_BINARY = (".gz", ".zst", ".parquet", ".arrow")
_MAY_BE_HTML = (".txt", ".md", ".xml")


def refuse_foreign(head: bytes, path: Path, suffix: str) -> None:
    """Refuse a file that is not what its name says.

    Args:
        head: its first bytes; of a compressed file once as it lies there, and once unpacked.
        path: for the message.
        suffix: that says what ``head`` should be.

    Raises:
        CheckRefused: what it is, and what to do.
    """
    for start, suffixes, problem in _FOREIGN:
        if head.startswith(start) and suffix not in suffixes:
            raise CheckRefused(f"{path} {problem}")
    if suffix in _BINARY:
        return
    page = head.lstrip().lower()
    if suffix not in _MAY_BE_HTML and page.startswith((b"<!doctype html", b"<html")):
        raise CheckRefused(f"{path} is an HTML page, such as a server's error or login; download the file again")
    if b"\x00" in head:
        raise CheckRefused(
            f"{path} has NUL bytes, so it is no text in UTF-8; if it is UTF-16, convert it: iconv -f UTF-16 -t UTF-8"
        )


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedReader]:
    """Open a file that may be packed (`.gz`, `.zst`); what is read are its own bytes.

    Raises:
        CheckRefused: it is a zstd file and damaged. (Of a gzip file, reading raises what `gzip` does.)
    """
    if path.suffix == ".zst":
        import pyarrow as pa

        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            try:
                yield BufferedReader(stream, BUFFER)
            except OSError as error:
                if error.errno is not None:
                    raise
                raise CheckRefused(
                    f"{path} is a zstd file that is damaged ({first_line(error)}); download or make it again"
                ) from None
        return
    with path.open("rb") as packed:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=packed) as file:
                yield BufferedReader(file, BUFFER)
        else:
            yield packed
