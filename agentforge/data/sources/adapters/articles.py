"""WikiText: files of lines, from which articles are put together again, and a tokenised text that becomes plain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agentforge.data.sources.adapters.base import Raw, Rejected, Row, SourceOptions

_TITLE = re.compile(r"^ ?= (?!=)(.*?)(?<!=) = ?$")
"""A line like `` = Valkyria Chronicles III = ``; sections have two or more equals signs."""

# In this order: numbers first, whose marks would look like punctuation afterwards.
_JOINED: tuple[tuple[str, str], ...] = (
    (r" @([-,.])@ ", r"\1"),
    (r" ([,.:;?!])(?= |$)", r"\1"),
    (r"([(\[]) ", r"\1"),
    (r" ([)\]%°])", r"\1"),
    (r" ('(?:s|t|re|ve|ll|d|m)\b)", r"\1"),
    (r'" ([^"]*?) "', r'"\1"'),
)


def wikitext(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """An article, its tokens joined to plain text: `` @-@ `` is a hyphen, and no space stands before a comma."""
    text = options.get(raw, "text", raw.get("page"))
    if not isinstance(text, str) or not text.strip():
        return Rejected("empty document")
    return {"text": "\n".join(_plain(line) for line in text.strip().split("\n") if line.strip())}


def _plain(line: str) -> str:
    line = re.sub("^(=+) (.*) (=+)$", r"\1 \2 \3", line.strip().replace("= =", "=="))
    for pattern, with_ in _JOINED:
        line = re.sub(pattern, with_, line)
    return line


def whole_articles(raws: Iterable[Raw]) -> Iterator[Raw]:
    """Join rows of one line each to rows of one article each.

    A line alone is half a sentence of context. A new article begins at a title with an empty line before and after it:
    a sum such as `` = 5 = `` inside a text has none.
    """
    article: list[str] = []
    waiting: list[str] = []  # lines since the last empty line that may be a title with its empty line to come
    before_empty = True
    for raw in raws:
        if "page" in raw or not isinstance(raw.get("text"), str) or raw["text"].strip().count("\n"):
            yield raw  # it is an article already
            continue
        line = raw["text"].rstrip("\n")
        if waiting and not line.strip():
            if any(part.strip() for part in article):
                yield {"text": "\n".join(article)}
            article = []
        article += waiting
        waiting = [line] if before_empty and _TITLE.match(line) else []
        if not waiting:
            article.append(line)
        before_empty = not line.strip()
    article += waiting
    if any(part.strip() for part in article):
        yield {"text": "\n".join(article)}
