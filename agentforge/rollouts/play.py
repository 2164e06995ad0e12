"""Playing episodes: any policy against any environments, many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from agentforge.environments.base import EnvironmentFailed
from agentforge.errors import CheckRefused
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.experts import Actor, as_call, written
from agentforge.rollouts.policies.policies import Completion, Decoder, Policy, Request, Sampling
from agentforge.rollouts.scheduler import Game, OnEpisode, OnFailure, Table, Task
from agentforge.rollouts.transcript import Act, Dialogue, SampledDialogue

__all__ = ["Task", "play"]


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
    table = Table(pool, tasks, on_episode, on_failure)
    if isinstance(policy, Actor):
        while (game := table.begin()) is not None:
            _perform(table, game, policy, act, sampling.seed)
    elif tasks:
        seats = min(batch_size, len(tasks), policy.most_seats or batch_size)
        with policy.decoder(sampling, seats) as decoder:
            length = min(max_length or policy.context_length, policy.context_length)
            _Hall(table, policy, decoder, sampling, length, act).run(seats)
    if tasks and not table.episodes:
        raise CheckRefused(f"all {len(tasks)} episodes were lost with their environment, the last by: {table.problem}")
    return [table.episodes[number] for number in sorted(table.episodes)]


def turn_seed(seed: int, task: Task, turn: int) -> int:
    """Return what decides the tokens of one turn; no two turns of a run have the same."""
    return int.from_bytes(hashlib.blake2b(repr((seed, *task, turn)).encode(), digest_size=8).digest(), "big")


class _Hall:
    """A policy's episodes, each in a seat of its decoder."""

    def __init__(
        self, table: Table, policy: Policy, decoder: Decoder, sampling: Sampling, length: int, act: Act
    ) -> None:
        self.table = table
        self.policy = policy
        self.decoder = decoder
        self.sampling = sampling
        self.length = length
        self.act: Act = act
        self.games: dict[int, tuple[Game, SampledDialogue]] = {}

    def run(self, seats: int) -> None:
        """Play until nothing waits and every seat is empty."""
        for seat in range(seats):
            self._fill(seat)
        while self.games:
            for seat, completion in self.decoder.advance():
                game, dialogue = self.games.pop(seat)
                if self._take(game, dialogue, completion):
                    self._ask(seat, game, dialogue)
                else:
                    self._fill(seat)

    def _fill(self, seat: int) -> None:
        """Begin the next episode in a seat; one whose prompt is too long ends at once."""
        while (game := self.table.begin()) is not None:
            dialogue = SampledDialogue(game.environment, game.observation, self.act, self.policy)
            if len(dialogue.prompt_ids) < self.length:
                self._ask(seat, game, dialogue)
                return
            game.cut = True
            self.table.end(game, dialogue, self.policy.label)

    def _ask(self, seat: int, game: Game, dialogue: SampledDialogue) -> None:
        """Let the policy begin its next turn."""
        read = dialogue.read
        seed = turn_seed(self.sampling.seed, game.task, len(game.turns))
        self.decoder.begin(seat, Request(read, min(self.sampling.max_new_tokens, self.length - len(read)), seed))
        self.games[seat] = game, dialogue

    def _take(self, game: Game, dialogue: SampledDialogue, completion: Completion) -> bool:
        """Let the environment take the policy's turn; tells whether the episode goes on."""
        start = len(dialogue.token_ids)
        text = dialogue.write(completion)
        try:
            step = game.step(text, start, len(dialogue.token_ids))
        except EnvironmentFailed as error:
            self.table.lose(game, error)
            return False
        if not (step.terminated or step.truncated):
            if dialogue.hear(step.observation, self.length):
                return True
            game.cut = True
        self.table.end(game, dialogue, self.policy.label)
        return False


def _perform(table: Table, game: Game, actor: Actor, act: Act, seed: int) -> None:
    """Play an episode without a model."""
    dialogue = Dialogue(game.environment, game.observation, act)
    random = Random(turn_seed(seed, game.task, 0))
    try:
        while (said := actor.turn(game.environment, random)) is not None:
            message = as_call(said, dialogue.tools[0]) if dialogue.tools else {"role": "assistant", "content": said}
            dialogue.messages.append(message)
            step = game.step(written(message))
            if step.terminated or step.truncated:
                break
            dialogue.messages.append(dialogue.reply(step.observation))
    except EnvironmentFailed as error:
        table.lose(game, error)
        return
    if said is None:
        game.cut = True
        if game.turns:
            dialogue.messages.pop()  # the observation to which the actor knew no answer
    if actor.tokenizer is not None and game.turns:
        spans = dialogue.tokenise(actor.tokenizer)
        game.turns = [replace(turn, start=a, end=b) for turn, (a, b) in zip(game.turns, spans, strict=True)]
    table.end(game, dialogue, actor.label)
