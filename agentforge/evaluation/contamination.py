"""Refuses to score a model on prompts that its recipe trains on."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentforge.data.prose import prompt_text
from agentforge.data.split import split_hash
from agentforge.errors import CheckRefused
from agentforge.evaluation.tool_calls import Question
from agentforge.recipe.schema import Recipe


def refuse_trained_questions(recipe: Recipe, questions: Sequence[Question]) -> None:
    """Compare the questions' prompts, however spaced or cased, with those in local files of the mix.

    Where data.decontaminate names the questions, `prepare` has taken them out of everything and nothing is left to do.

    Raises:
        CheckRefused: a prompt is in both.
    """
    if (
        recipe.evaluate.tool_calls is not None
        and recipe.evaluate.tool_calls.prompts in recipe.data.decontaminate.against
    ):
        return
    asked = {split_hash(prompt_text({"messages": question.context})): question.id for question in questions}
    for file, number, prompt in _local_prompts(recipe):
        if (question := asked.get(split_hash(prompt))) is not None:
            raise CheckRefused(
                f"{file}, line {number} is trained on and asked in {question}: '{prompt[:60]}'; "
                "name the questions in data.decontaminate.against and train again"
            )


def _local_prompts(recipe: Recipe) -> Iterator[tuple[Path, int, str]]:
    for source in recipe.data.mix:
        for name in sorted(glob.glob(source.dataset, recursive=True)):
            if name.endswith(".jsonl"):
                yield from _prompts(Path(name))


def _prompts(file: Path) -> Iterator[tuple[Path, int, str]]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                prompt = prompt_text({"messages": row["messages"]})
            except (ValueError, KeyError, TypeError):
                continue  # broken or of another shape: `prepare` has counted and shown it
            if prompt:
                yield file, number, prompt
