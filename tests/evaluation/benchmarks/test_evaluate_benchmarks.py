"""Scores are those of lm-eval's own command, with what they are worth beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install agentforge-train[benchmarks]"
)

from agentforge.artifacts import stage_directory
from agentforge.errors import UserError
from agentforge.evaluation.benchmarks.evaluate_benchmarks import evaluate_benchmarks, load_tasks
from agentforge.evaluation.benchmarks.rows import benchmark_rows
from agentforge.evaluation.own_scores import Scores, cell
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Benchmarks, Recipe

WORDS = ["seven", "eight", "nine", "ten", "eleven", "twelve"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three tasks of one's own: a choice of three or four, a text to write, a text to predict."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"q": f"Say {WORDS[n % 6]}", "choices": WORDS[: 3 + n % 2], "right": n % 3, "answer": str(n % 4)}
        for n in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "Question: {{q}}\nAnswer:",
        "metadata": {"version": 2.0},
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    choice = common | {
        "task": "own_choice",
        "output_type": "multiple_choice",
        "doc_to_target": "right",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
    }
    write = common | {
        "task": "own_write",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "exact_match", **mean}],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 8},
    }
    rolling = common | {
        "task": "own_text",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}} {{answer}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    paths = {}
    for task in (choice, write, rolling):
        path = folder / f"{task['task']}.yaml"
        path.write_text(yaml.safe_dump(task))
        paths[str(task["task"])] = str(path)
    return paths


def recipe_of(names: list[str], **options: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "T", "evaluate": {"batch_size": 4, "benchmarks": {"tasks": names, **options}}}
    )


def evaluated(recipe: Recipe, model: Path, target: Path) -> Scores:
    with stage_directory(target, stage="evaluate", recipe={}) as work:
        return evaluate_benchmarks(recipe, ModelLocation("hf", str(model), "model"), work)


@pytest.fixture(scope="module")
def scores(
    tasks: dict[str, str], talking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scores, Path]:
    target = tmp_path_factory.mktemp("scores") / "eval"
    return evaluated(recipe_of(list(tasks.values())), talking_checkpoint, target), target


def test_scores_equal_the_harness_own_command(
    scores: tuple[Scores, Path], tasks: dict[str, str], talking_checkpoint: Path
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    its = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(talking_checkpoint), "device": "cpu"},
        tasks=list(tasks.values()),
        task_manager=TaskManager(include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
    )
    assert its is not None
    results = its["results"]
    assert {name: figure.value for name, figure in scores[0].figures.items()} == {
        "own_choice acc": results["own_choice"]["acc,none"],
        "own_choice acc_norm": results["own_choice"]["acc_norm,none"],
        "own_write exact_match": results["own_write"]["exact_match,none"],
        "own_text bits_per_byte": results["own_text"]["bits_per_byte,none"],
    }


def test_figures_have_interval_n_chance_and_majority(scores: tuple[Scores, Path]) -> None:
    figures = scores[0].figures
    choice = figures["own_choice acc"]
    assert choice.n == 12 and choice.low <= choice.value <= choice.high
    assert choice.chance == pytest.approx((6 / 3 + 6 / 4) / 12) and choice.majority == pytest.approx(4 / 12)
    write = figures["own_write exact_match"]
    assert (write.value, write.low, write.chance, write.majority) == (0.0, 0.0, 0.0, pytest.approx(3 / 12))
    assert "not distinguishable from chance" in cell(write)
    text = figures["own_text bits_per_byte"]
    assert text.chance is None and text.low < text.value < text.high


def test_every_row_is_stored(scores: tuple[Scores, Path]) -> None:
    rows = benchmark_rows(scores[1])
    assert [row["task"] for row in rows] == ["own_choice"] * 12 + ["own_write"] * 12 + ["own_text"] * 12
    assert rows[0]["prompt"] == "Question: Say seven\nAnswer:" and rows[0]["choices"] == [" seven", " eight", " nine"]
    assert all(row["metrics"]["acc"] in (0.0, 1.0) for row in rows[:12])


def test_only_the_same_questions_are_comparable(
    scores: tuple[Scores, Path], tasks: dict[str, str], talking_checkpoint: Path, tmp_path: Path
) -> None:
    fewer = evaluated(recipe_of([tasks["own_choice"]], limit=5), talking_checkpoint, tmp_path / "a")
    again = evaluated(recipe_of([tasks["own_choice"]]), talking_checkpoint, tmp_path / "b")
    name = "own_choice acc"
    assert fewer.figures[name].n == 5 and fewer.figures[name].measured_on != again.figures[name].measured_on
    assert again.figures[name] == scores[0].figures[name]


def test_rows_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub (offline mode is enabled)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"data set openai/gsm8k \(main\) cannot be read.*put its files into .*openai/gsm8k"
    ):
        load_tasks(Benchmarks(tasks=["gsm8k"]), str(tmp_path))


def test_rows_come_from_the_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    row = {"question": "What is 1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text((json.dumps(row) + "\n") * 6)
    task = load_tasks(Benchmarks(tasks=["gsm8k"], num_fewshot=2), str(tmp_path))["gsm8k"]
    assert len(list(task.test_docs())) == 6 and task.doc_to_text(row) == "Question: What is 1 + 1?\nAnswer:"
    assert task.get_config("num_fewshot") == 2


def test_our_own_tasks_are_judged_by_the_last_number(tmp_path: Path) -> None:
    folder = tmp_path / "ChilleD" / "SVAMP"
    folder.mkdir(parents=True)
    row = {"ID": "1", "Body": "Ann has 3 pens.", "Question": "How many?", "Equation": "3", "Answer": 3.0, "Type": "x"}
    (folder / "svamp.json").write_text(json.dumps([row] * 3))
    task = load_tasks(Benchmarks(tasks=["svamp"]), str(tmp_path))["svamp"]
    doc = next(iter(task.test_docs()))
    assert task.doc_to_text(doc) == "Question: Ann has 3 pens. How many?\nAnswer:" and task.doc_to_target(doc) == "3"
    assert task.process_results(doc, ["3"]) == {"exact_match": 1.0}
