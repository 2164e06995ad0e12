"""From the trainer's prompts to episodes and back: what TRL calls a `rollout_func`.

A prompt is the number of a slot, for only the run knows which task that is. What comes back is the episode as it was
sampled: its token ids, its log-probabilities and which of its tokens the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import gather_object

from agentforge.errors import CheckRefused
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.scheduler import Task
from agentforge.trainers.rl.curriculum import TaskStream
from agentforge.trainers.rl.one_step_off import OneStepOff, Play, Rollout
from agentforge.trainers.rl.rewards import NamedReward


class RolloutFunction:
    """Plays a batch of slots.

    Args:
        tasks: which task a slot is.
        play: plays them.
        rewards: one column each of the trainer's rewards.
        slots: how many the run plays.
        ahead: plays the next batch meanwhile; None: a batch is played when it is asked for.
    """

    def __init__(
        self,
        tasks: TaskStream,
        play: Play,
        rewards: Sequence[NamedReward],
        *,
        slots: int = 0,
        ahead: OneStepOff | None = None,
    ) -> None:
        self.slots = slots
        self.ahead = ahead
        self.tasks = tasks
        self.play = play
        self.rewards = list(rewards)

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Return what `trl.GRPOTrainer` asks of a `rollout_func`, and for each sample further

        * ``episode``: the `Episode`, or None;
        * ``turn_ends``: positions among the completion's tokens of each turn's last one;
        * ``turn_rewards``: the weighted sum of the rewards of each turn;
        * ``reward_columns``: for each reward function the sum over the turns.

        Raises:
            CheckRefused: the context holds no episode's first turn.
        """
        tasks, episodes, _ = self._played(prompts, trainer)
        played = [(t, e) for t, e in zip(tasks, episodes, strict=True) if e is not None]
        if not any(gather_object([len(episode.turns) for _, episode in played])):
            longest = max((len(episode.prompt_ids) for _, episode in played), default=0)
            raise CheckRefused(
                f"no episode has room for a turn: prompts have up to {longest} tokens; raise rollouts.max_length (or "
                "data.max_length, which it follows)"
            )
        self.tasks.record(gather_object([(t.environment, t.task_id, e.success) for t, e in played]))
        pad = trainer.processing_class.pad_token_id
        rows = [self._row(episode, pad) for episode in episodes]
        for row, task in zip(rows, tasks, strict=True):
            row["environment"] = task.environment
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _played(self, prompts: Sequence[str], trainer: Any) -> Rollout:
        rollout = None if self.ahead is None else self.ahead.take(prompts)
        if rollout is None:
            tasks = self._tasks(prompts, trainer)
            rollout = Rollout(tasks, self.play(trainer, tasks), trainer.state.global_step)
        if self.ahead is not None:
            trainer.log_metric("sampling/staleness", trainer.state.global_step - rollout.step)
            groups = trainer.args.generation_batch_size // trainer.num_generations
            following = [str(int(prompt) + groups) for prompt in prompts]
            if int(following[-1]) < self.slots:
                self.ahead.begin(trainer, following, self._tasks(following, trainer))
        return rollout

    def _tasks(self, prompts: Sequence[str], trainer: Any) -> list[Task]:
        first = trainer.args.process_index * len(prompts)
        return [self.tasks.task(int(p))._replace(sample=first + i) for i, p in enumerate(prompts)]

    def _row(self, episode: Episode | None, pad: int) -> dict[str, Any]:
        if episode is None or not episode.turns:  # one token that nothing is learnt from: the batch keeps its shape
            empty = {"prompt_ids": [pad], "completion_ids": [pad], "logprobs": [0.0], "env_mask": [0]}
            return {**empty, "episode": episode, "turn_ends": [], "turn_rewards": [], "reward_columns": None}
        by_function = [reward(episode) for reward in self.rewards]
        weighted = [
            sum(r.weight * value for r, value in zip(self.rewards, turn, strict=True))
            for turn in zip(*by_function, strict=True)
        ]
        return {
            "prompt_ids": episode.prompt_ids,
            "completion_ids": episode.token_ids,
            "logprobs": episode.logprobs,
            "env_mask": episode.mask,
            "episode": episode,
            "turn_ends": [turn.end - 1 for turn in episode.turns],
            "turn_rewards": weighted,
            "reward_columns": [sum(rewards) for rewards in by_function],
        }

    def reward_functions(self) -> list[Callable[..., list[float | None]]]:
        """Return the columns as TRL's reward functions; the first logs what the episodes were like too."""
        return [self._column(index, reward.name) for index, reward in enumerate(self.rewards)]

    def _column(self, index: int, name: str) -> Callable[..., list[float | None]]:
        def column(
            reward_columns: list[list[float] | None],
            episode: list[Episode | None],
            environment: list[str],
            log_metric: Callable[[str, float], None],
            **others: Any,
        ) -> list[float | None]:
            if index == 0:
                log_episodes(episode, environment, log_metric)
                for played, level in self.tasks.levels().items():
                    log_metric(f"level/{played}", level)
            return [None if sums is None else sums[index] for sums in reward_columns]

        column.__name__ = name
        return column


def log_episodes(
    episodes: Sequence[Episode | None], names: Sequence[str], log_metric: Callable[[str, float], None]
) -> None:
    """Log what the mean over episodes or turns says about a policy: success, valid actions, length, truncation."""
    for episode, name in zip(episodes, names, strict=True):
        log_metric("environment_failed", episode is None)
        if episode is None:
            continue
        log_metric(f"success/{name}", episode.success)
        log_metric(f"score/{name}", episode.score)
        log_metric("success", episode.success)
        log_metric("truncated", episode.truncated)
        log_metric("without_turns", not episode.turns)
        log_metric("turns", len(episode.turns))
        for turn in episode.turns:
            log_metric("valid_actions", turn.valid_action)
            log_metric("turn_tokens", turn.end - turn.start)
