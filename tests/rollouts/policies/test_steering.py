"""Turns whose tokens are decided one by one, in both engines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from agentforge.errors import UserError
from agentforge.models.locate_model import locate_path
from agentforge.rollouts.policies.base import Conversation, Policy, Sampling
from agentforge.rollouts.policies.constraints import GrammarRefused
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.rollouts.policies.steering import Steering

GREEDY = Sampling(max_new_tokens=60)


@pytest.fixture(scope="module", params=["hf", pytest.param("gguf", marks=pytest.mark.gguf)])
def policy(request: pytest.FixtureRequest) -> Policy:
    path = request.getfixturevalue("talking_checkpoint" if request.param == "hf" else "talking_gguf")
    return open_policy(locate_path(str(path)))


@pytest.fixture
def hello(learnt_conversations: Any, two_tools: Any) -> Conversation:
    return Conversation(learnt_conversations[1][:2], two_tools)


def said(policy: Policy, conversation: Conversation, steering: Steering) -> str:
    return policy.reply(conversation, steering, lambda *_: False).text


def test_looking_at_the_probabilities_changes_nothing(policy: Policy, hello: Conversation) -> None:
    steering = Steering(GREEDY, top_logprobs=2)
    watched = policy.reply(hello, steering, lambda *_: False)
    assert watched.text == policy.generate([hello], GREEDY)[0].text == "Hello, I am AJ."
    assert [step.token for step in steering.steps] == watched.token_ids, "the stop token has a step of its own"
    assert all(step.top[0] == (step.token, step.logprob) for step in steering.steps)


def test_probabilities_are_the_models_whatever_is_drawn(policy: Policy, hello: Conversation) -> None:
    """At temperature 1 and before the filters: what is read there must not depend on how the token was drawn."""
    hot, cold = (Steering(Sampling(1, temperature, top_k=5, seed=3), top_logprobs=5) for temperature in (2.0, 0.3))
    for steering in (hot, cold):
        said(policy, hello, steering)
    assert [logprob for _, logprob in hot.steps[0].top] == pytest.approx([p for _, p in cold.steps[0].top], abs=1e-3)


def test_listening_in_can_end_the_turn(policy: Policy, hello: Conversation) -> None:
    heard: list[int | None] = []

    def listen(_: str, token: int | None) -> bool:
        heard.append(token)
        return len(heard) == 3

    generation = policy.reply(hello, Steering(GREEDY, top_logprobs=0), listen)
    assert generation.token_ids == heard and len(heard) == 3 and not generation.stopped


@pytest.mark.parametrize("failure", [UserError("broken"), KeyboardInterrupt()])
def test_what_fails_inside_a_step_is_not_lost(policy: Policy, hello: Conversation, failure: BaseException) -> None:
    """llama.cpp calls the step from C, where Python prints an exception and goes on; Ctrl-C comes there too."""

    class Failing(Steering):
        def choose(self, logits: torch.Tensor) -> int:
            raise failure

    with pytest.raises(type(failure)):
        said(policy, hello, Failing(GREEDY, top_logprobs=0))
    assert said(policy, hello, Steering(GREEDY)) == "Hello, I am AJ.", "the next turn is as ever"


def test_a_grammar_decides_what_may_come(policy: Policy, hello: Conversation) -> None:
    pytest.importorskip("llguidance")
    tokenizer = policy.grammar_tokenizer()
    assert tokenizer is policy.grammar_tokenizer(), "making one takes a second"
    grammar = 'start: "yes" | "no"'
    texts = {
        said(policy, hello, Steering(Sampling(20, 3.0, seed=seed), tokenizer.constraint(grammar))) for seed in range(4)
    }
    assert texts <= {"yes", "no"}
    schema = {"type": "object", "properties": {"<|im_end|>": {"const": "<tool_call>"}}, "required": ["<|im_end|>"]}
    grammar = "start: %json " + json.dumps(schema | {"additionalProperties": False})
    text = said(policy, hello, Steering(Sampling(60), tokenizer.constraint(grammar)))
    assert json.loads(text) == {"<|im_end|>": "<tool_call>"}, "text that spells control tokens is text"
    with pytest.raises(GrammarRefused):
        tokenizer.constraint("start: nowhere")


def test_a_policy_that_shows_no_logits_says_so() -> None:
    scripted = ScriptedPolicy(lambda _: "x")
    with pytest.raises(UserError, match="does not expose its logits"):
        said(scripted, Conversation([]), Steering(GREEDY, top_logprobs=0))
    with pytest.raises(UserError, match="cannot be held to a grammar"):
        scripted.grammar_tokenizer()
