"""Every family's own template: what is trained stands behind the very prompt, whole, and is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from agentforge.data import chat_template as ct
from agentforge.data.dialects.rendering import Template
from agentforge.data.dialects.rows import text_rows
from agentforge.data.messages import BadRow, normalize
from agentforge.recipe.template_names import family_templates
from tests.data.dialects.families import BY_NAME, MARK, PARALLEL, TABLE, base_tokenizer, facts, here, table
from tests.data.small_tokenizers import TOOLS

Messages = list[dict[str, Any]]
PLAIN: Messages = [
    {"role": "user", "content": "Which one?\nSay <|im_end|> or </s>."},
    {"role": "assistant", "content": "The first: é <b>."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": 'Yes, "quite".\n\nIt\'s so.'},
]
SYSTEM: Messages = [{"role": "system", "content": "You are AJ."}, *PLAIN]
REASONED: Messages = [
    turn | {"reasoning_content": "Let me see."} if turn["role"] == "assistant" else turn for turn in PLAIN
]
ARGUMENTS = {"command": 'echo "it\'s <é>" && ls\npwd'}
CALLS: Messages = [
    {"role": "user", "content": "Where?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "bash", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "name": "bash", "content": 'a.txt\n"b"'},
    {"role": "assistant", "content": "In a.txt."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "There too."},
]
CASES: dict[str, tuple[Messages, bool]] = {
    "plain": (PLAIN, False),
    "system": (SYSTEM, False),
    "reasoned": (REASONED, False),
    "calls": (CALLS, True),
    "parallel": (PARALLEL, True),
}
NAMES = [family.name for family in here()]


def refused(name: str, case: str) -> bool:
    """Tell whether the table says that a family has no place for a case."""
    cells = facts(BY_NAME[name])
    return {"reasoned": cells[6] == "–", "calls": cells[4] == "–", "parallel": cells[5] != "yes"}.get(case, False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_each_turn_stands_behind_its_prompt_and_is_read_back(name: str, case: str) -> None:
    messages, with_tools = CASES[case]
    tokenizer = base_tokenizer(name)
    tools = TOOLS if with_tools else None
    if refused(name, case) or (name, case) == ("LFM2.5", "calls"):  # it writes a newline in a string as it is
        with pytest.raises(BadRow):
            ct.encode_rows_of(tokenizer, messages, tools)
        return
    rows = ct.encode_rows_of(tokenizer, messages, tools)
    dialect = ct.dialect_of(tokenizer)
    trained = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = ct.encode_prompt(tokenizer, messages[:index], tools)
        row = next(row for row in rows if row.input_ids[: len(prompt)] == prompt and row.assistant_masks[len(prompt)])
        assert row.assistant_masks[len(prompt) - 1] == 0, "the prompt is read, not trained"
        said = row.input_ids[len(prompt) :][: [*row.assistant_masks[len(prompt) :], 0].index(0)]
        trained += len(said)
        assert said[-1] in ct.stop_token_ids(tokenizer), "a turn ends by a token that stops generation"
        read = dialect.read(tokenizer.decode(said[:-1], clean_up_tokenization_spaces=False), tools or ())
        assert not read.malformed
        assert read.content == message["content"].strip()
        assert read.reasoning_content == message.get("reasoning_content")
        assert read.tool_calls == message.get("tool_calls", [])
    assert trained == sum(sum(row.assistant_masks) for row in rows), "nothing else is trained"


@pytest.mark.parametrize("name", NAMES)
def test_the_rendering_is_the_bases_own(name: str) -> None:
    """Text is what transformers renders, byte for byte; nothing of our preparation changes it."""
    tokenizer = base_tokenizer(name)
    dialect = ct.dialect_of(tokenizer)
    messages = PLAIN if dialect.folds_system else SYSTEM
    tools = [] if name == "Hermes 3" else None
    named = {"chat_template": tokenizer.chat_template, **tokenizer.special_tokens_map}
    (prompt,), _ = render_jinja_template([messages[:-1]], tools=tools, add_generation_prompt=True, **named)
    (rendered,), _ = render_jinja_template([messages], tools=tools, **named)
    row = text_rows(ct.template_of(tokenizer), dialect, normalize(messages), None)[-1]
    assert row.text[: row.spans[-1][0]] == prompt
    if rendered.startswith(prompt):  # R1's does not begin an answer as its prompt does, Nemo's moves the system text
        assert row.text == rendered + (dialect.stop if dialect.next_role_stops else "")


@pytest.mark.parametrize("name", NAMES)
def test_a_text_begins_once(name: str) -> None:
    family, tokenizer = BY_NAME[name], base_tokenizer(name)
    begins = [row.input_ids.count(tokenizer.bos_token_id) for row in ct.encode_rows_of(tokenizer, PLAIN)]
    prompt = ct.encode_prompt(tokenizer, PLAIN[:1])
    if family.bos and family.adds_bos:
        assert set(begins) == {1}
        assert prompt[0] == tokenizer.bos_token_id
    assert prompt.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if f"{BY_NAME[name].template}_training"
        in {file.stem for file in next(iter(family_templates().values())).parent.glob("*_training.jinja")}
    ],
)
def test_what_is_trained_agrees_with_trls_training_templates(name: str) -> None:
    """Where TRL's twin writes the same text, it marks the same words as trained."""
    tokenizer = base_tokenizer(name)
    own = family_templates()[BY_NAME[name].template]
    twin = Template(own.with_name(f"{own.stem}_training.jinja").read_text(), ct.template_of(tokenizer).special)
    text, spans = twin.render_marked(normalize(PLAIN[:2]), None, prompt=False)
    (row,) = text_rows(ct.template_of(tokenizer), ct.dialect_of(tokenizer), normalize(PLAIN[:2]), None)
    if text != row.text:
        pytest.skip("TRL's twin writes another text than the base's template does behind its prompt")
    theirs, ours = ("".join(text[a:b] for a, b in found).strip() for found in (spans, row.spans))
    # Beside what is said, TRL's train what the prompt gives (gpt-oss) or what stands behind the stop (Phi-3).
    assert ours in theirs
    assert MARK.sub("", theirs.replace(ours, "")).strip() in ("", "assistant")


def test_the_table_in_the_docs_is_what_the_templates_do() -> None:
    page = Path(__file__).parents[3] / "docs" / "templates.md"
    written = TABLE.search(page.read_text(encoding="utf-8"))
    assert written is not None
    lines = written.group().splitlines()
    assert not [line for line in table() if line not in lines], (
        "run python -m tests.data.dialects.families docs/templates.md"
    )
