"""Playing episodes: any policy against any environments, many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from agentforge.data.tool_calls import parse_assistant
from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.experts import Actor, as_call, written
from agentforge.rollouts.policies.base import Completion, Decoder, Policy, Request, Sampling
from agentforge.rollouts.scheduler import EpisodeQueue, OnEpisode, OnFailure, RunningEpisode, Task
from agentforge.rollouts.transcript import Act, SampledTranscript, Transcript

ONLY_SLOT = 0
"""Of players without a model: they gain nothing by playing several episodes at once."""


def play(
    policy: Policy | Actor,
    pool: EnvironmentPool,
    tasks: Sequence[Task],
    *,
    sampling: Sampling,
    batch_size: int = 16,
    max_length: int | None = None,
    act: Act = "text",
    on_episode: OnEpisode | None = None,
    on_failure: OnFailure | None = None,
) -> list[Episode]:
    """Play every task once.

    An episode depends on its task, the policy and the sampling's seed, and not on what is played beside it, as far as
    floating point allows.

    Args:
        policy: a model, or an `Actor`.
        pool: has the environments that the tasks name.
        sampling: its `max_new_tokens` are those of one turn.
        batch_size: episodes at once.
        max_length: tokens of an episode, its prompt with them; None: the policy's context. An episode that would get
            longer is truncated.
        act: actions as plain text, or as calls of the environment's tool.
        on_episode: called with every finished episode, in the order in which they end.
        on_failure: called with a task whose environment failed twice, and why.

    Returns:
        the episodes in the order of their tasks, without those whose environment failed.

    Raises:
        CheckRefused: every environment failed.
    """
    if not tasks:
        return []
    queue: EpisodeQueue[Any]
    if isinstance(policy, Actor):
        queue = EpisodeQueue(pool, tasks, partial(Transcript, act=act), policy.label, on_episode, on_failure)
        while (running := queue.start_next(ONLY_SLOT)) is not None:
            _play_out(queue, running, policy, sampling.seed)
    else:
        open_dialogue = partial(SampledTranscript, act=act, policy=policy)
        queue = EpisodeQueue(pool, tasks, open_dialogue, policy.label, on_episode, on_failure)
        slots = min(batch_size, len(tasks), policy.max_slots or batch_size)
        length = min(max_length or policy.context_length, policy.context_length)
        with policy.decoder(sampling, slots) as decoder:
            _DecodingLoop(queue, decoder, sampling, length).run(slots)
    return queue.results()


def turn_seed(seed: int, task: Task, turn: int) -> int:
    """Return what decides the tokens of one turn; no two turns of a run have the same."""
    # A hash and not a sum: with seed + task_id + turn, turn 1 of a task would draw what turn 0 of the next one draws.
    # And blake2b, because Python's own hash of a string differs from process to process.
    return int.from_bytes(hashlib.blake2b(repr((seed, *task, turn)).encode(), digest_size=8).digest(), "big")


class _DecodingLoop:
    """Plays a policy's episodes, each in a slot of its decoder.

    In one round the decoder works on the turns of all slots until at least one turn is complete. The environment of
    that slot takes the turn; then the slot asks for its next turn or, if its episode has ended, for the first turn of
    another. The other slots are left alone: their turns stay half-written in the decoder.
    """

    def __init__(
        self, queue: EpisodeQueue[SampledTranscript], decoder: Decoder, sampling: Sampling, max_length: int
    ) -> None:
        self.queue = queue
        self.decoder = decoder
        self.sampling = sampling
        self.max_length = max_length

    def run(self, slots: int) -> None:
        """Play until no task waits and every slot is free."""
        for slot in range(slots):
            self._start_next(slot)
        while self.queue.running:
            for slot, completion in self.decoder.advance():
                if self._step(slot, completion):
                    self._request_turn(slot)
                else:
                    self._start_next(slot)

    def _start_next(self, slot: int) -> None:
        """Start the next episode in a free slot; one whose prompt leaves no room for a turn ends at once."""
        while (running := self.queue.start_next(slot)) is not None:
            if len(running.dialogue.prompt_ids) < self.max_length:
                self._request_turn(slot)
                return
            running.truncated = True
            self.queue.finish(slot)

    def _request_turn(self, slot: int) -> None:
        """Let the policy begin its next turn."""
        running = self.queue.running[slot]
        input_ids = running.dialogue.input_ids
        max_new_tokens = min(self.sampling.max_new_tokens, self.max_length - len(input_ids))
        seed = turn_seed(self.sampling.seed, running.task, len(running.turns))
        self.decoder.begin(slot, Request(input_ids, max_new_tokens, seed))

    def _step(self, slot: int, completion: Completion) -> bool:
        """Give the environment the turn that the policy has written; tells whether the episode goes on."""
        running = self.queue.running[slot]
        dialogue = running.dialogue
        if completion.aborted:
            # Half an action is not what the policy does: the environment is not given it, and nothing is learnt of it.
            running.truncated = True
            self.queue.finish(slot)
            return False
        start = len(dialogue.token_ids)
        text, told = dialogue.add_turn(completion)
        try:
            step = running.step(text, start, len(dialogue.token_ids), told)
        except EnvironmentFailed as error:
            self.queue.fail(slot, error)
            return False
        if not (step.terminated or step.truncated):
            # The environment would go on, so an episode that ends for want of room is truncated, not terminated.
            if dialogue.add_observation(step, self.max_length):
                return True
            running.truncated = True
        self.queue.finish(slot)
        return False


def _message(said: str, environment: Environment, dialogue: Transcript) -> dict[str, Any]:
    """Return an actor's turn as a message: with a call, if tools are on offer."""
    if environment.tools:
        return parse_assistant(said).message()
    return as_call(said, dialogue.tools[0]) if dialogue.tools else {"role": "assistant", "content": said}


def _play_out(queue: EpisodeQueue[Transcript], running: RunningEpisode[Transcript], actor: Actor, seed: int) -> None:
    """Play the episode in the only slot to its end, without a model."""
    dialogue = running.dialogue
    random = Random(turn_seed(seed, running.task, 0))
    try:
        while (said := actor.turn(running.environment, random)) is not None:
            message = _message(said, running.environment, dialogue)
            dialogue.messages.append(message)
            step = running.step(written(message))
            if step.terminated or step.truncated:
                break
            dialogue.messages += dialogue.observation_messages(step)
    except EnvironmentFailed as error:
        queue.fail(ONLY_SLOT, error)
        return
    if said is None:
        running.truncated = True
        if running.turns:
            while dialogue.messages[-1]["role"] != "assistant":  # the observation to which the actor knew no answer
                dialogue.messages.pop()
    # Nothing was sampled, so there are no tokens to keep: the whole conversation is tokenised as `prepare` would.
    if actor.tokenizer is not None and running.turns:
        spans = dialogue.tokenise(actor.tokenizer)
        running.turns = [replace(turn, start=a, end=b) for turn, (a, b) in zip(running.turns, spans, strict=True)]
    queue.finish(ONLY_SLOT)
