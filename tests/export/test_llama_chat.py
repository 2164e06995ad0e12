"""llama-server reads what our models write: its own parser, on the template that stands in the GGUF."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from functools import cache
from typing import Any

import pytest

from agentforge.data import chat_template as ct
from agentforge.data.dialects.rows import prompt_row
from agentforge.data.messages import normalize
from tests.data.dialects.families import BY_NAME, PARALLEL, base_tokenizer, facts, here
from tests.data.dialects.test_families import CALLS, PLAIN, REASONED, refused
from tests.data.small_tokenizers import TOOLS, chatml_tokenizer
from tests.export.export_models import needs_llama_cpp
from tests.export.llama_chat import ask, chat_program, request

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.end_to_end,
    needs_llama_cpp,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
    pytest.mark.timeout(1800),  # the first run compiles
]
OURS = "agentforge's chatml"
# llama-server sets variables that training leaves to the template; `data.template_options` writes them into it.
OPTIONS: dict[str, dict[str, Any]] = {
    "Llama 3.1": {"date_string": "26 Jul 2024"},
    "Llama 3.3": {"date_string": "26 Jul 2024"},
    "Gemma 4": {"enable_thinking": False},
    "DeepSeek V3.1": {"thinking": False},
}
# With its end token </s> the parser that llama.cpp derives from the template reads no call; without any it reads them.
UNREAD = ("Mistral Small 3.2",)
# Their templates write reasoning as text, and mention think tags, so llama.cpp takes it out of the content.
TAKEN_OUT = ("SmolLM3", "Granite 3.3", "Kimi K2")
CASES = {"plain": (PLAIN, False), "reasoned": (REASONED, False), "calls": (CALLS, True), "parallel": (PARALLEL, True)}


@cache
def tokenizer_of(name: str) -> Any:
    tokenizer = chatml_tokenizer() if name == OURS else deepcopy(base_tokenizer(name))
    ct.install_template(tokenizer, "chatml" if name == OURS else "auto", OPTIONS.get(name))
    return tokenizer


def trained_turns(tokenizer: Any, messages: list[dict[str, Any]], tools: Any) -> list[tuple[int, str]]:
    """Return each assistant turn's place in a conversation, and its text as it is trained, without the stop token."""
    rows, found = ct.encode_rows_of(tokenizer, messages, tools), []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = ct.encode_prompt(tokenizer, messages[:index], tools)
            row = next(r for r in rows if r.input_ids[: len(prompt)] == prompt and r.assistant_masks[len(prompt)])
            said = row.input_ids[len(prompt) :][: [*row.assistant_masks[len(prompt) :], 0].index(0)]
            found.append((index, tokenizer.decode(said[:-1], clean_up_tokenization_spaces=False)))
    return found


def as_sent(tokenizer: Any, text: str, preserved: list[str]) -> str:
    """Return a text as llama-server hands it to its parser: without control tokens that the parser does not ask for."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} - set(preserved)
    return re.sub("|".join(map(re.escape, special)), "", text) if special else text


def as_answered(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """Return a turn with reasoning "as text" in its content, as the template wrote it and a client sends it back."""
    if name == OURS or facts(BY_NAME[name])[6] != "as text" or "reasoning_content" not in said:
        return said
    thought = f"<think>\n{said['reasoning_content']}\n</think>\n\n"
    return {**{k: v for k, v in said.items() if k != "reasoning_content"}, "content": thought + said["content"]}


def read_by_llama(name: str, case: str) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Return what was said in each turn, llama-server's answer, and our prompt."""
    messages, with_tools = CASES[case]
    tokenizer, tools = tokenizer_of(name), TOOLS if with_tools else None
    template = ct.serving_template(tokenizer)
    asked = []
    for index, text in trained_turns(tokenizer, messages, tools):
        before, sent_before = normalize(messages[:index]), [as_answered(name, said) for said in messages[:index]]
        prompt = prompt_row(ct.template_of(tokenizer), ct.dialect_of(tokenizer), before, tools).text
        fields = (template, tokenizer.bos_token or "", tokenizer.eos_token or "", sent_before, tools)
        said = messages[index] if name in TAKEN_OUT else as_answered(name, messages[index])
        asked.append((said, fields, text, prompt))
    kept = [one.get("preserved", []) for one in ask(chat_program(), [request(*f, t) for _, f, t, _ in asked])]
    sent = [
        request(*fields, as_sent(tokenizer, text, tokens))
        for (_, fields, text, _), tokens in zip(asked, kept, strict=True)
    ]
    answers = ask(chat_program(), sent)
    return [(said, got, prompt) for (said, _, _, prompt), got in zip(asked, answers, strict=True)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [OURS, *(family.name for family in here())])
def test_its_parser_reads_the_trained_turns(name: str, case: str) -> None:
    if name != OURS and (refused(name, case) or (name, case) == ("LFM2.5", "calls")):
        pytest.skip("the template has no place for it, so nothing of it is trained")
    for said, got, prompt in read_by_llama(name, case):
        if name in UNREAD and said.get("tool_calls"):
            assert "does not match the expected" in got["error"], "it is read now: take it out of UNREAD"
            continue
        assert "error" not in got, got
        message = got["message"]
        if "reasoning_content" in said:
            assert message["reasoning_content"].strip() == said["reasoning_content"], got
        calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", [])]
        expected = [(c["function"]["name"], c["function"]["arguments"]) for c in said.get("tool_calls", [])]
        assert calls == expected, got
        assert (message.get("content") or "").strip() == said["content"].strip(), got
        assert got["prompt"] == prompt
