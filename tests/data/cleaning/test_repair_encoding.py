"""Cleaning repairs encoding and leaves everything else as written."""

from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.cleaning.repair_encoding import clean, clean_text, fold

any_text = st.text(st.characters(exclude_categories=()))


def test_repairs_line_ends_controls_boms_and_surrogates():
    assert clean_text("a\r\nb\rc\n") == "a\nb\nc\n"
    assert clean_text("\ufeffa\x00b\x07c\x7f") == "abc"
    assert clean_text("\ud83d\ude00 \ud83d!") == "\U0001f600 \ufffd!"


def test_leaves_code_and_unicode_forms_alone():
    code = 'def f():\n\treturn "e\u0301" + "\x1b[31m"  # decomposed, and a terminal colour\n'
    assert clean_text(code) is code


def test_cleans_every_string_of_a_row():
    row = {"messages": [{"content": "a\x00", "tool_calls": [{"arguments": {"k\x00": "v\r\n", "n": 1}}]}]}
    assert clean(row) == {"messages": [{"content": "a", "tool_calls": [{"arguments": {"k": "v\n", "n": 1}}]}]}


@given(any_text)
def test_cleaned_text_can_be_stored_and_needs_no_second_cleaning(text):
    cleaned = clean_text(text)
    cleaned.encode()
    assert clean_text(cleaned) == cleaned
    assert not {"\x00", "\r", "\ufeff"} & set(cleaned)


@given(st.text())
def test_fold_ignores_case_and_spacing_only(text):
    assert fold(f"  {text}\n ") == fold(text)
    assert fold("Straße  X") == fold("STRASSE x") != fold("strasse y")
