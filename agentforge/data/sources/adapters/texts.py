"""Plain documents, and public-domain herbals turned into questions and answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agentforge.data.sources.adapters.base import Raw, Rejected, Row, SourceOptions, exchange

HERBAL_SYSTEM = (
    "You quote an old herbal. This is historical text, not medical advice: plants named in it may be poisonous, "
    "and what it says of their virtues is what was believed at the time."
)

_START = re.compile(
    r"^\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*{3}\s*$", re.MULTILINE | re.IGNORECASE | re.DOTALL
)
_END = re.compile(r"^\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(r"^[ \t]*(?:_|=)?([A-Z][A-Z'’,.&\- ]{2,60}?)\.?(?:_|=)?[ \t]*$")
_SECTION = re.compile(
    r"^_?(Place and Time|Government and Virtues|Descript(?:ion)?|Place|Time|Government|(?:The )?(?:Virtues|Vertues)"
    r"|Names|Use|Dose)"
    r"(?:\._?\]|\]|\.?_?:|\.\s*[—–]+|\.--+)\s*",
    re.IGNORECASE,
)
"""A section's name with the mark that sets it off; without the mark, ``Place it in the shade`` would be one."""

QUESTIONS = {
    "description": "How does the old herbal describe {plant}?",
    "place": "Where does {plant} grow, according to the old herbal?",
    "place and time": "Where and when does {plant} grow and flower, according to the old herbal?",
    "time": "When does {plant} flower, according to the old herbal?",
    "virtues": "Which virtues does the old herbal ascribe to {plant}?",
    "names": "By which names does the old herbal know {plant}?",
    "use": "How was {plant} used, according to the old herbal?",
    "dose": "What dose of {plant} does the old herbal name?",
}
_KINDS = {
    "descript": "description", "description": "description", "place": "place", "time": "time",
    "place and time": "place and time", "names": "names",
    "government and virtues": "virtues", "government": "virtues", "virtues": "virtues", "vertues": "virtues",
    "the vertues": "virtues", "use": "use", "dose": "dose",
}  # fmt: skip
SHORTEST_ANSWER = 40


def text(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """Documents, for pre-training: the column ``text``."""
    document = options.get(raw, "text")
    if not isinstance(document, str) or not document.strip():
        return Rejected("empty document")
    return {"text": document}


def herbal(raw: Raw, options: SourceOptions) -> list[Row] | Rejected:
    """A whole herbal: one row for each section (description, place, time, virtues) of each plant."""
    document = options.get(raw, "text")
    if not isinstance(document, str):
        return Rejected("empty document")
    rows = [
        exchange(QUESTIONS[section.kind].format(plant=section.plant), section.text, HERBAL_SYSTEM)
        for section in sections(strip_gutenberg(document))
        if len(section.text) >= SHORTEST_ANSWER
    ]
    return [row for row in rows if not isinstance(row, Rejected)] or Rejected("no herbal: no plant has a section")


def strip_gutenberg(document: str) -> str:
    """Return the book without Project Gutenberg's header and licence."""
    document = document.replace("\r\n", "\n")
    start, end = _START.search(document), _END.search(document)
    return document[start.end() if start else 0 : end.start() if end else len(document)].strip()


@dataclass(frozen=True)
class BookSection:
    """A part of a plant's entry: what it is about (a key of `QUESTIONS`) and its text in one line a paragraph."""

    plant: str
    kind: str
    text: str


def sections(book: str) -> Iterator[BookSection]:
    """Yield the sections of all plants in the order of the book.

    A plant's entry starts with its name in capitals on a line of its own; a section starts with its name and ``.]``, as
    in Culpeper's *Complete Herbal*. A heading without any section (front matter, recipes) is passed over.
    """
    plant: str | None = None
    kind, paragraphs = "", list[str]()
    seen_section = False

    def made() -> Iterator[BookSection]:
        if plant is not None and seen_section and paragraphs:
            yield BookSection(plant, kind, "\n\n".join(paragraphs))

    for block in re.split(r"\n[ \t]*\n", book):
        lines = [line.strip() for line in block.strip().splitlines()]
        if not lines:
            continue
        if len(lines) == 1 and (heading := _HEADING.match(lines[0])):
            yield from made()
            plant, kind, paragraphs, seen_section = _plant_name(heading[1]), "", [], False
            continue
        paragraph = " ".join(lines)
        if start := _SECTION.match(paragraph):
            yield from made()
            seen_section, kind = True, _KINDS[start[1].lower()]
            paragraphs = [_without_marks(paragraph[start.end() :])]
        elif seen_section:
            paragraphs.append(_without_marks(paragraph))
    yield from made()


def _plant_name(heading: str) -> str:
    """``ALEHOOF, OR GROUND-IVY.`` is called alehoof, or ground-ivy."""
    return " ".join(heading.replace("_", "").split()).rstrip(".,").lower()


def _without_marks(paragraph: str) -> str:
    return paragraph.replace("_", "").strip()
