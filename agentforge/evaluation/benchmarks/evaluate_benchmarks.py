"""`evaluate.benchmarks`: published tasks through lm-evaluation-harness, for a model in any format.

1. The tasks are found by name and their rows read, before any weights are opened: a misspelt name or a missing data
   set is said at once.
2. Rows that the recipe trains on are refused.
3. The model is opened once and answers one task after the other. Each is scored exactly as lm-eval's own command scores
   it when it is given that task.
4. Every row is written down, so that two models can later be compared row by row.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from agentforge.artifacts import Workspace
from agentforge.errors import UserError, first_line
from agentforge.evaluation.benchmarks.code_eval import refuse_unsandboxed, sandboxed
from agentforge.evaluation.benchmarks.rows import ROWS
from agentforge.evaluation.benchmarks.task_data import data_sets
from agentforge.evaluation.benchmarks.task_figures import figures, measured_on
from agentforge.evaluation.benchmarks.task_list import find_tasks, quiet
from agentforge.evaluation.benchmarks.trained_rows import refuse_trained_benchmarks
from agentforge.evaluation.own_scores import Figure, Scores
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Benchmarks, Recipe

log = logging.getLogger(__name__)

SEED = 1234
"""lm-eval's own, of the few-shot examples: another one would ask other questions than everybody else."""
DEFAULT_NEW_TOKENS = 256


def load_tasks(settings: Benchmarks, mirror: str | None) -> dict[str, Any]:
    """Return the tasks by name, with their rows; a group gives all its tasks.

    Args:
        mirror: `data.hub_mirror`.

    Raises:
        UserError: there is no such task, its data set cannot be had, or lm-eval is not installed.
    """
    manager, entries = find_tasks(settings.tasks)
    tasks: dict[str, Any] = {}
    with quiet(), sandboxed(), data_sets(mirror):
        for name, entry in zip(settings.tasks, entries, strict=True):
            try:
                tasks |= manager.load([entry])["tasks"]
            except UserError:
                raise
            except KeyError as error:
                raise UserError(f"the data set of the benchmark {name} has no split {error}, which it reads") from error
            except Exception as error:  # a task is code of others; whatever is wrong with it must not look like our bug
                said = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(f"the benchmark {name} cannot be loaded: {said}") from error
    for task in tasks.values():
        refuse_unsandboxed(task)
        _apply(settings, task)
    return tasks


def _apply(settings: Benchmarks, task: Any) -> None:
    """Set what the recipe sets, as lm-eval's `simple_evaluate` does it."""
    given = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and given != 0:  # a task that says 0 itself cannot be asked with examples
        task.set_config("num_fewshot", settings.num_fewshot)
    elif given is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    if settings.max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": settings.max_new_tokens}, update=True)


def evaluate_benchmarks(recipe: Recipe, location: ModelLocation, work: Workspace) -> Scores:
    """Score a model on the recipe's benchmarks and write every row to ``benchmarks.jsonl``.

    Raises:
        UserError: a task or its rows are not there, the model cannot be opened, or its context is too short for a task.
        CheckRefused: a row is trained on.
    """
    settings = recipe.evaluate.benchmarks
    assert settings is not None
    tasks = load_tasks(settings, recipe.data.hub_mirror)
    refuse_trained_benchmarks(recipe, tasks, location)
    with quiet():
        model = open_lm(location, recipe.evaluate.batch_size)
    for task in tasks.values():
        _check_room(task, model)
    found: dict[str, Figure] = {}
    with (work.path / ROWS).open("w", encoding="utf-8") as file:
        for name, task in tasks.items():
            started = time.perf_counter()
            results, samples = _answer(settings, model, name, task)
            asked = {**settings.model_dump(include={"apply_chat_template"}), "shots": task.get_config("num_fewshot")}
            identity = measured_on(task, asked, samples)
            found |= figures(task, results, samples, recipe.evaluate.confidence, identity)
            file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in _rows(name, samples))
            log.info("%s: %s in %.1f s", location.label, name, time.perf_counter() - started)
    if model.shortened:
        log.warning("%d prompts were longer than the context and lost their beginning", model.shortened)
    return Scores(_title(settings), f"lm-eval {metadata.version('lm_eval')}", recipe.evaluate.confidence, found)


def open_lm(location: ModelLocation, batch_size: int) -> Any:
    """Open a model as lm-eval's `LM`."""
    if location.kind == "gguf":
        from agentforge.evaluation.benchmarks.gguf_lm import GGUFLM

        return GGUFLM.open(location)
    from agentforge.evaluation.benchmarks.transformers_lm import TransformersLM

    return TransformersLM.open(location, batch_size)


def _check_room(task: Any, model: Any) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        return
    written = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", DEFAULT_NEW_TOKENS)
    if written >= model.max_length:
        raise UserError(
            f"the benchmark {task.task_name} lets a model write {written} tokens, but this one reads at most "
            f"{model.max_length}, prompt and answer together; set evaluate.benchmarks.max_new_tokens lower"
        )


def _answer(settings: Benchmarks, model: Any, name: str, task: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    import numpy as np
    import torch
    from lm_eval import evaluate

    # The seeds of lm-eval's command, for tasks that sample.
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    with quiet():
        found: Any = evaluate(
            lm=model,
            task_dict={"tasks": {name: task}},
            limit=settings.limit,
            bootstrap_iters=0,  # of its standard errors, which the intervals here replace
            apply_chat_template=settings.apply_chat_template,
            fewshot_as_multiturn=settings.apply_chat_template,
            confirm_run_unsafe_code=True,  # it runs in the sandbox: see `code_eval`
        )
    return found["results"][name], found["samples"][name]


def _rows(name: str, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in samples:
        answers = one["filtered_resps"]
        yield {
            "task": name,
            "row": one["doc_id"],
            "filter": one["filter"],
            "prompt": one["arguments"][0][0],
            "target": one["target"],
            "choices": [arguments[1] for arguments in one["arguments"]] if len(one["arguments"]) > 1 else None,
            "answer": answers[0] if len(answers) == 1 else answers,
            # What a filter made the answer of: all that the model wrote.
            "written": one["resps"][0][0] if isinstance(one["resps"][0][0], str) else None,
            "metrics": {metric: one[metric] for metric in one["metrics"]},
        }


def _title(settings: Benchmarks) -> str:
    limit = f", the first {settings.limit} rows of each" if settings.limit else ""
    return f"benchmarks (lm-evaluation-harness{limit})"
