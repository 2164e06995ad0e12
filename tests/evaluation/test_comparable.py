"""Which ways of decoding belong side by side."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.evaluation.comparable import decoding_rows, differing, refuse_mixed, summary, template_of
from agentforge.rollouts.policies.base import Conversation
from agentforge.rollouts.policies.scripted import ScriptedPolicy

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 40, "top_p": 1.0, "seed": 42, "template": "a1"}
SAMPLED = GREEDY | {"temperature": 1.0}


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (GREEDY, GREEDY, []),
        (GREEDY, SAMPLED, ["temperature", "top_p", "seed"]),
        (GREEDY, GREEDY | {"max_new_tokens": 80}, ["max_new_tokens"]),
        (GREEDY, GREEDY | {"template": "b2"}, ["template"]),
        (GREEDY | {"max_turns": {"say": 1}}, GREEDY | {"max_turns": {"say": 2}}, ["max_turns"]),
        (GREEDY, {name: value for name, value in GREEDY.items() if name != "template"}, ["template"]),
        (GREEDY, GREEDY | {"seed": 7, "top_p": 0.9}, []),
        (SAMPLED, SAMPLED | {"seed": 7}, ["seed"]),
        (SAMPLED | {"samples": 1}, SAMPLED | {"samples": 4}, []),
    ],
)
def test_what_changes_a_score_has_to_be_the_same(one: dict[str, Any], other: dict[str, Any], names: list[str]) -> None:
    assert list(differing([one, other])) == names
    if names:
        with pytest.raises(UserError, match=rf"base was decoded with {names[0]} .*--mixed-decoding"):
            refuse_mixed(["base", "lora"], [one, other])
    else:
        refuse_mixed(["base", "lora"], [one, other])


def test_the_rows_of_a_table_say_how_and_in_what_models_differ() -> None:
    longer = SAMPLED | {"max_turns": {"say": 2}, "max_new_tokens": 80}
    rows = dict(decoding_rows([GREEDY | {"max_turns": {"say": 1}}, longer, None]))
    assert rows["decoding"] == ["greedy, 40 tokens", "T=1, 80 tokens", ""]
    assert rows["max_turns"] == ["say 1", "say 2", ""]
    assert list(dict(decoding_rows([GREEDY, GREEDY]))) == ["decoding"]
    assert list(dict(decoding_rows([GREEDY, SAMPLED]))) == ["decoding"], "greedy decoding ignores an equal seed"
    assert summary(SAMPLED) == "T=1, 40 tokens"


class Spaced(ScriptedPolicy):
    """A tokenizer that does not give white space back."""

    def decode(self, token_ids: Any) -> str:
        return super().decode(token_ids).replace(" ", "")


class Otherwise(ScriptedPolicy):
    """Another template."""

    def encode(self, messages: Any, tools: Any = ()) -> list[int]:
        return [*b"Question:", *super().encode(messages, tools)]


def test_a_template_is_known_by_the_prompts_that_it_writes() -> None:
    asked = [Conversation([{"role": "user", "content": f"How are you {n}?"}]) for n in range(40)]
    plain = template_of(ScriptedPolicy(lambda _: ""), asked)
    assert template_of(Spaced(lambda _: ""), asked) == plain
    assert template_of(Otherwise(lambda _: ""), asked) != plain
    with_tools = [Conversation(one.messages, [{"name": "bash"}]) for one in asked]
    assert template_of(ScriptedPolicy(lambda _: ""), with_tools) != plain
