"""A conversation with a model that may call tools: no terminal, no network, only messages and a listener."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

from agentforge.data.tools import ToolSet
from agentforge.rollouts.policies.base import Conversation, Message, Policy, Sampling
from agentforge.rollouts.policies.steering import Steering
from agentforge.serving.local_tools import LocalTools
from agentforge.serving.speaking import speak
from agentforge.serving.turns import Delta

log = logging.getLogger(__name__)

Outcome = Literal["answered", "cut", "calls", "limit", "interrupted"]
MAX_ROUNDS = 8


class Listener:
    """What happens while a model answers. Every method may be left as it is."""

    def delta(self, delta: Delta) -> None:
        """A piece of visible text or of reasoning."""

    def call(self, call: dict[str, Any], problem: str | None) -> None:
        """A tool call, and what is wrong with it."""

    def result(self, call: dict[str, Any], text: str) -> None:
        """What a tool answered."""

    def problem(self, text: str) -> None:
        """Markup that could not be read."""


class ChatSession:
    """Keeps the messages; asks the model again after each tool result.

    Args:
        policy: answers.
        tools: on offer; None: the model is told of none.
        system: first message, if any.
        local_tools: runs the calls.
        sampling: each generation of the session has its own seed, counted up from this one's.
        max_rounds: generations for one question at most: a model may call tools for ever.
    """

    def __init__(
        self,
        policy: Policy,
        tools: ToolSet | None,
        system: str | None,
        local_tools: LocalTools,
        sampling: Sampling,
        max_rounds: int = MAX_ROUNDS,
    ) -> None:
        self.policy = policy
        self.tools = tools
        self.local_tools = local_tools
        self.sampling = sampling
        self.max_rounds = max_rounds
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def ask(self, text: str, listener: Listener) -> Outcome:
        """Add a user's turn and let the model answer, running what it calls.

        Returns:
            ``answered``; ``cut`` at max_new_tokens; ``calls``: a call that cannot run here ended it; ``limit``: it
            still called tools after `max_rounds`; ``interrupted``: KeyboardInterrupt, what was said is kept.

        Raises:
            UserError: the conversation is longer than the model's context; the user's turn is taken back.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            for _ in range(self.max_rounds):
                if (outcome := self._round(listener)) is not None:
                    return outcome
        except KeyboardInterrupt:  # between a generation and a tool: what is complete stays
            return "interrupted"
        except Exception:
            del self.messages[before:]
            raise
        return "limit"

    def _round(self, listener: Listener) -> Outcome | None:
        """Let the model write one turn and run its calls; None if it is to go on."""
        heard = TurnHeard(listener)
        try:
            spoken = speak(self.policy, self._conversation(), Steering(self.sampling), heard.delta)
        except KeyboardInterrupt:
            self.messages.append({"role": "assistant", "content": heard.content})
            return "interrupted"
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        self.messages.append(spoken.said.message())
        for problem in spoken.said.problems:
            listener.problem(problem)
        if not spoken.said.tool_calls:
            return "answered" if spoken.finish_reason == "stop" else "cut"
        ran = [self._run(call, listener) for call in spoken.said.tool_calls]
        return None if all(ran) else "calls"

    def _run(self, call: dict[str, Any], listener: Listener) -> bool:
        name = call["function"]["name"]
        problem = self._problem(call)
        listener.call(call, problem)
        try:
            # A wrong call is answered as a shell would answer it: the model can mend it in the next round.
            text, ran = (f"error: {problem}", True) if problem is not None else self.local_tools.run(call)
        except KeyboardInterrupt:
            text, ran = "stopped by the user", False
        except Exception as error:
            # The arguments are the model's, so whatever a tool makes of them is the model's to read and to mend. The
            # user asked for an answer and must not lose the conversation to it.
            log.debug("the tool %s failed", name, exc_info=True)
            text, ran = f"error: {name} failed: {str(error) or type(error).__name__}", True
        listener.result(call, text)
        self.messages.append({"role": "tool", "name": name, "content": text})
        return ran

    def _problem(self, call: dict[str, Any]) -> str | None:
        """Return what is wrong with a call."""
        if self.tools is None:
            return "no tools were offered"
        try:
            return self.tools.check(call)
        except Exception as error:  # a schema that cannot be evaluated: a reference to nowhere, a pattern without end
            log.debug("a call cannot be checked", exc_info=True)
            return f"the call cannot be checked: {error}"

    def _conversation(self) -> Conversation:
        return Conversation(self.messages, self.tools.schemas if self.tools is not None else ())


class TurnHeard:
    """Passes pieces on to a listener and keeps the visible ones."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.content = ""

    def delta(self, delta: Delta, _: object = None) -> None:
        self.content += delta[1] if delta[0] == "content" else ""
        self._listener.delta(delta)
