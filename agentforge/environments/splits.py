"""Which task ids are for training and which are reserved for evaluation.

The rule is code, not a file: whatever collects or trains asks `task_ids(..., "train")`, and no option can give it a
reserved id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Literal

from agentforge.environments.base import Environment
from agentforge.errors import UserError

Split = Literal["train", "eval"]
EVAL_SHARE = 5
"""One in so many ids is reserved."""
COUNTABLE = 1_000_000
"""Tasks up to which all ids are listed; of more they are drawn, and their number has to be given, no higher."""


def split_of(environment_id: str, task_id: int) -> Split:
    """Return the split of a task: by a hash of its name, so it depends neither on options nor on how many there are."""
    digest = hashlib.blake2b(f"{environment_id}/{task_id}".encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % EVAL_SHARE == 0 else "train"


def task_ids(environment: Environment, split: Split, count: int | None = None, seed: int = 0) -> list[int]:
    """Return ids of one split in an order that ``seed`` decides.

    Args:
        count: so many; None: all (an environment with endless tasks needs a count).

    Raises:
        UserError: the environment has fewer tasks in this split, or too many to list.
    """
    drawn = environment.tasks > COUNTABLE
    if drawn and (count is None or count > COUNTABLE):
        raise UserError(
            f"{environment.id} has {environment.tasks:,} tasks, of which {COUNTABLE:,} at most can be had at once, not "
            f"{'all' if count is None else f'{count:,}'}"
        )
    # Drawing ends soon only while far fewer are wanted than there are; of a part that is used up it would never end.
    drawn = drawn and count is not None and count * 2 * EVAL_SHARE < environment.tasks
    listed = _drawn(environment, split, seed) if drawn else _shuffled(environment, split, seed)
    ids = list(islice(listed, count))
    if count is not None and len(ids) < count:
        raise UserError(f"{environment.id} has {len(ids)} {split} tasks with these options, but {count} are wanted")
    return ids


def _shuffled(environment: Environment, split: Split, seed: int) -> list[int]:
    ids = [i for i in range(environment.tasks) if split_of(environment.id, i) == split]
    Random(f"{environment.id}/{split}/{seed}").shuffle(ids)
    return ids


def _drawn(environment: Environment, split: Split, seed: int) -> Iterator[int]:
    random = Random(f"{environment.id}/{split}/{seed}")
    seen: set[int] = set()
    while True:
        task = random.randrange(environment.tasks)
        if task not in seen and split_of(environment.id, task) == split:
            seen.add(task)
            yield task
