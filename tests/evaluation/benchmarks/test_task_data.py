"""Where rows come from: three layouts of a mirror, and one sentence where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks
from agentforge.evaluation.benchmarks.task_data import data_sets
from agentforge.recipe.schema import Benchmarks

SUM = {"question": "What is 1 plus 1?", "answer": "It is 1+1=<<1+1=2>>2.\n#### 2"}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_gsm8k_of_lm_eval_reads_the_files_that_the_card_names(tmp_path: Path) -> None:
    directory = tmp_path / "openai" / "gsm8k"
    write(directory / "gsm8k_test.jsonl", [SUM] * 3)
    write(directory / "gsm8k_train.jsonl", [SUM] * 6)
    task = load_tasks(Benchmarks(tasks=["gsm8k"]), str(tmp_path))["gsm8k"]
    assert len(task.eval_docs) == 3
    assert task.get_config("num_fewshot") == 5


def test_strategyqa_has_a_task_of_ours(tmp_path: Path) -> None:
    row = {"qid": "1", "question": "Is snow cold?", "answer": True}
    for split in ("train", "test"):
        write(tmp_path / "ChilleD" / "StrategyQA" / f"{split}.jsonl", [row])
    task = load_tasks(Benchmarks(tasks=["strategyqa"]), str(tmp_path))["strategyqa"]
    assert task.doc_to_choice(row)[task.doc_to_target(row)] == "yes"


def test_a_copy_with_folders_for_configurations_and_one_with_a_header(tmp_path: Path) -> None:
    import datasets

    row = {"question": "Why?", "label": 1}
    write(tmp_path / "org" / "folders" / "Easy" / "test-00000-of-00001.jsonl", [row])
    write(tmp_path / "org" / "header" / "rows.jsonl", [row, row])
    header = "---\nconfigs:\n- config_name: Easy\n  data_files:\n  - {split: test, path: rows.jsonl}\n---\n"
    (tmp_path / "org" / "header" / "README.md").write_text(header)
    original = datasets.load_dataset
    with data_sets(str(tmp_path)):
        assert len(datasets.load_dataset("org/folders", "Easy")["test"]) == 1
        assert len(datasets.load_dataset("org/header", name="Easy")["test"]) == 2
        with pytest.raises(UserError, match=r"org/folders \(Hard\) cannot be read"):
            datasets.load_dataset("org/folders", "Hard")
    assert datasets.load_dataset is original


def test_a_missing_data_set_is_said_before_a_model_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(path: str, name: str | None = None, **_: Any) -> Any:
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"allenai/ai2_arc \(ARC-Easy\).*run `agentforge download`"):
        load_tasks(Benchmarks(tasks=["arc_easy"]), None)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path / "openai" / "gsm8k" / "gsm8k_test.jsonl", [SUM])
    with pytest.raises(UserError, match="gsm8k has no split 'train'"):
        load_tasks(Benchmarks(tasks=["gsm8k"]), str(tmp_path))


def test_a_misspelt_task_is_met_by_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks as library

    class Manager:
        """lm-eval's own index takes 6 s to build."""

        def __init__(self, **_: Any) -> None:
            self.all_tasks = ["hellaswag", "gsm8k"]
            self.task_index = dict.fromkeys(self.all_tasks)

    monkeypatch.setattr(library, "TaskManager", Manager)
    with pytest.raises(UserError, match="no task 'hellaswagg'; did you mean 'hellaswag'"):
        load_tasks(Benchmarks(tasks=["hellaswagg"]), None)
    with pytest.raises(UserError, match=r"no task 'svamps'; did you mean 'svamp'"):
        load_tasks(Benchmarks(tasks=["svamps"]), None)
    with pytest.raises(UserError, match=r"there is no file mine/task\.yaml"):
        load_tasks(Benchmarks(tasks=["mine/task.yaml"]), None)
