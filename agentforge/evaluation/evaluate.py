"""The stage `evaluate`: one model, the recipe's questions, scores with intervals."""

from __future__ import annotations

import glob
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentforge.artifacts import Workspace, hash_json, stage_directory, write_json
from agentforge.data.tools import load_tools
from agentforge.errors import UserError
from agentforge.evaluation.contamination import refuse_trained_questions
from agentforge.evaluation.tool_calls import Answer, Question, judge, read_questions, score
from agentforge.models.locate import ModelLocation, locate_model
from agentforge.recipe.schema import Recipe, ToolCalls
from agentforge.rollouts.policies import Policy, Sampling, open_policy

log = logging.getLogger(__name__)

SCORES = "scores.json"
ROWS = "rows.jsonl"


def evaluate(recipe: Recipe, model: str | None = None, replace: bool = False) -> Path:
    """Score a model on the recipe's held-out tool calls.

    Args:
        recipe: `evaluate.tool_calls` names the questions.
        model: see `locate_model`.
        replace: make the scores again if they are there from other questions or another model.

    Returns:
        ``-eval-<label>`` with scores.json and rows.jsonl.

    Raises:
        UserError: no questions, or no such model.
        CheckRefused: a question is among the recipe's training data.
    """
    settings = _settings(recipe)
    location = locate_model(recipe, model)
    files = question_files(settings)
    inputs: dict[str, Path | str] = {f"prompts {file}": file for file in files}
    if location.kind == "adapter":
        inputs["base"] = _input(str(location.base), location.revision)
        inputs["model"] = Path(location.path)
    else:
        inputs["model"] = _input(location.path, location.revision)
    depends = {
        "evaluate": recipe.evaluate.model_dump(exclude={"batch_size"}),
        "tools": recipe.data.tools,
        "system": recipe.data.system,
        "template": location.template,
        "seed": recipe.seed,
    }
    target = recipe.artifact(f"eval-{location.label}")
    with stage_directory(target, stage="evaluate", recipe=depends, inputs=inputs, replace=replace) as work:
        if not work.done:
            questions = load_questions(recipe)
            refuse_trained_questions(recipe, questions)
            policy = open_policy(location)
            _write(recipe, work, location, policy, questions)
    return target


def load_questions(recipe: Recipe) -> list[Question]:
    """Return the recipe's questions, at most `evaluate.tool_calls.limit` of them."""
    settings = _settings(recipe)
    tools = load_tools(recipe.data.tools) if recipe.data.tools else None
    questions = read_questions(question_files(settings), tools, recipe.data.system)
    return questions[: settings.limit]


def question_files(settings: ToolCalls) -> list[Path]:
    """Return the files that `evaluate.tool_calls.prompts`, a path or a glob, names."""
    files = [Path(name) for name in sorted(glob.glob(settings.prompts, recursive=True))]
    if not files:
        raise UserError(f"evaluate.tool_calls.prompts: no file matches {settings.prompts}")
    return files


def answer_questions(
    policy: Policy, questions: Sequence[Question], sampling: Sampling, batch_size: int
) -> list[Answer]:
    """Let a policy answer all questions, with a progress bar; questions of about the same length go together."""
    from rich.console import Console
    from rich.progress import track

    order = sorted(range(len(questions)), key=lambda index: sum(len(m["content"]) for m in questions[index].context))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    answers: dict[int, Answer] = {}
    for batch in track(batches, description=f"evaluate {policy.label}", transient=True, console=Console(stderr=True)):
        generations = policy.generate([questions[index].conversation for index in batch], sampling)
        answers.update((i, judge(questions[i], g)) for i, g in zip(batch, generations, strict=True))
    return [answers[index] for index in range(len(questions))]


def _write(recipe: Recipe, work: Workspace, location: ModelLocation, policy: Policy, questions: list[Question]) -> None:
    settings = _settings(recipe)
    sampling = Sampling(settings.max_new_tokens, settings.temperature, seed=recipe.seed)
    started = time.perf_counter()
    answers = answer_questions(policy, questions, sampling, recipe.evaluate.batch_size)
    seconds = time.perf_counter() - started
    new_tokens = sum(len(answer.generation.token_ids) for answer in answers)
    scores = score(answers, recipe.evaluate.confidence)
    report: dict[str, Any] = {
        "recipe": recipe.full_name,
        "model": {"label": location.label, "kind": location.kind, "path": location.path, "base": location.base},
        "questions": {
            "prompts": settings.prompts,
            "n": len(questions),
            "conversations": len({question.id.rsplit(":", 1)[0] for question in questions}),
            "hash": hash_json([[q.context, q.tools.schemas, q.expected] for q in questions]),
        },
        "decoding": {
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": recipe.seed,
        },
        "interval": {"kind": "Beta-Jeffreys", "confidence": recipe.evaluate.confidence},
        "scores": scores,
        "new_tokens": new_tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(new_tokens / seconds, 1),
    }
    write_json(work.path / SCORES, report)
    lines = [json.dumps(answer.row(), ensure_ascii=False) + "\n" for answer in answers]
    (work.path / ROWS).write_text("".join(lines), encoding="utf-8")
    work.metrics.update(
        {name: entry["value"] for name, entry in scores.items()}, n=len(answers), seconds=report["seconds"]
    )
    log.info("%s: %d questions in %.1f s, %.0f tokens/s", location.label, len(answers), seconds, new_tokens / seconds)


def _settings(recipe: Recipe) -> ToolCalls:
    if recipe.evaluate.tool_calls is None:
        raise UserError(
            f"{recipe.full_name} has nothing to evaluate on: set evaluate.tool_calls.prompts to a JSONL file"
        )
    return recipe.evaluate.tool_calls


def _input(path: str, revision: str | None) -> Path | str:
    """Return a local path as such (it is hashed), a Hub id as ``id@revision``."""
    return Path(path) if Path(path).exists() else f"{path}@{revision or 'main'}"
