"""The client against fakes that speak as AgentGym's servers do, and against servers that break."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from agentforge.environments.agentgym import http as agentgym_http
from agentforge.environments.agentgym.environment import Remote, WebShop
from agentforge.environments.base import EnvironmentFailed, Step
from agentforge.environments.registry import make
from agentforge.errors import UserError
from tests.environments.fake_agentgym import World, fake


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentgym_http, "WAITS", (0.05, 0.1, 0.2))


@pytest.fixture
def game(request: pytest.FixtureRequest) -> Iterator[tuple[Remote, World]]:
    with fake(request.param) as (url, world):
        remote = Remote(request.param, url, timeout=1.0)
        yield remote, world
        remote.close()


def facts(step: Step) -> tuple[Any, ...]:
    info = step.info
    return step.reward, info["score"], info["success"], step.terminated, info["valid_action"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
def test_textcraft(game: tuple[Remote, World]) -> None:
    remote, world = game
    assert remote.reset(0, 5) == "Goal: task 5"
    step = remote.step("Thought: wood first.\n\nAction:\nget 1 oak-log!")
    assert (step.observation, facts(step)) == ("Did get 1 oaklog", (0.0, 0.0, False, False, True)), "plain text only"
    assert facts(remote.step("Action: craft 1 nothing using 1 oak"))[-1] is False
    assert facts(remote.step("Action: craft 4 planks using 1 oak log")) == (1.0, 1.0, True, True, True)
    remote.reset(0, 6)
    assert len(world.made) == 1, "one environment serves all episodes"
    remote.close()
    assert world.closed == world.made


@pytest.mark.parametrize("game", ["babyai"], indirect=True)
def test_babyai_ends_although_the_server_takes_the_end_back(game: tuple[Remote, World]) -> None:
    remote, _ = game
    assert remote.reset(0, 41).startswith("Your goal: task 41\n")
    assert remote.available() == ["turn left", "go"]
    assert remote.baseline("random", Random(0)) in ("Action: turn left", "Action: go")
    assert facts(remote.step("Action: fly"))[-1] is False
    assert facts(remote.step("Action: go")) == (0.4, 0.4, True, True, True)
    assert remote.graded


@pytest.mark.parametrize("game", ["sciworld"], indirect=True)
def test_sciworld_scores(game: tuple[Remote, World]) -> None:
    remote, _ = game
    assert remote.reset(0, 0) == "task 0\nA lab."
    assert facts(remote.step("Action: look around")) == (0.25, 0.25, False, False, True)
    assert facts(remote.step("Action: open door")) == (0.75, 1.0, True, True, True)
    remote.reset(0, 1)
    assert facts(remote.step("Action: dance"))[-1] is False
    assert facts(remote.step("Action: focus on the wrong thing")) == (-1.0, 0.0, False, True, True)


@pytest.mark.parametrize("game", ["alfworld"], indirect=True)
def test_alfworld_lists_actions(game: tuple[Remote, World]) -> None:
    remote, world = game
    assert remote.reset(0, 3) == "game 3\nAVAILABLE ACTIONS: look,take mug 1"
    assert facts(remote.step("Action: sing"))[-1] is False
    step = remote.step("Action: look")
    assert step.info["available_actions"] == ["look", "take mug 1"]
    assert facts(remote.step("Action: take mug 1")) == (1.0, 1.0, True, True, True)
    remote.close()  # there is no /close
    assert world.calls[-1] == "/close"


def test_webshop() -> None:
    with fake("webshop") as (url, _):
        shop = make("agentgym:webshop", {"url": url})
        assert isinstance(shop, WebShop)
        assert shop.reset(0, 9) == "WebShop [SEP] Instruction: [SEP] Find me a mug 9 [SEP] Search"
        assert shop.available() == ["search[Find me a mug 9]"]
        assert facts(shop.step("Action: click[B01]"))[-1] is False, "the server does not say so"
        assert facts(shop.step("Action: search[mug]"))[-1] is True
        assert shop.available() == ["click[back to search]", "click[b01]"]
        assert facts(shop.step("Action: search[mug]"))[-1] is False
        shop.step("Action: click[B01]")
        assert facts(shop.step("Thought: good\nAction: click[Buy Now]")) == (0.75, 0.75, False, True, True)
        shop.close()


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
def test_a_turn_without_an_action_is_not_sent(game: tuple[Remote, World]) -> None:
    remote, world = game
    remote.reset(0, 0)
    step = remote.step("I do not know.")
    assert facts(step) == (0.0, 0.0, False, False, False)
    assert "/step" not in world.calls
    assert [remote.step("...").truncated for _ in range(19)][-1] is True, "turns are counted all the same"


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ('{"error": "The id 17 is not valid."}', "an error: The id 17 is not valid."),
        ("<html>busy</html>", r"not JSON \(Expecting value.*\): '<html>busy</html>'"),
        ('{"state": "x"}', "without a usable 'observation'.*right dialect"),
        ('{"observation": "x", "reward": "lots", "done": false}', "without a usable 'reward'"),
        ('{"observation": "x", "reward": NaN, "done": false}', "'reward' as nan"),
        ("[]", "without a usable 'observation'"),
        (("out of memory", 500), "HTTP 500: out of memory"),
        (1.5, "has not answered step in time"),
        ("[" * 200_000, r"not JSON \(nested too deeply\)"),
        ('{"observation": ' + "[" * 40 + "]" * 40 + "}", r"not JSON \(nested too deeply\)"),
        ('{"observation": "x", "done": false, "reward": 1' + "0" * 400 + "}", "'reward' as inf"),
        ('{"observation": "\\ud800", "reward": 0, "done": false}', "surrogates not allowed"),
        ("\xff", r"not JSON \(.*Expecting value"),
        ('{"error": "on\\ntwo lines"}', "an error: on two lines"),
        ((" \n ".join(["no room"] * 100), 429), "HTTP 429: no room no room"),
    ],
)
def test_nonsense_loses_the_episode_and_not_the_run(game: tuple[Remote, World], fault: Any, told: str) -> None:
    remote, world = game
    remote.reset(0, 0)
    world.fault = fault
    with pytest.raises(EnvironmentFailed, match=told) as caught:
        remote.step("Action: inventory")
    assert "\n" not in str(caught.value)
    assert world.calls.count("/step") == 1, "a step is never sent twice"
    with pytest.raises(EnvironmentFailed, match="lost this episode"):
        remote.step("Action: inventory")
    assert remote.reset(0, 1) == "Goal: task 1"
    assert remote.step("Action: inventory").observation == "Did inventory"
    assert len(world.made) == 2, "the old environment is in an unknown state"
    assert world.closed == world.made[:1], "and does not stay on the server"


def test_a_server_that_dies_and_comes_back() -> None:
    port = free_port()
    with fake("textcraft", port) as (url, _):
        remote = Remote("textcraft", url)
        remote.reset(0, 0)
    with pytest.raises(EnvironmentFailed, match=r"cannot be reached|broke off"):
        remote.step("Action: inventory")
    with pytest.raises(EnvironmentFailed, match="cannot be reached"):
        remote.reset(0, 1)
    with fake("textcraft", port):
        assert remote.reset(0, 1) == "Goal: task 1"
        assert remote.step("Action: inventory").observation == "Did inventory"
        remote.close()


def test_a_server_that_is_still_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    monkeypatch.setattr(agentgym_http, "WAITS", (0.2,) * 25)
    port = free_port()
    made: list[Remote] = []
    thread = threading.Thread(target=lambda: made.append(Remote("babyai", f"http://127.0.0.1:{port}")))
    thread.start()
    time.sleep(0.4)
    with fake("babyai", port):
        thread.join(20)
        assert made[0].reset(0, 2).startswith("Your goal: task 2")
        made[0].close()


def test_without_a_server() -> None:
    with pytest.raises(UserError, match=r"needs a server: start it with `webshop --port 36001`.*as url: http"):
        make("agentgym:webshop")
    with pytest.raises(UserError, match=r"cannot be reached.*start it with `sciworld"):
        Remote("sciworld", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="write it as http://HOST:PORT"):
        Remote("sciworld", "localhost:1")
    with pytest.raises(UserError, match="did you mean 'sciworld'"):
        make("mine", {"class": "agentforge.environments.agentgym.environment:Remote", "dialect": "sciwrld"})


def test_the_wrong_kind_of_server() -> None:
    with fake("webshop") as (url, _), pytest.raises(UserError, match="must be a server started with `alfworld"):
        Remote("alfworld", url)


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
def test_sick_episodes_take_no_room_from_healthy_ones(game: tuple[Remote, World]) -> None:
    """A server with room for two: without /close the third failure would be the last episode."""
    remote, world = game
    world.room = 2
    for task in range(5):
        remote.reset(0, task)
        world.fault = ("sick", 500)
        with pytest.raises(EnvironmentFailed, match="HTTP 500: sick"):
            remote.step("Action: inventory")
    assert remote.reset(0, 9) == "Goal: task 9"
    assert world.closed == world.made[:-1]


@pytest.mark.parametrize("game", ["textcraft"], indirect=True)
def test_a_failing_close_hides_nothing(game: tuple[Remote, World]) -> None:
    remote, world = game
    remote.reset(0, 0)
    world.fault, world.close_fault = ("first", 500), ("second", 500)
    with pytest.raises(EnvironmentFailed, match="HTTP 500: first"):
        remote.step("Action: inventory")
    remote.close()
    assert world.calls.count("/close") == 1


def test_a_server_that_is_away_in_the_middle_of_a_run_is_no_error_of_the_recipe() -> None:
    """`rollouts.scheduler.EpisodeQueue` takes a new environment for the second attempt: that must not end the run."""
    port = free_port()
    with fake("textcraft", port) as (url, _):
        Remote("textcraft", url).close()
    remote = Remote("textcraft", url)
    with pytest.raises(EnvironmentFailed, match="cannot be reached"):
        remote.reset(0, 0)
    remote.close()


@pytest.mark.parametrize("game", ["babyai"], indirect=True)
def test_no_action_to_draw_from_loses_the_episode(game: tuple[Remote, World]) -> None:
    remote, _ = game
    with pytest.raises(EnvironmentFailed, match="lists no action"):
        remote.baseline("random", Random(0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 0}, "timeout must be a number above 0 to 86400, not 0"),
        ({"timeout": float("inf")}, "timeout must be a number"),
        ({"timeout": 10**400}, "timeout must be a number"),
        ({"max_turns": 0}, "max_turns must be a whole number, 1 or more, not 0"),
        ({"tasks": 0}, "tasks must be a whole number, from 1 to"),
        ({"tasks": 10**30}, "tasks must be a whole number, from 1 to"),
        ({"url": "http://"}, "write it as http://HOST:PORT"),
        ({"url": "http://a:b"}, "write it as http://HOST:PORT"),
        ({"url": 5}, "write it as http://HOST:PORT"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Remote(**{"dialect": "textcraft", "url": "http://127.0.0.1:1"} | options)


def test_a_lost_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake("babyai") as (url, world):
        remote = Remote("babyai", url)
        world.made.clear()  # as after a restart of the server
        with pytest.raises(EnvironmentFailed, match="is not valid"):
            remote.reset(0, 0)
        assert remote.reset(0, 0).startswith("Your goal")
