"""The cards: complete, honest about licences and pins, and the same as docs/datasets.md."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest

from agentforge.data.sources import drills
from agentforge.data.sources import stdlib_corpus as generated
from agentforge.data.sources.adapters import ADAPTERS
from agentforge.data.sources.dataset_cards import (
    card_ids,
    card_rows,
    cards_markdown,
    cards_table,
    list_cards,
    load_card,
)
from agentforge.data.sources.readers import ReadCounts, read_rows
from agentforge.data.sources.source_files import locate
from agentforge.errors import UserError
from agentforge.recipe.schema import Data, Source

ROOT = Path(__file__).parents[3]
OF_AJ = [
    "wildchat",
    "ultrachat",
    "agriculture_qa",
    "gardening_qa",
    "stackexchange_gardening",
    "skein",
    "apothecary",
    "aj_custom",
]
OF_COGNATE = [
    "gsm8k",
    "svamp",
    "asdiv",
    "mbpp",
    "codexglue",
    "arc_easy",
    "arc_challenge",
    "hellaswag",
    "piqa",
    "boolq",
    "hotpotqa",
    "drop",
    "strategyqa",
    "wikitext",
]
OF_ADAMBA = ["fineweb", "openorca", "flan_cot", "metamath", "glaive_fc", "toolbench", "sharegpt"]


@pytest.mark.parametrize("id", [*OF_AJ, *OF_ADAMBA, *OF_COGNATE, "toucan", "python_docs"])
def test_every_data_set_of_the_systems_has_a_card(id: str) -> None:
    assert load_card(id).id == id


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.id)
def test_cards_are_complete(card) -> None:  # type: ignore[no-untyped-def]
    assert card.adapter is None or card.adapter in ADAPTERS
    assert set(card.fallbacks) <= set(card_ids()) - {card.id}
    assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision), "a branch or tag is no pin"
    assert card.split_key is None or card.split_key in card.columns
    assert set(card.filters.where) <= set(card.columns)
    if card.enabled:
        assert card.adapter and card.columns and card.rows
        assert not re.search("none|claimed|unknown|NC", card.licence), "no usable licence, so it must be off"


def test_the_ones_without_licence_or_evidence_are_off_with_the_reason() -> None:
    off = {card.id: card.reason for card in list_cards() if not card.enabled}
    of_aj_and_adamba = {"skein", "gardening_qa", "aj_custom", "flan_cot", "flan_cot_submix", "toolbench", "sharegpt"}
    assert set(off) == of_aj_and_adamba | {"asdiv", "piqa"}
    assert all(off.values())


def test_what_benchmarks_score_is_known_of_every_benchmark() -> None:
    for id in set(OF_COGNATE) - {"asdiv"}:  # its only split is off as a whole
        assert load_card(id).evaluation_splits and load_card(id).files.keys() - load_card(id).evaluation_splits
    assert load_card("piqa").hub_id == "baber/piqa" and load_card("strategyqa").hub_id == "ChilleD/StrategyQA"


def test_paraphrases_share_a_split_key() -> None:
    assert load_card("metamath").split_key == "original_question"


def test_the_list_shows_each_card_with_licence_and_state() -> None:
    rows = {row[0]: row for row in card_rows()}
    assert rows["ultrachat"][1:] == ("HuggingFaceH4/ultrachat_200k", "207,865", "650", "MIT", "on")
    assert rows["toolbench"][-1].endswith("instead: toucan, glaive_fc")
    assert cards_table().row_count == len(card_ids())


def test_the_page_has_the_cards_table() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert cards_markdown() in page, "run: python -m agentforge.data.sources.dataset_cards docs/datasets.md"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\nlicence: MIT\nhub: a/b\n", r"things\.yaml: there is no key 'hub'; did you mean 'hub_id'"),
        ("title: t\nlicence: MIT\nhub_id: a/b\nfiles: {train: [x]}\n", "without a `revision` it needs a `pin_note`"),
        ("title: t\nlicence: MIT\n", "set exactly one of hub_id, generator and urls"),
        ("title: t\nlicence: MIT\nenabled: false\n", "a data set with `enabled: false` needs a `reason`"),
        ("title: t\nlicence: MIT\nhub_id: a/b\npin_note: n\n", "files has no split 'train'"),
        (
            "id: other\ntitle: t\nlicence: MIT\nhub_id: a/b\npin_note: n\nfiles: {train: [x]}\n",
            "must be the file's name",
        ),
    ],
)
def test_a_wrong_card_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    (tmp_path / "configs" / "datasets").mkdir(parents=True)
    (tmp_path / "configs" / "datasets" / "things.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_card("things")


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'metamath'"):
        load_card("metamaths")


# -- text that every CPython has ------------------------------------------------------------------------------------


def test_python_docs_are_made_once_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small library instead of the whole one: parsing all of it takes several seconds."""
    library = tmp_path / "lib"
    (library / "pkg" / "test").mkdir(parents=True)
    (library / "pkg" / "__init__.py").write_text(
        '"""A package with a docstring that is long enough."""\nraise SystemExit\n'
    )
    (library / "b.py").write_text(
        'class Shelf:\n    """Hold books in the order in which they were put there."""\n\n'
        '    def put(self, book, *, place=None):\n        """Put a book on the shelf, at the end or anywhere."""\n'
        '\n\ndef short():\n    """Too short."""\n'
    )
    (library / "bad.py").write_text("print 'python 2'")
    (library / "pkg" / "test" / "t.py").write_text('"""A test module with a docstring that is long enough."""')
    monkeypatch.setattr(generated.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "cache"))
    (file,) = locate(Source(dataset="python_docs"), Data())
    documents = [row["text"] for row in read_rows(file, ReadCounts())]
    assert documents[:3] == [
        "class b.Shelf\n\nHold books in the order in which they were put there.",
        "b.Shelf.put(self, book, *, place=None)\n\nPut a book on the shelf, at the end or anywhere.",
        "module pkg\n\nA package with a docstring that is long enough.",
    ]
    assert 'The "assert" statement' in documents[3], "then pydoc's topics"
    assert list(generated.python_docs()) == documents
    monkeypatch.setattr(generated, "GENERATORS", {})
    assert locate(Source(dataset="python_docs"), Data()) == [file], "the second time it is only looked up"


def test_rewording_a_card_makes_no_other_data() -> None:
    card = load_card("gsm8k")
    reworded = card.model_copy(update={"title": "t", "caveats": ["c"], "megabytes": 1.5, "evaluation_splits": []})
    assert reworded.identity == card.identity
    assert card.model_copy(update={"split_key": "question"}).identity != card.identity


# -- drills ---------------------------------------------------------------------------------------------------------


def test_the_drills_answers_are_right() -> None:
    for row in islice(drills.sums(), 200):
        start, *changes = [int(number) for number in re.findall(r"\d+", row["question"])]
        signs = [1 if verb == "finds" else -1 for verb in re.findall("finds|gives", row["question"])]
        assert row["answer"].endswith(f"#### {start + sum(s * c for s, c in zip(signs, changes, strict=True))}")
    for row in islice(drills.recall(), 200):
        asked = row["question"].split()[-1].rstrip("?")
        assert f"The number of {asked} is {row['answer']}." in row["question"]
    for row in islice(drills.swaps(), 200):
        cups = re.findall("red|blue|green", row["question"])
        for one, other in re.findall(r"Swap the (\w+) and the (\w+)", row["question"]):
            i, j = (("first", "second", "third").index(place) for place in (one, other))
            cups[i], cups[j] = cups[j], cups[i]
        assert row["answer"] == ", ".join(cups)


def test_drills_are_the_same_every_time() -> None:
    assert list(islice(drills.recall(), 5)) == list(islice(drills.recall(), 5))
    assert len({row["question"] for row in drills.sums()}) > 0.99 * drills.ROWS
