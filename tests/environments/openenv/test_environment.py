"""OpenEnv in both directions: our client on their server, their client on ours, and ours on ours."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from agentforge.environments.actions import act_tool
from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.environments.registry import make
from agentforge.environments.splits import task_ids
from agentforge.environments.text_game import InvalidAction, TextGame, TurnOutcome
from agentforge.errors import UserError
from agentforge.serving.environment_server import create_app
from tests.environments.fake_agentgym import serving

pytest.importorskip("websockets", reason="the extra openenv is not installed")
SUM = f"{__name__}:Sum"


class Sum(TextGame):
    """Say the number that the task and the seed add up to."""

    id: ClassVar[str] = "test:sum"
    tasks = 40
    instructions = "Say the sum."
    action_tool = act_tool("Say it.", "the sum")

    def __init__(self) -> None:
        super().__init__(3)
        self.sum = 0

    def begin(self, seed: int, task_id: int) -> str:
        self.sum = seed + task_id
        return f"{seed} + {task_id} = ?"

    def act(self, action: str) -> TurnOutcome:
        if action == "break":
            raise EnvironmentFailed("broken")
        if not action.isdigit():
            raise InvalidAction("no number")
        right = action == str(self.sum)
        return TurnOutcome("yes" if right else "no", float(right), float(right), right, right)


def ours(address: str, **options: Any) -> Environment:
    """Return the environment behind `serve-env`, as OpenEnv's clients see it."""
    return make("openenv:sum", {"url": f"{address}/openenv", "task_argument": "task_id", "send": "turn", **options})


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_what_we_serve_is_the_same_environment(transport: str) -> None:
    own = Sum()
    with serving(create_app("mine", {"class": SUM})) as address:
        remote = ours(address, transport=transport, tasks=40, max_turns=3)
        assert remote.instructions == "Say the sum."
        for turns in (["?", "Action: 1", "Action: 12"], ["Action: 12"], ["Action: x", "Action: 3", "Action: 3"]):
            assert remote.reset(5, 7) == own.reset(5, 7)
            for turn in turns:
                theirs, expected = remote.step(turn), own.step(turn)
                assert theirs[:2] == expected[:2]
                assert theirs.info == expected.info
                assert (theirs.terminated or theirs.truncated) == (expected.terminated or expected.truncated)
        with pytest.raises(UserError, match="has tasks 0 to 39, not 40"):
            remote.reset(0, 40)
        remote.close()


def test_a_broken_episode_costs_no_more_than_itself() -> None:
    with serving(create_app("mine", {"class": SUM})) as address:
        remote = ours(address)
        remote.reset(0, 1)
        with pytest.raises(EnvironmentFailed, match="answered step with an error: broken"):
            remote.step("Action: break")
        with pytest.raises(EnvironmentFailed, match="has lost this episode"):
            remote.step("Action: 1")
        assert remote.reset(0, 1) == "0 + 1 = ?"
        assert remote.step("Action: 1").info["success"]
        remote.close()
    with pytest.raises(EnvironmentFailed, match=r"opens no WebSocket|broke off"):
        remote.reset(0, 1)


def test_splits_go_by_the_name_that_a_recipe_gives() -> None:
    with serving(create_app("mine", {"class": SUM})) as address:
        one = ours(address, tasks=40)
        train, reserved = set(task_ids(one, "train")), set(task_ids(one, "eval"))
        assert train | reserved == set(range(40)) and not train & reserved and reserved
        one.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "environments.openenv:x needs a server"),
        ({"url": "nowhere"}, "write it as http://HOST:PORT"),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"url": "http://127.0.0.1:9", "transport": "pigeon"}, "transport is websocket or http, not 'pigeon'"),
        ({"url": "http://127.0.0.1:9", "adress": 1}, "has no option 'adress'"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make("openenv:x", options)


def test_their_client_plays_ours() -> None:
    """OpenEnv's `GenericEnvClient` speaks nothing but its WebSocket."""
    openenv = pytest.importorskip("openenv.core.generic_client", reason="openenv is not installed")
    own = make("agentgym:textcraft")
    first = own.reset(3, 4)
    with (
        serving(create_app("agentgym:textcraft", {})) as address,
        openenv.GenericEnvClient(base_url=f"{address}/openenv").sync() as client,
    ):
        begun = client.reset(seed=3, task_id=4)
        assert begun.observation == {"text": first}
        while (turn := own.expert()) is not None:
            expected, made = own.step(turn), client.step({"text": turn})
            assert made.observation["text"] == expected.observation
            assert (made.reward, made.done) == (expected.reward, expected.terminated)
            if made.done:
                break
        assert made.done and made.reward == 1
        assert client.state()["step_count"] > 1
        with pytest.raises(RuntimeError, match=r"no task|has tasks"):
            client.reset(task_id=10**6)


def test_ours_plays_their_server() -> None:
    """A server made by OpenEnv's own `create_app`, with its `Environment`, `Action` and `Observation`."""
    server = pytest.importorskip("openenv.core.env_server", reason="openenv is not installed")

    class Word(server.Action):
        word: str

    class Seen(server.Observation):
        letters: str = ""

    class Spell(server.Environment):
        """Spell a number backwards."""

        SUPPORTS_CONCURRENT_SESSIONS = True

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Any:
            self.wanted = str(1000 + (seed or 0))
            return Seen(letters=self.wanted, done=False, reward=None)

        def step(self, action: Any, timeout_s: float | None = None, **_: Any) -> Any:
            right = action.word == self.wanted[::-1]
            return Seen(letters="" if right else "again", done=right, reward=right)

        @property
        def state(self) -> Any:
            return server.State(episode_id="x", step_count=0)

    app = server.create_fastapi_app(Spell, Word, Seen)
    with serving(app) as address:
        remote = make("openenv:spell", {"url": address, "max_turns": 2, "instructions": "Spell it backwards."})
        assert remote.instructions.startswith("Spell it backwards. Your action is the word.")
        assert remote.reset(0, 42) == "1042"
        wrong = remote.step("no action")
        assert not wrong.info["valid_action"] and not wrong.terminated
        assert remote.step("Action: 1").truncated
        assert remote.reset(0, 42) == "1042"
        right = remote.step("I think.\nAction: 2401")
        assert (right.reward, right.terminated, right.info["success"], right.info["score"]) == (1.0, True, True, 1.0)
        remote.close()
