"""The 37 metrics: the table of docs/cognate.md, the code and a real run say the same, and no metric is a constant."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from agentforge.artifacts import read_manifest
from agentforge.evaluation.diversity import evaluate_diversity
from agentforge.evaluation.evaluate import evaluate
from agentforge.models.auto import register_all
from agentforge.recipe.schema import Recipe
from agentforge.systems.cognate.training import metrics
from agentforge.systems.cognate.training.metrics import METRICS
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.systems.cognate.training.conftest import CONFIG, rows, write_rows
from tests.trainers.tracker_files import (
    AXIS,
    TRACKERS,
    installed,
    keep_below,
    names_of,
    tensorboard_scalars,
    trackio_lines,
    wandb_lines,
)

register_all()

PAGE = Path(__file__).parents[4] / "docs" / "cognate.md"
# Levels: they may well stay where they are.
LEVELS = {"mem_allocated", "mem_reserved"}


def test_the_page_and_the_code_have_the_same_37() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Metrics", 1)[1].split("\n## ", 1)[0]
    table = re.findall(r"^\| `([^`]+)` \| (\w+) \| (.*) \| (.*?) ?\|$", section, re.MULTILINE)
    assert table == [(metric.name, metric.when, metric.definition, metric.needs) for metric in METRICS]
    assert len({name for name, *_ in table}) == len(METRICS) == 37


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A training of two stages with all that the table asks for, and its models' diversity."""
    place = tmp_path_factory.mktemp("metrics")
    optimizer = {"optimizer": {"name": "mugrokfast", "options": {"grokfast_lambda": 0.3}}}
    args = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "bf16": False,
        "report_to": installed(),
    }
    fields: dict[str, Any] = {
        "name": "all",
        "output_dir": str(place),
        "model": {"config": CONFIG, "dtype": "float32"},
        "data": {
            "max_length": 32,
            "mix": [{"dataset": "a.jsonl"}, {"dataset": "b.jsonl"}],
            "curriculum": [{"name": "one", "until": 1, "sources": ["a.jsonl"]}, {"name": "both"}],
        },
        "train": {
            "method": "pretrain",
            "args": args,
            "keep": {"epochs": 1},
            **optimizer,
        },
    }
    recipe = Recipe.model_validate(fields)
    made = [row | {"source": "ab"[number % 2] + ".jsonl"} for number, row in enumerate(rows(60, 0))]
    write_rows(recipe.artifact("data"), made, rows(6, 1))
    with pytest.MonkeyPatch.context() as patched:
        keep_below(place, patched)
        trained = train(recipe)
    fields["evaluate"] = {
        "diversity": {"models": {"early": str(trained / "epoch-1"), "late": str(trained / "epoch-2")}, "rows": 6}
    }
    with_diversity = Recipe.model_validate(fields)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate_diversity, "PROMPTS", 2)
        evaluate(with_diversity)
    return with_diversity


def absent() -> set[str]:
    """Names that a run on this machine cannot have."""
    missing = {metrics.QK_CLIP}  # the tiny model normalises queries and keys instead
    if not torch.cuda.is_available():
        missing.add("a GPU")
    return {metric.name for metric in METRICS if metric.needs in missing}


def test_each_is_in_a_real_run_where_the_table_says(run: Recipe) -> None:
    lines = read_metrics(run.trained / "metrics.jsonl")
    final = read_manifest(run.trained)["metrics"] | read_manifest(run.artifact("eval-diversity"))["metrics"]
    found = {
        "step": set.intersection(*(set(line) for line in lines if "loss" in line)),
        "epoch": set.intersection(*(set(line) for line in lines if "eval_loss" in line)),
        "final": {name for name, value in final.items() if value is not None},
    }
    for when, names in found.items():
        wanted = {metric.name for metric in METRICS if metric.when == when} - absent()
        assert wanted <= names, f"{when}: {sorted(wanted - names)}"
    assert not absent() & {name for line in lines for name in line}, "what is not known is absent, not 0"


@pytest.mark.parametrize("tracker", TRACKERS)
def test_trackers_have_the_same_names(run: Recipe, tracker: str) -> None:
    if tracker not in installed():
        pytest.skip(f"{tracker} is not installed")
    place = Path(run.output_dir)
    found = {
        "tensorboard": lambda: set(tensorboard_scalars(place / "tensorboard" / run.trained.name)),
        "trackio": lambda: names_of(trackio_lines(place, run.name, run.trained.name)) - {AXIS},
        "wandb": lambda: names_of(wandb_lines(place)) - {AXIS},
    }[tracker]()
    assert found == names_of(read_metrics(run.trained / "metrics.jsonl")) - {"step"}


def test_none_is_a_constant(run: Recipe) -> None:
    lines = read_metrics(run.trained / "metrics.jsonl")
    for metric in METRICS:
        if metric.when == "final" or metric.name in absent() | LEVELS:
            continue
        values = [line[metric.name] for line in lines if metric.name in line]
        assert len(values) >= 2 and len(set(values)) > 1, f"{metric.name} is {values}"
        assert all(math.isfinite(value) for value in values)


def test_no_reading_is_outside_what_it_can_be(run: Recipe) -> None:
    for line in read_metrics(run.trained / "metrics.jsonl"):
        if "loss" in line:
            assert 1 <= line["act/avg_halting_steps"] <= 3
            assert 0 <= line["act/halt_entropy"] <= math.log(3) + 1e-6
            assert all(0 <= line[name] <= 1 for name in ("act/halt_prob_mean", "ltm/gate_mean", "ltm/decay_mean"))
            assert 0 <= line["act/halt_prob_std"] <= 0.5 and line["ltm/surprise_mean"] >= 0
            assert (line["curriculum_stage"], line["mixture_entropy"] > 0) in {(1, False), (2, True)}
        if "eval_loss" in line:
            assert line["eval_perplexity"] == pytest.approx(math.exp(line["eval_loss"]))
            assert 0 < line["eval_bits_per_byte"] < 8.5 and 0 < line["ltm/memory_usage"] <= 1
