"""Environments of gymnasium that can be played in text: they show text or numbers, and their actions have names."""

from __future__ import annotations

import importlib
from random import Random
from typing import Any, ClassVar

import numpy as np

from agentforge.environments.actions import act_tool
from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.gymnasium.spaces import action_names, is_shown_in_text, uncoloured, written
from agentforge.environments.options import as_number
from agentforge.environments.packages import Named, needed
from agentforge.environments.text_game import FORMAT, TASKS, InvalidAction, TextGame, TurnOutcome
from agentforge.errors import UserError, did_you_mean, first_line

TURNS = 50
"""Of an episode where gymnasium knows no limit."""


class Gymnasium(Named, TextGame):
    """An environment of gymnasium's registry; seed and task id together seed its reset.

    The reward is gymnasium's. Success: the environment says so in its info (``success`` or ``is_success``); else as
    ``success`` wants it; else the episode has ended by itself with a positive last reward. The score is the return
    between the ends of ``returns``, or, without them, 1 for success.

    Args:
        name: its id there: ``FrozenLake-v1``, or ``package:Name-v0``, which imports the package first.
        options: arguments of `gymnasium.make`.
        actions: names of the actions, in order; None: their numbers, or any text where the space is `Text`.
        success: ``terminated``, or the least return that counts as success.
        returns: the worst and the best return, for a graded score.
        instructions: what the task is; None: only what the actions are.
        max_turns: of an episode; None: gymnasium's limit.

    Raises:
        UserError: there is no such environment, an option is wrong, or it cannot be played in text.
    """

    id: ClassVar[str] = "gymnasium"
    family: ClassVar[str] = "gymnasium"

    def __init__(
        self,
        name: str,
        options: dict[str, Any] | None = None,
        actions: list[str] | None = None,
        success: str | float | None = None,
        returns: list[float] | None = None,
        instructions: str | None = None,
        max_turns: int | None = None,
    ) -> None:
        Named.__init__(self, name)
        self._game, limit = _made(name, self.id, self.key, options)
        TextGame.__init__(self, (limit or TURNS) if max_turns is None else max_turns)
        self._names = action_names(self._game.action_space, actions, self.key)
        self._success = _wanted(success, self.key)
        self._returns = _ends(returns, self.key)
        setattr(self, "graded", self._returns is not None)  # noqa: B010  of this object: its options decide
        setattr(self, "baselines", ("random",) if self._names else ())  # noqa: B010
        grammar = " | ".join(self._names) if self._names else "any text"
        task = instructions or f"You play {name}."
        self.instructions = f"{task} Each turn you take one action: {grammar}. {FORMAT}"
        self.action_tool = act_tool("Take one action in the game.", grammar)
        self._return = 0.0
        self._mask: Any = None

    @property
    def tasks(self) -> int:
        return TASKS

    def begin(self, seed: int, task_id: int) -> str:
        self._return = 0.0
        drawn = Random(f"{self.id}/{seed}/{task_id}").getrandbits(31)
        try:
            seen, info = self._game.reset(seed=drawn)
        except Exception as error:  # whatever fails is the game's
            raise EnvironmentFailed(f"{self.id} failed in reset: {first_line(error)}") from error
        self._mask = info.get("action_mask")
        return self._shown(seen)

    def act(self, action: str) -> TurnOutcome:
        done = self._chosen(action)
        try:
            seen, reward, terminated, truncated, info = self._game.step(done)
        except Exception as error:
            raise EnvironmentFailed(f"{self.id} failed in step: {first_line(error)}") from error
        reward = float(reward)
        self._return += reward
        self._mask = info.get("action_mask")
        right = self._is_success(info, bool(terminated), bool(terminated or truncated), reward)
        score = float(right)
        if self._returns is not None:
            worst, best = self._returns
            score = float(np.clip((self._return - worst) / (best - worst), 0, 1))
        return TurnOutcome(self._shown(seen), reward, score, right, bool(terminated or truncated))

    def _chosen(self, action: str) -> Any:
        space = self._game.action_space
        if not self._names:
            if not space.contains(action):
                raise InvalidAction(f"'{action[:80]}' is no text that the game takes")
            return action
        if action not in self._names:
            raise InvalidAction(f"'{action[:80]}' is no action; the actions are {' | '.join(self._names)}")
        return int(space.start) + self._names.index(action)

    def _is_success(self, info: dict[str, Any], terminated: bool, over: bool, reward: float) -> bool:
        for flag in ("success", "is_success"):
            if isinstance(info.get(flag), bool | np.bool_):
                return bool(info[flag])
        if self._success == "terminated":
            return terminated
        if isinstance(self._success, float):
            return over and self._return >= self._success
        return terminated and reward > 0

    def _shown(self, seen: Any) -> str:
        """Return an observation as text: as the game draws it in characters, else its values."""
        if self._game.render_mode == "ansi":
            return uncoloured(str(self._game.render()))
        return written(seen)

    def available(self) -> list[str]:
        mask = [True] * len(self._names) if self._mask is None else self._mask
        return [name for name, allowed in zip(self._names, mask, strict=False) if allowed]

    def close(self) -> None:
        self._game.close()


def _made(name: str, environment: str, key: str, options: dict[str, Any] | None) -> tuple[Any, int | None]:
    """Return a game that can be played in text, without its own limit of steps, and that limit."""
    gymnasium = needed("gymnasium", environment, "gymnasium")
    if not isinstance(options, dict | None):
        raise UserError(f"{key}.options must be arguments of gymnasium.make, not {options!r}")
    package, _, wanted = name.rpartition(":")
    try:
        if package:
            importlib.import_module(package)
        known = gymnasium.spec(wanted)
        modes = gymnasium.make(wanted, **(options or {})).metadata.get("render_modes") or []
        drawn = {"render_mode": "ansi"} if "ansi" in modes else {}
        # Its own limit is taken off: ours counts invalid turns too, and says `truncated` for itself.
        game = gymnasium.make(wanted, **(drawn | (options or {})), max_episode_steps=-1)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(f"gymnasium has no '{wanted}'{did_you_mean(wanted, list(gymnasium.registry))}") from error
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{key} cannot be made: {first_line(error)}") from error
    if game.render_mode != "ansi" and not is_shown_in_text(game.observation_space):
        raise UserError(f"{key} shows {game.observation_space}, which is no text: a language model cannot play it")
    return game, known.max_episode_steps


def _wanted(success: Any, key: str) -> str | float | None:
    if success is None or success == "terminated":
        return success
    if isinstance(success, str):
        raise UserError(f"{key}.success is terminated or a number, not {success!r}")
    return as_number(success, f"{key}.success", least=-float("inf"))


def _ends(returns: Any, key: str) -> tuple[float, float] | None:
    if returns is None:
        return None
    if not isinstance(returns, list) or len(returns) != 2:
        raise UserError(f"{key}.returns must be [worst, best], not {returns!r}")
    worst, best = (as_number(end, f"{key}.returns", least=-float("inf")) for end in returns)
    if worst >= best:
        raise UserError(f"{key}.returns is {returns!r}; it must be [worst, best], the smaller number first")
    return worst, best
