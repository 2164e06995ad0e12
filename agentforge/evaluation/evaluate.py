"""The stage `evaluate`: one model, the recipe's questions, scores with intervals."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentforge.artifacts import Workspace, hash_json, read_manifest, stage_directory, write_json
from agentforge.data.tools import load_tools
from agentforge.errors import UserError
from agentforge.evaluation.answers import answer_held_out
from agentforge.evaluation.comparable import template_of
from agentforge.evaluation.contamination import refuse_trained_questions, refuse_trained_tasks
from agentforge.evaluation.own_scores import asked_for, evaluate_own, evaluation_names
from agentforge.evaluation.scores_file import SCORES
from agentforge.evaluation.tasks.baselines import baselines, scripted_policy
from agentforge.evaluation.tasks.reserved_tasks import Chosen, TaskSelection, identity
from agentforge.evaluation.tasks.score_policy import decoding, evaluate_environments, opened
from agentforge.evaluation.tool_calls.questions import Answer, Question, judge, read_questions, score
from agentforge.installation import find_paths
from agentforge.models.locate_model import ModelLocation, locate_model, model_inputs
from agentforge.progress import watched
from agentforge.recipe.schema import Recipe, ToolCalls
from agentforge.rollouts.experts import Actor
from agentforge.rollouts.policies.base import Policy, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.systems.registry import without_unused_keys

log = logging.getLogger(__name__)

ROWS = "rows.jsonl"


def evaluate(recipe: Recipe, model: str | None = None, replace: bool = False) -> Path:
    """Score a model on whatever the recipe evaluates: tool calls, tasks of environments, the loss on held-out rows.

    A recipe with `evaluate.diversity` names a set of models. Without ``model`` that set is compared.

    Args:
        recipe: `evaluate.tool_calls` names the questions, `evaluate.environments` the tasks, `evaluate.loss` says what
            is measured on the eval rows of its prepared data.
        model: see `locate_model`; or ``expert`` or a baseline of the environments (``random``), which need no model.
        replace: make the scores again if they are there from other questions or another model.

    Returns:
        ``-eval-<label>`` with scores.json and, of questions, rows.jsonl; of environments, results.parquet and
        episodes.parquet; of losses, losses.json.

    Raises:
        UserError: nothing to evaluate on, or no such model.
        CheckRefused: a question or a task is among the recipe's training data.
    """
    chosen = recipe.evaluate
    own = asked_for(recipe)
    if chosen.diversity is not None and model is None:
        from agentforge.evaluation.diversity.evaluate_diversity import evaluate_diversity

        return evaluate_diversity(recipe, replace)
    asked = (chosen.tool_calls, chosen.environments, chosen.loss, chosen.answers)
    if all(one is None for one in asked) and not own:
        if chosen.diversity is not None:
            raise UserError("evaluate.diversity compares the models that it names; leave out --model")
        others = ", ".join(f"evaluate.{name}" for name in ("environments", "loss", "answers", *evaluation_names()))
        raise UserError(
            f"{recipe.full_name} has nothing to evaluate on: set evaluate.tool_calls.prompts to a JSONL file, or one "
            f"of {others}"
        )
    with opened(recipe) as selection:
        # Scripted policies only play environments; questions and losses need a model.
        actor = scripted_policy(selection.chosen, model) if selection.chosen else None
        if actor is not None:
            return _evaluate_actor(recipe, selection, actor, replace)
        return _evaluate_model(recipe, selection, model, replace)


def _evaluate_actor(recipe: Recipe, selection: TaskSelection, actor: Actor, replace: bool) -> Path:
    target = recipe.artifact(f"eval-{actor.label}")
    depends = {
        "policy": actor.label,
        "confidence": recipe.evaluate.confidence,
        "act": recipe.rollouts.act,
        **identity(recipe, selection.chosen),
    }
    with stage_directory(target, stage="evaluate", recipe=depends, replace=replace) as work:
        if not work.done:
            shown = {"label": actor.label, "kind": "scripted", "path": None, "base": None}
            played = evaluate_environments(recipe, selection, actor, baselines(recipe, selection), work)
            write_json(work.path / SCORES, {"recipe": recipe.full_name, "model": shown, **played})
    return target


def _evaluate_model(recipe: Recipe, selection: TaskSelection, model: str | None, replace: bool) -> Path:
    location = locate_model(recipe, model)
    files = question_files(recipe.evaluate.tool_calls) if recipe.evaluate.tool_calls else []
    # The contents count, not the pattern: a new file of questions makes the scores outdated.
    inputs: dict[str, Path | str] = {f"prompts {file}": file for file in files}
    inputs |= model_inputs(location)
    if recipe.evaluate.loss is not None or recipe.evaluate.answers is not None:
        read_manifest(recipe.artifact("data"))  # says how it is made
        inputs["data"] = recipe.artifact("data")
    target = recipe.artifact(f"eval-{location.label}")
    depends = _depends(recipe, selection.chosen, location)
    with stage_directory(target, stage="evaluate", recipe=depends, inputs=inputs, replace=replace) as work:
        if not work.done:
            _score_model(recipe, selection, location, work)
    return target


def _depends(recipe: Recipe, chosen: list[Chosen], location: ModelLocation) -> dict[str, Any]:
    depends = {
        "evaluate": _without_unused(recipe),
        "tools": recipe.data.tools,
        "system": recipe.data.system,
        "template": location.template,
        "seed": recipe.seed,
    }
    if chosen:
        depends |= {**identity(recipe, chosen), "decoding": decoding(recipe)}
    return depends


def _without_unused(recipe: Recipe) -> dict[str, Any]:
    found = without_unused_keys("evaluate", recipe.evaluate)
    del found["batch_size"]  # the scores do not depend on it
    del found["diversity"]  # it is about a set of models, and has an artefact of its own
    if recipe.evaluate.answers is None:
        del found["answers"]  # scores of recipes without it stay what they were
    if recipe.evaluate.loss is not None:
        found["loss"] = without_unused_keys("evaluate.loss", recipe.evaluate.loss)
    return found


def _score_model(recipe: Recipe, selection: TaskSelection, location: ModelLocation, work: Workspace) -> None:
    # Contamination is refused before any weights are loaded.
    questions = load_questions(recipe) if recipe.evaluate.tool_calls else []
    refuse_trained_questions(recipe, questions)
    refuse_trained_tasks(recipe, selection.chosen, location)
    trivial = baselines(recipe, selection) if selection.chosen else {}
    report: dict[str, Any] = {
        "recipe": recipe.full_name,
        "model": {"label": location.label, "kind": location.kind, "path": location.path, "base": location.base},
    }
    # Before the losses: whether a benchmark's rows are here should be known before any weights are opened.
    report |= evaluate_own(recipe, location, work)
    if recipe.evaluate.loss is not None:
        from agentforge.evaluation.losses.evaluate_loss import evaluate_losses

        # It opens the model by itself and lets it go again, before the policy below opens its own.
        report |= evaluate_losses(recipe, location, work)
    if questions or selection.chosen or recipe.evaluate.answers:
        policy = open_policy(location, rollouts=recipe.rollouts)
        if questions:
            report |= _answer(recipe, work, policy, questions)
        if recipe.evaluate.answers:
            report |= answer_held_out(recipe, policy, work)
        if selection.chosen:
            report |= evaluate_environments(recipe, selection, policy, trivial, work)
    write_json(work.path / SCORES, report)


def load_questions(recipe: Recipe) -> list[Question]:
    """Return the recipe's questions, at most `evaluate.tool_calls.limit` of them."""
    settings = _settings(recipe)
    tools = load_tools(recipe.data.tools) if recipe.data.tools else None
    questions = read_questions(question_files(settings), tools, recipe.data.system)
    return questions[: settings.limit]


def question_files(settings: ToolCalls) -> list[Path]:
    """Return the files that `evaluate.tool_calls.prompts`, a path or a glob, names."""
    if not (files := find_paths(settings.prompts)):
        raise UserError(f"evaluate.tool_calls.prompts: no file matches {settings.prompts}")
    return files


def answer_questions(
    policy: Policy, questions: Sequence[Question], sampling: Sampling, batch_size: int
) -> list[Answer]:
    """Let a policy answer all questions, with a progress bar; questions of about the same length go together."""
    # Characters stand for tokens: it is enough to keep a batch from being padded to one long conversation.
    order = sorted(range(len(questions)), key=lambda index: sum(len(m["content"]) for m in questions[index].context))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    answers: dict[int, Answer] = {}
    for batch in watched(batches, f"evaluate {policy.label}", "questions", len(order), amount=len):
        generations = policy.generate([questions[index].conversation for index in batch], sampling)
        answers.update((i, judge(questions[i], g, policy)) for i, g in zip(batch, generations, strict=True))
    return [answers[index] for index in range(len(questions))]


def _answer(recipe: Recipe, work: Workspace, policy: Policy, questions: list[Question]) -> dict[str, Any]:
    settings = _settings(recipe)
    sampling = Sampling(settings.max_new_tokens, settings.temperature, seed=recipe.seed)
    started = time.perf_counter()
    answers = answer_questions(policy, questions, sampling, recipe.evaluate.batch_size)
    seconds = time.perf_counter() - started
    new_tokens = sum(len(answer.generation.token_ids) for answer in answers)
    scores = score(answers, recipe.evaluate.confidence)
    lines = [json.dumps(answer.row(), ensure_ascii=False) + "\n" for answer in answers]
    (work.path / ROWS).write_text("".join(lines), encoding="utf-8")
    work.metrics.update(
        {name: entry["value"] for name, entry in scores.items()}, n=len(answers), seconds=round(seconds, 2)
    )
    log.info("%s: %d questions in %.1f s, %.0f tokens/s", policy.label, len(answers), seconds, new_tokens / seconds)
    return {
        "questions": {
            "prompts": settings.prompts,
            "n": len(questions),
            # Turns of one conversation are not independent, so whoever reads the interval should know how many
            # conversations there are.
            "conversations": len({question.id.rsplit(":", 1)[0] for question in questions}),
            # `compare` sets two models side by side only if this is equal; a file's name does not tell whether its
            # contents changed.
            "hash": hash_json([[q.context, q.tools.schemas, q.expected] for q in questions]),
        },
        "decoding": {
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": recipe.seed,
            "template": template_of(policy, [question.conversation for question in questions]),
        },
        "interval": {"kind": "Beta-Jeffreys", "confidence": recipe.evaluate.confidence},
        "scores": scores,
        "new_tokens": new_tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(new_tokens / seconds, 1),
    }


def _settings(recipe: Recipe) -> ToolCalls:
    if recipe.evaluate.tool_calls is None:
        raise UserError(
            f"{recipe.full_name} has nothing to evaluate on: set evaluate.tool_calls.prompts to a JSONL file"
        )
    return recipe.evaluate.tool_calls
