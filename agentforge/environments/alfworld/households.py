"""Households for ALFWorld's domain: rooms, things and a task, as a PDDL problem.

ALFWorld's games are made from ALFRED's recorded scenes, which are downloaded apart from it. These are made up: the same
actions, the same six types of task, other rooms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
OPENABLE = ("cabinet", "drawer", "fridge", "microwave", "safe")
# Places of a room with how many there may be, and the things that lie about in it.
ROOMS: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "kitchen": (
        {"cabinet": 6, "drawer": 4, "countertop": 3, "shelf": 2, "diningtable": 1, "garbagecan": 1}
        | {"fridge": 1, "microwave": 1, "sinkbasin": 1},
        (
            "apple",
            "tomato",
            "potato",
            "egg",
            "bread",
            "lettuce",
            "mug",
            "cup",
            "plate",
            "bowl",
            "knife",
            "spoon",
            "fork",
        ),
    ),
    "bedroom": (
        {"drawer": 5, "shelf": 4, "desk": 2, "bed": 1, "dresser": 1, "sidetable": 2, "safe": 1, "garbagecan": 1},
        ("book", "pen", "pencil", "cd", "cellphone", "keychain", "creditcard", "alarmclock", "laptop", "mug"),
    ),
    "bathroom": (
        {"cabinet": 4, "drawer": 2, "countertop": 1, "toilet": 1, "shelf": 2, "sinkbasin": 2, "garbagecan": 1},
        ("soapbar", "cloth", "spraybottle", "toiletpaper", "candle", "soapbottle", "tissuebox"),
    ),
}
_CROCKERY = ("mug", "cup", "plate")
CLEANABLE = (
    "apple",
    "tomato",
    "potato",
    "egg",
    "lettuce",
    *_CROCKERY,
    "bowl",
    "knife",
    "spoon",
    "fork",
    "soapbar",
    "cloth",
)
HEATABLE = ("apple", "tomato", "potato", "egg", "bread", *_CROCKERY)
COOLABLE = ("apple", "tomato", "potato", "egg", "bread", "lettuce", *_CROCKERY, "bowl")
CHANGES: dict[int, tuple[tuple[str, ...], str, str]] = {
    2: (CLEANABLE, "isClean", "clean"),
    3: (HEATABLE, "isHot", "hot"),
    4: (COOLABLE, "isCool", "cool"),
}
_LARGE: dict[str, tuple[str, ...]] = {"microwave": HEATABLE, "fridge": COOLABLE, "sinkbasin": CLEANABLE}


@dataclass
class Household:
    """A game.

    Attributes:
        task: what is to be done, in words.
        goal: the same in PDDL.
        receptacles: their names, ``cabinet 1``, in the order of their locations.
        places: thing to the receptacle that it lies in.
    """

    task: str
    goal: str
    receptacles: list[str]
    places: dict[str, str] = field(default_factory=dict)

    def problem(self) -> str:
        """Return the PDDL problem."""
        facts = ["(atLocation agent1 loc_bar_0)", "(= (total-cost) 0)"]
        location = {name: f"loc_bar_{number}" for number, name in enumerate(self.receptacles, start=1)}
        for name in self.receptacles:
            receptacle = identifier(name)
            facts.append(f"(receptacleAtLocation {receptacle} {location[name]})")
            facts.append(f"(receptacleType {receptacle} {_type_of(kind(name))})")
            if kind(name) in OPENABLE:
                facts.append(f"(openable {receptacle})")
        for name, place in self.places.items():
            thing = identifier(name)
            facts.append(f"(objectType {thing} {_type_of(kind(name))})")
            facts.append(f"(inReceptacle {thing} {identifier(place)})")
            facts.append(f"(objectAtLocation {thing} {location[place]})")
            facts += [f"({property} {thing})" for property in _properties(kind(name))]
        holders, things = sorted(set(map(kind, self.receptacles))), sorted(set(map(kind, self.places)))
        # Which sort may be put where is data of the problem, not of the domain.
        facts += [f"(canContain {_type_of(h)} {_type_of(t)})" for h in holders for t in things if fits(t, h)]
        return (
            "(define (problem household) (:domain alfred)\n"
            f"(:objects agent1 - agent\n{self._objects(holders, things)})\n"
            f"(:init\n{chr(10).join(facts)})\n(:goal {self.goal})\n(:metric minimize (total-cost)))"
        )

    def _objects(self, holders: list[str], things: list[str]) -> str:
        # The domain names some types, so they have to be there whether the room has such things or not.
        holder_types = {*map(_type_of, holders), "SinkBasinType", "MicrowaveType", "FridgeType"}
        thing_types = {*map(_type_of, things), "KnifeType", "ButterKnifeType"}
        groups = {
            "location": [f"loc_bar_{number}" for number in range(len(self.receptacles) + 1)],
            "receptacle": [identifier(name) for name in self.receptacles],
            "object": [identifier(name) for name in self.places],
            "rtype": sorted(holder_types),
            "otype": sorted(thing_types),
        }
        return "\n".join(f"{' '.join(names)} - {group}" for group, names in groups.items())


def kind(name: str) -> str:
    """Return what sort of thing ``cabinet 1`` is."""
    return name.rsplit(" ", 1)[0]


def identifier(name: str) -> str:
    """Return the name of ``cabinet 1`` in PDDL."""
    return name.replace(" ", "_bar_")


def _type_of(sort: str) -> str:
    return "SinkBasinType" if sort == "sinkbasin" else f"{sort.capitalize()}Type"


def _properties(sort: str) -> list[str]:
    if sort == "desklamp":
        return ["toggleable"]
    classes = {"cleanable": CLEANABLE, "heatable": HEATABLE, "coolable": COOLABLE}
    return ["pickupable", *(name for name, members in classes.items() if sort in members)]


def fits(sort: str, place: str) -> bool:
    """Tell whether such a thing may be put into such a place."""
    return sort != "desklamp" and sort in _LARGE.get(place, (sort,))


def household(task_id: int) -> Household:
    """Return game ``task_id``; its type is ``TYPES[task_id % 6]``. The goal is never met at the start."""
    random = Random(f"alfworld/{task_id}")
    number = task_id % len(TYPES)
    # A lamp stands on desks and bedside tables; heating and cooling take a kitchen, cleaning a room with a sink.
    room = {1: "bedroom", 3: "kitchen", 4: "kitchen"}.get(number) or random.choice(sorted(ROOMS))
    if number == 2:
        room = random.choice(("kitchen", "bathroom"))
    counts, sorts = ROOMS[room]
    receptacles = [f"{name} {i}" for name, most in counts.items() for i in range(1, random.randint(1, most) + 1)]
    allowed = CHANGES[number][0] if number in CHANGES else sorts
    target = random.choice([sort for sort in sorts if sort in allowed])
    destinations = sorted(
        {kind(name) for name in receptacles if fits(target, kind(name)) and kind(name) != "sinkbasin"}
    )
    through = {3: "microwave", 4: "fridge"}.get(number)
    # Not the appliance that heats or cools: things pass through it anyway.
    destination = random.choice([name for name in destinations if name != through])
    task, goal = _goal(number, target, destination)
    game = Household(task, goal, receptacles)
    _fill(game, random, target, None if number == 1 else destination, sorts, copies=2 if number == 5 else 1)
    if number == 1:
        game.places["desklamp 1"] = random.choice([r for r in receptacles if kind(r) in ("desk", "sidetable")])
    return game


def _fill(
    game: Household, random: Random, target: str, destination: str | None, sorts: tuple[str, ...], copies: int
) -> None:
    """Lay the target's copies and other things about; no copy lies where it is to be put."""
    amounts = {sort: random.randint(0, 2) for sort in sorts}
    amounts[target] = copies + random.randint(0, 1)
    for sort, amount in amounts.items():
        for number in range(1, amount + 1):
            places = [name for name in game.receptacles if fits(sort, kind(name))]
            if sort == target:
                places = [name for name in places if kind(name) != destination]
            game.places[f"{sort} {number}"] = random.choice(places)


def _goal(number: int, target: str, destination: str) -> tuple[str, str]:
    """Return a task in words and in PDDL."""
    thing, place = _type_of(target), _type_of(destination)
    if number == 1:
        goal = (
            "(and (exists (?l - object ?r - receptacle ?p - location) (and (objectType ?l DesklampType) (isToggled ?l) "
            "(inReceptacle ?l ?r) (receptacleAtLocation ?r ?p) (atLocation agent1 ?p))) "
            f"(exists (?o - object) (and (objectType ?o {thing}) (holds agent1 ?o))))"
        )
        return f"look at {target} under the desklamp", goal
    # Any thing of the type in any place of the type: `put a hot apple in cabinet` names no number.
    there = f"(objectType ?o {thing}) (receptacleType ?r {place}) (inReceptacle ?o ?r)"
    if number == 5:
        second = f"(objectType ?s {thing}) (inReceptacle ?s ?r) (not (= ?o ?s))"
        goal = f"(exists (?r - receptacle ?o - object ?s - object) (and {there} {second}))"
        return f"put two {target} in {destination}", goal
    changed, word = (f" ({CHANGES[number][1]} ?o)", f"{CHANGES[number][2]} ") if number in CHANGES else ("", "")
    goal = f"(exists (?r - receptacle ?o - object) (and {there}{changed}))"
    return f"put a {word}{target} in {destination}", goal
