"""The template, the tokens and the mask: properties, golden files, and each bug of the templates it replaces."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from agentforge.data import chat_template as ct
from agentforge.data.codec import GUARDS
from agentforge.data.messages import BadRow, normalize
from agentforge.data.tool_calls import parse_assistant
from agentforge.errors import UserError
from tests.data.small_tokenizers import CONVERSATION, TOOLS, chatml_tokenizer, r1_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
PLAIN = [  # nothing that our preparation changes: rendered by itself the stored template must give the same
    {"role": "system", "content": "You are AJ. é <&>'"},
    {"role": "user", "content": "hi\n"},
    {
        "role": "assistant",
        "content": "look",
        "reasoning_content": "hm",
        "tool_calls": [
            {"type": "function", "function": {"name": "bash", "arguments": {"command": "echo <&>'é日\"\\"}}}
        ],
    },
    {"role": "tool", "content": "out <&>'"},
    {"role": "assistant", "content": "done"},
]

text = st.text(max_size=40) | st.text(st.sampled_from("<|im_end>/\\thinkool_ca \n｜"), max_size=30)
tagged = st.tuples(text, st.sampled_from(["<tool_call>", "</tool_call>", "<|im_end|>", "</think>", "<\\think>"]), text)
content = text | tagged.map("".join)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | content,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(content, inner, max_size=3),
    max_leaves=6,
)
calls = st.lists(
    st.builds(
        lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
        st.text(min_size=1, max_size=10),
        st.dictionaries(content, json_value, max_size=3),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(content)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(content)})
        assistant: dict[str, Any] = {"role": "assistant", "content": draw(content)}
        if draw(st.booleans()):
            assistant["reasoning_content"] = draw(content)
        if made := draw(calls):
            assistant["tool_calls"] = made
        messages.append(assistant)
        messages += [{"role": "tool", "content": draw(content)} for _ in made]
    return messages


@pytest.fixture(scope="module", params=["chatml", "deepseek_r1"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    tokenizer = chatml_tokenizer() if request.param == "chatml" else r1_tokenizer()
    ct.install_template(tokenizer)
    assert tokenizer.chat_template == ct.template_source(request.param), "auto takes the family by its markers"
    return tokenizer


few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- properties ------------------------------------------------------------------------------------------------------


@given(messages=conversations(), tools=st.sampled_from([None, TOOLS]))
@few
def test_each_turn_only_appends(tokenizer: PreTrainedTokenizerFast, messages: list, tools: list | None) -> None:
    whole = ct.render(tokenizer, messages, tools)
    for end in range(1, len(messages)):
        assert whole.startswith(ct.render(tokenizer, messages[:end], tools))
        if messages[end]["role"] == "assistant":
            assert whole.startswith(ct.render(tokenizer, messages[:end], tools, add_generation_prompt=True))


@given(messages=conversations(), tools=st.sampled_from([None, TOOLS]))
@few
def test_tokens_of_the_prompt_are_those_of_training(
    tokenizer: PreTrainedTokenizerFast, messages: list, tools: list | None
) -> None:
    """And just behind each prompt the first trained token stands."""
    encoding = ct.encode(tokenizer, messages, tools)
    for end, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = ct.encode_prompt(tokenizer, messages[:end], tools)
            assert encoding.input_ids[: len(prompt)] == prompt
            assert encoding.assistant_masks[len(prompt) - 1 : len(prompt) + 1] == [0, 1]


@given(messages=conversations())
@few
def test_every_turn_ends_in_a_trained_stop_token(tokenizer: PreTrainedTokenizerFast, messages: list) -> None:
    encoding = ct.encode(tokenizer, messages)
    assistants = sum(message["role"] == "assistant" for message in messages)
    stop = tokenizer.eos_token_id
    trained = [(i, m) for i, m in zip(encoding.input_ids, encoding.assistant_masks, strict=True) if i == stop and m]
    assert len(trained) == assistants
    assert ct.stop_token_ids(tokenizer)[0] == stop


def test_a_text_may_hold_the_characters_that_break_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    def row(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{tokenizer.eos_token}{text}"}, {"role": "assistant", "content": "ok"}]

    few = GUARDS[:4]
    assert f"{tokenizer.eos_token}{few}" in tokenizer.decode(ct.encode(tokenizer, row(few)).input_ids)
    with pytest.raises(BadRow, match="all 66 noncharacters"):
        ct.encode(tokenizer, row(GUARDS))


@given(messages=conversations())
@few
def test_parsing_gives_back_what_was_rendered(tokenizer: PreTrainedTokenizerFast, messages: list) -> None:
    for message in messages:
        if message["role"] == "assistant":
            prompt = ct.render(tokenizer, [{"role": "user", "content": ""}], add_generation_prompt=True)
            rendered = ct.render(tokenizer, [{"role": "user", "content": ""}, message])
            written = rendered.removeprefix(prompt).removesuffix("\n" if "<|im_end|>\n" in prompt else "")
            turn = parse_assistant(written.removesuffix(tokenizer.eos_token))
            assert turn.malformed == []
            assert turn.message() == normalize([message])[0]


@given(messages=conversations())
@few
def test_text_never_becomes_a_control_token(tokenizer: PreTrainedTokenizerFast, messages: list) -> None:
    """Blanking the texts leaves the same control tokens in the same order."""
    added = set(tokenizer.added_tokens_decoder)
    blank = [
        message
        | {"content": "x" * bool(message["content"])}
        | ({"reasoning_content": "x" * bool(message["reasoning_content"])} if "reasoning_content" in message else {})
        | (
            {"tool_calls": [{"name": "f", "arguments": {}} for _ in message["tool_calls"]]}
            if "tool_calls" in message
            else {}
        )
        for message in normalize(messages)
    ]
    controls = [[i for i in ct.encode(tokenizer, each).input_ids if i in added] for each in (messages, blank)]
    assert controls[0] == controls[1]


def test_words_and_spaces_that_were_added_stay_tokens() -> None:
    """Tokenizers of the GPT-NeoX family have runs of spaces among their added tokens; code is full of them."""
    tokenizer = chatml_tokenizer()
    tokenizer.add_tokens(["        ", "kubectl"])
    ct.install_template(tokenizer)
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "kubectl        <think>"}]
    ids = ct.encode(tokenizer, messages).input_ids
    spaces, word = tokenizer.convert_tokens_to_ids(["        ", "kubectl"])
    assert (ids.count(spaces), ids.count(word)) == (1, 1)
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids


# -- the same text everywhere ----------------------------------------------------------------------------------------


def test_transformers_and_llama_cpp_render_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    ours = ct.render(tokenizer, PLAIN, TOOLS, add_generation_prompt=True)
    theirs = tokenizer.apply_chat_template(PLAIN, tools=TOOLS, add_generation_prompt=True, tokenize=False)
    assert ours == theirs
    assert "<&>'é日" in ours
    formats = pytest.importorskip("llama_cpp.llama_chat_format")
    for template in (ct.serving_template(tokenizer), tokenizer.chat_template):
        formatter = formats.Jinja2ChatFormatter(template, eos_token=tokenizer.eos_token, bos_token="")
        assert formatter(messages=PLAIN, tools=TOOLS).prompt == ours
    assert "generation -" not in ct.serving_template(tokenizer)


def test_tokens_are_those_of_transformers(tokenizer: PreTrainedTokenizerFast) -> None:
    """Where no text borders on another, cutting at the borders changes nothing."""
    theirs = tokenizer.apply_chat_template(
        PLAIN, tools=TOOLS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = ct.encode(tokenizer, PLAIN, TOOLS)
    assert ours.input_ids == theirs["input_ids"]
    assert ours.assistant_masks == theirs["assistant_masks"]


def test_saved_and_loaded_it_is_the_same_template(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from agentforge.data.tokenizer import load_tokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert ct.template_hash(loaded) == ct.template_hash(tokenizer)
    assert ct.encode(loaded, CONVERSATION, TOOLS) == ct.encode(tokenizer, CONVERSATION, TOOLS)


@pytest.mark.parametrize("kind", ["chatml", "deepseek_r1"])
def test_golden_masks(kind: str) -> None:
    """Control tokens stand in ⟦⟧, what is trained in «»; `UPDATE_GOLDEN=1 pytest` writes the files again."""
    tokenizer = chatml_tokenizer() if kind == "chatml" else r1_tokenizer()
    ct.install_template(tokenizer, kind)
    encoding = ct.encode(tokenizer, CONVERSATION, TOOLS)
    shown = ""
    added = tokenizer.added_tokens_decoder
    tokens = zip(encoding.input_ids, encoding.assistant_masks, strict=True)
    for (trained, control), run in groupby(tokens, key=lambda token: (token[1], token[0] in added)):
        ids = [token for token, _ in run]
        words = [added[token].content for token in ids] if control else [tokenizer.decode(ids)]
        decoded = "".join(f"⟦{word}⟧" for word in words) if control else words[0]
        shown += f"«{decoded}»" if trained else decoded
    shown = shown.replace("»«", "") + "\n"
    path = GOLDEN / f"masks_{kind}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


# -- the bugs of other templates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [{}, {"content": None}, {"content": ""}])
def test_a_call_turn_without_content(tokenizer: PreTrainedTokenizerFast, missing: dict) -> None:
    """R1's template fails on the first, never closes the second, and drops the call of the third."""
    call = {"role": "assistant", "tool_calls": [{"name": "bash", "arguments": {"command": "docker ps"}}], **missing}
    messages = [{"role": "user", "content": "List"}, call]
    rendered = ct.render(tokenizer, messages)
    assert rendered.rstrip("\n").endswith(
        '<tool_call>\n{"name": "bash", "arguments": {"command": "docker ps"}}\n</tool_call>' + tokenizer.eos_token
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == rendered


def test_strings_and_dicts_are_the_same_call(tokenizer: PreTrainedTokenizerFast) -> None:
    """Qwen2.5's template encodes string arguments twice, so a served model sees another format than was trained."""
    forms = [
        {"name": "f", "arguments": {"a": "é<&>", "b": [1, None]}},
        {"name": "f", "arguments": '{"a":"é<&>","b":[1,null]}'},
        {"type": "function", "function": {"name": "f", "arguments": {"a": "é<&>", "b": [1, None]}}},
        {"type": "function", "function": {"name": "f", "arguments": '{"a": "\\u00e9<&>", "b": [1, null]}'}},
    ]
    rendered = {
        ct.render(tokenizer, [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [form]}])
        for form in forms
    }
    assert len(rendered) == 1
    assert '{"name": "f", "arguments": {"a": "é<&>", "b": [1, null]}}' in rendered.pop()


def test_reasoning_of_every_turn_is_trained(tokenizer: PreTrainedTokenizerFast) -> None:
    """R1's template cuts the reasoning from every assistant turn, also from what is to be learnt."""
    encoding = ct.encode(tokenizer, CONVERSATION, TOOLS)
    trained = [i for i, m in zip(encoding.input_ids, encoding.assistant_masks, strict=True) if m]
    learnt = tokenizer.decode(trained, clean_up_tokenization_spaces=False)
    assert "<think>\nDocker lists them.\n</think>\n\nI look." in learnt
    assert "<think>\nTwo.\n</think>\n\nTwo containers" in learnt


@pytest.mark.parametrize("written", ["<think>a</think>b", "<think>\na\n</think>\n\nb", "a</think>b"])
def test_reasoning_in_the_content_is_reasoning(tokenizer: PreTrainedTokenizerFast, written: str) -> None:
    user = {"role": "user", "content": "x"}
    apart = {"role": "assistant", "content": "b", "reasoning_content": "a"}
    assert ct.render(tokenizer, [user, {"role": "assistant", "content": written}]) == ct.render(
        tokenizer, [user, apart]
    )


def test_a_second_call_turn_has_its_header(tokenizer: PreTrainedTokenizerFast) -> None:
    """R1's template never resets its state: the second call turn loses its header."""
    rendered = ct.render(tokenizer, CONVERSATION, TOOLS)
    header = "<|im_start|>assistant\n" if "<|im_start|>" in tokenizer.get_vocab() else "<｜Assistant｜>"
    assert rendered.count(header) == 4
    assert header + '<tool_call>\n{"name": "bash", "arguments": {"command": "docker stop web"}}' in rendered


def test_tools_are_offered(tokenizer: PreTrainedTokenizerFast) -> None:
    """R1's template never shows them. Ours does, with a system turn of the user's or without one."""
    for messages in (PLAIN[:2], PLAIN[1:2]):
        rendered = ct.render(tokenizer, messages, TOOLS)
        assert "Run <a> command & give 'its' output, é" in rendered
        assert rendered.index("# Tools") < rendered.index("hi\n")


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_marker_that_splits_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs '<\|im_start\|>' as one token.*splits it into \d+ pieces"):
        ct.install_template(r1_tokenizer(), "chatml")
    with pytest.raises(UserError, match="needs '<｜begin▁of▁sentence｜>' as one token"):
        ct.install_template(chatml_tokenizer(), "deepseek_r1")


def test_a_base_without_markers_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    bare = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(UserError, match="none of these as single tokens"):
        ct.install_template(PreTrainedTokenizerFast(tokenizer_object=bare))


def test_what_is_trained_is_the_same_with_and_without_generation_marks() -> None:
    tokenizer = chatml_tokenizer()
    with pytest.raises(UserError, match="has no chat template"):
        ct.encode(tokenizer, PLAIN)
    ct.install_template(tokenizer)
    marked = ct.encode(tokenizer, CONVERSATION, TOOLS)
    tokenizer.chat_template = ct.serving_template(tokenizer)
    assert ct.encode(tokenizer, CONVERSATION, TOOLS) == marked


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "x"}], "no assistant turn"),
        ([{"role": "bot", "content": "x"}], "unknown role"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "late system turn"),
        ([{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}], "tool result without call"),
        ([{"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"}], "tool result without call"),
        (CONVERSATION[:5] + CONVERSATION[4:5], "tool result without call"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{'a': 1}"}]}], "tool call is no JSON"),
        ([{"role": "assistant", "tool_calls": [{"arguments": {}}]}], "tool call is no JSON"),
        ([{"role": "assistant", "tool_calls": ["ls"]}], "tool call is no JSON"),
        ([{"role": "assistant", "content": 3}], "content is no text"),
        ([{"role": "assistant", "content": "\ud800"}], "broken unicode"),
    ],
)
def test_bad_rows_have_a_reason(tokenizer: PreTrainedTokenizerFast, messages: list, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        ct.encode(tokenizer, messages)
    assert caught.value.reason == reason


# -- batches and documents -------------------------------------------------------------------------------------------


def test_a_batch_is_its_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [(CONVERSATION, TOOLS), (PLAIN, None), (CONVERSATION, None)] * 3
    assert ct.encode_batch(tokenizer, rows) == [[ct.encode(tokenizer, *row)] for row in rows]
    assert ct.encode_batch(tokenizer, []) == []


def test_documents_are_trained_to_their_end(tokenizer: PreTrainedTokenizerFast) -> None:
    encoding = ct.encode_documents(tokenizer, ["a <|im_end|> b"])[0]
    assert set(encoding.assistant_masks) == {1}
    assert encoding.input_ids[-1] == ct.stop_token_ids(tokenizer)[-1]
    assert not {*encoding.input_ids[:-1]} & {*tokenizer.added_tokens_decoder}
    assert tokenizer.decode(encoding.input_ids[:-1], clean_up_tokenization_spaces=False) == "a <|im_end|> b"
