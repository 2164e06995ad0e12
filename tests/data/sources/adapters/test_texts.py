"""Documents, and herbals as questions and answers that say what they are."""

from __future__ import annotations

from pathlib import Path

from agentforge.data.sources.adapters import Rejected, SourceOptions, get_adapter
from agentforge.data.sources.adapters.texts import HERBAL_SYSTEM, strip_gutenberg

BOOK = (Path(__file__).parents[2] / "fixtures" / "herbal.txt").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    made = get_adapter("herbal")({"text": BOOK}, SourceOptions())
    assert isinstance(made, list)
    assert all(row["messages"][0] == {"role": "system", "content": HERBAL_SYSTEM} for row in made)
    return {row["messages"][1]["content"]: row["messages"][2]["content"] for row in made}


def test_each_section_of_each_plant_is_a_question() -> None:
    assert list(rows()) == [
        "How does the old herbal describe water marigold?",
        "Where does water marigold grow, according to the old herbal?",
        "When does water marigold flower, according to the old herbal?",
        "Which virtues does the old herbal ascribe to water marigold?",
        "Where and when does goose-foot, or fat-hen grow and flower, according to the old herbal?",
        "Which virtues does the old herbal ascribe to goose-foot, or fat-hen?",
    ]


def test_answers_are_whole_sections_without_marks_and_line_ends() -> None:
    answers = rows()
    assert answers["How does the old herbal describe water marigold?"] == (
        "It sendeth up round hollow stalks, a foot high or thereabouts, bearing at the top a single yellow flower."
        "\n\nThe root is white, and full of strings."
    )
    virtues = answers["Which virtues does the old herbal ascribe to water marigold?"]
    assert "Place it in a window" in virtues and "Some use: it to dye wool" in virtues and "_" not in virtues


def test_the_system_turn_says_that_it_is_no_advice() -> None:
    assert "historical text, not medical advice" in HERBAL_SYSTEM


def test_the_header_and_the_licence_are_not_the_book() -> None:
    book = strip_gutenberg(BOOK.replace("\n", "\r\n"))
    assert book.startswith("A LITTLE HERBAL") and book.endswith("Here endeth the book.")
    assert strip_gutenberg("A plain book.") == "A plain book."


def test_front_matter_and_other_texts_give_no_rows() -> None:
    herbal = get_adapter("herbal")
    assert herbal({"text": "    TO THE READER.\n\nNothing here."}, SourceOptions()) == Rejected(
        "no herbal: no plant has a section"
    )
    assert get_adapter("text")({"text": " "}, SourceOptions()) == Rejected("empty document")
    assert get_adapter("text")({"body": "x"}, SourceOptions({"text": "body"})) == {"text": "x"}
