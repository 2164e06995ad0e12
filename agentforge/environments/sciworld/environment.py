"""ScienceWorld: experiments of a primary school's curriculum in text (Wang et al., arXiv 2203.07540)."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.options import as_count
from agentforge.environments.sciworld.simulator import JavaMachine, check_installed, give_back, rent
from agentforge.environments.text_game import FORMAT, InvalidAction, TextGame, TurnOutcome, say

GRAMMAR = (
    "open/close OBJECT | go to LOCATION | look around | look at/in OBJECT | read OBJECT | inventory | task | "
    "pick up/put down OBJECT | move OBJECT to OBJECT | pour OBJECT in OBJECT | dunk OBJECT in OBJECT | mix OBJECT | "
    "focus on OBJECT | use OBJECT on OBJECT | activate/deactivate OBJECT | connect OBJECT to OBJECT | "
    "disconnect OBJECT | flush OBJECT | eat OBJECT | wait | wait1 | a number to resolve an ambiguous request"
)
RULES = f"""You are in a house and do an experiment. Each turn you take one action: {GRAMMAR}.
Focus on a thing only where the task asks for it: a wrong focus ends the task. {FORMAT}"""
MOST_VARIATIONS = 100
UNKNOWN = "No known action matches that input"

# Name to how many variations it has and its difficulty, which is the length of the simulator's own solution of its
# second variation: 0 up to 15 actions, 1 up to 35, 2 up to 70, 3 above.
TASKS = {
    "boil": (30, 1),
    "change-the-state-of-matter-of": (30, 1),
    "chemistry-mix": (32, 1),
    "chemistry-mix-paint-secondary-color": (36, 0),
    "chemistry-mix-paint-tertiary-color": (36, 0),
    "find-animal": (300, 0),
    "find-living-thing": (300, 0),
    "find-non-living-thing": (300, 0),
    "find-plant": (300, 0),
    "freeze": (30, 1),
    "grow-fruit": (126, 3),
    "grow-plant": (126, 2),
    "identify-life-stages-1": (14, 1),
    "identify-life-stages-2": (10, 1),
    "inclined-plane-determine-angle": (168, 2),
    "inclined-plane-friction-named-surfaces": (1386, 2),
    "inclined-plane-friction-unnamed-surfaces": (162, 3),
    "lifespan-longest-lived": (125, 0),
    "lifespan-longest-lived-then-shortest-lived": (125, 0),
    "lifespan-shortest-lived": (125, 0),
    "measure-melting-point-known-substance": (436, 1),
    "measure-melting-point-unknown-substance": (300, 3),
    "melt": (30, 2),
    "mendelian-genetics-known-plant": (120, 3),
    "mendelian-genetics-unknown-plant": (480, 3),
    "power-component": (20, 0),
    "power-component-renewable-vs-nonrenewable-energy": (20, 1),
    "test-conductivity": (900, 1),
    "test-conductivity-of-unknown-substances": (600, 1),
    "use-thermometer": (540, 1),
}


def numbered(max_difficulty: int) -> list[tuple[str, int]]:
    """Return (name, variation) of every task: the easy ones first, at most `MOST_VARIATIONS` of a name."""
    found = [
        (level, variation, name)
        for name, (variations, level) in TASKS.items()
        for variation in range(min(variations, MOST_VARIATIONS))
        if level <= max_difficulty
    ]
    return [(name, variation) for _, variation, name in sorted(found)]


class SciWorld(TextGame):
    """A variation of an experiment; the seed of an episode changes nothing.

    The reward of a step is the change of ScienceWorld's score (0 to 100, -100 for a wrong focus) over 100; success is
    the full score. The simulator's draws are seeded, but the order in which it lists things can depend on what its
    machine has played before, so only the first episode of a process is the same to the letter in another.

    Args:
        max_difficulty: 0 to 3, which is all; the ids of easier tasks do not change with it.
        max_turns: of an episode.
    """

    id: ClassVar[str] = "agentgym:sciworld"
    graded: ClassVar[bool] = True

    def __init__(self, max_difficulty: int = 3, max_turns: int = 100) -> None:
        super().__init__(max_turns)
        self._tasks = numbered(as_count(max_difficulty, f"environments.{self.id}.max_difficulty", least=0))
        check_installed()
        self.instructions = RULES
        self.action_tool = act_tool("Take one action in the house.", GRAMMAR)
        self._machine: JavaMachine | None = None
        self._game: Any = None
        self._task = ("", 0)
        self._score = 0.0
        self._taken = 0
        self._first = ""
        self._gold: list[str] | None = None

    @property
    def tasks(self) -> int:
        return len(self._tasks)

    def difficulty(self, task_id: int) -> int:
        return TASKS[self._tasks[task_id][0]][1]

    def begin(self, seed: int, task_id: int) -> str:
        self._task = self._tasks[task_id]
        self._score, self._taken, self._gold = 0.0, 0, None
        self._first = self._start(gold=False)
        return f"{self._ask('getTaskDescription')}\n\n{self._first}"

    def _start(self, gold: bool) -> str:
        """Start the task afresh and return what is seen."""
        # Machines are shared, so one may have died under another environment's episode.
        if self._machine is None or not self._machine.alive:
            self.close()
            self._machine = rent()
        elif self._game is not None:
            self._machine.forget(self._game)
        try:
            self._game = self._machine.start(*self._task, gold)
        except Exception as error:
            raise self._broken(error) from error
        return str(self._ask("step", "look around")).strip()

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._game, method)(*arguments)
        except Exception as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> EnvironmentFailed:
        self.close()
        return EnvironmentFailed(f"ScienceWorld's Java process failed in {self._task[0]}: {type(error).__name__}")

    def act(self, action: str) -> TurnOutcome:
        observation = str(self._ask("step", action)).strip()
        if observation.startswith(UNKNOWN):
            raise InvalidAction(f"the simulator does not know '{action[:80]}' here; the actions are {GRAMMAR}")
        # The solution is a list of actions from the start. Who leaves it once cannot come back to it.
        if self._gold is not None and self._gold[self._taken : self._taken + 1] != [action]:
            self._gold = []
        self._taken += 1
        before, self._score = self._score, round(float(self._ask("getScore")), 4)
        # The Java side counts from 0 to 1, and a wrong focus as -1: the task is lost then.
        over = bool(self._ask("getCompleted")) or self._score < 0
        return TurnOutcome(observation, self._score - before, max(0.0, self._score), self._score >= 1, over)

    def expert(self) -> str | None:
        """Return the next action of the simulator's own solution; None if another way was taken from the start on."""
        if self._gold is None:
            # The solution is made for a world that is made afresh, so it has to be the same, in whatever order.
            if self._taken or sorted(self._start(gold=True).split()) != sorted(self._first.split()):
                return None
            self._gold = list(self._ask("getGoldActionSequence"))
        return say(self._gold[self._taken]) if self._taken < len(self._gold) else None

    def baseline(self, name: str, random: Random) -> str:
        """Return a turn of ``random``: one of the actions valid now (there are thousands, and asking is slow)."""
        if name != "random":
            return super().baseline(name, random)
        # Sorted, because the simulator lists them in an order of its own.
        return say(random.choice(sorted(self._ask("getValidActionObjectCombinations"))))

    def close(self) -> None:
        if self._machine is not None:
            give_back(self._machine)
        self._machine, self._game = None, None
