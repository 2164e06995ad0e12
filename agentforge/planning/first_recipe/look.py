"""A first look at the data: their format, how many rows there are, how long they are, and three of them as tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from agentforge.data.cleaning.dedup import first_occurrences, near_duplicates
from agentforge.data.cleaning.ingest import NOWHERE, Ingestor, Raws
from agentforge.data.preview import PreviewRow, preview_rows
from agentforge.data.sources.download import download
from agentforge.data.sources.open_sources import OpenSource, open_sources
from agentforge.data.sources.source_files import registered
from agentforge.errors import UserError
from agentforge.planning.first_recipe.bases import SCRATCH, SMALL, SMALL_VOCABULARY
from agentforge.planning.first_recipe.wishes import Goal, Wishes
from agentforge.recipe.schema import Data, MinHash, Recipe, Source

SHOWN, TOKENISED = 3, 100
READ_ROWS, READ_CHARACTERS = 2000, 4_000_000
"""How much is cleaned as `prepare` does it; of more, the rest is only counted."""
COUNTED = 50_000
"""Rows that are counted; for what is suggested, more are as many."""
TEXT_BYTES = 500_000
"""How much of a long text is tokenised."""

GOALS: dict[str, Goal] = {"preference": "dpo", "kto": "kto", "text": "pretrain", "wikitext": "pretrain"}
"""What formats are made for; all others are conversations, for sft."""


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        adapter: the format.
        goal: the wished one, or what the format is made for.
        rows: number of rows, about; a long document counts as several.
        tokens: of the rows that were tokenised, each.
        total_tokens: of all rows, about.
        prompts: sorted hashes that decide train or eval, if all rows were read; else None.
        shown: a few rows as the model will see them.
    """

    adapter: str
    goal: Goal
    rows: int
    tokens: list[int]
    total_tokens: int
    prompts: list[int] | None
    shown: list[PreviewRow]


def draft(wishes: Wishes, goal: Goal, data: dict[str, Any] | None) -> Recipe:
    """Return as much of the recipe as is known before the data are looked at.

    Args:
        data: a line of `data.mix`; None: there are none.
    """
    scratch = {"tokenizer": {"vocab_size": SMALL_VOCABULARY}, "config": SMALL}
    preferences = [data] if goal in ("dpo", "kto") else []
    return Recipe.model_validate(
        {
            "name": wishes.name,
            "output_dir": f"runs/{wishes.name}",
            "hardware": wishes.hardware.name,
            "model": scratch if wishes.base == SCRATCH else {"path": wishes.base},
            "data": {"mix": [data] if data else [], "max_length": 1 << 20, "workers": 1},
            "train": {"method": goal, "preferences": preferences},
        }
    )


def look(wishes: Wishes) -> Look:
    """Open the data, which are fetched first if they are the Hub's.

    Raises:
        UserError: they are not there, have no known format, or do not fit the goal.
        CheckRefused: no row can be used.
    """
    line: dict[str, Any] = {"dataset": wishes.data}
    if registered(Source(**line)) is not None:
        download(Recipe(name=wishes.name, data=Data(mix=[Source(**line)])))
    source = open_sources(Data(mix=[Source(**line)]))[0][0]
    goal = wishes.goal or GOALS.get(source.adapter_name, "sft")
    _check_goal(source, goal, wishes.base)
    size = sum(os.path.getsize(file) for file in source.files)
    if source.adapter_name == "text" and size > TEXT_BYTES and len(source.files) == 1:
        line["part"] = [0, TEXT_BYTES / size]
    previews = preview_rows(draft(wishes, goal, line), TOKENISED)
    tokens = [len(row.tokens) for row in previews]
    rows, characters, prompts = _measure(source, goal, size)
    total = sum(tokens) / len(tokens) * rows
    if goal == "pretrain":
        total = characters * sum(tokens) / sum(len(token.text) for row in previews for token in row.tokens)
    return Look(source.adapter_name, goal, rows, tokens, int(total), prompts, previews[:SHOWN])


def _check_goal(source: OpenSource, goal: Goal, base: str) -> None:
    name = source.adapter_name
    if base == SCRATCH and goal != "pretrain":
        raise UserError(
            f"a model from scratch has to learn to write first: use --goal pretrain, or name a base for {goal}"
        )
    if goal in ("dpo", "kto") and GOALS.get(name) != goal:
        needs = "chosen and rejected answers" if goal == "dpo" else "a label, true or false, for each answer"
        raise UserError(f"{source.name} is read as {name}, but {goal} needs {needs}; choose another --goal")
    if goal == "sft" and GOALS.get(name) == "pretrain":
        raise UserError(f"{source.name} holds texts and no conversations; use --goal pretrain")


def _measure(source: OpenSource, goal: Goal, size: int) -> tuple[int, int, list[int] | None]:
    """Return the rows that `prepare` would keep and their characters, about, and the hashes of their prompts.

    Args:
        size: bytes of all files.
    """
    raws = source.raw_rows(source.new_counts())
    first = list(_first(raws))
    others = sum(1 for _ in islice(raws, COUNTED if source.adapter_name != "text" else 1))
    minhash = MinHash()
    read = Ingestor([source], minhash, None, goal == "pretrain", None)(Raws(0, first, [NOWHERE] * len(first)))
    keep = first_occurrences(read.content)
    if read.signatures is not None:
        keep &= near_duplicates(read.signatures, minhash.threshold, among=keep) < 0
    rows, characters = int(keep.sum()), int(read.characters[keep].sum())
    if not others:
        return rows, characters, np.unique(read.prompts[keep]).tolist()
    growth = size / max(1, characters) if source.adapter_name == "text" else 1 + others / len(first)
    return int(rows * growth), int(characters * growth), None


def _first(raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first rows, as many as are quickly read."""
    characters = 0
    for raw in islice(raws, READ_ROWS):
        yield raw
        characters += sum(len(value) for value in raw.values() if isinstance(value, str))
        if characters > READ_CHARACTERS:
            return
