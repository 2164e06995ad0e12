"""The preview shows what is trained, and nothing of the data can act on the terminal or the page."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from agentforge.data.chat_template import encode, install_template, render
from agentforge.data.messages import normalize
from agentforge.data.preview import (
    LONG_RUN,
    PreviewRow,
    preview_row,
    preview_rows,
    render_terminal,
    token_texts,
    write_html,
)
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Data, Model, Recipe, Source, TokenizerTraining, Train
from tests.data.small_tokenizers import CONVERSATION, TOOLS, chatml_tokenizer

HOSTILE = "<script>alert(1)</script> & \x1b[31mred\x1b[0m \x07 [bold]x[/bold] ${{}} {legend}"
ROW = {"messages": normalize(CONVERSATION), "tools": TOOLS}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = chatml_tokenizer()
    install_template(tokenizer)
    return tokenizer


def recipe(**data: object) -> Recipe:
    return Recipe(name="x", data=Data(**data))


def in_terminal(row: PreviewRow) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200, force_terminal=True, color_system="standard").print(render_terminal([row]))
    return stream.getvalue()


def test_states_are_the_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = preview_row(tokenizer, recipe(), ROW, "aj", 1)
    encoding = encode(tokenizer, CONVERSATION, TOOLS)
    assert [token.id for token in row.tokens] == encoding.input_ids
    assert [int(token.state == "trained") for token in row.tokens] == encoding.assistant_masks
    assert row.counts == {"trained": sum(encoding.assistant_masks), "read": encoding.assistant_masks.count(0), "cut": 0}
    assert len(row.tool_calls) == 3
    assert json.loads(row.tool_calls[1]) == {"name": "bash", "arguments": {"command": "docker info"}}
    assert "3 tool calls" in row.title


@pytest.mark.parametrize(
    ("overflow", "note", "cut"),
    [("truncate", "tokens are cut off", True), ("drop", "the whole row is dropped", True), ("split", "rows", False)],
)
def test_what_is_too_long_is_shown(tokenizer: PreTrainedTokenizerFast, overflow: str, note: str, cut: bool) -> None:
    (row,) = preview_row(tokenizer, recipe(max_length=50, overflow=overflow), ROW, "aj", 1)
    assert note in row.note
    # Not one turn fits, and a row with tool calls is never cut inside one.
    kept = [position for position, token in enumerate(row.tokens) if token.state != "cut"]
    assert kept == [] if cut else row.tokens[kept[-1]].text == "<|im_end|>"
    talk = {
        "messages": normalize([{"role": "user", "content": "count"}, {"role": "assistant", "content": "one two " * 40}])
    }
    (row,) = preview_row(tokenizer, recipe(max_length=50, overflow=overflow), talk, "aj", 1)
    expected = [cut and (i >= 50 or overflow == "drop") for i in range(len(row.tokens))]
    assert [token.state == "cut" for token in row.tokens] == expected


def test_a_row_of_which_nothing_is_trained_is_called_so(tokenizer: PreTrainedTokenizerFast) -> None:
    """The tools block alone can be longer than max_length."""
    assert "no trained token is left" in preview_row(tokenizer, recipe(max_length=50), ROW, "aj", 1)[0].note
    assert "no trained token" not in preview_row(tokenizer, recipe(max_length=2048), ROW, "aj", 1)[0].note


def test_texts_of_tokens_join_to_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """Most characters here are several tokens."""
    messages = [{"role": "user", "content": "日本 👩‍👩‍👧 é"}, {"role": "assistant", "content": "한국어"}]
    shown = "".join(text for _, text in token_texts(tokenizer, encode(tokenizer, messages).input_ids))
    assert shown == render(tokenizer, messages)


def test_the_terminal_gets_colours_and_no_commands(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "answer"}]
    output = in_terminal(*preview_row(tokenizer, recipe(), {"messages": messages}, "[red]aj", 1))
    assert re.search(r"\x1b\[[\d;]*32m", output), "what is trained is green"
    assert "␛[31mred" in output
    assert "\x07" not in output
    assert "[bold]x[/bold]" in output
    assert "[red]aj, row 1" in output


class Page(HTMLParser):
    """The tags and the texts by class of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.inside = (dict(attributes).get("class") or "").split(" ")[0] if tag == "span" else ""

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


def test_the_page_holds_everything_and_runs_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    call = {"name": "bash", "arguments": {"command": HOSTILE}}
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "answer", "tool_calls": [call]}]
    path = tmp_path / "deep" / "page.html"
    write_html(preview_row(tokenizer, recipe(), {"messages": normalize(messages)}, "<b>aj", 1), path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags == {
        "html",
        "meta",
        "title",
        "style",
        "h1",
        "h2",
        "p",
        "span",
        "section",
        "pre",
        "ol",
        "li",
        "code",
    }
    assert "<script>alert(1)</script>" in page.texts["read"]
    assert "answer" in page.texts["trained"]
    assert "\x1b" not in text
    assert "://" not in text
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_of_every_source_as_prepare_makes_them(tmp_path: Path) -> None:
    good = [{"messages": CONVERSATION[:-2], "tools": TOOLS}] * 3
    bad = {"messages": [{"role": "user", "content": "no answer"}]}
    made = Recipe(
        name="x",
        output_dir=str(tmp_path / "runs"),
        model=Model(tokenizer=TokenizerTraining(vocab_size=400)),
        data=Data(
            mix=[
                Source(dataset=write(tmp_path / "a.jsonl", [bad, *good])),
                Source(dataset=write(tmp_path / "b.jsonl", good[:1])),
            ],
        ),
    )
    rows = preview_rows(made, 2)
    assert [row.number for row in rows] == [1, 2, 1]
    assert len({row.source for row in rows}) == 2
    assert all(row.counts["trained"] and row.counts["read"] for row in rows)


def test_a_source_of_rejected_rows_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "no answer"}]}])
    made = Recipe(name="x", model=Model(tokenizer=TokenizerTraining()), data=Data(mix=[Source(dataset=file)]))
    with pytest.raises(CheckRefused, match="no row can be shown"):
        preview_rows(made)


def test_a_tokenizer_that_a_system_brings(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"text": "Zu spät."}])
    made = Recipe(
        name="x",
        output_dir=str(tmp_path / "runs"),
        model=Model(tokenizer="bytes"),
        data=Data(mix=[Source(dataset=file)]),
        train=Train(method="pretrain"),
    )
    (row,) = preview_rows(made)
    begin, *spoken, end = row.tokens
    assert [token.id for token in spoken] == list("Zu spät.".encode())
    assert "".join(token.text for token in spoken) == "Zu spät."
    assert (begin.text, end.text) == ("<|begin|>", "<|end|>")


def test_a_recipe_without_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.mix is empty"):
        preview_rows(Recipe(name="x"))


def test_without_colours_brackets_show_what_is_trained_and_what_is_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    talk = {
        "messages": normalize([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one two three"}])
    }
    length = len(preview_row(tokenizer, recipe(), talk, "aj", 1)[0].tokens)
    (row,) = preview_row(tokenizer, recipe(max_length=max(16, length - 3)), talk, "aj", 1)
    stream = io.StringIO()
    Console(file=stream, width=200).print(render_terminal([row], coloured=False))
    shown = stream.getvalue()
    trained, cut = re.search("⟦one.*?⟧", shown, re.S), re.search("⟨(?!beyond).*?⟩", shown, re.S)
    assert trained and cut and shown.index(trained[0]) < shown.index(cut[0])
    assert "⟦" not in in_terminal(row)


def test_of_a_long_document_the_middle_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = preview_row(tokenizer, recipe(max_length=10_000), {"text": "begin " + "word " * 3000 + "end"}, "book", 1)
    shown = in_terminal(row)
    assert "begin" in shown and "end" in shown and len(shown) < 6000
    assert f"{len(row.tokens) - LONG_RUN:,} tokens more" in shown
