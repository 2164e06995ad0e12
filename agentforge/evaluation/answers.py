"""What `evaluate` does with `evaluate.answers`: held-out rows, answered, so that people can read what changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from agentforge.artifacts import Workspace
from agentforge.data.store import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.scores_file import read_scores
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Policy, Sampling

ANSWERS = "answers.jsonl"
BEGINNING = 32
"""Tokens of a document that are its prompt."""


@dataclass(frozen=True)
class Prompt:
    """A held-out row, cut where the model is to go on.

    Attributes:
        prompt_ids: up to the first trained token; of a document, its beginning.
        expected_ids: the trained tokens that follow there, at most as many as may be written.
    """

    source: str
    prompt_ids: list[int]
    expected_ids: list[int]


def prompts_of(rows: Sequence[dict[str, Any]], wanted: int, longest: int) -> list[Prompt]:
    """Return prompts of ``wanted`` rows, spread evenly over them, or of all if they are fewer.

    Args:
        rows: prepared rows: `input_ids`, `assistant_masks`, `source`.
        longest: tokens of what is expected.
    """
    wanted = min(wanted, len(rows))
    return [_prompt(rows[index * len(rows) // wanted], longest) for index in range(wanted)]


def _prompt(row: dict[str, Any], longest: int) -> Prompt:
    ids, mask = row["input_ids"], row["assistant_masks"]
    start = mask.index(1)
    if start <= 1:  # all of a document is trained, but perhaps its begin token
        start = min(BEGINNING, (len(ids) + 1) // 2)
    trained = sum(1 for _ in takewhile(bool, mask[start:]))
    return Prompt(row["source"], ids[:start], ids[start : start + min(trained, longest)])


def answer_held_out(recipe: Recipe, policy: Policy, work: Workspace) -> dict[str, Any]:
    """Let a policy answer held-out rows, greedily, write answers.jsonl, and return the part of scores.json.

    Raises:
        UserError: no row is held out.
        CheckRefused: the rows were made with another tokenizer.
    """
    settings = recipe.evaluate.answers
    assert settings is not None
    directory = recipe.artifact("data")
    rows = load_prepared(directory)["eval"]
    if not len(rows):
        raise UserError(f"evaluate.answers: {directory} has no eval rows; raise data.eval_fraction")
    prompts = prompts_of(rows, settings.rows, settings.max_new_tokens)
    _check_tokenizer(policy, prompts, directory)
    completions = policy.complete([p.prompt_ids for p in prompts], Sampling(settings.max_new_tokens, seed=recipe.seed))
    found = [
        {
            "source": prompt.source,
            "prompt": policy.decode(prompt.prompt_ids),
            "expected": policy.decode(_without_stop(prompt.expected_ids, policy)),
            "answer": policy.decode(_without_stop(completion.token_ids, policy)),
            "stopped": completion.stopped,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
    (work.path / ANSWERS).write_text("".join(lines), encoding="utf-8")
    asked = {"rows": [asdict(prompt) for prompt in prompts], "max_new_tokens": settings.max_new_tokens}
    return {"answers": {"n": len(found), "hash": hashlib.sha256(repr(asked).encode()).hexdigest()}}


def _without_stop(ids: list[int], policy: Policy) -> list[int]:
    return ids[:-1] if ids and ids[-1] in policy.stop_ids else ids


def _check_tokenizer(policy: Policy, prompts: Sequence[Prompt], directory: Path) -> None:
    """Refuse a model for which the rows' token ids mean another text; white space is not given back by all formats."""
    tokenizer = load_tokenizer(directory / "tokenizer")
    for prompt in prompts:
        texts = (str(tokenizer.decode(prompt.prompt_ids, skip_special_tokens=False)), policy.decode(prompt.prompt_ids))
        if len({"".join(text.split()) for text in texts}) > 1:
            raise CheckRefused(f"{directory} was prepared with another tokenizer than that of {policy.label}")


@dataclass(frozen=True)
class Answered:
    """Models that answered the same rows: labels, and for each row its prompt, what was expected, and the answers."""

    labels: list[str]
    rows: list[tuple[str, str, list[str]]]


def read_answers(evaluations: Sequence[Path]) -> list[Answered]:
    """Return the answers of evaluations that have some, in groups that answered the same rows."""
    together: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {}
    for path in evaluations:
        report = read_scores(path)
        if "answers" in report:
            lines = (path / ANSWERS).read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines]
            together.setdefault(report["answers"]["hash"], []).append((report["model"]["label"], found))
    return [_answered(group) for group in together.values()]


def _answered(group: list[tuple[str, list[dict[str, Any]]]]) -> Answered:
    by_row = zip(*(found for _, found in group), strict=True)
    rows = [(row[0]["prompt"], row[0]["expected"], [one["answer"] for one in row]) for row in by_row]
    return Answered([label for label, _ in group], rows)
