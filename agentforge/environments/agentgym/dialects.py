"""How each of AgentGym's servers speaks. No two of them agree on names, on what a reward is, or on when it is over.

As of github.com/WooooDyy/AgentGym at 3ef9235 (May 2026). Differences to the rest are said where they are handled.

How to read this: `Dialect` is what most servers have in common, and each subclass overrides only what its server does
otherwise. One call goes through these methods, of which a subclass may change any::

    reset -> POST /reset -> opening (the observation) -> actions (what is possible) -> Reply
    step  -> clean (the action) -> POST /step -> read -> opening, actions -> Reply

Every part of an answer is taken with `field`, `number` or `texts`, never with ``answer[key]`` alone: an answer may be
anything, and what is not as it must be becomes `EnvironmentFailed`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, NamedTuple

from agentforge.environments.agentgym.http import Connection, field, number, texts

WORDS = "WORDS"
"""Stands for what to search for in WebShop's listed actions, until the instruction is known."""
NOT_PLAIN = re.compile(r"[^A-Za-z0-9, ]+")
"""What AgentGym's own clients of BabyAI and TextCraft take out of an action before they send it."""


class Reply(NamedTuple):
    """One answer in our terms; ``score`` in [0, 1] is of the whole episode so far.

    ``valid`` is false where the server did nothing with the action; ``available`` is None where it does not say what
    is possible, and when the episode is over.
    """

    observation: str
    reward: float
    score: float
    success: bool
    over: bool
    valid: bool = True
    available: list[str] | None = None


class Dialect:
    """One kind of server: ``POST /create``, ``/reset``, ``/step``, ``/close``, the environment's number in the body.

    Class attributes:
        launch: the command that starts AgentGym's server.
        rules: what the task is and the grammar of an action.
        graded: the score is more than won or lost.
        lists_actions: it can say what is possible now.
        refusals: how an observation begins after an action that did nothing.
    """

    launch: ClassVar[str]
    rules: ClassVar[str]
    graded: ClassVar[bool] = False
    lists_actions: ClassVar[bool] = False
    refusals: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str] = "id"
    task_key: ClassVar[str] = "data_idx"

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def create(self) -> int:
        """Return the number of a new environment."""
        answer = self.connection.post("create", {}, again=True)
        return field(self.connection, answer, "id", int)

    def reset(self, number_: int, task_id: int) -> Reply:
        """Begin a task."""
        answer = self.connection.post("reset", {self.key: number_, self.task_key: task_id}, again=True)
        return Reply(self.opening(number_, answer), 0.0, 0.0, False, False, available=self.actions(number_, answer))

    def step(self, number_: int, action: str) -> Reply:
        """Take one action. Never tried again: it may have been taken."""
        answer = self.connection.post("step", {self.key: number_, "action": self.clean(action)})
        return self.read(number_, answer)

    def close(self, number_: int) -> None:
        """Free an environment, where the server can: webshop and alfworld have no /close and answer 404."""
        self.connection.free({self.key: number_})

    def opening(self, number_: int, answer: Any) -> str:
        """Return what the model is shown of an answer."""
        return field(self.connection, answer, "observation", str)

    def actions(self, number_: int, answer: Any) -> list[str] | None:
        """Return what is possible now, as the model would write it."""
        return None

    def clean(self, action: str) -> str:
        """Return an action as the server wants it."""
        return action

    def read(self, number_: int, answer: Any) -> Reply:
        """Return the answer to /step in our terms."""
        observation = self.opening(number_, answer)
        reward = number(self.connection, answer, "reward")
        # The first reward ends the episode, whatever ``done`` says: none of these servers pays on the way.
        success = reward > 0
        over = field(self.connection, answer, "done", bool) or success
        # There is no flag for an action that did nothing; the first words of the observation are all that tells.
        valid = not observation.strip().startswith(self.refusals) if self.refusals else True
        available = None if over else self.actions(number_, answer)
        return Reply(observation, reward, max(0.0, min(1.0, reward)), success, over, valid, available)


class TextCraft(Dialect):
    """One at the goal, else nothing."""

    launch = "textcraft --port 36001"
    rules = (
        "You make an item out of others with crafting recipes. Actions: `get N ITEM`, "
        "`craft N ITEM using N ITEM, N ITEM`, `inventory`."
    )
    refusals = ("Could not",)

    def clean(self, action: str) -> str:
        return " ".join(NOT_PLAIN.sub("", action).split())


class BabyAI(Dialect):
    """Minigrid's reward, which falls with the time taken.

    The server takes ``done`` back when the reward is 0.5 or less: a slow success would go on for ever. Here the first
    reward ends the episode. Its ``score`` adds rewards up and is not read.
    """

    launch = "babyai --port 36001"
    rules = (
        "You walk through rooms and reach a goal. Actions: `turn left`, `turn right`, `move forward`, "
        "`go to OBJECT N`, `pick up OBJECT N`, `go through DOOR N`, `toggle and go through DOOR N`, `toggle`, "
        "`check available actions`."
    )
    graded = True
    lists_actions = True
    refusals = ("The action is not recognized", "No change in state", "You cannot", "There is a barrier")

    def clean(self, action: str) -> str:
        return " ".join(NOT_PLAIN.sub("", action).split())

    def actions(self, number_: int, answer: Any) -> list[str] | None:
        # The list is the end of the observation, as text: ... Available actions: ["turn left", "go to red ball 1"]
        listed = self.opening(number_, answer).rpartition("Available actions: [")[2]
        return re.findall(r'"([^"]+)"', listed) or None


class SciWorld(Dialect):
    """ScienceWorld's score from 0 to 100, or -100 for the wrong focus; its own reward is the gain of one step."""

    launch = "sciworld --port 36001"
    rules = (
        "You do experiments in a small simulated world. Actions: `look around`, `look at OBJ`, `look in OBJ`, "
        "`open OBJ`, `close OBJ`, `activate OBJ`, `deactivate OBJ`, `connect OBJ to OBJ`, `disconnect OBJ`, "
        "`use OBJ on OBJ`, "
        "`read OBJ`, `move OBJ to OBJ`, `pick up OBJ`, `put down OBJ`, `pour OBJ into OBJ`, "
        "`dunk OBJ into OBJ`, `mix OBJ`, `go to LOC`, `eat OBJ`, `flush OBJ`, `focus on OBJ`, `wait`, `wait1`, "
        "`task`, `inventory`."
    )
    graded = True
    refusals = ("No known action matches",)

    def opening(self, number_: int, answer: Any) -> str:
        observation = super().opening(number_, answer)
        task = answer.get("task_description")
        return f"{task}\n{observation}" if isinstance(task, str) else observation

    def read(self, number_: int, answer: Any) -> Reply:
        # Not `opening`: the task is said once, with the first observation, and not after every step.
        observation = field(self.connection, answer, "observation", str)
        score = number(self.connection, answer, "score")
        success = score >= 100
        over = field(self.connection, answer, "done", bool) or success
        reward = number(self.connection, answer, "reward") / 100
        valid = not observation.strip().startswith(self.refusals)
        return Reply(observation, reward, max(0.0, min(100.0, score)) / 100, success, over, valid)


class ALFWorld(Dialect):
    """A household; the actions that are possible now are part of the answer, and of what the model is shown."""

    launch = "alfworld --port 36001"
    rules = (
        "You are in a household and do a task. After each turn the actions that are possible are listed: "
        "take one of them, word by word."
    )
    lists_actions = True
    refusals = ("Nothing happen",)

    def reset(self, number_: int, task_id: int) -> Reply:
        body = {self.key: number_, "game": task_id, "world_type": "Text"}
        answer = self.connection.post("reset", body, again=True)
        return Reply(self.opening(number_, answer), 0.0, 0.0, False, False, available=self.actions(number_, answer))

    def opening(self, number_: int, answer: Any) -> str:
        observation = super().opening(number_, answer)
        actions = self.actions(number_, answer)
        return f"{observation}\nAVAILABLE ACTIONS: {','.join(actions)}" if actions else observation

    def actions(self, number_: int, answer: Any) -> list[str] | None:
        return texts(self.connection, answer, "available_actions") if answer.get("available_actions") else None


class WebShop(Dialect):
    """The number is called ``env_idx`` and `create` returns it bare; the task is a ``session_id``.

    The reply to /reset has no observation to rely on, so it is asked for. What can be clicked is asked for as well:
    an action that is not possible changes nothing and is not called invalid by the server. So there are three calls
    where others have one::

        reset: POST /reset, GET /observation, GET /available_actions
        step:  POST /step, GET /available_actions (unless it is over)

    and whether an action is valid is decided here, by what was possible before it.
    """

    launch = "webshop --port 36001"
    rules = (
        "You shop on a web page for what the instruction asks, and buy it. Actions: `search[WORDS]` where there is "
        "a search bar, `click[BUTTON]` for a button or product of the page; `click[buy now]` ends the task."
    )
    graded = True
    lists_actions = True
    key = "env_idx"
    task_key = "session_id"

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._bar = False  # whether the page has a search bar
        self._clicks: list[str] = []  # what can be clicked on it
        self._wish = ""  # what `random` searches for: the instruction, word by word

    def create(self) -> int:
        # The answer is a bare number. `field` takes it out of a list of one, with the same checks as elsewhere.
        answer = self.connection.post("create", {}, again=True)
        return field(self.connection, [answer], 0, int)

    def opening(self, number_: int, answer: Any) -> str:
        return field(self.connection, [self.connection.get("observation", env_idx=number_)], 0, str)

    def actions(self, number_: int, answer: Any) -> list[str] | None:
        page = self.connection.get("available_actions", env_idx=number_)
        self._bar = field(self.connection, page, "has_search_bar", bool)
        self._clicks = [value.lower() for value in texts(self.connection, page, "clickables")]
        clicks = [f"click[{value}]" for value in self._clicks if not (self._bar and value == "search")]
        return [*([f"search[{self._wish}]"] if self._bar else []), *clicks]

    def reset(self, number_: int, task_id: int) -> Reply:
        # `actions` needs the wish and is asked together with the observation that holds it: a placeholder until then.
        self._wish = WORDS
        reply = super().reset(number_, task_id)
        parts = reply.observation.split(" [SEP] ")
        if "Instruction:" in parts[:-1]:  # what to search for, where nobody knows better words
            wish = parts[parts.index("Instruction:") + 1]
            available = [action.replace(WORDS, wish) for action in reply.available or []]
            self._wish = wish
            reply = reply._replace(available=available)
        return reply

    def step(self, number_: int, action: str) -> Reply:
        said = re.fullmatch(r"(search|click)\[(.+)\]", action.strip(), re.DOTALL)
        possible = said is not None and (self._bar if said[1] == "search" else said[2].lower() in self._clicks)
        return super().step(number_, action)._replace(valid=possible)

    def read(self, number_: int, answer: Any) -> Reply:
        reward = number(self.connection, answer, "reward")
        over = field(self.connection, answer, "done", bool)
        observation = field(self.connection, answer, "state", str)
        available = None if over else self.actions(number_, answer)
        return Reply(observation, reward, max(0.0, min(1.0, reward)), over and reward >= 1, over, True, available)


DIALECTS: dict[str, type[Dialect]] = {
    "webshop": WebShop,
    "alfworld": ALFWorld,
    "babyai": BabyAI,
    "sciworld": SciWorld,
    "textcraft": TextCraft,
}
