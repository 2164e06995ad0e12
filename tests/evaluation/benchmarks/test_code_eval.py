"""Programs of a model against tests: in the sandbox, and never in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.environments.sandbox.sandbox import isolation_problem
from agentforge.errors import UserError
from agentforge.evaluation.benchmarks import code_eval
from agentforge.evaluation.benchmarks.code_eval import SandboxedCodeEval, passes
from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.scores_file import read_scores
from agentforge.recipe.schema import Benchmarks
from tests.evaluation.benchmarks.conftest import recipe_of

pytestmark = pytest.mark.skipif(isolation_problem() is not None, reason="needs user namespaces")

TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4"
RIGHT = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    ("candidate", "passed"),
    [
        (RIGHT, True),
        (f"print('noise'); print('more', end='')\n{RIGHT}", True),
        ("def add(a, b):\n    return a - b", False),
        ("def add(a, b):\n    return a +", False),
        ("raise SystemExit(0)", False),
        ("import os\nos._exit(0)", False),
        ("import sys\nsys.exit()", False),
        ("def add(a, b):\n    '\x00'\n    return a + b", False),
        ("", False),
    ],
)
def test_a_program_passes_if_its_last_test_was_reached(candidate: str, passed: bool) -> None:
    assert passes(candidate, TESTS) is passed


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_eval, "TIMEOUT", 0.3)
    assert not passes("while True:\n    pass", TESTS)


def test_a_program_reaches_nothing_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    evil = f"import os, shutil\nshutil.rmtree({str(tmp_path)!r}, ignore_errors=True)\n"
    assert passes(f"{evil}found = os.path.exists({str(secret)!r})", "assert not found")
    assert secret.is_file()
    online = (
        "import socket\ntry:\n    up = socket.create_connection(('1.1.1.1', 53), 1)\nexcept OSError:\n    up = None"
    )
    assert passes(online, "assert not up")


def test_tests_that_need_more_than_the_standard_library_are_refused() -> None:
    with pytest.raises(UserError, match="import numpy, which the sandbox does not have"):
        SandboxedCodeEval().compute([f"import numpy as np\n{TESTS}"], [[RIGHT]], k=[1])


def mirror_of_mbpp(directory: Path) -> Path:
    rows = [
        {
            "task_id": task,
            "text": f"Add {task}",
            "code": RIGHT,
            "test_list": [TESTS, TESTS, TESTS],
            "test_setup_code": "",
        }
        for task in (1, 10, 11, 12, 510, 511, 601, 974)
    ]
    files = directory / "mirror" / "google-research-datasets" / "mbpp"
    files.mkdir(parents=True)
    (files / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory / "mirror"


def test_mbpp_of_lm_eval_runs_in_the_sandbox(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of_mbpp(tmp_path)
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    answers: dict[str, Any] = {"11": RIGHT, "12": "raise SystemExit", "510": f"{RIGHT}\n[DONE]\n"}
    from agentforge.evaluation.benchmarks.transformers_lm import TransformersLM

    def answer(self: Any, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [answers[str(one.doc["task_id"])].split("[DONE]")[0] for one in requests]

    monkeypatch.setattr(TransformersLM, "generate_until", answer)
    recipe = recipe_of(tmp_path, tiny_checkpoint, ["mbpp"], max_new_tokens=64)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"hub_mirror": str(mirror)})})
    made = evaluate(recipe, "base")
    figure = read_scores(made)["own"]["benchmarks"]["figures"]["mbpp pass_at_1"]
    assert figure["n"] == 3  # of the single file, the test split
    assert figure["value"] == pytest.approx(2 / 3)
    assert figure["chance"] == 0
    rows = [json.loads(line) for line in (made / "benchmarks.jsonl").read_text().splitlines()]
    assert [row["metrics"]["pass_at_1"] for row in rows] == [1, 0, 1]
    assert rows[0]["prompt"].count("[BEGIN]") == 4  # lm-eval's own three examples, and the question


def test_a_task_that_runs_programs_in_its_own_way_is_refused(tmp_path: Path, tasks: dict[str, str]) -> None:
    (tmp_path / "own_runner.py").write_text("def judge(references, predictions):\n    return 1.0\n")
    text = Path(tasks["write"]).read_text().replace("- {metric: exact_match", "- {metric: !function own_runner.judge")
    unsafe = tmp_path / "unsafe.yaml"
    unsafe.write_text(text + "unsafe_code: true\n")
    with pytest.raises(UserError, match="toy_write runs what the model writes in this process"):
        load_tasks(Benchmarks(tasks=[str(unsafe)]), None)
    sys.modules.pop(str(tmp_path / "own_runner"), None)
