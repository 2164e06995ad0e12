"""Episodes: token by token what the policy was given, whatever it writes and whatever breaks."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from agentforge.data import chat_template
from agentforge.errors import CheckRefused, UserError
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.experts import Actor, Baseline, Expert
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Conversation, Policy, Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.rollouts.scheduler import Task
from tests.data.small_tokenizers import chatml_tokenizer, r1_tokenizer
from tests.rollouts.players import TOYS, Scripted
from tests.rollouts.toys import Count

SAMPLING = Sampling(max_new_tokens=48)
TOOL_CALL = '<tool_call>\n{"name": "act", "arguments": {"action": "%s"}}\n</tool_call>'


@pytest.fixture(scope="module", params=[chatml_tokenizer, r1_tokenizer])
def tokenizer(request: Any) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = request.param()
    chat_template.install_template(made)
    return made


def played(policy: Policy | Actor, tasks: list[Task], **options: Any) -> list[Episode]:
    with EnvironmentPool(TOYS) as pool:
        return play(policy, pool, tasks, **({"sampling": SAMPLING} | options))


def count_down(form: str = "I count.\nAction: %s") -> Any:
    """Answers as the expert of `Count` would, from what it reads."""
    return lambda prompt: form % (int(re.findall(r"at (\d+)", prompt)[-1]) - 1)


@pytest.mark.parametrize(
    "form, act", [("I count.\nAction: %s", "text"), (TOOL_CALL, "tool"), ("Hm?\n" + TOOL_CALL, "tool")]
)
def test_tokens_of_canonical_text_are_those_that_prepare_gives(
    tokenizer: PreTrainedTokenizerFast, form: str, act: str
) -> None:
    policy = Scripted(tokenizer, count_down(form))
    (episode,) = played(policy, [Task("count", 2)], act=act)
    assert episode.success and len(episode.turns) == 3
    row = chat_template.encode(tokenizer, episode.messages, episode.tools or None)
    whole = episode.prompt_ids + episode.token_ids
    assert whole == row.input_ids[: len(whole)]
    assert [0] * len(episode.prompt_ids) + episode.mask == row.assistant_masks[: len(whole)]
    assert not any(row.assistant_masks[len(whole) :])


@pytest.mark.parametrize("stops", [True, False])
def test_a_policy_is_given_exactly_what_the_episode_says(tokenizer: PreTrainedTokenizerFast, stops: bool) -> None:
    """In tokens as no tokenizer makes them, with turns that never end by themselves too."""
    policy = Scripted(tokenizer, count_down(), letters=True, stops=stops)
    (episode,) = played(policy, [Task("count", 3)])
    assert len(policy.requests) == len(episode.turns) == 4
    assert policy.requests[0].token_ids == episode.prompt_ids
    for request, (before, turn) in zip(policy.requests[1:], pairwise(episode.turns), strict=True):
        assert request.token_ids == episode.prompt_ids + episode.token_ids[: turn.start]
        between = slice(before.end, turn.start)
        assert not any(episode.mask[between]) and not any(episode.logprobs[between])
        assert (episode.token_ids[before.end] == policy.stop_ids[0]) is not stops
        assert before.observation in policy.decode(episode.token_ids[between])
    for turn in episode.turns:
        assert all(episode.mask[turn.start : turn.end])
        assert policy.decode(episode.token_ids[turn.start : turn.end - stops]) == turn.text
        assert set(episode.logprobs[turn.start : turn.end]) == {-0.5}
    assert episode.token_ids[episode.turns[-1].end :] == []


def test_every_turn_has_a_seed_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    policy = Scripted(tokenizer, count_down())
    played(policy, [Task("count", 3, seed, sample) for seed in (0, 1) for sample in (0, 1)])
    seeds = {request.seed for request in policy.requests}
    assert len(seeds) == len(policy.requests) == 16
    played(policy, [Task("count", 3, 1, 1)])
    assert {request.seed for request in policy.requests[16:]} < seeds


def test_no_action_is_an_invalid_action_and_no_crash(tokenizer: PreTrainedTokenizerFast) -> None:
    for act in ("text", "tool"):
        episodes = played(
            Scripted(tokenizer, lambda prompt: "<tool_call> {"), [Task("count", 1), Task("add", 5)], act=act
        )
        assert [len(episode.turns) for episode in episodes] == [4, 1]
        assert [(e.valid_actions, e.success, e.reward) for e in episodes] == [(0.0, False, 0.0)] * 2
        assert episodes[0].truncated and not episodes[0].terminated
        assert all(message["role"] != "tool" for message in episodes[0].messages)


def test_an_episode_that_gets_too_long_is_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    policy = Scripted(tokenizer, count_down())
    (whole,) = played(policy, [Task("count", 3)])
    assert whole.terminated and not whole.truncated
    limit = len(whole.prompt_ids) + whole.turns[2].start + 3
    (cut,) = played(policy, [Task("count", 3)], max_length=limit)
    assert cut.truncated and not cut.success and len(cut.turns) == 3
    assert len(cut.prompt_ids) + len(cut.token_ids) == limit
    assert cut.score == cut.turns[-1].score == 0.5
    (unread,) = played(policy, [Task("count", 3)], max_length=10)
    assert unread.truncated and unread.turns == [] and unread.token_ids == [] and unread.score == 0


def test_a_broken_environment_loses_its_episode_and_no_other(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Count, "broken", {2})
    tasks = [Task("count", task) for task in (1, 2, 3)]
    lost: list[tuple[Task, str]] = []
    ended: list[int] = []
    for policy in (Scripted(tokenizer, count_down()), Expert()):
        lost.clear()
        ended.clear()
        episodes = played(
            policy,
            tasks,
            batch_size=2,
            on_failure=lambda task, why: lost.append((task, why)),
            on_episode=lambda task, episode: ended.append(episode.task_id),
        )
        assert [episode.task_id for episode in episodes] == sorted(ended) == [1, 3]
        assert lost == [(tasks[1], "the counter is out of order")]
        with pytest.raises(CheckRefused, match=r"all 1 episodes were lost.*out of order"):
            played(policy, tasks[1:2])


def test_an_environment_that_recovers_is_played_again(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Count, "broken", broken := {2})
    closed: list[Count] = []
    monkeypatch.setattr(Count, "close", lambda environment: (closed.append(environment), broken.clear()))
    with EnvironmentPool(TOYS) as pool:
        (episode,) = play(Expert(), pool, [Task("count", 2)], sampling=SAMPLING)
        assert episode.success and len(closed) == 1
    assert len(closed) == 2 and closed[0] is not closed[1]


def test_a_template_that_changes_earlier_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    class Forgetful(Scripted):
        def encode(self, messages: Any, tools: Any = ()) -> list[int]:
            return super().encode(messages[-1:], tools)

    with pytest.raises(UserError, match="scripted changes earlier turns"):
        played(Forgetful(tokenizer, count_down()), [Task("count", 2)])


@pytest.mark.parametrize("act", ["text", "tool"])
def test_experts_episodes_have_the_tokens_of_prepare(tokenizer: PreTrainedTokenizerFast, act: str) -> None:
    for episode in played(Expert(tokenizer), [Task("count", 2), Task("add", 15)], act=act):
        assert episode.success and episode.valid_actions == 1 and bool(episode.tools) == (act == "tool")
        row = chat_template.encode(tokenizer, episode.messages, episode.tools or None)
        whole = episode.prompt_ids + episode.token_ids
        assert whole == row.input_ids[: len(whole)] and not any(row.assistant_masks[len(whole) :])
        for turn in episode.turns:
            assert all(episode.mask[turn.start : turn.end])
            assert str(tokenizer.decode(episode.token_ids[turn.start : turn.end - 1])) == turn.text
    (bare,) = played(Expert(), [Task("count", 2)], act=act)
    assert bare.token_ids == bare.prompt_ids == [] and bare.success


def test_baselines_follow_their_task_and_seed() -> None:
    tasks = [Task("add", task) for task in range(100)]
    first, again = played(Baseline("random"), tasks), played(Baseline("random"), tasks)
    assert [e.messages for e in first] == [e.messages for e in again]
    other = played(Baseline("random"), tasks, sampling=Sampling(1, seed=1))
    assert [e.messages for e in first] != [e.messages for e in other]
    assert 0 < sum(e.success for e in first) < 20
    assert sum(e.success for e in played(Baseline("zero"), tasks)) == 1


def test_an_expert_that_gives_up_ends_its_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    expert = Count.expert
    monkeypatch.setattr(Count, "expert", lambda self: expert(self) if self.left > 1 else None)
    (episode,) = played(Expert(), [Task("count", 2)])
    assert len(episode.turns) == 2 and episode.messages[-1]["role"] == "assistant"
    assert episode.truncated and not (episode.success or episode.terminated)


def test_a_script_without_a_tokenizer_plays_too() -> None:
    heard: list[Any] = []

    def answer(conversation: Conversation) -> str:
        heard.append(list(conversation.messages))
        return count_down("Né 🙂\n" + TOOL_CALL)(conversation.messages[-1]["content"])

    (episode,) = played(ScriptedPolicy(answer), [Task("count", 2)], act="tool", sampling=Sampling(200))
    assert episode.success and episode.tools
    assert [messages == episode.messages[: 2 * n] for n, messages in enumerate(heard, start=1)] == [True] * 3
