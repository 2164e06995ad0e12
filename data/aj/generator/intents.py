"""One thing a user wants of a machine: how it is asked, the command that does it, and the report of its real output."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from .world import AGENT_GROUPS, AGENTS, FILES, KINDS, NEW_FOLDERS, SERVICES, WORDS, World

Split = Literal["train", "heldout"]
HERE = Path(__file__).parent
INTENTS: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "intents.yaml").read_text(encoding="utf-8"))
PHRASES: dict[str, Any] = yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8"))

HELDOUT_SHARE = 4  # one in so many combinations of machine and command is never trained on
MISSING_SHARE = 0.06  # of the files asked for do not exist, so that commands fail
CHANGES_NOTHING = [name for name in INTENTS if name not in ("make_folder", "back_up", "move_file", "delete_file")]
REPORTS_A_LINE = [
    name for name in CHANGES_NOTHING if name not in ("checksum", "find_kind", "files_with_word", "list_folder")
]


@dataclass(frozen=True)
class Request:
    intent: str
    command: str
    text: str
    slots: dict[str, str]

    def answer(self, exit_code: int, output: str) -> str:
        """The report of what the command printed."""
        intent = INTENTS[self.intent]
        lines = output.splitlines() or [""]
        # grep and rm tell "nothing" by their exit code alone: 1 is "no match" of grep, which prints nothing else.
        nothing = not output or output == "[exit code 1]"
        key = "empty" if nothing and "empty" in intent else "failed" if exit_code else "answer"
        found = {
            "first_word": lines[0].split(" ")[0],
            "first_line": lines[0],
            "last_line": lines[-1],
            "listed": ", ".join(lines),
        }
        return str(intent[key].format(**self.slots, **found))


def is_heldout(target: str, command: str) -> bool:
    """Whether a command on a machine (or pattern) belongs to the held-out combinations."""
    digest = hashlib.sha256(f"{target}|{command}".encode()).digest()
    return digest[0] % HELDOUT_SHARE == 0


def draw_request(
    rng: random.Random, world: World, split: Split, *, target: str = "", intents: list[str] | None = None
) -> Request:
    """Draw a request whose combination of target and command lies in `split`.

    Args:
        target: the agent or pattern it will run on; empty: the local machine.
        intents: names to draw from; none: all.
    """
    while True:
        name = rng.choice(intents or list(INTENTS))
        slots = _draw_slots(rng, world)
        command = INTENTS[name]["command"].format(**slots)
        if is_heldout(target, command) == (split == "heldout"):
            return Request(name, command, rng.choice(INTENTS[name][split]).format(**slots), slots)


def _draw_slots(rng: random.Random, world: World) -> dict[str, str]:
    folder = rng.choice(list(FILES))
    missing = rng.random() < MISSING_SHARE
    names = sorted(set(FILES[folder]) - set(world.present[folder])) if missing else world.present[folder]
    return {
        "folder": rng.choice([other for other in FILES if other != folder]),
        "file": f"{folder}/{rng.choice(names)}",
        "table": f"data/{rng.choice(world.present['data'])}",
        "number": str(rng.randint(1, 9)),
        "column": str(rng.randint(1, 3)),
        "word": rng.choice(WORDS),
        "kind": rng.choice(KINDS),
        "new": rng.choice(NEW_FOLDERS),
        "service": rng.choice(SERVICES),
    }


def draw_agents(rng: random.Random) -> list[str]:
    """Three to five agents that are online: two of one group, so that a pattern has something to match."""
    group = rng.choice(AGENT_GROUPS)
    agents = {f"{group}0{number}" for number in rng.sample([1, 2, 3], 2)}
    return sorted(agents | set(rng.sample(AGENTS, rng.randint(1, 3))))


def frame(rng: random.Random, name: str, split: Split, request: Request, **slots: str) -> str:
    """The request inside one of the phrases called `name`."""
    text = request.text
    return str(rng.choice(PHRASES[name][split]).format(R=text, r=small(text), **slots))


def small(text: str) -> str:
    """With a small first letter, except for the word I."""
    return text if text.startswith("I ") else text[0].lower() + text[1:]
