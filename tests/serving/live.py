"""A server on loopback for tests, and OpenAI's own client for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import uvicorn

from agentforge.rollouts.policies.base import Policy
from agentforge.serving.openai_server import create_app, listen


@contextmanager
def running(policy: Policy, **options: Any) -> Iterator[str]:
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(policy, **options), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, content: str, tools: Any = openai.omit, **options: Any) -> Any:
    messages = [{"role": "system", "content": "You are AJ."}, {"role": "user", "content": content}]
    return client.chat.completions.create(model="talking", messages=messages, tools=tools, **options)
