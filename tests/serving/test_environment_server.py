"""An environment over HTTP is the same environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, ClassVar

import httpx2 as httpx
import pytest

from agentforge.environments.actions import act_tool
from agentforge.environments.agentgym.environment import Remote, Served
from agentforge.environments.base import Environment, EnvironmentFailed, Step
from agentforge.environments.registry import make
from agentforge.environments.splits import split_of, task_ids
from agentforge.environments.text_game import InvalidAction, TextGame, TurnOutcome, say
from agentforge.errors import UserError
from agentforge.serving.environment_server import create_app
from agentforge.serving.environment_sessions import Refused, Sessions

from ..environments.fake_agentgym import serving

TOY = f"{__name__}:Toy"
# One for all, with its connections kept: each of its own would read the certificates.
http = httpx.Client()


class Toy(TextGame):
    """Say the number that the task and the seed add up to."""

    id: ClassVar[str] = "toy"
    closed: ClassVar[list[int]] = []
    UNLUCKY: ClassVar[int] = 1313
    instructions = "Say the sum."
    action_tool = act_tool("Say it.", "the sum")

    def __init__(self, size: int = 50, max_turns: int = 4) -> None:
        super().__init__(max_turns)
        self.size = size
        self.sum = 0

    @property
    def tasks(self) -> int:
        return self.size

    def difficulty(self, task_id: int) -> int:
        return task_id // 10

    def begin(self, seed: int, task_id: int) -> str:
        if seed == self.UNLUCKY:
            raise EnvironmentFailed("broken")
        self.sum = seed + task_id
        return f"{seed} + {task_id} = ?"

    def act(self, action: str) -> TurnOutcome:
        if action == "crash":
            raise RuntimeError("a bug")
        if action == "wait":
            time.sleep(1)
        elif not action.isdigit():
            raise InvalidAction("no number")
        right = action == str(self.sum)
        return TurnOutcome("yes" if right else "no", float(right), float(right), right, right)

    def available(self) -> list[str]:
        return [str(self.sum), "0"]

    def expert(self) -> str:
        return say(str(self.sum))

    def close(self) -> None:
        self.closed.append(self.sum)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app("toy", {"class": TOY}, max_sessions=12)) as address:
        yield address


@pytest.fixture
def served(url: str) -> Iterator[Served]:
    environment = Served(url)
    yield environment
    environment.close()


def played(environment: Environment, turns: list[str], seed: int, task_id: int) -> list[Any]:
    steps: list[Any] = [environment.reset(seed, task_id)]
    for turn in turns:
        step = environment.step(turn)
        steps.append(step)
        if step.terminated or step.truncated:
            break
    return steps


def test_it_is_the_same_environment(served: Served) -> None:
    own = Toy()
    for name in ("id", "tasks", "max_turns", "instructions", "action_tool", "baselines", "graded"):
        assert getattr(served, name) == getattr(own, name), name
    assert [served.difficulty(task) for task in (3, 33)] == [0, 3]
    assert task_ids(served, "eval") == task_ids(own, "eval"), "and so the same tasks are reserved"
    for turns in (
        ["?", "Action: 1", "Action: x", "Action: 2", "Action: 3"],
        ["Action: 12"],
        ["Action: 1", "Action: 12"],
    ):
        assert played(served, turns, 5, 7) == played(own, turns, 5, 7)
    assert served.reset(5, 7) == own.reset(5, 7)
    assert served.expert() == own.expert()
    assert served.baseline("random", Random(1)) in ("Action: 12", "Action: 0")


@pytest.mark.parametrize("name", ["affine:sat", "agentgym:textcraft"])
def test_real_environments_are_the_same(name: str) -> None:
    own = make(name)
    with serving(create_app(name)) as address:
        served = Served(address)
        for task in task_ids(own, "train", 3):
            assert served.reset(1, task) == own.reset(1, task)
            for turn in range(4):
                said = own.baseline("random", Random(turn)) if turn < 2 else own.expert()
                assert said is not None
                assert turn < 2 or served.expert() == said
                theirs, ours = served.step(said), own.step(said)
                assert theirs == ours
                if ours.terminated or ours.truncated:
                    break
        served.close()


def test_agentgyms_client_plays_it() -> None:
    """Its TextCraft client sends the bare action under ``id`` and ``data_idx``."""
    own = make("agentgym:textcraft")
    with serving(create_app("agentgym:textcraft")) as address:
        remote = Remote("textcraft", address)
        assert remote.reset(0, 3) == own.reset(0, 3)
        step: Step | None = None
        while (said := own.expert()) is not None and not (step and step.terminated):
            own.step(said)
            step = remote.step(said)
        assert step is not None
        assert (step.reward, step.info["success"], step.terminated) == (1.0, True, True)
        remote.close()
        assert http.get(f"{address}/info").json()["in_use"] == 0


def test_many_episodes_at_one_time(url: str) -> None:
    def play(seed: int) -> list[Any]:
        environment = Served(url)
        steps = played(environment, ["Action: wait", f"Action: {seed + 1}"], seed, 1)
        environment.close()
        return [steps[0], steps[-1].info["success"]]

    started = time.monotonic()
    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(play, range(10))) == [[f"{seed} + 1 = ?", True] for seed in range(10)]
    assert time.monotonic() - started < 7, "ten that wait a second each wait together"


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("step", {"id": 1, "action": "1"}, 404, "there is no environment 1"),
        ("step", {"action": "1"}, 422, "body.id: Field required"),
        ("step", {"id": "MINE"}, 422, "needs an 'action'"),
        ("reset", {"id": "MINE", "data_idx": 5000}, 400, "toy has tasks 0 to 49"),
        ("baseline", {"id": "MINE", "name": "clever"}, 400, "no baseline 'clever'"),
        ("step", {"id": "MINE", "action": "crash"}, 500, "the server's log says why"),
        ("openenv/step", {"action": {"a": "1", "b": "2"}}, 422, "an action is one text"),
        ("openenv/step", {"action": {"text": "1"}, "episode_id": "none"}, 404, "there is no environment none"),
        ("reset", {"id": "MINE", "data_idx": 10**30}, 422, "body.data_idx: "),
        ("reset", {"id": "MINE", "data_idx": -1}, 422, "body.data_idx: "),
        ("reset", {"id": "MINE", "data_idx": "3"}, 422, "body.data_idx: "),
        ("reset", {"id": "MINE", "data_idx": True}, 422, "body.data_idx: "),
        ("reset", {"id": "MINE", "seed": 10**30}, 422, "body.seed: "),
        ("step", {"id": 10**30}, 422, "body.id: "),
        ("baseline", {"id": "MINE", "name": "nobody"}, 400, "name: toy has no baseline 'nobody'; it has: random"),
        ("openenv/reset", {"task_id": 50}, 400, "task_id: toy has tasks 0 to 49, not 50"),
        ("nowhere", {}, 404, "POST /nowhere: Not Found"),
    ],
)
def test_bad_calls_are_told(url: str, path: str, body: dict[str, Any], status: int, told: str) -> None:
    mine = http.post(f"{url}/create").json()["id"]
    http.post(f"{url}/reset", json={"id": mine})
    answer = http.post(f"{url}/{path}", json={k: mine if v == "MINE" else v for k, v in body.items()})
    assert (answer.status_code, told in answer.json()["error"]) == (status, True), answer.text
    assert http.post(f"{url}/close", json={"id": mine}).json() == {"closed": True}


def test_an_episode_that_is_over_or_has_not_begun(url: str) -> None:
    mine = http.post(f"{url}/create").json()["id"]
    step = {"id": mine, "action": "0"}
    assert "call /reset first" in http.post(f"{url}/step", json=step).json()["error"]
    http.post(f"{url}/reset", json={"id": mine})
    assert http.get(f"{url}/observation", params={"id": mine}).json() == "0 + 0 = ?"
    assert http.post(f"{url}/step", json=step).json()["done"] is True
    assert "call /reset to begin the next" in http.post(f"{url}/step", json=step).json()["error"]
    http.post(f"{url}/close", json={"id": mine})


@pytest.mark.parametrize("path", ["expert", "baseline", "step"])
def test_nothing_is_asked_of_an_episode_that_has_not_begun(url: str, path: str) -> None:
    mine = http.post(f"{url}/create").json()["id"]
    answer = http.post(f"{url}/{path}", json={"id": mine, "turn": "x"})
    assert (answer.status_code, "call /reset first" in answer.json()["error"]) == (409, True)
    http.post(f"{url}/reset", json={"id": mine})
    http.post(f"{url}/step", json={"id": mine, "action": "0"})
    answer = http.post(f"{url}/{path}", json={"id": mine, "turn": "x"})
    assert (answer.status_code, "call /reset to begin the next" in answer.json()["error"]) == (409, True)
    http.post(f"{url}/close", json={"id": mine})


def test_a_reset_that_fails_takes_no_room(url: str) -> None:
    before = http.get(f"{url}/info").json()["in_use"]
    for body in ({"task_id": 99}, {"task_id": 13, "seed": Toy.UNLUCKY}):
        assert http.post(f"{url}/openenv/reset", json=body | {"episode_id": "one of many"}).status_code in (400, 502)
    assert http.get(f"{url}/info").json()["in_use"] == before


def test_a_large_body_is_refused() -> None:
    with serving(create_app("toy", {"class": TOY}, most_bytes=1000)) as address:
        for body in (b'{"id": 1, "turn": "' + b"x" * 5000 + b'"}', iter([b"x" * 600] * 4)):
            answer = http.post(f"{address}/step", content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, "more than 1,000 bytes" in answer.json()["error"]) == (413, True)
        assert http.post(f"{address}/create").status_code == 200


def test_a_session_that_is_closed_meanwhile_is_not_used() -> None:
    """A call that waits for another one finds out when it gets its turn."""
    sessions = Sessions(Toy, 5, 60)
    key = sessions.create()
    with sessions.using(key) as session:
        pass

    class Lost:
        """A lock that another thread gets first."""

        def __enter__(self) -> None:
            session.closed = True

        def __exit__(self, *exception: object) -> None:
            pass

    session.lock = Lost()  # type: ignore[assignment]
    with pytest.raises(Refused, match="there is no environment"), sessions.using(key):
        raise AssertionError("it is closed")


def test_one_that_plays_for_long_is_not_idle() -> None:
    sessions = Sessions(Toy, 5, idle_seconds=0.0)
    key = sessions.create()
    with sessions.using(key):
        sessions.expire()
        assert key in sessions
    sessions.expire()
    assert key not in sessions


def test_making_an_environment_keeps_nobody_waiting() -> None:
    making, made = threading.Event(), threading.Event()

    def build() -> Toy:
        making.set()
        assert made.wait(5)
        return Toy()

    sessions = Sessions(build, 1, 60)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(sessions.create)
        assert making.wait(5)
        with pytest.raises(Refused, match="1 environments are in use"):  # at once, not when the first is made
            sessions.create()
        made.set()
        sessions.close(slow.result(5))
    failing = Sessions(lambda: 1 / 0, 1, 60)  # type: ignore[arg-type, return-value]
    for _ in range(2):  # the place of one that could not be made is free again
        with pytest.raises(ZeroDivisionError):
            failing.create()


def test_there_is_a_most(url: str) -> None:
    made = [http.post(f"{url}/create").json()["id"] for _ in range(12)]
    answer = http.post(f"{url}/create")
    assert (answer.status_code, "12 environments are in use" in answer.json()["error"]) == (429, True)
    for number in made:
        http.post(f"{url}/close", json={"id": number})


def test_idle_environments_are_closed() -> None:
    Toy.closed.clear()
    with serving(create_app("toy", {"class": TOY}, idle_seconds=0.4)) as address:
        served = Served(address)
        served.reset(1, 2)
        deadline = time.monotonic() + 10
        while not Toy.closed and time.monotonic() < deadline:
            time.sleep(0.05)
        assert Toy.closed == [3]
        with pytest.raises(EnvironmentFailed, match="closed after being idle"):
            served.step("Action: 3")
        assert served.reset(1, 2) == "1 + 2 = ?", "the next episode gets a new one"


def test_a_crash_leaves_nothing_open() -> None:
    """After an answer with 500 uvicorn ends the connection, at the moment at which the client sends its /close."""
    with serving(create_app("toy", {"class": TOY}, max_sessions=3)) as address:
        for task in range(30):
            served = Served(address)
            served.reset(0, task)
            with pytest.raises(EnvironmentFailed, match="HTTP 500"):
                served.step("Action: crash")
            served._server.close()
        assert http.get(f"{address}/info").json()["in_use"] == 0


def test_difficulties_are_known_when_the_server_has_gone() -> None:
    with serving(create_app("toy", {"class": TOY})) as address:
        played, other = Served(address), Served(address)
        played.reset(0, 33)
    assert other.difficulty(33) == 3


def test_a_closed_server_closes_what_is_open() -> None:
    Toy.closed.clear()
    with serving(create_app("toy", {"class": TOY})) as address:
        Served(address).reset(40, 2)
    assert 42 in Toy.closed


def test_numbers_are_no_others_after_a_restart() -> None:
    keys = [Sessions(Toy, 5, 60).create() for _ in range(20)]
    assert len(set(keys)) == 20


def test_openenv(url: str) -> None:
    base = f"{url}/openenv"
    assert http.get(f"{base}/health").json() == {"status": "healthy"}
    for episode in ({}, {"episode_id": "mine"}):
        begun = http.post(f"{base}/reset", json={"seed": 3, "task_id": 4} | episode).json()
        assert begun["observation"] == {"text": "3 + 4 = ?"}
        assert (begun["reward"], begun["done"]) == (None, False)
        first = http.post(f"{base}/step", json={"action": {"text": "Action: 1"}} | episode).json()
        assert (first["observation"], first["reward"], first["done"]) == ({"text": "no"}, 0.0, False)
        assert http.post(f"{base}/step", json={"action": {"text": "Action: 7"}} | episode).json()["done"] is True
        state = http.get(f"{base}/state", params=episode).json()
        assert state == {"episode_id": episode.get("episode_id", "default"), "step_count": 2}
    drawn = [http.post(f"{base}/reset", json={"seed": seed}).json()["metadata"]["task_id"] for seed in range(40)]
    assert {split_of("toy", task) for task in drawn} == {"train"}
    assert len(set(drawn)) > 10


def test_the_command_line() -> None:
    command = [sys.executable, "-m", "agentforge", "serve-env", "agentgym:textcraft", "max_depth=1", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"AGENTFORGE_LOG": "INFO"})
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        address = line.split(" at ")[1].split(" ")[0]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert Served(address).tasks == make("agentgym:textcraft", {"max_depth": 1}).tasks
                break
            except UserError:
                time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, 75)
        server.stderr.close()
    wrong = subprocess.run([*command[:4], "affine:sta"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "did you mean 'affine:sat'" in wrong.stderr
