"""Questions that a program asks and answers: sums in a story, pairs to be recalled, cups that are swapped.

They stand in for reasoning data where nothing may be downloaded, and each is there for one part of a small recursive
model: recalled pairs lie further back than a short window of attention reaches, and swapped cups need as many steps of
thought as there are swaps. A score on them says nothing about real problems.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

ROWS = 6000
SEED = 0

_NAMES = (
    "Ada",
    "Bo",
    "Cem",
    "Dora",
    "Eli",
    "Fay",
    "Gus",
    "Hana",
    "Ivo",
    "Jun",
    "Kim",
    "Lea",
    "Mo",
    "Nils",
    "Oda",
    "Pia",
)
_THINGS = ("apples", "books", "coins", "eggs", "keys", "nuts", "pears", "pens", "shells", "stamps")
_PLACES = ("garden", "harbour", "kitchen", "library", "market", "mill", "school", "station", "tower", "workshop")
_COLOURS = ("red", "blue", "green")
_SWAPS = (("first", "second"), ("second", "third"), ("first", "third"))
_ORDER = ("first", "second", "third")

Question = dict[str, str]


def sums() -> Iterator[Question]:
    """Yield stories of one to four additions and subtractions, answered step by step as in GSM8K."""
    draw = random.Random(f"{SEED} sums")
    for _ in range(ROWS):
        name, thing, count = draw.choice(_NAMES), draw.choice(_THINGS), draw.randint(2, 30)
        story, steps = [f"{name} has {count} {thing}."], []
        for _ in range(draw.randint(1, 4)):
            change = draw.randint(1, 20)
            if change < count and draw.random() < 0.5:
                story.append(f"{name} gives {change} away.")
                steps.append(f"{count} - {change} = {count - change}")
                count -= change
            else:
                story.append(f"{name} finds {change} more.")
                steps.append(f"{count} + {change} = {count + change}")
                count += change
        asked = f"{' '.join(story)} How many {thing} does {name} have?"
        yield {"question": asked, "answer": "\n".join([*steps, f"#### {count}"])}


def recall() -> Iterator[Question]:
    """Yield four names with numbers, other sentences, and the question for one of the numbers.

    Numbers are drawn with replacement: if all differed, the answer could be guessed as the one not mentioned since.
    """
    draw = random.Random(f"{SEED} recall")
    for _ in range(ROWS):
        names = draw.sample(_NAMES, 4)
        numbers = [draw.randint(10, 99) for _ in names]
        pairs = [f"The number of {name} is {number}." for name, number in zip(names, numbers, strict=True)]
        between = [f"{draw.choice(_NAMES)} walks to the {draw.choice(_PLACES)}." for _ in range(draw.randint(0, 12))]
        wanted = draw.randrange(len(names))
        yield {
            "question": " ".join([*pairs, *between, f"What is the number of {names[wanted]}?"]),
            "answer": str(numbers[wanted]),
        }


def swaps() -> Iterator[Question]:
    """Yield three cups of which two are swapped, one to eight times: products in the group of their orders, S3."""
    draw = random.Random(f"{SEED} swaps")
    for _ in range(ROWS):
        cups = draw.sample(_COLOURS, 3)
        story = [f"The cups are {', '.join(cups)}."]
        for _ in range(draw.randint(1, 8)):
            one, other = draw.choice(_SWAPS)
            story.append(f"Swap the {one} and the {other}.")
            i, j = _ORDER.index(one), _ORDER.index(other)
            cups[i], cups[j] = cups[j], cups[i]
        yield {"question": f"{' '.join(story)} What are the cups?", "answer": ", ".join(cups)}
