"""The scripted policy: it answers what it read, and stops where any policy would."""

from __future__ import annotations

from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy


def test_scripted_policy_reads_the_conversation_and_is_cut_like_any_other() -> None:
    scripted = ScriptedPolicy(lambda conversation: f"heard {conversation.messages[-1]['content']}")
    messages = [{"role": "user", "content": "né 🙂"}]
    assert scripted.chat(messages, sampling=Sampling(60)).text == "heard né 🙂"
    cut = scripted.chat(messages, sampling=Sampling(5))
    assert (cut.text, cut.stopped) == ("heard", False)
