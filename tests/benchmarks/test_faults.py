"""The table of faults says what pytest's report says, and calls nothing sound that is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.faults import rows_of, table

CASE = """<testcase time="1.5"><properties><property name="fault" value="kill -9"/>
<property name="where" value="{where}"/><property name="holds" value="the same bytes"/>
<property name="times" value="3"/></properties>{outcome}</testcase>"""


def report(*cases: tuple[str, str]) -> str:
    inside = "".join(CASE.format(where=where, outcome=outcome) for where, outcome in cases)
    return f'<testsuites><testsuite>{inside}<testcase time="9"/></testsuite></testsuites>'


def test_cases_of_one_fault_in_one_place_are_one_row() -> None:
    rows = rows_of(report(("train", ""), ("train", ""), ("gguf", '<skipped message="not installed"/>')))
    assert table(rows).splitlines()[2:] == [
        "| kill -9 | gguf | 0 | the same bytes | not run: not installed | 2 |",
        "| kill -9 | train | 6 | the same bytes | nothing | 3 |",
        "| **all** | | **6** | | **nothing** | **4** |",
    ]


def test_what_is_lost_is_counted() -> None:
    rows = rows_of(report(("train", "<failure/>"), ("train", ""), ("merge", "<error/>")))
    assert [row.lost for row in rows.values()] == [1, 1]
    assert "| kill -9 | train | 6 | the same bytes | 1 | 3 |" in table(rows)
    assert table(rows).splitlines()[-1] == "| **all** | | **9** | | **2** | **4** |"


def test_a_test_that_breaks_something_says_so_in_the_report(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--junitxml={tmp_path / 'x'}"]
    subprocess.run([*command, "tests/trainers/test_checkpoints.py", "-m", "fault"], cwd=root, check=True)
    rows = rows_of((tmp_path / "x").read_text())
    assert rows["a torn save", "train"].times == 1 and rows["a flipped bit", "a checkpoint"].lost == 0
