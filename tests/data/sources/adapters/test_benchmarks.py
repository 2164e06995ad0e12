"""Each benchmark's training rows: the document is the prompt that is scored, with the right answer, trap by trap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.data.sources.adapters import ADAPTERS, JOINERS, Rejected, SourceOptions
from agentforge.data.sources.readers import ReadCounts, read_rows
from agentforge.errors import CheckRefused

ROWS = Path(__file__).parents[2] / "fixtures" / "rows"


def adapted(id: str, adapter: str | None = None) -> list[Any]:
    raws = [json.loads(line) for line in (ROWS / f"{id}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [ADAPTERS[adapter or id](raw, SourceOptions(split="train")) for raw in raws]


def said(row: Any) -> tuple[str, str]:
    return row["messages"][0]["content"], row["messages"][1]["content"]


def test_arc_finds_the_choice_by_its_label_whether_letter_or_number() -> None:
    letters, numbers, mixed, unlabelled = adapted("arc_easy", "arc")
    assert letters["document"] == "Question: Which of these gives off its own light?\nAnswer: the Sun"
    assert said(letters)[0].endswith("A. the Moon\nB. a mirror\nC. the Sun\nD. a window")
    assert said(letters)[1] == "C. the Sun"
    assert numbers["document"].endswith("Answer: water") and mixed["document"].endswith("Answer: a hen")
    assert unlabelled == Rejected("no label")
    assert adapted("arc_challenge", "arc")[0]["document"].endswith("It leads heat away faster.")


def test_hellaswag_is_cleaned_as_the_harness_does() -> None:
    first, from_wikihow, of_the_test_part = adapted("hellaswag")
    assert first["document"] == ("Baking bread: A baker puts flour on a table. The baker kneads the dough on it.")
    assert from_wikihow["document"] == "Home: How to dry herbs. Cut them in the morning. Tie them in bunches."
    assert of_the_test_part == Rejected("no label")


def test_hellaswag_equals_lm_evaluation_harness() -> None:
    utils = pytest.importorskip("lm_eval.tasks.hellaswag.utils")
    raws = [json.loads(line) for line in (ROWS / "hellaswag.jsonl").read_text(encoding="utf-8").splitlines()][:2]
    for raw, row in zip(raws, adapted("hellaswag"), strict=False):
        query = utils.preprocess(f"{raw['activity_label']}: {raw['ctx_a']} {raw['ctx_b'].capitalize()}")
        ending = utils.preprocess(raw["endings"][int(raw["label"])])
        assert row["document"] == f"{query} {ending.strip()}"


def test_piqa_without_a_label_is_not_the_last_solution() -> None:
    first, of_the_test_part = adapted("piqa")
    assert first["document"] == "Question: Keep a door from slamming.\nAnswer: Put a wedge of wood under it."
    assert of_the_test_part == Rejected("no label")


def test_boolq_has_one_question_mark_and_a_word_for_the_truth() -> None:
    yes, no = adapted("boolq")
    assert yes["document"].endswith("is a fruit.\nQuestion: is a tomato a fruit?\nAnswer: yes")
    assert no["document"].endswith("Question: can penguins fly?\nAnswer: no")
    of_super_glue = ADAPTERS["boolq"]({"passage": "p", "question": "q", "label": 0}, SourceOptions())
    assert said(of_super_glue) == ("p\n\nq?", "no")
    assert ADAPTERS["boolq"]({"passage": "p", "question": "q", "label": -1}, SourceOptions()) == Rejected("no label")


def test_strategyqa_answers_first_and_gives_its_facts_as_text_or_as_a_list() -> None:
    no, yes = adapted("strategyqa")
    assert said(no)[1] == "no. The telephone was patented in 1876."
    assert yes["document"].endswith("Answer: yes. A whale is a mammal. Mammals have lungs.")


def test_drop_reads_every_variant_of_an_answer() -> None:
    *rows, empty = adapted("drop")
    assert [said(row)[1] for row in rows] == ["7", "Ann,Cem", "4 May 1902", "12", "Bob,Cem"]
    assert rows[3]["document"] == "It has 12 arches. How many arches? 12."
    assert empty == Rejected("empty answer")


def test_hotpotqa_keeps_the_paragraphs_that_are_needed_in_both_layouts() -> None:
    columns, pairs, without = adapted("hotpotqa")
    assert columns["document"] == (
        "Ada Lorn: Ada Lorn was a painter. She was born beside the Brill.\n\n"
        "Brill (river): The Brill is a river. It ends in Norland.\n\n"
        "Question: In which country does the river end beside which the painter Ada Lorn was born?\nAnswer: Norland"
    )
    assert said(pairs)[0] == "Bo: Bo was born in 1900.\n\nCy: Cy was born in 1910.\n\nWho is older, Bo or Cy?"
    assert without == Rejected("evidence is missing")


def test_the_answer_is_not_left_inside_the_code() -> None:
    first, python2, stub = adapted("codexglue", "code_to_text")
    code = "def double(x):\n    # no overflow in Python\n    return 2 * x"
    assert said(first) == (f"What does this function do?\n\n```python\n{code}\n```", "Return twice the number.")
    assert python2 == stub == Rejected("no Python 3 with a body")


def test_documents_of_the_arithmetic_sets_have_the_scored_form() -> None:
    assert adapted("gsm8k")[0]["document"] == (
        "Question: Ann has 2 boxes of 3 pens. How many pens?\nAnswer: 2 boxes hold 6 pens.\n#### 6"
    )
    assert "<<2*3=6>>" in said(adapted("gsm8k")[0])[1], "a conversation keeps the marks"
    assert adapted("svamp")[0]["document"].endswith("for a pack?\nAnswer: ( 76.0 - 25.0 ) = 51\n#### 51")
    assert adapted("mbpp")[0]["document"].endswith("\n[BEGIN]\ndef double(x): \n\treturn 2 * x\n[DONE]")
    small, capital = adapted("asdiv")
    assert small["document"] == (
        "Six geese and three ducks swim on a pond.\nQuestion:How many birds swim there?\nAnswer: 9"
    )
    assert said(capital) == ("A loaf costs 2 crowns. What do four loaves cost?", "4*2=8\n#### 8")


# -- files ----------------------------------------------------------------------------------------------------------


def test_wikitext_lines_become_plain_articles() -> None:
    raws = [json.loads(line) for line in (ROWS / "wikitext.jsonl").read_text(encoding="utf-8").splitlines()]
    articles = [ADAPTERS["wikitext"](raw, SourceOptions()) for raw in JOINERS["wikitext"](iter(raws))]
    assert articles == [
        {
            "text": "= Mill Bridge =\nMill Bridge is a bridge, built in 1,902 of half-cut stone (granite).\n"
            '== History ==\nThe miller\'s son said "it will stand"; it did.\n= 5 =\nThe sum above is no title.'
        },
        {"text": "= Grey Heron =\nThe grey heron is a bird."},
    ]
    pages = [{"page": "a whole page"}, {"text": "one\n\ntwo"}]
    assert list(JOINERS["wikitext"](iter(pages))) == pages, "what is an article already stays one"


XML = """<?xml version="1.0" encoding="UTF-8" ?>
<Machine-Reading-Corpus-File>
<ProblemSet>
  <Problem ID="made-0001" Grade="1" Source="own">
    <Body>Two hens &amp; five ducks eat.</Body>
    <Question>How many birds eat? </Question>
    <Solution-Type>Addition</Solution-Type>
    <Answer>7 (birds)</Answer>
    <Formula>2+5=7</Formula>
  </Problem>
  <Problem ID="made-0002" Grade="2" Source="own">
    <Body>A rope of 9 m loses 4 m.</Body>
    <Question>How long is it?</Question><Answer>5 (m)</Answer><Formula>9-4=5</Formula>
  </Problem>
</ProblemSet>
</Machine-Reading-Corpus-File>
"""


def test_the_original_xml_is_read_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "asdiv.xml").write_text(XML)
    counts = ReadCounts()
    first, second = read_rows(tmp_path / "asdiv.xml", counts)
    assert first["ID"] == "made-0001" and first["Body"] == "Two hens & five ducks eat." and counts.rows == 2
    made = ADAPTERS["asdiv"](second, SourceOptions())
    assert isinstance(made, dict) and made["document"].endswith("\nQuestion:How long is it?\nAnswer: 5")


def test_a_cut_xml_file_is_refused_with_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text(XML[: XML.index("How long")])
    with pytest.raises(CheckRefused, match=r"cut\.xml cannot be read as XML after 1 rows"):
        list(read_rows(tmp_path / "cut.xml", ReadCounts()))
