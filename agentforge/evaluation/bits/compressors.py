"""What a file compressor makes of a text: the yardstick that a model of bytes has to beat.

A compressor has learnt nothing beforehand. Two figures are fair to it in different ways: the text by itself, and the
text behind the training text, which is C(training + text) - C(training): what it adds once the compressor has seen what
the model has seen.
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Compress = Callable[[bytes], int]


def _gzip(text: bytes) -> int:
    return len(gzip.compress(text, 9))


def _bzip2(text: bytes) -> int:
    return len(bz2.compress(text, 9))


def _xz(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def _zstd(text: bytes) -> int:
    import zstandard

    # A window as large as the text: with the default one, what lies far behind is forgotten.
    level = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, source_size=len(text))
    return len(zstandard.ZstdCompressor(compression_params=level).compress(text))


def _ppmd(text: bytes) -> int:
    import pyppmd

    # Order 6 is the best for English prose of a megabyte; 256 MB hold the contexts of a few megabytes of text.
    return len(pyppmd.compress(text, max_order=6, mem_size=256 << 20))


@dataclass(frozen=True)
class Compressor:
    """One program.

    Attributes:
        name: with its setting.
        compress: the size in bytes of a compressed text.
        package: what must be installed; None: Python brings it.
    """

    name: str
    compress: Compress
    package: str | None = None

    @property
    def installed(self) -> bool:
        """Tell whether it can run here."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


COMPRESSORS = (
    Compressor("gzip -9", _gzip),
    Compressor("bzip2 -9", _bzip2),
    Compressor("xz -9e", _xz),
    Compressor("zstd -22", _zstd, "zstandard"),
    Compressor("PPMd, order 6", _ppmd, "pyppmd"),
)


def compressed_bits(text: bytes, training: bytes = b"") -> dict[str, dict[str, Any]]:
    """Return for each compressor that is installed the bits per byte of a text, ``alone`` and ``after_training``.

    Args:
        text: what is measured.
        training: what the model was trained on; empty: only ``alone`` is measured.
    """
    found = {}
    for compressor in COMPRESSORS:
        if not compressor.installed:
            continue
        bits = {"alone": 8 * compressor.compress(text) / len(text)}
        if training:
            grown = compressor.compress(training + text) - compressor.compress(training)
            bits["after_training"] = 8 * grown / len(text)
        found[compressor.name] = bits
    return found
