"""Conversations of each category: messages whose tool outputs come from commands run in a `World`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .intents import (
    CHANGES_NOTHING,
    PHRASES,
    REPORTS_A_LINE,
    Request,
    Split,
    draw_agents,
    draw_request,
    frame,
    is_heldout,
    small,
)
from .world import AGENT_GROUPS, AGENT_ROLES, FILES, World

Message = dict[str, Any]
SYSTEM = "You are AJ, an agent that works with a shell."


class Conversation:
    """Messages under construction, in the world their commands run in."""

    def __init__(self, rng: random.Random, split: Split, world: World) -> None:
        self.rng, self.split, self.world = rng, split, world
        self.messages: list[Message] = [{"role": "system", "content": SYSTEM}]

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def say(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def call(self, *calls: tuple[str, dict[str, str]]) -> list[tuple[int, str]]:
        """One assistant turn of tool calls; they are carried out and their results appended."""
        nested = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
        self.messages.append({"role": "assistant", "content": "", "tool_calls": nested})
        results = [self._carry_out(name, arguments) for name, arguments in calls]
        for (name, _), (_, output) in zip(calls, results, strict=True):
            self.messages.append({"role": "tool", "name": name, "content": output})
        return results

    def _carry_out(self, name: str, arguments: dict[str, str]) -> tuple[int, str]:
        match name:
            case "bash":
                return self.world.run(arguments["command"])
            case "remote_bash":
                return self.world.run(arguments["command"], arguments["agent"])
            case "remote_bash_all":
                answers = self.everywhere(arguments["pattern"], arguments["command"])
                return 0, "\n".join(f"[{agent}]\n{output}".rstrip() for agent, (_, output) in answers.items())
            case "list_agents":
                return 0, "\n".join(self.world.agents)
        return 0, ""  # think and complete have no output

    def everywhere(self, pattern: str, command: str) -> dict[str, tuple[int, str]]:
        """Run a command on every agent that matches; exit code and output by agent."""
        return {agent: self.world.run(command, agent) for agent in self.world.matching(pattern)}

    def draw(self, **options: Any) -> Request:
        return draw_request(self.rng, self.world, self.split, **options)

    def frame(self, name: str, request: Request, **slots: str) -> str:
        return frame(self.rng, name, self.split, request, **slots)


def local(talk: Conversation) -> None:
    """One command on this machine."""
    request = talk.draw()
    talk.user(talk.frame("local", request))
    [result] = talk.call(("bash", {"command": request.command}))
    talk.say(request.answer(*result))


def two_calls(talk: Conversation) -> None:
    """Two commands in one turn."""
    first, second = talk.draw(intents=CHANGES_NOTHING), talk.draw(intents=CHANGES_NOTHING)
    phrase = talk.rng.choice(PHRASES["two_requests"][talk.split])
    talk.user(phrase.format(R1=first.text, r1=small(first.text), R2=second.text, r2=small(second.text)))
    results = talk.call(("bash", {"command": first.command}), ("bash", {"command": second.command}))
    talk.say(" ".join(request.answer(*result) for request, result in zip((first, second), results, strict=True)))


def recovery(talk: Conversation) -> None:
    """A file named without its folder: the command fails, the file is looked for and read."""
    while True:
        folder = talk.rng.choice(list(FILES))
        name = talk.rng.choice(talk.world.present[folder])
        if is_heldout("", name) == (talk.split == "heldout") and talk.world.exists(f"{folder}/{name}"):
            break
    talk.user(talk.rng.choice(PHRASES["bare_name"][talk.split]).format(name=name))
    talk.call(("bash", {"command": f"cat {name}"}))
    [(_, path)] = talk.call(("bash", {"command": f"find . -name {name}"}))
    [(_, output)] = talk.call(("bash", {"command": f"cat {path}"}))
    talk.say(f"{name} lies in {folder}. It begins with: {output.splitlines()[0]}")


def on_agent(talk: Conversation) -> None:
    """One command on one agent."""
    agent = talk.rng.choice(talk.world.agents)
    request = talk.draw(target=agent)
    talk.user(talk.frame("one_agent", request, agent=agent))
    [result] = talk.call(("remote_bash", {"agent": agent, "command": request.command}))
    talk.say(f"On {agent}: {request.answer(*result)}")


def on_group(talk: Conversation) -> None:
    """One command on all agents whose names begin alike."""
    group = talk.rng.choice([name for name in AGENT_GROUPS + AGENT_ROLES if talk.world.matching(f"{name}*")])
    request = talk.draw(target=f"{group}*", intents=CHANGES_NOTHING)
    talk.user(talk.frame("agent_group", request, group=group))
    talk.call(("remote_bash_all", {"pattern": f"{group}*", "command": request.command}))
    report_each(talk, request, f"{group}*")


def on_all(talk: Conversation) -> None:
    """One command on every agent."""
    request = talk.draw(target="*", intents=CHANGES_NOTHING)
    talk.user(talk.frame("all_agents", request))
    talk.call(("remote_bash_all", {"pattern": "*", "command": request.command}))
    report_each(talk, request, "*")


def report_each(talk: Conversation, request: Request, pattern: str) -> None:
    """What the command printed on each agent; it changes nothing, so that running it again prints the same."""
    results = talk.everywhere(pattern, request.command)
    talk.say("\n".join(f"{agent}: {request.answer(*result)}" for agent, result in results.items()))


def known_agents(talk: Conversation) -> None:
    """Which agents there are."""
    talk.user(talk.rng.choice(PHRASES["agents_known"][talk.split]))
    [(_, output)] = talk.call(("list_agents", {}))
    talk.say(f"I can reach {', '.join(output.splitlines())}.")


def planned(talk: Conversation) -> None:
    """Think, act, report."""
    request = talk.draw()
    talk.user(talk.frame("plan_first", request))
    talk.call(("think", {"thought": f"I run {request.command} and report what it prints."}))
    [result] = talk.call(("bash", {"command": request.command}))
    talk.say(request.answer(*result))


def completed(talk: Conversation) -> None:
    """Act, then complete with a summary."""
    request = talk.draw(intents=REPORTS_A_LINE)
    talk.user(talk.frame("to_completion", request))
    [result] = talk.call(("bash", {"command": request.command}))
    talk.call(("complete", {"summary": request.answer(*result)}))
    talk.say("The task is complete.")


def small_talk(talk: Conversation) -> None:
    """A question that needs no tool, or a wish that is refused."""
    topic = talk.rng.choice(PHRASES["talk"])
    agent = talk.rng.choice(talk.world.agents)
    talk.user(talk.rng.choice(topic["ask"]).format(agent=agent))
    talk.say(topic["say"].format(agent=agent))


Part = Callable[[Conversation], None]
CATEGORIES: dict[str, list[Part]] = {
    "files": [local, local, local, local, two_calls, recovery],
    "remote": [on_agent, on_agent, on_group, on_all],
    "agents": [known_agents],
    "planning": [planned, completed],
    "talk": [small_talk],
}


def converse(category: str, seed: int, split: Split) -> list[Message]:
    """The messages of one conversation; the same seed gives the same bytes on every machine."""
    name = f"{split}/{category}/{seed}"
    rng = random.Random(name)
    with World(name, draw_agents(rng)) as world:
        talk = Conversation(rng, split, world)
        for part in _parts(category, rng, split):
            part(talk)
    return talk.messages


def _parts(category: str, rng: random.Random, split: Split) -> list[Part]:
    """What happens in it: held-out conversations ask once; training ones go on: the tools are read only once."""
    parts = [rng.choice(CATEGORIES[category])]
    if category == "agents":  # the list of agents is there to be used
        parts.append(rng.choice([on_agent, on_agent, on_group]))
    if category == "talk":  # a conversation without any call would teach that tools are rare
        parts.append(rng.choice([local, on_agent, small_talk]))
    if split == "train" and category != "talk":
        parts += rng.choices(CATEGORIES[category], k=rng.randint(1, 4))
    return parts
