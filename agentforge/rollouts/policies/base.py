"""A policy answers conversations: messages to prompt tokens, prompt tokens to new tokens, tokens to text.

The token level (`encode`, `continuation`, `decoder`, `decode`) is what rollouts use: token ids go in and come out, and
nothing is decoded and encoded again in between. `generate` and `chat` are what evaluation and serving use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from agentforge.data.dialects.dialect import Dialect
from agentforge.data.tool_calls import ParsedTurn, parse_assistant
from agentforge.errors import UserError

if TYPE_CHECKING:
    from agentforge.rollouts.policies.constraints import GrammarTokenizer
    from agentforge.rollouts.policies.steering import Steering

Message = dict[str, Any]
ToolSchema = dict[str, Any]
OnToken = Callable[[int, int], bool]
"""Called with (row of the batch, new token id) after every token but the stop token; True stops that row."""

OnText = Callable[[str, int | None], bool]
"""Called with each token's text (empty while a character is incomplete) and the token, at the end with text that was
left over and None; True stops the answer."""


@dataclass(frozen=True)
class Conversation:
    """A conversation to answer: the messages so far and the tools on offer."""

    messages: Sequence[Message]
    tools: Sequence[ToolSchema] = ()


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: including the stop token.
        temperature: 0 takes the likeliest token.
        top_p: mass of the nucleus; 1 leaves every token in.
        seed: the same seed, prompts and batch give the same tokens on the same machine.
        top_k, min_p: see `sampling.filtered`; 0 leaves every token in.
        repetition_penalty: see `sampling.penalize`; 1 changes nothing.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Completion:
    """New tokens of one prompt.

    Attributes:
        stopped: the last token is a stop token.
        logprobs: of the tokens under the distribution they were drawn from (temperature and top_p in it; at
            temperature 0 the model's own); empty where nobody asked for them.
        aborted: the engine broke it off, as it does when weights are changed beneath it: a fragment and no turn.
    """

    token_ids: list[int]
    stopped: bool
    logprobs: list[float] = field(default_factory=list)
    aborted: bool = False


@dataclass(frozen=True)
class Request:
    """A turn to generate.

    Attributes:
        token_ids: everything before it.
        room: how many tokens it may have, including the stop token.
        seed: decides what is drawn, whatever else is written in the same batch.
    """

    token_ids: Sequence[int]
    room: int
    seed: int


@dataclass(frozen=True)
class Generation:
    """An answered conversation.

    Attributes:
        text: the decoded answer without its stop token.
        prompt_ids: what the model read.
        token_ids: what the model wrote, including the stop token.
        stopped: the model ended its turn itself.
    """

    text: str
    prompt_ids: list[int] = field(repr=False)
    token_ids: list[int] = field(repr=False)
    stopped: bool

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)


# The conversation that `continuation` renders in place of the real one. A tool's result has to follow a call.
STUB = "stub"
ASKED: Message = {"role": "user", "content": ""}
CALLED: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": STUB, "arguments": {}}}],
}


class Policy(ABC):
    """A model (or a script) that answers. Not thread-safe: one caller at a time.

    Attributes:
        label: short name, for artefacts and episodes.
        context_length: tokens read and written at most.
        stop_ids: tokens that end a turn; the first is the one that the template writes.
        dialect: how its turns are written; None: as agentforge's own template writes them.
        max_slots: episodes that it can usefully play at once; None: any number.
    """

    label: str
    context_length: int
    stop_ids: list[int]
    dialect: Dialect | None = None
    max_slots: ClassVar[int | None] = None

    @abstractmethod
    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        """Return the prompt's token ids, up to where the assistant's next turn begins."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens written out; broken UTF-8 becomes U+FFFD."""

    @abstractmethod
    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        """Continue every prompt (token ids) until a stop token, ``max_new_tokens``, or ``on_token`` says so.

        Raises:
            UserError: a prompt leaves no room in the context.
        """

    def read(self, text: str, tools: Sequence[ToolSchema] = ()) -> ParsedTurn:
        """Take an assistant turn apart, as this model writes it."""
        return parse_assistant(text) if self.dialect is None else self.dialect.read(text, tools)

    def draw(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Write several turns, each with its own room and seed, and with the log-probabilities of its tokens."""
        return [
            self.complete([r.token_ids], replace(sampling, max_new_tokens=r.room, seed=r.seed))[0] for r in requests
        ]

    def write(self, prompt: Sequence[int], steering: Steering, on_token: OnToken | None = None) -> Completion:
        """Write one turn whose tokens ``steering`` decides.

        Raises:
            UserError: the prompt leaves no room in the context, or this policy does not show its logits.
        """
        if steering.needs_logits:
            raise UserError(
                f"{self.label} does not expose its logits, so it gives no logprobs and cannot be held to a grammar"
            )
        return self.complete([prompt], steering.sampling, on_token)[0]

    def grammar_tokenizer(self) -> GrammarTokenizer:
        """Return what compiles grammars for `write`.

        Raises:
            UserError: llguidance is not installed, or this policy cannot be held to a grammar.
        """
        raise UserError(f"{self.label} cannot be held to a grammar")

    @contextmanager
    def decoder(self, sampling: Sampling, slots: int) -> Iterator[Decoder]:
        """Yield a decoder that writes the turns of up to ``slots`` episodes at once."""
        yield PlainDecoder(self, sampling)

    def continuation(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens between an assistant's stop token and its next turn when ``messages`` come in between.

        A template that renders every turn by itself gives them whatever was said before, so only they are tokenised
        and what was sampled stays as it is.

        Raises:
            UserError: the template changes earlier turns when others follow.
        """
        said = CALLED if messages[0]["role"] == "tool" else {"role": "assistant", "content": ""}
        # `before` ends where the assistant begins to speak; `after` goes on with its (empty) turn, the stop token and
        # the messages. What follows that stop token follows the stop token of any turn.
        before, after = self.encode([ASKED]), self.encode([ASKED, said, *messages])
        stop = next((i for i in range(len(before), len(after)) if after[i] in self.stop_ids), None)
        # If the beginning changed when more followed, the next prompt would not be the text that was sampled from.
        if after[: len(before)] != before or stop is None:
            raise UserError(
                f"the chat template of {self.label} changes earlier turns when others follow, so episodes of several "
                "turns cannot be continued token by token; give it agentforge's own (data.template: chatml)"
            )
        return after[stop + 1 :]

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Generation]:
        """Answer a batch of conversations, in their order."""
        prompts = [self.encode(c.messages, c.tools) for c in conversations]
        completions = self.complete(prompts, sampling, on_token)
        return [self._generation(p, c) for p, c in zip(prompts, completions, strict=True)]

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        *,
        sampling: Sampling,
        on_text: Callable[[str], bool] | None = None,
    ) -> Generation:
        """Answer one conversation, handing out its text as it is written.

        Args:
            on_text: called with each new piece of text; True stops the answer.
        """
        if on_text is None:
            return self.generate([Conversation(messages, tools)], sampling)[0]
        stream = TextStream(self.decode)
        generation = self.generate(
            [Conversation(messages, tools)], sampling, lambda _, token: on_text(stream.push(token))
        )[0]
        if rest := stream.finish():
            on_text(rest)
        return generation

    def reply(self, conversation: Conversation, steering: Steering, on_text: OnText) -> Generation:
        """Answer one conversation with the tokens that ``steering`` decides, handing out the text as it is written."""
        stream = TextStream(self.decode)
        prompt = self.encode(conversation.messages, conversation.tools)
        completion = self.write(prompt, steering, lambda _, token: on_text(stream.push(token), token))
        if rest := stream.finish():
            on_text(rest, None)
        return self._generation(prompt, completion)

    def _generation(self, prompt: list[int], completion: Completion) -> Generation:
        said = completion.token_ids[:-1] if completion.stopped else completion.token_ids
        return Generation(self.decode(said), prompt, completion.token_ids, completion.stopped)

    def room(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
        """Return how many tokens may be written so that the longest prompt and its answer fit the context."""
        longest = max(len(prompt) for prompt in prompts)
        if longest >= self.context_length:
            raise UserError(
                f"the conversation has {longest} tokens and {self.label} reads {self.context_length}; shorten it, "
                "or open the model with a longer context"
            )
        return min(sampling.max_new_tokens, self.context_length - longest)


class Decoder(ABC):
    """Writes turns of several episodes at once. A slot holds one episode after another."""

    @abstractmethod
    def begin(self, slot: int, request: Request) -> None:
        """Begin a turn; its tokens may continue what was read and written in this slot."""

    @abstractmethod
    def advance(self) -> list[tuple[int, Completion]]:
        """Continue all turns that were begun until at least one is finished; returns (slot, turn) of those finished."""


class PlainDecoder(Decoder):
    """Reads the whole episode again for every turn: for models that keep no cache between turns."""

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        self.policy = policy
        self.sampling = sampling
        self._begun: dict[int, Request] = {}

    def begin(self, slot: int, request: Request) -> None:
        self._begun[slot] = request

    def advance(self) -> list[tuple[int, Completion]]:
        begun, self._begun = self._begun, {}
        # `draw` writes every turn to its end, so here all slots wait for the longest one.
        return list(zip(begun, self.policy.draw(list(begun.values()), self.sampling), strict=True))


class TextStream:
    """Decodes tokens one by one into pieces whose concatenation is the text of all of them.

    A character may be spread over tokens, and a decoder may treat the first token differently; so each piece is the
    difference of two decodings that share the last finished piece.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._finished: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes; empty while a character is incomplete."""
        self._pending.append(token)
        text = self._delta()
        # The first bytes of a character decode to U+FFFD. Nothing is shown until a later token has completed it.
        if text.endswith("\ufffd"):
            return ""
        # Only the piece just finished is kept as context, so a token costs the same at the end of a long answer.
        self._finished, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """Return what was held back: the bytes of a character that was never completed."""
        text = self._delta()
        self._pending = []
        return text

    def _delta(self) -> str:
        return self._decode([*self._finished, *self._pending])[len(self._decode(self._finished)) :]
