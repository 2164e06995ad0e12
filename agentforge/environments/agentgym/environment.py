"""Environments that live on a server: AgentGym's own, and whatever `agentforge serve-env` offers.

What an episode is depends on the server as well: AgentGym's TextCraft, for one, draws another prompt for the same task
under another hash seed.

Four layers lie below: `agentgym.contact` finds the server, `agentgym.http` turns any answer into plain values or
`EnvironmentFailed`, `agentgym.dialects` gives these values their meaning, and `agentgym.held` keeps the number of the
environment on the server.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.agentgym.contact import connect, first_call
from agentforge.environments.agentgym.dialects import DIALECTS, Reply
from agentforge.environments.agentgym.held import Held
from agentforge.environments.agentgym.http import Connection, field, number, texts
from agentforge.environments.base import Environment, EnvironmentFailed, Info, Step
from agentforge.environments.options import as_choice, as_count
from agentforge.environments.text_game import FORMAT, TASKS, TextGame, TurnOutcome
from agentforge.errors import UserError

TURNS = {"webshop": 10, "alfworld": 30, "babyai": 20, "sciworld": 30, "textcraft": 20}
"""Model turns of an episode in AgentGym's own evaluation scripts."""

_difficulties: dict[tuple[str, str, int], dict[int, int]] = {}
"""Of the tasks that were played, by address, id and number of tasks of what is served there.

An evaluation asks for them when all is played, of one object of the many that played. If it had to ask the server then,
a server that is gone by that time would cost the whole evaluation.
"""


class Remote(TextGame):
    """A task on one of AgentGym's servers. One object holds one environment there and uses it for all its episodes.

    Args:
        dialect: webshop, alfworld, babyai, sciworld or textcraft.
        url: of the server.
        tasks: how many tasks it has, or how many of its first are played.
        max_turns: of an episode; None: as AgentGym's evaluation.
        timeout: seconds for one whole answer.

    Raises:
        UserError: an option is wrong, or no such server is there.
    """

    id: ClassVar[str] = "agentgym:remote"

    def __init__(
        self,
        dialect: str,
        url: str | None = None,
        tasks: int = 200,
        max_turns: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        key = f"environments.{self.id}"
        kind = DIALECTS[as_choice(dialect, f"{key}.dialect", tuple(DIALECTS))]
        super().__init__(TURNS[dialect] if max_turns is None else max_turns)
        launch = f"`{kind.launch}` in the folder agentenv-{dialect} of github.com/WooooDyy/AgentGym"
        self._server = connect(key, url, timeout, f"AgentGym {dialect}", launch)
        self._tasks = as_count(tasks, f"{key}.tasks", most=TASKS)
        self.instructions = f"{kind.rules} {FORMAT}"
        self.action_tool = act_tool("Take one action in the environment.", "one action, as described")
        setattr(self, "graded", kind.graded)  # noqa: B010  of this object: one class speaks every dialect
        setattr(self, "baselines", ("random",) if kind.lists_actions else ())  # noqa: B010
        self._dialect = kind(self._server)
        self._held = Held(self._server.name, self._dialect.create, self._dialect.close)
        self._reply: Reply | None = None
        first_call(self._server, dialect, launch, lambda: self._held.open() and None)

    @property
    def tasks(self) -> int:
        return self._tasks

    def begin(self, seed: int, task_id: int) -> str:
        self._reply = self._held.begin(lambda held: self._dialect.reset(held, task_id))
        return self._reply.observation

    def act(self, action: str) -> TurnOutcome:
        self._reply = reply = self._held.go_on(lambda held: self._dialect.step(held, action))
        return TurnOutcome(reply.observation, reply.reward, reply.score, reply.success, reply.over)

    def step(self, text: str) -> Step:
        self._reply, before = None, self._reply
        step = super().step(text)
        if self._reply is None:  # no action was found, so none was sent
            self._reply = before
        elif not self._reply.valid:
            step.info.update(valid_action=False, problem="the server says that nothing was done")
        return step

    def available(self) -> list[str]:
        return (self._reply.available if self._reply else None) or []

    def close(self) -> None:
        self._held.give_back()
        self._server.close()


class WebShop(Remote):
    """WebShop on AgentGym's server; see `Remote` for the arguments. (`shop` needs no server, and is no WebShop.)"""

    id: ClassVar[str] = "agentgym:webshop"

    def __init__(
        self, url: str | None = None, tasks: int = 200, max_turns: int | None = None, timeout: float = 60.0
    ) -> None:
        super().__init__("webshop", url, tasks, max_turns, timeout)


class Served(Environment):
    """An environment behind `agentforge serve-env`: same tasks, same observations, same id and so the same splits.

    Args:
        url: of the server.
        timeout: seconds for one whole answer.

    Raises:
        UserError: an option is wrong, or no such server is there.
    """

    id: ClassVar[str] = "served"

    def __init__(self, url: str | None = None, timeout: float = 60.0) -> None:
        launch = "`agentforge serve-env ENVIRONMENT`"
        self._server = server = connect("environments.served", url, timeout, "agentforge", launch)
        tasks, about = first_call(server, "served", launch, lambda: _about(server))
        self._tasks: int = tasks
        for name, value in about.items():
            setattr(self, name, value)
        self._difficulties = _difficulties.setdefault((server.url, self.id, tasks), {})
        self._held = Held(server.name, self._create, self._free)

    @property
    def tasks(self) -> int:
        return self._tasks

    def difficulty(self, task_id: int) -> int:
        if task_id not in self._difficulties:
            answer = self._server.get("difficulty", task_id=task_id)
            self._difficulties[task_id] = field(self._server, answer, "difficulty", int)
        return self._difficulties[task_id]

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self._tasks:
            raise UserError(f"{self.id} has tasks 0 to {self._tasks - 1} with these options, not {task_id}")

        def ask(held: int) -> str:
            answer = self._server.post("reset", {"id": held, "seed": seed, "data_idx": task_id}, again=True)
            self._difficulties[task_id] = field(self._server, answer, "difficulty", int)
            return field(self._server, answer, "observation", str)

        return self._held.begin(ask)

    def step(self, text: str) -> Step:
        return self._held.go_on(lambda held: _step(self._server, self._server.post("step", {"id": held, "turn": text})))

    def expert(self) -> str | None:
        turn = self._ask("expert").get("turn")
        return turn if isinstance(turn, str) else None

    def baseline(self, name: str, random: Random) -> str:
        return field(self._server, self._ask("baseline", name=name, seed=random.getrandbits(32)), "turn", str)

    def close(self) -> None:
        self._held.give_back()
        self._server.close()

    def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        def ask(held: int) -> dict[str, Any]:
            return field(self._server, [self._server.post(path, {"id": held, **body})], 0, dict)

        return self._held.go_on(ask)

    def _create(self) -> int:
        return field(self._server, self._server.post("create", {}, again=True), "id", int)

    def _free(self, held: int) -> None:
        self._server.free({"id": held})


def _about(server: Connection) -> tuple[int, dict[str, Any]]:
    """Return how many tasks a `serve-env` has, and the other attributes of its `Environment`."""
    answer = server.get("info")
    about: dict[str, Any] = {
        "id": field(server, answer, "id", str),
        "instructions": field(server, answer, "instructions", str),
        "graded": field(server, answer, "graded", bool),
        "action_tool": field(server, answer, "action_tool", dict),
        "baselines": tuple(texts(server, answer, "baselines")),
        "max_turns": field(server, answer, "max_turns", int),
    }
    tasks = field(server, answer, "tasks", int)
    if not 1 <= tasks <= TASKS or about["max_turns"] < 1:
        raise EnvironmentFailed(f"{server.name} offers {tasks} tasks of {about['max_turns']} turns")
    return tasks, about


def _step(server: Connection, answer: Any) -> Step:
    """Return the answer to /step; of its info only what `Info` knows, so that no server's words reach our files."""
    told = field(server, answer, "info", dict)
    info = Info(
        success=field(server, told, "success", bool),
        valid_action=field(server, told, "valid_action", bool),
        score=number(server, told, "score"),
    )
    if not 0.0 <= info["score"] <= 1.0:
        raise EnvironmentFailed(f"{server.name} sent 'score' as {info['score']}; a score is from 0 to 1")
    if "problem" in told:
        info["problem"] = field(server, told, "problem", str)
    if "available_actions" in told:
        info["available_actions"] = texts(server, told, "available_actions")
    terminated, truncated = (field(server, answer, name, bool) for name in ("terminated", "truncated"))
    observation = field(server, answer, "observation", str)
    return Step(observation, number(server, answer, "reward"), terminated, truncated, info)
