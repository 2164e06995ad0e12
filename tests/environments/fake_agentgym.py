"""AgentGym's five servers in small: the same calls, keys and oddities, and tasks of a few moves.

The oddities are those of the real ones: errors with status 200, bare numbers, missing /close, rewards of several
kinds, an end that is taken back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse

from agentforge.serving.openai_server import listen

Body_ = dict[str, Any]
Posted = Annotated[Body_, Body()]


class World:
    """What the server knows, and how it shall misbehave.

    Attributes:
        fault, close_fault: the next answer to /step and /close: a text, a text and a status, or seconds of silence.
        room: environments that may be open at one time.
    """

    def __init__(self) -> None:
        self.made: list[int] = []
        self.closed: list[int] = []
        self.task: dict[int, int] = {}
        self.moves: dict[int, list[str]] = {}
        self.calls: list[str] = []
        self.fault: Any = None
        self.close_fault: Any = None
        self.room = 100

    def create(self) -> int:
        if len(self.made) - len(self.closed) >= self.room:
            raise HTTPException(429, "no room")
        number = 17 * (len(self.made) + 1)
        self.made.append(number)
        return number

    def begin(self, number: int, task: int) -> None:
        if number not in self.made:
            raise ValueError(f"The id {number} is not valid.")
        self.task[number], self.moves[number] = task, []


def app_of(dialect: str, world: World) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def misbehave(request: Any, call: Any) -> Any:
        world.calls.append(request.url.path)
        name = {"/step": "fault", "/close": "close_fault"}.get(request.url.path)
        if name is not None and (fault := getattr(world, name)) is not None:
            setattr(world, name, None)
            if isinstance(fault, float):
                await asyncio.sleep(fault)
            return PlainTextResponse(*(fault if isinstance(fault, tuple) else (str(fault),)))
        return await call(request)

    {"webshop": webshop, "alfworld": alfworld}.get(dialect, numbered)(app, world, dialect)
    return app


def numbered(app: FastAPI, world: World, dialect: str) -> None:
    """babyai, sciworld and textcraft: ``id``, ``data_idx``, /close."""

    @app.post("/create")
    def create() -> Body_:
        return {"id": world.create(), **({"observation": "...", "done": False} if dialect == "textcraft" else {})}

    @app.post("/reset")
    def reset(body: Posted) -> Body_:
        try:
            world.begin(body["id"], body["data_idx"])
        except ValueError as error:
            return {"error": str(error)}  # with status 200, as the real ones
        task = f"task {body['data_idx']}"
        if dialect == "babyai":
            return {
                "observation": f'Your goal: {task}\nAvailable actions: ["turn left", "go"]',
                "reward": 0,
                "score": 0,
            }
        if dialect == "sciworld":
            return {"task_description": task, "observation": "A lab.", "reward": 0, "score": 0}
        return {"observation": f"Goal: {task}", "reward": 0, "done": False}

    @app.post("/step")
    def step(body: Posted) -> Body_:
        number, action = body["id"], body["action"]
        if number not in world.moves:
            return {"error": f"The id {number} is not valid."}
        world.moves[number].append(action)
        return {"babyai": babyai_step, "sciworld": sciworld_step, "textcraft": textcraft_step}[dialect](world, number)

    @app.post("/close")
    def close(body: Posted) -> bool:
        world.closed.append(body["id"])
        return True


def babyai_step(world: World, number: int) -> Body_:
    move = world.moves[number][-1]
    if move not in ("turn left", "go"):
        return {
            "observation": "The action is not recognized. Please check valid actions.",
            "reward": 0,
            "score": 0,
            "done": False,
        }
    reached = move == "go" and len(world.moves[number]) > 1
    reward = 0.4 if reached else 0  # a slow success: its end is taken back
    return {
        "observation": 'A room.\nAvailable actions: ["turn left", "go"]',
        "reward": reward,
        "score": reward,
        "done": False,
    }


def sciworld_step(world: World, number: int) -> Body_:
    move = world.moves[number][-1]
    if move == "focus on the wrong thing":
        return {"observation": "You focus.", "reward": -100, "score": -100, "done": True}
    if move == "dance":
        return {"observation": "No known action matches that input.", "reward": 0, "score": 0, "done": False}
    done = len(world.moves[number]) == 2
    return {"observation": "Something.", "reward": 75 if done else 25, "score": 100 if done else 25, "done": done}


def textcraft_step(world: World, number: int) -> Body_:
    move = world.moves[number][-1]
    if move.startswith("craft 1 nothing"):
        return {"observation": "Could not find a valid recipe", "reward": 0, "done": False}
    done = move.startswith("craft")
    return {"observation": f"Did {move}", "reward": int(done), "done": done}


def alfworld(app: FastAPI, world: World, _: str) -> None:
    """``game`` and ``world_type``; no /close."""

    @app.post("/create")
    def create() -> Body_:
        return {"id": world.create()}

    @app.post("/reset")
    def reset(body: Posted) -> Body_:
        assert body["world_type"] == "Text"
        world.begin(body["id"], body["game"])
        return {"id": body["id"], "observation": f"game {body['game']}", "available_actions": ["look", "take mug 1"]}

    @app.post("/step")
    def step(body: Posted) -> Body_:
        taken = body["action"] == "take mug 1"
        known = taken or body["action"] == "look"
        return {
            "observation": "You have it." if taken else "A shelf." if known else "Nothing happens.",
            "reward": int(taken),
            "available_actions": ["look", "take mug 1"],
            "done": taken,
        }


def webshop(app: FastAPI, world: World, _: str) -> None:
    """``env_idx`` and ``session_id``, a bare number from /create; no /close; nothing says that an action is invalid."""
    page: dict[int, str] = {}

    @app.post("/create")
    def create() -> int:
        number = world.create()
        page[number] = "search"
        return number

    def text(number: int) -> str:
        name = {"search": "Search", "results": "B01 [SEP] a mug", "item": "Buy Now"}[page[number]]
        return f"WebShop [SEP] Instruction: [SEP] Find me a mug {world.task.get(number)} [SEP] {name}"

    @app.post("/reset")
    def reset(body: Posted) -> list[Any]:
        world.begin(body["env_idx"], body["session_id"])
        page[body["env_idx"]] = "search"
        return ["stale", None]

    @app.get("/observation")
    def observation(env_idx: int) -> str:
        return text(env_idx)

    @app.get("/available_actions")
    def available(env_idx: int) -> Body_:
        clicks = {"search": ["search"], "results": ["Back to Search", "B01"], "item": ["Back to Search", "Buy Now"]}
        return {"has_search_bar": page[env_idx] == "search", "clickables": clicks[page[env_idx]]}

    @app.post("/step")
    def step(body: Posted) -> Body_:
        number, action = body["env_idx"], body["action"]
        bought = action.lower() == "click[buy now]" and page[number] == "item"
        if action.startswith("search[") and page[number] == "search":
            page[number] = "results"
        elif action.lower() == "click[b01]" and page[number] == "results":
            page[number] = "item"
        return {"state": text(number), "reward": 0.75 if bought else 0, "done": bought, "info": None}


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Run an application on loopback; yields its URL."""
    with listen("127.0.0.1", port) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def fake(dialect: str, port: int = 0) -> Iterator[tuple[str, World]]:
    world = World()
    with serving(app_of(dialect, world), port) as url:
        yield url, world
