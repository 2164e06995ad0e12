"""Environments of verifiers (github.com/PrimeIntellect-ai/verifiers, version 0.4) by the name of their package."""

from __future__ import annotations

import json
import pkgutil
import re
from functools import cache
from importlib.metadata import distributions
from itertools import islice
from typing import Any, ClassVar

from agentforge.data.tool_calls import parse_assistant
from agentforge.environments.actions import act_tool, find_call
from agentforge.environments.base import EnvironmentFailed, Info, Step, ToolSchema
from agentforge.environments.options import as_count, as_number
from agentforge.environments.packages import Named, needed
from agentforge.environments.verifiers.host import Play, the_host
from agentforge.errors import UserError, did_you_mean, first_line

MOST = 10_000
"""Tasks that are read of a taskset without end, unless the recipe says how many."""


class Verifiers(Named):
    """A taskset of verifiers: single answers, several turns (an `Env` of the package), and tools.

    A turn is the model's whole visible text. Tools of the task are offered as its tool schemas; the results of a
    turn's calls are one tool message each. The system prompt of the task is the system turn.

    The reward comes at the end: the sum of the task's rewards, each times its weight. The score is this sum cut to 0
    and 1; success is a sum of at least ``success``.

    Args:
        name: of the installed package (or ``package`` that exports a `Taskset`).
        taskset: keys of the taskset's configuration.
        env: keys of the environment's configuration.
        tasks: how many of the taskset's tasks are used; None: all, or of an endless one `MOST`.
        success: least reward that is a success.
        max_turns: of an episode.
        timeout: seconds that verifiers may take between two turns.

    Raises:
        UserError: the package is missing, there is no such taskset, or an option is wrong.
    """

    id: ClassVar[str] = "verifiers"
    family: ClassVar[str] = "verifiers"
    baselines: ClassVar[tuple[str, ...]] = ()
    graded: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        taskset: dict[str, Any] | None = None,
        env: dict[str, Any] | None = None,
        tasks: int | None = None,
        success: float = 1.0,
        max_turns: int = 10,
        timeout: float = 120.0,
    ) -> None:
        super().__init__(name)
        needed("verifiers.v1", self.id, "verifiers")
        self.max_turns = as_count(max_turns, f"{self.key}.max_turns")
        self._success = as_number(success, f"{self.key}.success", least=-float("inf"))
        self._timeout = as_number(timeout, f"{self.key}.timeout", over=True)
        wanted = None if tasks is None else as_count(tasks, f"{self.key}.tasks")
        for key, value in (("taskset", taskset), ("env", env)):
            if not isinstance(value, dict | None):
                raise UserError(f"{self.key}.{key} must be keys and their values, not {value!r}")
        options = json.dumps([taskset or {}, env or {}], sort_keys=True)
        self._env, self._tasks = _opened(self.key, name, options, self.max_turns, wanted)
        self.instructions = ""
        self.action_tool = act_tool("Gives the whole answer.", "the answer")
        self.tools: list[ToolSchema] = []
        self._play: Play | None = None
        self._known, self._turns = 0, 0

    @property
    def tasks(self) -> int:
        return len(self._tasks)

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self.tasks:
            raise UserError(f"{self.id} has tasks 0 to {self.tasks - 1} with these options, not {task_id}")
        self._give_up()
        host = the_host()
        self._play, self._turns = host.play(), 0
        url = f"http://127.0.0.1:{host.port}/{self._play.key}/v1"
        self._play.begin(_episode(self._env, self._tasks[task_id], url))
        body = self._play.next(self._timeout)
        if not isinstance(body, dict):
            raise EnvironmentFailed(f"{self.id} ended before the first turn: {_why(body)}")
        messages = body["messages"]
        self.instructions = "\n\n".join(_text(m) for m in messages if m["role"] == "system")
        self.tools = list(body.get("tools") or [])
        self._known = len(messages)
        return "\n\n".join(_text(m) for m in messages if m["role"] != "system")

    def step(self, text: str) -> Step:
        if self._play is None:
            raise EnvironmentFailed(f"{self.id} has lost this episode; call reset to begin another")
        self._turns += 1
        message, problem = self._message(text)
        self._play.answer(message)
        event = self._play.next(self._timeout)
        if not isinstance(event, dict):
            return self._over(event, problem)
        new = event["messages"][self._known + 1 :]
        if len(event["messages"]) <= self._known + 1:
            self._give_up()
            raise EnvironmentFailed(f"{self.id} rewrites its conversation, which the tokens played cannot follow")
        self._known = len(event["messages"])
        info = Info(success=False, valid_action=not problem, score=0.0)
        if problem:
            info["problem"] = problem
        if all(m["role"] == "tool" for m in new):
            info["tool_results"] = [_text(m) for m in new]
        return Step("\n\n".join(_text(m) for m in new), 0.0, False, False, info)

    def _message(self, text: str) -> tuple[dict[str, Any], str]:
        """Return a turn as OpenAI's assistant message, and what is wrong with it."""
        if not self.tools and (called := find_call(text)) is not None:
            return {"role": "assistant", "content": called}, ""
        turn = parse_assistant(text)
        if turn.malformed:
            return {"role": "assistant", "content": text}, turn.malformed[0]
        message: dict[str, Any] = {"role": "assistant", "content": turn.content}
        if turn.tool_calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{self._turns}_{number}",
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                    },
                }
                for number, call in enumerate(turn.tool_calls)
            ]
        return message, "" if turn.content or turn.tool_calls else "there is nothing in your turn"

    def _over(self, episode: Any, problem: str) -> Step:
        """Return the last step: verifiers has scored the episode."""
        self._give_up()
        if not episode.ok:
            raise EnvironmentFailed(f"{self.id} failed: {_why(episode)}")
        reward = float(sum(trace.reward for trace in episode.traces))
        truncated = any(trace.stop_condition == "max_turns" for trace in episode.traces)
        score = min(1.0, max(0.0, reward))
        info = Info(success=reward >= self._success, valid_action=not problem, score=score)
        if problem:
            info["problem"] = problem
        return Step("", reward, not truncated, truncated, info)

    def _give_up(self) -> None:
        if self._play is not None:
            self._play.end()
            self._play = None

    def close(self) -> None:
        self._give_up()


@cache  # a run makes many environments with the same options, and verifiers plays many episodes in one
def _opened(key: str, name: str, options: str, max_turns: int, wanted: int | None) -> tuple[Any, list[Any]]:
    from verifiers.v1 import load_environment, resolve_env_config
    from verifiers.v1.configs.agent import agent_config_fields

    from agentforge.environments.verifiers.harness import SEAT

    taskset, env = json.loads(options)
    try:
        seats = list(agent_config_fields(resolve_env_config({**env, "taskset": {**taskset, "id": name}})))
        if len(seats) != 1:
            raise UserError(f"{key} seats {len(seats)} models ({', '.join(seats)}); only one can be trained here")
        seat = {"harness": {"id": SEAT}, "runtime": {"type": "subprocess"}, "max_turns": max_turns}
        config = resolve_env_config({**env, "taskset": {**taskset, "id": name}, seats[0]: env.get(seats[0], {}) | seat})
        made = load_environment(config)
        endless = not made.taskset.bounded
        tasks = list(islice(made.taskset, MOST if wanted is None and endless else wanted))
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"verifiers has no '{name}'{did_you_mean(name, _installed())}; install its package") from error
    except Exception as error:  # of the package itself, or of its configuration
        raise UserError(f"{key} cannot be made: {type(error).__name__}: {first_line(error)}") from error
    if not tasks:
        raise UserError(f"{key} has no tasks")
    the_host().hold(made.serving())
    return made, tasks


def _installed() -> list[str]:
    """Return the tasksets that verifiers ships, and the distributions that need verifiers."""
    import verifiers.v1.tasksets

    needing = [
        each.name
        for each in distributions()
        if any(re.match(r"verifiers\b", required) for required in each.requires or [])
    ]
    return [*(found.name for found in pkgutil.iter_modules(verifiers.v1.tasksets.__path__)), *needing]


async def _episode(env: Any, task: Any, url: str) -> Any:
    from verifiers.v1 import EvalClientConfig, ModelContext

    client = EvalClientConfig(base_url=url, api_key_var="AGENTFORGE_NO_KEY")
    return await env.run_episode(task, ModelContext("agentforge", client))


def _why(episode: Any) -> str:
    errors = [error for each in (episode, *episode.traces) for error in getattr(each, "errors", [])]
    return " ".join(str(errors[0].message).split())[:200] if errors else "it gave no reason"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
