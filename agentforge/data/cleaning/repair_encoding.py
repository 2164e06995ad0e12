"""Cleaning that repairs encoding and touches nothing else: code, spacing and Unicode forms stay as written.

No NFC here: it would alter string literals in code, and the tokenizers that want it normalise by themselves. Keys that
are only compared (duplicates, split) are folded harder, in `fold`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\r\ufeff\ud800-\udfff]")
"""Controls but tab, newline and escape (terminal colours are real tool output), carriage returns, BOMs, surrogates."""

_REMOVED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\ufeff]")


def clean_text(text: str) -> str:
    r"""Return the text with ``\n`` line ends, without NULs, control characters and BOMs, and with whole characters.

    Two halves of a surrogate pair (JSON's ``\ud83d\ude00``) become their character; a lone half becomes U+FFFD.
    """
    if not _BROKEN.search(text):
        return text
    # Pairs first: a lone carriage return becomes a line end as well, and a pair must not become two.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _REMOVED.sub("", text)


def clean(value: Any) -> Any:
    """Return a row with every string in it cleaned, the keys of tool arguments included."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def fold(text: str) -> str:
    """Return the text as it is compared: NFKC, without case, with single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())
