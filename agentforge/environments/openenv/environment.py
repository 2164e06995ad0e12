"""Any OpenEnv server as an environment (github.com/meta-pytorch/OpenEnv, versions 0.3 to 0.10)."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from agentforge.environments.actions import act_tool, find_action, without_reasoning
from agentforge.environments.agentgym.contact import connect, first_call
from agentforge.environments.agentgym.http import Connection, field, number
from agentforge.environments.base import EnvironmentFailed, Info, Step
from agentforge.environments.openenv.channel import ActionRefused, Channel, HTTPChannel, SocketChannel
from agentforge.environments.options import as_choice, as_count, as_number
from agentforge.environments.packages import Named
from agentforge.environments.text_game import FORMAT, TASKS
from agentforge.errors import UserError

LAUNCH = "`uvicorn PACKAGE.server.app:app`, or `agentforge serve-env ENVIRONMENT` and the address /openenv below it"


class OpenEnv(Named):
    """A task on an OpenEnv server; a task's number is given to its reset as ``task_argument``.

    The reward is the server's. Its metadata may tell ``success`` and ``score``, as `serve-env`'s does. Elsewhere the
    score is the sum of the rewards, cut to 0 and 1, and success is a sum of at least ``success``.

    Args:
        name: a name of your own, which decides the reserved tasks.
        url: of the server.
        transport: ``websocket``, or ``http`` for servers that keep an episode by its ``episode_id``.
        tasks: how many tasks there are.
        task_argument: of the server's reset; it gets the number of the task.
        reset: other arguments of the server's reset, the same for all tasks.
        field: of the action, which gets the model's action as text; None: the only one that is required. Without one,
            an action is a JSON object.
        shown: field of the observation that is shown; None: the only text in it, else all of it as JSON.
        send: the model's ``action``, as everywhere, or its ``turn`` without the reasoning.
        success: least sum of rewards that is a success.
        instructions: what the task is; None: what the server says of itself.
        max_turns: of an episode.
        timeout: seconds for one whole answer.

    Raises:
        UserError: an option is wrong, or no such server is there.
    """

    id: ClassVar[str] = "openenv"
    family: ClassVar[str] = "openenv"
    baselines: ClassVar[tuple[str, ...]] = ()
    graded: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        url: str | None = None,
        transport: Literal["websocket", "http"] = "websocket",
        tasks: int = TASKS,
        task_argument: str = "seed",
        reset: dict[str, Any] | None = None,
        field: str | None = None,
        shown: str | None = None,
        send: Literal["action", "turn"] = "action",
        success: float = 1.0,
        instructions: str | None = None,
        max_turns: int = 30,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(name)
        self.max_turns = as_count(max_turns, f"{self.key}.max_turns")
        self._tasks = as_count(tasks, f"{self.key}.tasks", most=TASKS)
        self._task_argument, self._shown = task_argument, shown
        if not isinstance(reset, dict | None):
            raise UserError(f"{self.key}.reset must be arguments and their values, not {reset!r}")
        self._reset = dict(reset or {})
        self._send = as_choice(send, f"{self.key}.send", ("action", "turn"))
        self._success = as_number(success, f"{self.key}.success", least=-float("inf"))
        transport = as_choice(transport, f"{self.key}.transport", ("websocket", "http"))
        self._server = connect(self.key, url, timeout, "OpenEnv", LAUNCH)
        schema, about = first_call(self._server, "openenv", LAUNCH, lambda: _about(self._server))
        self._field = _field(schema, field)
        grammar = f"the {self._field}" if self._field else f"a JSON object: {json.dumps(schema.get('properties', {}))}"
        rule = "" if self._send == "turn" else f" Your action is {grammar}. {FORMAT}"
        self.instructions = f"{instructions or about}{rule}".strip()
        self.action_tool = act_tool("Take one action in the environment.", grammar)
        self._channel: Channel = (
            HTTPChannel(self._server) if transport == "http" else SocketChannel(self._server, self.id)
        )
        self._turns, self._total, self._last = 0, 0.0, Info(success=False, valid_action=True, score=0.0)

    @property
    def tasks(self) -> int:
        return self._tasks

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self.tasks:
            raise UserError(f"{self.id} has tasks 0 to {self.tasks - 1}, not {task_id}")
        self._turns, self._total, self._last = 0, 0.0, Info(success=False, valid_action=True, score=0.0)
        arguments: dict[str, Any] = {"seed": abs(seed), **self._reset, self._task_argument: task_id}
        return self._seen(self._channel.reset(arguments))

    def step(self, text: str) -> Step:
        self._turns += 1
        last = self._turns >= self.max_turns
        try:
            answer = self._channel.step(self._action(text))
        except ActionRefused as problem:
            info = Info(success=self._last["success"], valid_action=False, score=self._last["score"])
            info["problem"] = str(problem)
            return Step(f"Invalid action: {problem}.", 0.0, False, last, info)
        told = answer if isinstance(answer, dict) else {}
        reward = self._reward(told)
        over = field(self._server, told, "done", bool)
        self._total += reward
        self._last = self._info(told.get("metadata"), over)
        return Step(self._seen(answer), reward, over, last and not over, self._last)

    def _reward(self, told: dict[str, Any]) -> float:
        """Return the reward of a step: OpenEnv allows true and false, and none at all."""
        reward = told.get("reward")
        if reward is None or isinstance(reward, bool):
            return float(bool(reward))
        return number(self._server, told, "reward")

    def _action(self, text: str) -> dict[str, Any]:
        said = without_reasoning(text).strip() if self._send == "turn" else find_action(text)
        if not said:
            raise ActionRefused("there is no line `Action: ...` in your turn")
        if self._field:
            return {self._field: said}
        try:
            action = json.loads(said)
        except ValueError:
            action = None
        if not isinstance(action, dict):
            raise ActionRefused("the action is no JSON object")
        return action

    def _info(self, metadata: Any, over: bool) -> Info:
        told = metadata if isinstance(metadata, dict) else {}
        success, score = told.get("success"), told.get("score")
        if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
            score = min(1.0, max(0.0, self._total))
        info = Info(
            success=success if isinstance(success, bool) else over and self._total >= self._success,
            valid_action=told.get("valid_action") is not False,
            score=float(score),
        )
        if not info["valid_action"]:
            info["problem"] = str(told.get("problem", "the server says that nothing was done"))
        return info

    def _seen(self, answer: Any) -> str:
        observation = field(self._server, answer, "observation", dict)
        if self._shown is not None:
            return field(self._server, observation, self._shown, str)
        told = {name: value for name, value in observation.items() if name != "metadata"}
        texts = [value for value in told.values() if isinstance(value, str)]
        return texts[0] if len(texts) == 1 else json.dumps(told, ensure_ascii=False)

    def close(self) -> None:
        self._channel.close()
        self._server.close()


def _about(server: Connection) -> tuple[dict[str, Any], str]:
    """Return the schema of an action, and what the environment says of itself."""
    schema = field(server, server.get("schema"), "action", dict)
    try:
        about = server.get("metadata")
    except EnvironmentFailed:  # older servers have none
        about = None
    described = about.get("description") if isinstance(about, dict) else None
    return schema, described if isinstance(described, str) else ""


def _field(schema: dict[str, Any], wanted: str | None) -> str | None:
    """Return the field of an action that takes text; None: an action is an object of several."""
    required = schema.get("required")
    if wanted is not None or not isinstance(required, list) or len(required) != 1:
        return wanted
    kind = (schema.get("properties") or {}).get(required[0])
    return required[0] if isinstance(kind, dict) and kind.get("type") == "string" else None
