"""Refuses to score a model on prompts that its recipe trains on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentforge.data.row_text import prompt_text
from agentforge.data.train_eval_split import split_hash
from agentforge.errors import CheckRefused
from agentforge.evaluation.provenance import training_files
from agentforge.evaluation.tasks.reserved_tasks import Chosen
from agentforge.evaluation.tool_calls.questions import Question
from agentforge.installation import find_paths
from agentforge.models.locate_model import ModelLocation
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


def refuse_trained_tasks(recipe: Recipe, chosen: Sequence[Chosen], location: ModelLocation) -> None:
    """Look for the evaluation's tasks among the episodes that the recipe trains on or the model was trained on.

    Episodes are rows with ``environment`` and ``task_id`` in JSONL or Parquet files: those of the mix, and those that
    the manifests of the model, its base and their data name.

    Raises:
        CheckRefused: a task is in both.
    """
    # Episodes name the environment as the recipe does, or by its own id; either one counts.
    asked = {(name, task) for one in chosen for task in one.tasks for name in (one.name, one.environment.id)}
    if not asked:
        return
    for file in dict.fromkeys([*mixed_files(recipe), *training_files(location)]):
        for environment, task in _tasks(file):
            if (environment, task) in asked:
                raise CheckRefused(
                    f"{file} holds an episode of {environment}, task {task}, which is reserved for evaluation; "
                    "remove such rows (`agentforge collect` never plays a reserved task) and train again"
                )


def mixed_files(recipe: Recipe) -> Iterator[Path]:
    """Yield the local files of the mix."""
    for source in recipe.data.mix:
        for path in find_paths(source.dataset):
            # A registered data set is not a path: it matches nothing and is not looked into.
            yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def _tasks(file: Path) -> Iterator[tuple[str, int]]:
    if file.suffix == ".parquet":
        yield from _parquet_tasks(file)
    elif file.suffix == ".jsonl":
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    yield str(row["environment"]), int(row["task_id"])
                except (ValueError, KeyError, TypeError):
                    continue  # no episode


def _parquet_tasks(file: Path) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=["environment", "task_id"])
        pairs = zip(table["environment"].to_pylist(), table["task_id"].to_pylist(), strict=True)
        yield from {(str(environment), int(task)) for environment, task in pairs}
    except (pa.ArrowException, ValueError, TypeError, KeyError, OSError):
        return  # no episodes


def _local_prompts(recipe: Recipe) -> Iterator[tuple[Path, int, str]]:
    for source in recipe.data.mix:
        for path in find_paths(source.dataset):
            if path.suffix == ".jsonl":
                yield from _prompts(path)


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
