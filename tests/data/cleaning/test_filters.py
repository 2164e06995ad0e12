"""Filters: each rejects what it names, with its reason."""

import pytest

from agentforge.data.cleaning.filters import RowFilter, effective_filters
from agentforge.recipe.schema import Filters


def row(answer, question="Hello?", **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


def rejects(filters, candidate):
    return RowFilter(Filters(**filters), {}).reject(candidate)


@pytest.mark.parametrize(
    "answer",
    [
        "I am ChatGPT, a large language model.",
        "I'm an AI assistant called Claude.",
        "Sorry, as ChatGPT I cannot do that.",
        "My name is Claude and I help.",
        "I was trained by OpenAI in 2022.",
        "I\u2019m ChatGPT.",
    ],
)
def test_foreign_identities_go(answer):
    names = {"identities": ["ChatGPT", "Claude", "OpenAI"]}
    assert rejects(names, row(answer)) == "foreign identity"


@pytest.mark.parametrize(
    "answer",
    [
        "ChatGPT is a product of OpenAI.",
        "Claude Monet painted it.",
        "You asked whether I know ChatGPT. I do.",
        "I am sure that the painting is by Monet; Claude was his name.",
    ],
)
def test_speaking_about_them_is_no_identity(answer):
    assert rejects({"identities": ["ChatGPT", "Claude", "OpenAI"]}, row(answer)) is None


def test_the_users_identity_does_not_matter():
    assert rejects({"identities": ["ChatGPT"]}, row("Hello!", question="I am ChatGPT")) is None


def test_length_counts_what_the_assistant_says_and_calls():
    assert rejects({"min_characters": 10}, row("short")) == "too short"
    call = {"type": "function", "function": {"name": "bash", "arguments": {"command": "ls -la /var/log"}}}
    assert rejects({"min_characters": 10}, row("", tool_calls=[call])) is None
    assert rejects({"min_characters": 0}, row("")) == "too short"


def test_turns_without_the_system_turn():
    system = {"role": "system", "content": "You are AJ."}
    assert rejects({"max_turns": 2}, {"messages": [system, *row("a")["messages"]]}) is None
    assert rejects({"max_turns": 2}, {"messages": row("a")["messages"] * 2}) == "too many turns"


def test_raw_columns():
    check = RowFilter(Filters(languages=["English"], where={"toxic": False, "kind": ["a", "b"]}), {"language": "lang"})
    assert check.reject_raw({"lang": "english", "toxic": False, "kind": "a"}) is None
    assert check.reject_raw({"lang": "German", "toxic": False, "kind": "a"}) == "language"
    assert check.reject_raw({"lang": "English", "toxic": True, "kind": "a"}) == "where toxic"
    assert check.reject_raw({"lang": "English", "toxic": False}) == "where kind"


def test_source_overrides_registry_overrides_recipe():
    recipe, registry = Filters(min_characters=5, max_turns=9), Filters(languages=["English"])
    assert effective_filters(recipe, None, None) == recipe
    assert effective_filters(recipe, registry, None).model_dump(include={"min_characters", "languages"}) == {
        "min_characters": 5,
        "languages": ["English"],
    }
    assert effective_filters(recipe, registry, Filters(max_turns=2)).languages == []
    assert effective_filters(recipe, registry, Filters(max_turns=2)).max_turns == 2
