"""Environments that live on a server: AgentGym's own, and whatever `agentforge serve-env` offers.

What an episode is depends on the server as well: AgentGym's TextCraft, for one, draws another prompt for the same task
under another hash seed.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.agentgym.dialects import DIALECTS, Reply
from agentforge.environments.agentgym.http import Connection, Unreachable, field, number
from agentforge.environments.base import Environment, EnvironmentFailed, Info, Step
from agentforge.environments.options import as_choice, as_count, as_number
from agentforge.environments.text_game import FORMAT, Game, Outcome
from agentforge.errors import UserError

TURNS = {"webshop": 10, "alfworld": 30, "babyai": 20, "sciworld": 30, "textcraft": 20}
"""Model turns of an episode in AgentGym's own evaluation scripts."""


class Remote(Game):
    """A task on one of AgentGym's servers. One object holds one environment there and uses it for all its episodes.

    Args:
        dialect: webshop, alfworld, babyai, sciworld or textcraft.
        url: of the server.
        tasks: how many tasks it has, or how many of its first are played.
        max_turns: of an episode; None: as AgentGym's evaluation.
        timeout: seconds for one answer.
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
        super().__init__(as_count(max_turns or TURNS[dialect], f"{key}.max_turns"))
        launch = f"`{kind.launch}` in the folder agentenv-{dialect} of github.com/WooooDyy/AgentGym"
        self._server = _connect(key, url, timeout, f"AgentGym {dialect}", launch)
        self._tasks = as_count(tasks, f"{key}.tasks")
        self.instructions = f"{kind.rules} {FORMAT}"
        self.action_tool = act_tool("Take one action in the environment.", "one action, as described")
        setattr(self, "graded", kind.graded)  # noqa: B010  of this object: one class speaks every dialect
        setattr(self, "baselines", ("random",) if kind.lists_actions else ())  # noqa: B010
        self._dialect = kind(self._server)
        self._number: int | None = None
        self._reply: Reply | None = None
        _first_call(self._server, self._create, launch)

    @property
    def tasks(self) -> int:
        return self._tasks

    def begin(self, seed: int, task_id: int) -> str:
        self._reply = self._guarded(lambda: self._dialect.reset(self._create(), task_id))
        return self._reply.observation

    def act(self, action: str) -> Outcome:
        if self._number is None:
            raise EnvironmentFailed(f"{self._server.name} has lost this episode; reset begins another")
        held = self._number
        self._reply = reply = self._guarded(lambda: self._dialect.step(held, action))
        return Outcome(reply.observation, reply.reward, reply.score, reply.success, reply.over)

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
        if self._number is not None:
            self._dialect.close(self._number)
            self._number = None
        self._server.close()

    def _create(self) -> int:
        """Return the number of the environment on the server, a new one if the last was lost."""
        if self._number is None:
            self._number = self._dialect.create()
        return self._number

    def _guarded(self, ask: Any) -> Reply:
        """Ask the server; if that fails, nobody knows in which state the environment is, and it is not used again."""
        try:
            reply: Reply = ask()
        except EnvironmentFailed:
            self._number = None
            raise
        return reply


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
        timeout: seconds for one answer.
    """

    id: ClassVar[str] = "served"

    def __init__(self, url: str | None = None, timeout: float = 60.0) -> None:
        launch = "`agentforge serve-env ENVIRONMENT`"
        self._server = server = _connect("environments.served", url, timeout, "agentforge", launch)
        self._number: int | None = None
        about = _first_call(server, lambda: server.get("info"), launch)
        for name, kind in (("id", str), ("instructions", str), ("graded", bool), ("action_tool", dict)):
            setattr(self, name, field(server, about, name, kind))
        self.max_turns = field(server, about, "max_turns", int)
        setattr(self, "baselines", tuple(field(server, about, "baselines", list)))  # noqa: B010
        self._tasks = int(field(server, about, "tasks", int))

    @property
    def tasks(self) -> int:
        return self._tasks

    def difficulty(self, task_id: int) -> int:
        return int(field(self._server, self._server.get("difficulty", task_id=task_id), "difficulty", int))

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self._tasks:
            raise UserError(f"{self.id} has the tasks 0 to {self._tasks - 1} with these options, not {task_id}")
        try:
            if self._number is None:
                self._number = field(self._server, self._server.post("create", {}, again=True), "id", int)
            body = {"id": self._number, "seed": seed, "data_idx": task_id}
            return str(field(self._server, self._server.post("reset", body, again=True), "observation", str))
        except EnvironmentFailed:
            self._number = None
            raise

    def step(self, text: str) -> Step:
        answer = self._ask("step", turn=text)
        info: Info = field(self._server, answer, "info", dict)
        observation = field(self._server, answer, "observation", str)
        terminated, truncated = (field(self._server, answer, name, bool) for name in ("terminated", "truncated"))
        return Step(observation, number(self._server, answer, "reward"), terminated, truncated, info)

    def expert(self) -> str | None:
        turn = self._ask("expert").get("turn")
        return turn if isinstance(turn, str) else None

    def baseline(self, name: str, random: Random) -> str:
        return str(field(self._server, self._ask("baseline", name=name, seed=random.getrandbits(32)), "turn", str))

    def close(self) -> None:
        if self._number is not None:
            try:
                self._server.post("close", {"id": self._number})
            except EnvironmentFailed:
                self._number = None  # the server frees it when it has been idle for long
        self._server.close()

    def _ask(self, path: str, **body: Any) -> Any:
        if self._number is None:
            raise EnvironmentFailed(f"{self._server.name} has lost this episode; reset begins another")
        try:
            return self._server.post(path, {"id": self._number, **body})
        except EnvironmentFailed:
            self._number = None
            raise


def _connect(key: str, url: str | None, timeout: float, name: str, launch: str) -> Connection:
    as_number(timeout, f"{key}.timeout", over=True)
    if not url:
        raise UserError(f"{key} needs a server: start it with {launch} and give its address as url: http://HOST:PORT")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise UserError(f"{key}.url is {url!r}; write it as http://HOST:PORT")
    return Connection(url, timeout, name)


def _first_call(server: Connection, call: Any, launch: str) -> Any:
    """Find out at once whether a server is there and is the right one.

    Raises:
        UserError: it is not.
    """
    try:
        return call()
    except Unreachable as error:
        server.close()
        raise UserError(f"{error}; start it with {launch}, or correct url") from None
    except EnvironmentFailed as error:
        server.close()
        raise UserError(f"{error}; it must be a server started with {launch}") from None
