"""What an agent in a grid sees, as words; and the ways it can walk there.

Only what minigrid shows the agent is used: the cells of its 7 x 7 view that no wall hides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
"""minigrid's actions."""
MOVES = (FORWARD, LEFT, RIGHT)
PRIMITIVES = {
    "turn left": LEFT,
    "turn right": RIGHT,
    "move forward": FORWARD,
    "pick up": PICKUP,
    "drop": DROP,
    "toggle": TOGGLE,
}
_THINGS = ("key", "ball", "box", "door")
# minigrid's order: right, down, left, up, with y growing downwards. Adding 1 to a direction turns right.
_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
Cell = tuple[int, int]
Pose = tuple[Cell, int]
"""Where the agent stands and which of the four directions it looks in."""


@dataclass(frozen=True)
class Seen:
    """A thing in view.

    Attributes:
        name: ``red ball 1``: colour, type and number among its like, the nearest first.
        state: of a door: open, closed or locked; empty for other things.
        cell: where it is in the grid.
        ahead, right: steps from the agent; negative right is left.
    """

    name: str
    kind: str
    colour: str
    state: str
    cell: Cell
    ahead: int
    right: int


@dataclass(frozen=True)
class View:
    """What the agent sees now.

    Attributes:
        things: keys, balls, boxes and doors, the nearest first.
        free: visible cells one can stand on.
        wall: steps to the wall ahead; None: none is in view.
        carrying: ``red ball``, or empty.
    """

    things: list[Seen]
    free: frozenset[Cell]
    wall: int | None
    carrying: str
    pose: Pose

    def thing(self, name: str) -> Seen | None:
        return next((thing for thing in self.things if thing.name == name), None)

    def ahead(self) -> Seen | None:
        """Return the thing in the cell in front."""
        return next((thing for thing in self.things if (thing.ahead, thing.right) == (1, 0)), None)

    def opens(self, door: Seen) -> bool:
        """Tell whether toggling would open a door."""
        return door.state == "closed" or (door.state == "locked" and self.carrying == f"{door.colour} key")

    def path(self, accept: Callable[[Pose], bool]) -> list[int] | None:
        """Return the fewest moves over visible free cells to an accepted pose."""
        start = self.pose
        # Breadth first over places and directions, because a turn costs an action like a step does.
        came: dict[Pose, tuple[Pose, int] | None] = {start: None}
        queue = deque([start])
        while queue:
            pose = queue.popleft()
            if accept(pose):
                return _trace(came, pose)
            for action in MOVES:
                reached = moved(pose, action)
                if reached not in came and reached[0] in self.free:
                    came[reached] = (pose, action)
                    queue.append(reached)
        return None

    def path_to(self, thing: Seen) -> list[int] | None:
        """Return the moves after which the agent faces a thing from the next cell."""
        return self.path(lambda pose: front(pose) == thing.cell)


def _trace(came: dict[Pose, tuple[Pose, int] | None], pose: Pose) -> list[int]:
    actions: list[int] = []
    while (step := came[pose]) is not None:
        pose, action = step
        actions.append(action)
    return actions[::-1]


def front(pose: Pose) -> Cell:
    """Return the cell in front of a pose."""
    (x, y), direction = pose
    dx, dy = _DIRECTIONS[direction]
    return x + dx, y + dy


def moved(pose: Pose, action: int) -> Pose:
    """Return the pose after a move on free ground."""
    cell, direction = pose
    if action == FORWARD:
        return front(pose), direction
    return cell, (direction + (1 if action == RIGHT else 3)) % 4


def look(env: Any) -> View:
    """Return the view of the agent of a minigrid environment."""
    # The view is turned so that the agent looks up from the middle of its bottom row.
    grid, visible = env.gen_obs_grid()
    size = env.agent_view_size
    pose = ((int(env.agent_pos[0]), int(env.agent_pos[1])), int(env.agent_dir))
    found: list[tuple[int, int, Cell, Any]] = []
    free, wall = {pose[0]}, None
    for column in range(size):
        for row in range(size):
            ahead, right = size - 1 - row, column - size // 2
            if not visible[column, row] or (ahead, right) == (0, 0):
                continue
            cell = _absolute(pose, ahead, right)
            content = grid.get(column, row)
            # An open door can be stood in; a closed one, a thing and a wall cannot.
            if content is None or content.can_overlap():
                free.add(cell)
            if content is not None and content.type in _THINGS:
                found.append((ahead, right, cell, content))
            elif content is not None and content.type == "wall" and right == 0:
                wall = ahead if wall is None else min(wall, ahead)
    carried = env.carrying
    return View(_named(found), frozenset(free), wall, f"{carried.color} {carried.type}" if carried else "", pose)


def _absolute(pose: Pose, ahead: int, right: int) -> Cell:
    (x, y), direction = pose
    fx, fy = _DIRECTIONS[direction]
    # (fx, fy) points ahead and (-fy, fx) to the right of it.
    return x + fx * ahead - fy * right, y + fy * ahead + fx * right


def _named(found: list[tuple[int, int, Cell, Any]]) -> list[Seen]:
    things: list[Seen] = []
    counts: dict[str, int] = {}
    # The nearest first, so `red ball 1` is the nearest red ball now; numbers change as the agent moves.
    for ahead, right, cell, content in sorted(found, key=lambda f: (f[0] + abs(f[1]), f[0], f[1])):
        label = f"{content.color} {content.type}"
        counts[label] = counts.get(label, 0) + 1
        state = ""
        if content.type == "door":
            state = "open" if content.is_open else "locked" if content.is_locked else "closed"
        things.append(Seen(f"{label} {counts[label]}", content.type, content.color, state, cell, ahead, right))
    return things


def describe(view: View) -> str:
    """Return the view in sentences."""
    lines = [f"There is {_article(thing)} {_where(thing)}." for thing in view.things]
    if not lines:
        lines = ["You see no objects."]
    if view.wall is not None:
        lines.append(f"There is a wall {_steps(view.wall)} in front of you.")
    lines.append(f"You carry {'a ' + view.carrying if view.carrying else 'nothing'}.")
    return " ".join(lines)


def describe_shortly(view: View) -> str:
    """Return the view in a line of a few words for each thing: ``red ball 1 ahead 2 left 1``."""
    things = []
    for thing in view.things:
        side = f" {'left' if thing.right < 0 else 'right'} {abs(thing.right)}" if thing.right else ""
        things.append(f"{thing.name}{' ' + thing.state if thing.state else ''} ahead {thing.ahead}{side}")
    if view.wall is not None:
        things.append(f"wall ahead {view.wall}")
    if view.carrying:
        things.append(f"you carry {view.carrying}")
    return "; ".join(things) or "nothing"


def _article(thing: Seen) -> str:
    state = f"{thing.state} " if thing.state else ""
    return f"{'an' if state.startswith('o') else 'a'} {state}{thing.name}"


def _where(thing: Seen) -> str:
    sides = [f"{_steps(thing.ahead)} in front of you"] if thing.ahead else []
    if thing.right:
        sides.append(f"{_steps(abs(thing.right))} to your {'left' if thing.right < 0 else 'right'}")
    return " and ".join(sides)


def _steps(count: int) -> str:
    return f"{count} step{'s' if count != 1 else ''}"


def actions_of(view: View) -> list[str]:
    """Return the walks that are possible now, each with what is done at its end."""
    actions: list[str] = []
    for thing in view.things:
        for verb in ("go to", "pick up", "go through", "toggle and go through"):
            if not isinstance(walk(view, verb, thing), str):
                actions.append(f"{verb} {thing.name}")
    return actions


def walk(view: View, verb: str, thing: Seen) -> list[int] | str:
    """Return the primitive actions of a walk, or why it is not possible."""
    end = _end(view, verb, thing)
    if isinstance(end, str):
        return end
    way = view.path_to(thing)
    if way is None:
        return f"you see no free way to {thing.name}"
    return way + end or [DONE]  # the mission is looked at after every action, so there has to be one


def _end(view: View, verb: str, thing: Seen) -> list[int] | str:
    """Return what follows the way to a thing, or why it is not possible."""
    if verb == "go to":
        return []
    if verb == "pick up":
        if thing.kind == "door":
            return "a door cannot be picked up"
        return f"you carry a {view.carrying}; drop it first" if view.carrying else [PICKUP]
    if thing.kind != "door":
        return f"{thing.name} is no door"
    if verb == "go through":
        # Into the doorway, and out of it on the other side.
        return [FORWARD, FORWARD] if thing.state == "open" else f"{thing.name} is {thing.state}"
    if thing.state == "open":
        return f"{thing.name} is open: go through it"
    if not view.opens(thing):
        return f"{thing.name} is locked and you carry no {thing.colour} key"
    return [TOGGLE, FORWARD, FORWARD]
