"""Generated code is judged in the sandbox: right, wrong, endless and malicious candidates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install agentforge-train[benchmarks]"
)

from agentforge.environments.sandbox.sandbox import isolation_problem
from agentforge.errors import UserError
from agentforge.evaluation.benchmarks import code_eval
from agentforge.evaluation.benchmarks.code_eval import SandboxedCodeEval, passes
from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks
from agentforge.recipe.schema import Benchmarks

pytestmark = pytest.mark.skipif(isolation_problem() is not None, reason="the sandbox cannot isolate here")
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"


def test_candidates_are_judged_by_what_they_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(code_eval, "TIMEOUT", 2.0)
    outside = tmp_path / "written"
    candidates = {
        "def add(a, b):\n    return a + b": True,
        "def add(a, b):\n    return a * b": False,
        "def add(a, b):\n    while True: pass": False,
        "import sys\nsys.exit(0)": False,
        "import os\nos._exit(0)": False,
        "def add(a, b:": False,
        "def add(a, b):\n    return a + b\0": False,
        f"open({str(outside)!r}, 'w').write('x')\ndef add(a, b):\n    return a + b": False,
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)\ndef add(a, b):\n    return a + b": False,
    }
    assert [passes(candidate, TESTS) for candidate in candidates] == list(candidates.values())
    assert not outside.exists()


def test_the_share_is_over_tasks() -> None:
    right, wrong = "def add(a, b):\n    return a + b", "def add(a, b):\n    return 0"
    shares, rows = SandboxedCodeEval().compute([TESTS, TESTS], [[right], [wrong]], k=[1])
    assert shares == {"pass@1": 0.5} and rows[1][0][1] == {"task_id": 1, "passed": False}
    with pytest.raises(UserError, match="only pass@1"):
        SandboxedCodeEval().compute([TESTS], [[right]], k=[10])


def test_tests_that_need_what_the_sandbox_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="import numpy"):
        SandboxedCodeEval().compute(["import numpy as np\nassert True"], [["x = 1"]], k=[1])


def test_mbpp_is_judged_in_the_sandbox(tmp_path: Path) -> None:
    folder = tmp_path / "google-research-datasets" / "mbpp"
    folder.mkdir(parents=True)
    row = {
        "text": "Write a function to add two numbers.",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(2, 2) == 4"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    lines = [json.dumps({"task_id": number, **row}) + "\n" for number in (2, 11, 12, 600, 700)]
    (folder / "mbpp.jsonl").write_text("".join(lines))
    task = load_tasks(Benchmarks(tasks=["mbpp"]), str(tmp_path))["mbpp"]
    docs = list(task.test_docs())
    assert [doc["task_id"] for doc in docs] == [11, 12]  # of the single file, the test split alone
    assert task.process_results(docs[0], [row["code"]]) == {"pass_at_1": 1.0}
    assert task.process_results(docs[0], ["def add(a, b):\n    return 1"]) == {"pass_at_1": 0.0}
