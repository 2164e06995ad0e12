"""An episode as a conversation and as tokens: what was sampled is kept exactly as it was sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentforge.data.tool_calls import CALL, parse_assistant
from agentforge.environments.base import Environment
from agentforge.rollouts.episode_tokens import tokenise_conversation
from agentforge.rollouts.policies.base import Completion, Message, Policy, ToolSchema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Act = Literal["text", "tool"]


class Transcript:
    """The conversation of one episode.

    Args:
        environment: has just been reset.
        observation: what it said first.
        act: actions as plain text, or as calls of the environment's tool.

    Attributes:
        messages: system (the environment's instructions), user (the observation), assistant ...; the
            environment's answer to the last turn is left out.
        tools: on offer.
        prompt_ids, token_ids, mask, logprobs: as in `Episode`; empty without tokens.
    """

    def __init__(self, environment: Environment, observation: str, act: Act) -> None:
        self.tools: list[ToolSchema] = [environment.action_tool] if act == "tool" else []
        self.messages: list[Message] = [
            {"role": "system", "content": environment.instructions},
            {"role": "user", "content": observation},
        ]
        self.prompt_ids: list[int] = []
        self.token_ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []

    def observation_message(self, observation: str) -> Message:
        """Return the observation as a message: a tool result if the assistant made a call, else a user turn."""
        if calls := self.messages[-1].get("tool_calls"):
            return {"role": "tool", "name": calls[0]["function"]["name"], "content": observation}
        return {"role": "user", "content": observation}

    def tokenise(self, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
        """Tokenise a finished conversation as `prepare` would; returns the span of each assistant turn."""
        read = tokenise_conversation(tokenizer, self.messages, self.tools)
        assert read is not None, "a finished episode has a turn"
        self.prompt_ids, self.token_ids, self.mask = read.prompt_ids, read.token_ids, read.mask
        self.logprobs = [0.0] * len(self.token_ids)
        return read.spans


class SampledTranscript(Transcript):
    """A policy's conversation: the tokens it samples are kept as they are; only the text in between is tokenised."""

    def __init__(self, environment: Environment, observation: str, act: Act, policy: Policy) -> None:
        super().__init__(environment, observation, act)
        self.policy = policy
        self.prompt_ids = policy.encode(self.messages, self.tools)
        self._stopped = True

    @property
    def input_ids(self) -> list[int]:
        """All tokens so far: the policy's input for its next turn."""
        return self.prompt_ids + self.token_ids

    def add_turn(self, completion: Completion) -> str:
        """Append a turn as the policy sampled it; returns its text without the stop token."""
        written = completion.token_ids
        self._append(written, 1, completion.logprobs or [0.0] * len(written))
        self._stopped = completion.stopped
        text = self.policy.decode(written[:-1] if completion.stopped else written)
        turn: Message = {"role": "assistant", "content": text}
        # A call that cannot be read stays text: that is what the model wrote, and the environment will find it invalid.
        if self.tools and CALL in text and not (parsed := parse_assistant(text)).malformed:
            turn = parsed.message()
        self.messages.append(turn)
        return text

    def add_observation(self, observation: str, limit: int) -> bool:
        """Append the observation; returns False and appends nothing if ``limit`` tokens leave no room for a turn."""
        message = self.observation_message(observation)
        closing = [] if self._stopped else self.policy.stop_ids[:1]  # a turn that was cut short is closed for it
        between = [*closing, *self.policy.continuation([message])]
        # Looked at before anything is appended: an episode that is cut off ends with the policy's own turn.
        if len(self.prompt_ids) + len(self.token_ids) + len(between) >= limit:
            return False
        self.messages.append(message)
        self._append(between, 0, [0.0] * len(between))
        return True

    def _append(self, token_ids: list[int], mask: int, logprobs: list[float]) -> None:
        self.token_ids += token_ids
        self.mask += [mask] * len(token_ids)
        self.logprobs += logprobs
