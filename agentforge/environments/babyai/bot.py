"""BabyAI's own bot as an expert, its steps put together into walks."""

from __future__ import annotations

import copy
from typing import Any

from agentforge.environments.babyai.grid_text import (
    FORWARD,
    MOVES,
    PICKUP,
    PRIMITIVES,
    TOGGLE,
    Pose,
    Seen,
    View,
    front,
    walk,
)

_NAMES = {action: name for name, action in PRIMITIVES.items()}


class Bot:
    """Plays a minigrid environment from where it is now; it is told every action that was taken.

    The bot asserts what it believes about the world, so in worlds that it was not made for any error may come out of
    it: then it is stuck for good.
    """

    def __init__(self, env: Any) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self._env = env
        self._bot = BabyAIBot(env)
        self._next = _plan(self._bot, None)

    def took(self, action: int) -> None:
        """Note an action that the environment has done."""
        # The bot plans from what it was told, so it hears of every action, also of those that are not its own.
        if self._next is not None:
            self._next = _plan(self._bot, action)

    def suggestion(self, view: View, walks: bool) -> str | None:
        """Return the bot's next action in words; with ``walks`` a walk, if one leads where it wants to go."""
        if self._next is None:
            return None
        return (self._walk(view) if walks else None) or _NAMES.get(self._next)

    def _walk(self, view: View) -> str | None:
        """Return the walk after which the least is left to do.

        The bot has plans that the words do not say (to put aside what is in the way, to close a door), and a walk that
        crosses them may have it go in circles. So a walk is taken only if the bot, played to its end from there, is
        done sooner than from here.
        """
        # What is left after the bot's own next action is the measure; a walk must not leave more.
        future, poses = self._future([])
        best, least = None, len(future) - 1
        for action, moves in _candidates(view, future, poses):
            left, _ = self._future(moves)
            if left and len(left) - len(moves) <= least:
                best, least = action, len(left) - len(moves)
        return best

    def _future(self, moves: list[int]) -> tuple[list[int], list[Pose]]:
        """Play ``moves`` and then the bot until the mission is fulfilled, in a copy of the world.

        Returns:
            The actions, none of them if it fails; and the poses before each of them and after the last.
        """
        # In one call: the bot holds the environment, and its copy has to hold the copied one.
        env, bot = copy.deepcopy((self._env, self._bot))
        actions: list[int] = []
        poses = [_pose(env)]
        action = moves[0] if moves else self._next
        while action is not None:
            _, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            poses.append(_pose(env))
            if terminated or truncated:
                return (actions if terminated and reward > 0 else []), poses
            planned = _plan(bot, action)
            action = moves[len(actions)] if len(actions) < len(moves) else planned
        return [], poses


def _plan(bot: Any, taken: int | None) -> int | None:
    """Return what a bot would do now, None if it is stuck."""
    try:
        return int(bot.replan(taken))
    except Exception:  # see Bot
        return None


def _pose(env: Any) -> Pose:
    return (int(env.agent_pos[0]), int(env.agent_pos[1])), int(env.agent_dir)


def _candidates(view: View, future: list[int], poses: list[Pose]) -> list[tuple[str, list[int]]]:
    """Return the walks that the bot may be on: to the thing that it acts on next, or through a door on its way."""
    # The moves up to the first action that is none end in front of what that action is for.
    moves = next((i for i, action in enumerate(future) if action not in MOVES), len(future))
    wanted: list[tuple[str, Seen]] = []
    if target := _at(view, front(poses[moves])):
        wanted.append(("go to", target))
        if future[moves : moves + 1] == [PICKUP]:
            wanted.append(("pick up", target))
        if future[moves : moves + 3] == [TOGGLE, FORWARD, FORWARD]:
            wanted.append(("toggle and go through", target))
    for cell, _ in poses[1 : moves + 1]:
        if cell != view.pose[0] and (door := _at(view, cell)):
            wanted.append(("go through", door))
    ways = ((f"{verb} {thing.name}", walk(view, verb, thing)) for verb, thing in wanted)
    return [(action, way) for action, way in ways if not isinstance(way, str)]


def _at(view: View, cell: tuple[int, int]) -> Seen | None:
    return next((thing for thing in view.things if thing.cell == cell), None)
