"""An environment in OpenEnv's manner, below ``/openenv``: HTTP calls, and the WebSocket that its own clients speak.

Over HTTP an episode has a name, ``episode_id``. A WebSocket is an episode's own: it gets an environment with its first
reset, and gives it back when it ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from random import Random
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.environments.splits import split_of
from agentforge.errors import UserError
from agentforge.serving.environment_sessions import Refused, Sessions

log = logging.getLogger(__name__)

# Whole numbers as JSON has them: not "5", not true. Larger ones fit into no table that an episode is written to.
Number = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Seed = Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)]


class OpenReset(BaseModel):
    """OpenEnv's /reset; without a task one is drawn, never a reserved one."""

    model_config = ConfigDict(extra="ignore")

    seed: Number | None = None
    episode_id: str = Field("default", max_length=255)
    task_id: Number | None = None


class OpenStep(BaseModel):
    """OpenEnv's /step; the action is an object with one text in it."""

    model_config = ConfigDict(extra="ignore")

    action: dict[str, Any]
    episode_id: str = Field("default", max_length=255)


class OpenEnvEpisodes:
    """The calls of OpenEnv on one kind of environment.

    Args:
        model: tells about the tasks.
        sessions: the environments that are in use.
    """

    def __init__(self, model: Environment, sessions: Sessions) -> None:
        self.model, self.sessions = model, sessions

    def reset(self, call: OpenReset, key: int | str) -> dict[str, Any]:
        """Begin an episode under a key, with a new environment if there is none."""
        seed = secrets.randbelow(1 << 31) if call.seed is None else call.seed
        task_id = _drawn(self.model, seed) if call.task_id is None else existing(self.model, call.task_id, "task_id")
        new = key not in self.sessions
        self.sessions.create(key)
        try:
            with self.sessions.using(key) as session:
                text = session.begin(seed, task_id)
        except Exception:
            if new:  # nobody learns of it, so nobody would close it
                self.sessions.close(key)
            raise
        about = {"task_id": task_id, "seed": seed, "instructions": self.model.instructions}
        return {"observation": {"text": text}, "reward": None, "done": False, "metadata": about}

    def step(self, action: dict[str, Any], key: int | str) -> dict[str, Any]:
        """Take a turn, the one text of an action."""
        texts = [value for value in action.values() if isinstance(value, str)]
        if len(texts) != 1 or not _is_unicode(texts[0]):
            raise Refused(422, 'action: an action is one text, as in {"action": {"text": "Action: ..."}}')
        with self.sessions.using(key) as session:
            made = session.act(texts[0])
        done = made.terminated or made.truncated
        return {
            "observation": {"text": made.observation},
            "reward": made.reward,
            "done": done,
            "metadata": dict(made.info),
        }

    def state(self, key: int | str) -> dict[str, Any]:
        """Return how far an episode is."""
        with self.sessions.using(key) as session:
            return {"episode_id": str(key), "step_count": session.steps}


def add_openenv(app: FastAPI, model: Environment, sessions: Sessions) -> None:
    """Add OpenEnv's calls to an application."""
    episodes = OpenEnvEpisodes(model, sessions)
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

    @app.get("/openenv/health")
    def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/openenv/metadata")
    def metadata() -> dict[str, str]:
        return {"name": model.id, "description": model.instructions}

    @app.get("/openenv/schema")
    def schema() -> dict[str, Any]:
        return {"action": text, "observation": text, "state": {"type": "object"}}

    @app.post("/openenv/reset")
    def reset(call: OpenReset) -> dict[str, Any]:
        return episodes.reset(call, call.episode_id)

    @app.post("/openenv/step")
    def step(call: OpenStep) -> dict[str, Any]:
        return episodes.step(call.action, call.episode_id)

    @app.get("/openenv/state")
    def state(episode_id: str = "default") -> dict[str, Any]:
        return episodes.state(episode_id)

    @app.websocket("/openenv/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        # A name of its own, as long as those that clients give; nobody else knows it.
        key = f"ws-{secrets.token_hex(16)}"
        try:
            while True:
                try:
                    received = await websocket.receive_text()
                except KeyError:  # a frame of bytes
                    await websocket.send_json(_error("INVALID_JSON", "a message is text"))
                    continue
                answer = await asyncio.to_thread(_answered, episodes, received, key)
                if answer is None:
                    await websocket.close()
                    break
                await websocket.send_json(answer)
        except WebSocketDisconnect:
            log.debug("the client of %s has gone", key)
        finally:
            await asyncio.to_thread(sessions.close, key)


def _answered(episodes: OpenEnvEpisodes, received: str, key: str) -> dict[str, Any] | None:
    """Return the answer to a message; None: it asks to end."""
    try:
        message = json.loads(received)
    except (ValueError, RecursionError) as error:
        return _error("INVALID_JSON", str(error) or "nested too deeply")
    kind = message.get("type") if isinstance(message, dict) else None
    data = message.get("data", {}) if isinstance(message, dict) else {}
    try:
        if kind == "reset":
            return {"type": "observation", "data": episodes.reset(OpenReset.model_validate(data), key)}
        if kind == "step":
            return {"type": "observation", "data": episodes.step(OpenStep(action=data).action, key)}
        if kind == "state":
            return {"type": "state", "data": episodes.state(key)}
    except ValidationError as error:
        first = error.errors()[0]
        return _error("VALIDATION_ERROR", f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    except Refused as error:
        codes = {429: "CAPACITY_REACHED", 422: "VALIDATION_ERROR", 400: "VALIDATION_ERROR"}
        return _error(codes.get(error.status, "SESSION_ERROR"), str(error))
    except (UserError, EnvironmentFailed) as error:
        return _error("EXECUTION_ERROR", str(error))
    except Exception:
        log.exception("a message of %s failed", key)
        return _error("EXECUTION_ERROR", "the environment has failed; the server's log says why")
    if kind == "close":
        return None
    return _error("UNKNOWN_TYPE", f"a message has the type reset, step, state or close, not {str(kind)[:80]!r}")


def _error(code: str, message: str) -> dict[str, Any]:
    return {"type": "error", "data": {"code": code, "message": message}}


def existing(model: Environment, task_id: int, name: str) -> int:
    """Return the number of a task, given in the field ``name``, if there is such a task."""
    if not 0 <= task_id < model.tasks:
        raise Refused(400, f"{name}: {model.id} has tasks 0 to {model.tasks - 1}, not {task_id}")
    return task_id


def _is_unicode(text: str) -> bool:
    """Tell whether a text has no half of a character, as ``"\\ud800"`` is in JSON; pydantic refuses it elsewhere."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _drawn(model: Environment, seed: int) -> int:
    random = Random(seed)
    for _ in range(1000):
        task_id = random.randrange(model.tasks)
        if split_of(model.id, task_id) == "train":
            return task_id
    raise Refused(409, f"{model.id} has no task that is not reserved for evaluation; give a task_id")
