"""An episode as a conversation and as tokens: what was sampled is kept exactly as it was sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentforge.data.tool_calls import CALL, parse_assistant, write_assistant
from agentforge.environments.base import Environment, Step
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
        # A task's own tools are part of the task: without them its observations make no sense.
        self.tools: list[ToolSchema] = environment.tools or ([environment.action_tool] if act == "tool" else [])
        self.messages: list[Message] = [
            {"role": "system", "content": environment.instructions},
            {"role": "user", "content": observation},
        ]
        self.prompt_ids: list[int] = []
        self.token_ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []

    def observation_messages(self, step: Step) -> list[Message]:
        """Return an observation as messages: a tool result if the assistant made a call, else a user turn.

        Where the environment gives a result for each of several calls, each is a message of its own.
        """
        calls = self.messages[-1].get("tool_calls")
        if not calls:
            return [{"role": "user", "content": step.observation}]
        names = [call["function"]["name"] for call in calls]
        results = step.info.get("tool_results", [])
        if len(results) != len(names):
            names, results = names[:1], [step.observation]
        return [{"role": "tool", "name": n, "content": r} for n, r in zip(names, results, strict=True)]

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

    def add_turn(self, completion: Completion) -> tuple[str, str]:
        """Append a turn as the policy sampled it.

        Returns:
            its text without the stop token, and what the environment is told: the same in agentforge's own form.
        """
        written = completion.token_ids
        self._append(written, 1, completion.logprobs or [0.0] * len(written))
        self._stopped = completion.stopped
        text = self.policy.decode(written[:-1] if completion.stopped else written)
        turn: Message = {"role": "assistant", "content": text}
        dialect = self.policy.dialect
        if dialect is not None and not dialect.ours:
            parsed = dialect.read(text, self.tools)
            if not parsed.malformed:
                turn = parsed.message()
            self.messages.append(turn)
            return text, text if parsed.malformed else write_assistant(turn)
        # A call that cannot be read stays text: that is what the model wrote, and the environment will find it invalid.
        if self.tools and CALL in text and not (parsed := parse_assistant(text)).malformed:
            turn = parsed.message()
        self.messages.append(turn)
        return text, text

    def add_observation(self, step: Step, limit: int) -> bool:
        """Append a step's observation; returns False, and appends nothing, if ``limit`` leaves no room for a turn."""
        messages = self.observation_messages(step)
        closing = [] if self._stopped else self.policy.stop_ids[:1]  # a turn that was cut short is closed for it
        between = [*closing, *self.policy.continuation(messages)]
        # Looked at before anything is appended: an episode that is cut off ends with the policy's own turn.
        if len(self.prompt_ids) + len(self.token_ids) + len(between) >= limit:
            return False
        self.messages += messages
        self._append(between, 0, [0.0] * len(between))
        return True

    def _append(self, token_ids: list[int], mask: int, logprobs: list[float]) -> None:
        self.token_ids += token_ids
        self.mask += [mask] * len(token_ids)
        self.logprobs += logprobs
