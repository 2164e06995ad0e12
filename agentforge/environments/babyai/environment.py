"""BabyAI: missions in a world of rooms, doors, keys, balls and boxes (Chevalier-Boisvert et al., arXiv 1810.08272).

The levels are those of `minigrid`; the text is in the manner of AgentGym (Xi et al., arXiv 2406.04151): what the agent
sees, what it carries, what it can do, and actions that walk a whole way. Tasks are not numbered as AgentGym's are.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from itertools import count
from random import Random
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.babyai.bot import Bot
from agentforge.environments.babyai.grid_text import (
    PRIMITIVES,
    View,
    actions_of,
    describe,
    describe_shortly,
    front,
    look,
    walk,
)
from agentforge.environments.babyai.levels import DEFAULT, DIFFICULTY, gym_id
from agentforge.environments.options import as_choice, as_names
from agentforge.environments.text_game import FORMAT, TASKS, InvalidAction, TextGame, TurnOutcome, belongs, say

HIGH = "go to OBJECT | pick up OBJECT | go through DOOR | toggle and go through DOOR"
GRAMMAR = "turn left | turn right | move forward | pick up | drop | toggle"
RULES = """You are in a world of rooms and fulfil a mission. You see what lies ahead of you and not behind walls. Each
turn you take one action:
- turn left, turn right, move forward
- pick up: what is right in front of you; drop: put what you carry in front of you
- toggle: open or close the door, or open the box, right in front of you; a locked door needs the key of its colour
"""
HIGH_RULES = """- go to OBJECT N: walk until you face it; pick up OBJECT N: walk there and take it
- go through DOOR N: walk through an open door; toggle and go through DOOR N: open it first
Objects are named as you see them: red ball 1, green door 2.
"""


class BabyAI(TextGame):
    """A mission in a level of BabyAI: task ``n`` is level ``n mod len(levels)`` laid out from the seed ``n``.

    The seed of an episode changes nothing. The reward is minigrid's: 1 - 0.9 * (steps used / steps allowed) when the
    mission is fulfilled, else 0; a walk counts all its steps. A task's difficulty is that of its level (0 to 5).

    Args:
        levels: names without ``BabyAI-`` and version, such as ``GoToLocal``; none: those that the expert plays in
            twenty turns.
        actions: ``high`` knows walks beside the six primitive actions, ``primitive`` only those.
        style: ``full`` sentences with the available actions, or ``short``.
        max_turns: of an episode.
    """

    id: ClassVar[str] = "agentgym:babyai"
    self_contained: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("random", "nearest")

    def __init__(
        self, levels: list[str] | None = None, actions: str = "high", style: str = "full", max_turns: int = 20
    ) -> None:
        super().__init__(max_turns)
        key = f"environments.{self.id}.levels"
        self.levels = list(DEFAULT) if levels is None else as_names(levels, key, DIFFICULTY)
        self.high = as_choice(actions, f"environments.{self.id}.actions", ("high", "primitive")) == "high"
        self.style = as_choice(style, f"environments.{self.id}.style", ("full", "short"))
        self.explains = self.style == "full"
        grammar = f"{GRAMMAR} | {HIGH}" if self.high else GRAMMAR
        rules = RULES + (HIGH_RULES if self.high else "")
        self.instructions = rules + FORMAT if self.style == "full" else say(grammar)
        self.action_tool = act_tool("Take one action in the grid world.", grammar)
        self.grammar = grammar
        self._made: dict[str, Any] = {}
        self.env: Any = None
        self.view: View
        self._bot: Bot | None = None

    @property
    def tasks(self) -> int:
        return TASKS

    def difficulty(self, task_id: int) -> int:
        return DIFFICULTY[self._level(task_id)]

    def _level(self, task_id: int) -> str:
        return self.levels[task_id % len(self.levels)]

    def begin(self, seed: int, task_id: int) -> str:
        level = self._level(task_id)
        # Made when a level is first played, and kept: `levels` may name eighty.
        if level not in self._made:
            self._made[level] = _make(gym_id(level))
        # The bot is made when an expert asks for it: it replans at every action, which other players need not pay for.
        self.env, self._bot = self._made[level], None
        self._lay_out(task_id)
        return f"{'Mission' if self.style == 'short' else 'Your goal'}: {self.env.mission}\n{self._observe()}"

    def _lay_out(self, task_id: int) -> None:
        """Make the world with the first seed whose layout may be that of the task: small levels have few layouts."""
        with redirect_stdout(io.StringIO()):  # minigrid prints each layout that it rejects
            # The seeds n, n + 2^31, n + 2 * 2^31, ...: all but the first are beyond the ids, so no two tasks share one.
            for seed in count(task_id, TASKS):
                self.env.reset(seed=seed)
                pose = (*map(int, self.env.agent_pos), int(self.env.agent_dir))
                layout = f"{self.env.mission}/{pose}/{self.env.grid.encode().tobytes().hex()}"
                if belongs(self.id, task_id, layout):
                    return

    def _observe(self) -> str:
        self.view = look(self.env)
        if self.style == "short":
            return describe_shortly(self.view)
        return f"{describe(self.view)}\nAvailable actions: {', '.join(self.available())}"

    def available(self) -> list[str]:
        """Return the primitive actions that would do something, and the walks."""
        view, ahead = self.view, self.view.ahead()
        possible = {
            "move forward": front(view.pose) in view.free,
            "pick up": ahead is not None and ahead.kind != "door" and not view.carrying,
            "drop": bool(view.carrying) and ahead is None and front(view.pose) in view.free,
            "toggle": ahead is not None and (ahead.kind == "box" or ahead.state == "open" or view.opens(ahead)),
        }
        primitives = [name for name in PRIMITIVES if possible.get(name, True)]
        return primitives + (actions_of(view) if self.high else [])

    def act(self, action: str) -> TurnOutcome:
        # Models write `Go to red ball 1.` and `pickup`; neither is a reason to lose a turn.
        action = " ".join(re.sub(r"[^a-z0-9 ]", " ", action.lower()).split()).replace("pickup", "pick up")
        if action in PRIMITIVES:
            if action not in self.available():
                raise InvalidAction(f"'{action}' would do nothing here")
            return self._do([PRIMITIVES[action]])
        if not self.high:
            raise InvalidAction(f"an action is one of {self.grammar}")
        return self._do(self._walk(action))

    def _walk(self, action: str) -> list[int]:
        found = re.fullmatch(r"(go to|pick up|toggle and go through|go through) (.+)", action)
        if found is None:
            raise InvalidAction(f"an action is one of {self.grammar}")
        # A door may be named with its state, as it is shown, but the state is no part of its name.
        verb, name = found[1], re.sub(r"\b(open|closed|locked) ", "", found[2])
        thing = self.view.thing(name)
        if thing is None:
            raise InvalidAction(f"you see no {name}")
        way = walk(self.view, verb, thing)
        if isinstance(way, str):
            raise InvalidAction(way)
        return way

    def _do(self, actions: list[int]) -> TurnOutcome:
        reward, terminated, truncated = 0.0, False, False
        for action in actions:
            _, reward, terminated, truncated, _ = self.env.step(action)
            # Each primitive action of a walk: the bot would lose its place if it only heard of the last one.
            if self._bot is not None:
                self._bot.took(action)
            if terminated or truncated:
                break
        # A mission that can no longer be fulfilled ends too, with a reward of 0.
        success = bool(terminated and reward > 0)
        over = bool(terminated or truncated)
        observation = self._observe()
        if over:
            observation = "The mission is fulfilled." if success else "The mission has failed."
        return TurnOutcome(observation, float(reward) if success else 0.0, float(success), success, over)

    def expert(self) -> str | None:
        """Return what BabyAI's bot would do, as a walk where one leads there; None: the bot cannot play on."""
        if self._bot is None:
            self._bot = Bot(self.env)
        action = self._bot.suggestion(self.view, self.high)
        return None if action is None else say(action)

    def baseline(self, name: str, random: Random) -> str:
        """Return a turn of ``random``, or of ``nearest``, which goes to the nearest thing or looks around."""
        if name != "nearest":
            return super().baseline(name, random)
        walks = [action for action in self.available() if action.startswith("go to")]
        return say(walks[0] if walks else "turn right")

    def close(self) -> None:
        for env in self._made.values():
            env.close()
        self._made.clear()


def _make(name: str) -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout
    import gymnasium
    import minigrid

    if name not in gymnasium.registry:
        minigrid.register_minigrid_envs()
    return gymnasium.make(name, disable_env_checker=True).unwrapped
