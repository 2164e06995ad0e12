"""Our seat in an episode of verifiers: a harness that runs its conversation in this process.

verifiers' own harnesses are programs that uv installs and starts for each episode. All that verifiers asks of one is
that each call of the model goes through its endpoint, where the trace is written that rewards are computed from.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import httpx
from verifiers.v1 import Harness, HarnessConfig, ProgramResult
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

SEAT = "agentforge_seat"
"""The name under which verifiers finds this module: one without dots, as it imports a harness by its id."""

__all__ = ["Seat"]


class Seat(Harness[HarnessConfig]):
    """Asks for a turn, does the calls in it with the task's tools, and asks again until a turn calls nothing."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
        tool_interception_url: str | None = None,
    ) -> Any:
        """Play one segment; see `verifiers.v1.Harness.launch`."""
        system, prompt = self.resolve_prompt(data)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or []]
        servers = {"mcpServers": {name: {"url": url} for name, url in mcp_urls.items()}}
        async with AsyncExitStack() as stack:
            tools, names, opened = await connect_mcp(servers, stack)
            # No bound in time: a turn takes as long as the model does.
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=None, trust_env=False))
            while True:
                body = {"model": ctx.model, "messages": messages} | ({"tools": tools} if tools else {})
                answer = await client.post(
                    f"{endpoint.rstrip('/')}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}
                )
                if answer.status_code >= 400:  # a limit or a @stop has refused the turn: verifiers knows which
                    return ProgramResult(1, "", answer.text[:500])
                message = answer.json()["choices"][0]["message"]
                messages.append({name: value for name, value in message.items() if value is not None})
                if not message.get("tool_calls"):
                    return ProgramResult(0, "", "")
                messages += [await _result(call, names, opened) for call in message["tool_calls"]]


async def _result(call: dict[str, Any], names: Any, opened: Any) -> dict[str, Any]:
    """Return what a tool answers; what goes wrong with a call is told to the model."""
    name = call["function"]["name"]
    content: Any
    if name not in names:
        content = f"Error: there is no tool '{name}'."
    else:
        try:
            content = await call_mcp(opened, names, name, json.loads(call["function"]["arguments"] or "{}"))
        except Exception as error:
            content = f"Error: {error}"
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}


sys.modules.setdefault(SEAT, sys.modules[__name__])
