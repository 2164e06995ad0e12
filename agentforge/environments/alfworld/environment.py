"""ALFWorld: household tasks in text (Shridhar et al., arXiv 2010.03768), in rooms of our own or the original ones."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.alfworld.households import TYPES, household
from agentforge.environments.options import as_choice
from agentforge.environments.text_game import FORMAT, TASKS, InvalidAction, TextGame, TurnOutcome, say
from agentforge.errors import UserError

GRAMMAR = (
    "go to PLACE | open PLACE | close PLACE | take THING from PLACE | move THING to PLACE | use THING | "
    "clean THING with PLACE | heat THING with PLACE | cool THING with PLACE | slice THING with THING | "
    "examine THING | look | inventory"
)
RULES = f"""You are in a house and do a household task. Each turn you take one action: {GRAMMAR}.
Places and things have the names you see: cabinet 1, apple 2. You carry one thing at a time. {FORMAT}"""
_PUT = re.compile(r"put (.+) (?:in/on|in|on|into|onto) (.+)")
_SEEN = re.compile(r"(you see|You are carrying:) ([^.]+)\.")


class ALFWorld(TextGame):
    """A household task; the seed of an episode changes nothing.

    A task's difficulty is 1 where something is to be cleaned, heated or cooled, 2 for two things, else 0.

    Args:
        games: ``generated``: our own, task ``n`` of type ``n mod 6``; ``original``: those below ``$ALFWORLD_DATA``.
        max_turns: of an episode.
    """

    id: ClassVar[str] = "agentgym:alfworld"

    def __init__(self, games: str = "generated", max_turns: int = 30) -> None:
        super().__init__(max_turns)
        source = as_choice(games, f"environments.{self.id}.games", ("generated", "original"))
        self._files = original_games() if source == "original" else []
        self.instructions = RULES
        self.action_tool = act_tool("Take one action in the house.", GRAMMAR)
        self._world = _World()

    @property
    def tasks(self) -> int:
        return len(self._files) or TASKS

    def difficulty(self, task_id: int) -> int:
        if self._files:
            name = str(self._files[task_id])
            # The type is in the name of the folder that ALFRED gave the game.
            number = next((i for i, type_ in enumerate(TYPES) if type_ in name), 0)
        else:
            number = task_id % len(TYPES)
        return (0, 0, 1, 1, 1, 2)[number]

    def begin(self, seed: int, task_id: int) -> str:
        if self._files:
            return self._world.load(json.loads(self._files[task_id].read_text(encoding="utf-8")))
        game = household(task_id)
        domain, grammar = (self._world.data(name) for name in ("alfred.pddl", "alfred.twl2"))
        grammar = grammar.replace("UNKNOWN GOAL", game.task)
        return self._world.load({"pddl_domain": domain, "grammar": grammar, "pddl_problem": game.problem()})

    def available(self) -> list[str]:
        return list(self._world.commands)

    def act(self, action: str) -> TurnOutcome:
        # Commands are compared as text, and models end them with a full stop.
        command = " ".join(action.lower().rstrip(".").split())
        command = _PUT.sub(r"move \1 to \2", command)  # AgentGym's version of ALFWorld says it like this
        if command not in self._world.commands:
            raise InvalidAction(f"'{command[:80]}' is not possible here; the actions are {GRAMMAR}")
        observation, won = self._world.step(command)
        return TurnOutcome(observation, float(won), float(won), won, won)

    def expert(self) -> str | None:
        # Planned anew at every turn, from where the episode is: so an expert goes on from wherever a model has led it.
        plan = self._world.plan()
        return say(plan[0]) if plan else None

    def close(self) -> None:
        self._world.close()


class _World:
    """TextWorld's simulator of PDDL games. It keeps facts in sets, so its lists are sorted here."""

    def __init__(self) -> None:
        if find_spec("alfworld") is None or find_spec("textworld") is None:
            raise UserError("agentgym:alfworld needs the package alfworld: pip install agentforge-train[alfworld]")
        try:
            from textworld import EnvInfos
            from textworld.envs.pddl.pddl import PddlEnv

            self._env: Any = PddlEnv(EnvInfos())
        except ImportError as error:
            raise UserError(
                f"agentgym:alfworld needs textworld with its planner ({error}): pip install agentforge-train[alfworld]"
            ) from error
        self.commands: list[str] = []

    @staticmethod
    def data(name: str) -> str:
        """Return a file of the alfworld package, which is not imported: that makes a folder in the user's home."""
        spec = find_spec("alfworld")
        assert spec is not None and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0], "data", name).read_text(encoding="utf-8")

    def load(self, game: dict[str, Any]) -> str:
        """Begin a game and return what is seen and what is to be done."""
        self._env.load(game)
        for info, name in zip(self._env._entity_infos.values(), readable(list(self._env._entity_infos)), strict=True):
            info.name = name
        state = self._env.reset()
        self.commands = list(state["admissible_commands"])
        text = str(state.feedback)
        # What comes before is TextWorld's banner, which ends in `=-`.
        return in_order(text.split("=-", 1)[-1].strip())

    def step(self, command: str) -> tuple[str, bool]:
        state, _, _ = self._env.step(command)
        self.commands = list(state["admissible_commands"])
        return in_order(str(state.feedback)), bool(state["won"])

    def plan(self) -> list[str]:
        return list(self._env._pddl_state.replan(self._env._entity_infos))

    def close(self) -> None:
        # Each game loads a copy of the planner. `fast_downward.close_lib` would unload it, but all copies share one
        # registry (C++ makes its symbol unique in the process), which then points into nothing: a crash at the exit.
        if self._env is not None:
            self._env.downward_lib.cleanup()
            self._env = None


def readable(identifiers: list[str]) -> list[str]:
    """Return names for PDDL's identifiers: ``cabinet_bar_...`` is a cabinet with a number.

    Identifiers of one name are numbered from the last in alphabetical order down, as ALFWorld does.
    """
    # For example knife_bar_2 is `knife 1` and knife_bar_1 is `knife 2`; a word without `_bar_` keeps its name.
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for word in sorted(identifiers, reverse=True):
        name, bar, _ = word.partition("_bar_")
        if not bar:
            names[word] = word
            continue
        name += "basin" if "basin" in word and not name.endswith("basin") else ""
        counts[name] = counts.get(name, 0) + 1
        names[word] = f"{name} {counts[name]}"
    return [names[word] for word in identifiers]


def in_order(text: str) -> str:
    """Return an observation with each list of things sorted."""

    def sort(found: re.Match[str]) -> str:
        things = re.split(r", and |, | and ", found[2])
        # Numbers as numbers: cabinet 2 comes before cabinet 10.
        things.sort(key=lambda thing: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", thing)])
        return f"{found[1]} {', '.join(things)}."

    return _SEEN.sub(sort, text)


def original_games() -> list[Path]:
    """Return the files of ALFWorld's games in the order of their paths."""
    root = os.environ.get("ALFWORLD_DATA")
    files = sorted(Path(root).rglob("game.tw-pddl")) if root else []
    if not files:
        raise UserError(
            "environments.agentgym:alfworld.games is 'original' but there is no game.tw-pddl below $ALFWORLD_DATA; "
            "run alfworld-download, or take games: generated"
        )
    return files
