"""affine:abd and affine:ded: a right answer counts, however a wrong one tries to look like it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentforge.environments.programs.corpus import DEFAULT, as_text, open_corpus, parse_cases, parse_row
from agentforge.environments.programs.environment import Abduction, Deduction
from agentforge.environments.programs.judge import Case, Runner, _same_value, callable_program, judge, same_text
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import UserError
from agentforge.installation import CHECKOUT

RUNNER = Runner(timeout=5.0, allow_unisolated=True)
HASTY = Runner(timeout=0.5, allow_unisolated=True)
TWICE = "x = int(input())\nprint(2 * x)"
PARITY = "x = int(input())\nwhile x < 0:\n    pass\nprint(x % 2)"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a corpus; each is repeated under other names, so that both splits have some."""

    def corpus(*rows: dict[str, Any], copies: int = 40) -> str:
        path = tmp_path / "rows.jsonl"
        lines = [
            json.dumps(row | {"prompt": f"{row['prompt']} ({i})"} if "prompt" in row else row)
            for i in range(copies)
            for row in rows
        ]
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return corpus


def row(program: str = TWICE, inputs: Any = "4", output: Any = "8", **more: Any) -> dict[str, Any]:
    cases = [
        {"type": "stdin_stdout", "input": "21", "output": "42"},
        {"type": "stdin_stdout", "input": 5, "output": 10},
    ]
    return {
        "prompt": "Print twice.",
        "program": program,
        "inputs": inputs,
        "output": output,
        "test_cases": cases,
    } | more


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


# -- the judge ------------------------------------------------------------------------------------------------------

NUMBERS = (Case("stdin", "21", "42"), Case("stdin", "5", "10\n"))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (TWICE, None),
        ("import sys\nfor line in sys.stdin: print(2 * int(line), end='  \\r\\n\\n')", None),
        ("def solve():\n    print(2 * int(input()))", None),
        ("print(42)", "test 2 of 2: it prints something else"),
        ("import sys; sys.exit(0)", "test 1 of 2: it prints something else"),
        ("import os; os._exit(0)", "prints something else"),
        ("", "prints something else"),
        ("print(2 * int(input())); raise SystemExit(1)", "it fails: exit code 1"),
        ("print(2 * int(input())); 1 / 0", "ZeroDivisionError"),
        ("print(2 * int(input()))\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it fails"),
        ("print(2 * int(input())\n", "SyntaxError"),
        ("print(2 * int(input()), 1)", "prints something else"),
        ("a = '\ud800'\nprint(2 * int(input()))", None),
        ("\0", "it fails"),
    ],
)
def test_judge(program: str, problem: str | None) -> None:
    found = judge(program, NUMBERS, RUNNER)
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("while True: pass", "does not end"),
        ("print(2 * int(input()))\nimport time\ntime.sleep(60)", "does not end"),
        ("while True: print('x' * 1000)", "prints too much|does not end|fails"),
        ("x = 'x' * (1 << 40)", "MemoryError|fails"),
    ],
)
def test_programs_that_hang_or_flood_fail(program: str, problem: str) -> None:
    found = HASTY.problem(program, NUMBERS[0])
    assert found is not None
    assert any(part in found for part in problem.split("|"))


def test_no_test_is_no_pass() -> None:
    assert judge(TWICE, (), RUNNER) == "there are no tests"


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("def f(a, b): return [a + b, 'x']", True),
        ("def f(a, b): print('noise'); return (a + b, 'x')", True),
        ("def f(a, b): return [a + b + 0.0, 'x']", True),
        ("def f(a, b): return [True, 'x']", False),
        ("def f(a, b): return {a + b, 'x'}", False),
        ("def f(a, b): return None", False),
        ("def f(a): return [3, 'x']", False),
        ("def g(a, b): return [3, 'x']", False),
        ("def f(a, b): return [3, 'x']\nimport sys; sys.exit(0)", False),
        (
            "print('[3, \"x\"]')\nimport sys; sys.stdout.flush(); import os; os._exit(0)",
            True,
        ),  # knowing the answer is no cheating: nobody told it
    ],
)
def test_function_calls(program: str, passes: bool) -> None:
    case = Case("call", "[1, 2]", '[3, "x"]', "f")
    assert (RUNNER.problem(program, case) is None) == passes


def test_true_is_not_one_and_names_are_names() -> None:
    assert RUNNER.problem("def f(): return 1", Case("call", "[]", "true", "f")) == "it returns something else"
    assert RUNNER.problem("def f(): return True", Case("call", "[]", "true", "f")) is None
    assert "no name" in str(RUNNER.problem("", Case("call", "[]", "1", "print(1)#")))


def test_outputs_are_compared_without_what_cannot_be_seen() -> None:
    assert same_text("a \r\nb\n\n", "a\nb")
    assert same_text("\na", "a")
    assert not same_text("a b", "a  b")
    assert not same_text("a\n\nb", "a\nb")
    assert not same_text("  a\n b", "a\nb")


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("0.30000000000000004", "0.3", True),
        ("x = 0.30000000000000004, y = [-1.0]", "x = 0.3, y = [-1.00]", True),
        ("5.5e-17", "0.0", True),
        ("-0.0", "0.0", True),
        ("1.0000000001e3", "1000.0", True),
        ("0.3001", "0.3", False),
        ("0.30000001", "0.3", False),
        ("0.0", "6.6e-11", False),
        ("0.3 0.3", "0.3", False),
        ("0.3\n", "0.3x", False),
        # integers are text: each digit counts, and how they are written
        ("1000000000000000000000", "1000000000000000000001", False),
        ("9007199254740993", "9007199254740992", False),
        ("9007199254740993.0", "9007199254740993", False),
        ("3.0", "3", False),
        ("3", "2.9999999999999996", False),
        ("007", "7", False),
        # what is no float
        ("1e400", "1e400", True),
        ("1e400", "1e500", False),
        ("1e400", "inf", False),
        ("nan", "nan", True),
        ("nan", "0.3", False),
        ("0.3", "nan", False),
        ("1.2.3", "1.2.30", False),
        ("v1.1", "v1.10", False),
        ("1.0j", "1.00j", False),
        ("٣.0", "3.0", False),
    ],
)
def test_floats_may_be_rounded_and_nothing_else(printed: str, expected: str, same: bool) -> None:
    assert same_text(printed, expected) == same
    assert same_text(expected, printed) == same


@pytest.mark.parametrize(
    ("value", "expected", "passes"),
    [
        ("0.1 + 0.2", "0.3", True),
        ("{'a': [0.1 + 0.2, 1]}", '{"a": [0.3, 1]}', True),
        ("0.3001", "0.3", False),
        ("3.0", "3", True),
        ("3", "2.9999999999999996", False),
        ("10**30 + 1", str(10**30), False),
        ("10**30", str(10**30), True),
        ("float(2**53)", str(2**53 + 1), False),
        ("float('nan')", "NaN", True),
        ("float('nan')", "0.3", False),
        ("float('inf')", "Infinity", True),
        ("float('inf')", "1e400", False),
        ("1.0", "true", False),
        ("'0.30000000000000004'", '"0.3"', False),
    ],
)
def test_values_that_are_floats_may_be_rounded(value: str, expected: str, passes: bool) -> None:
    problem = RUNNER.problem(f"def f(): return {value}", Case("call", "[]", expected, "f"))
    assert problem == (None if passes else "it returns something else")


def test_a_nested_value_is_wrong_and_no_crash() -> None:
    case = Case("call", "[]", "[1]", "f")
    assert RUNNER.problem(f"def f(): return 0\nprint('{'[' * 900}')", case) == "it returns something else"
    deep = "[" * 900 + "]" * 900
    assert not _same_value(deep, deep + "x")
    assert _same_value(deep, deep) in (True, False)


@pytest.mark.parametrize(
    "case", [Case("stdin", "1", ""), Case("stdin", "1", " \n"), Case("call", "[]", "null", "f"), Case("call", "[]", "")]
)
def test_doing_nothing_passes_no_test(case: Case) -> None:
    for idle in ("import sys\nsys.exit(0)", "def f(): pass"):
        assert "does nothing" in str(judge(idle, (case,), RUNNER))
    assert not same_text("", "")


def test_tests_that_expect_nothing_are_no_tests() -> None:
    empty = {"type": "stdin_stdout", "input": "1", "output": ""}
    assert parse_cases([empty]) == ()
    assert parse_cases([empty, {**empty, "output": "3"}]) == (Case("stdin", "1", "3"),)
    none = {"type": "function_call", "fn_name": "f", "input": [], "output": [None]}
    assert parse_cases([none]) == ()


def test_a_program_that_is_to_print_nothing_is_no_task(write: Write) -> None:
    with pytest.raises(UserError, match="no row of the corpus"):
        Abduction(corpus=write(row("pass", "4", "", test_cases=None, prompt="")))


def test_a_program_that_does_not_fit_is_the_models_fault() -> None:
    assert "main.py" in str(RUNNER.problem("#" * (17 << 20), NUMBERS[0]))


def test_solve_is_called_where_nobody_calls_it() -> None:
    assert callable_program("def solve():\n    pass").endswith("solve()\n")
    for program in ("def solve():\n    pass\nsolve()", "def solve(x):\n    pass", "class A:\n    def solve(): pass"):
        assert callable_program(program) == program


# -- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tests",
    [
        [{"type": "stdin_stdout", "input": "1\n2", "output": "3"}],
        {"test_cases": [{"type": "stdin_stdout", "input": ["1", 2], "output": 3}]},
        '[{"type": "stdin_stdout", "input": "1\\n2", "output": "3"}]',
        "{'test_cases': [{'type': 'stdin_stdout', 'input': ['1', '2'], 'output': ('3'), 'fn_name': None}]}",
    ],
)
def test_tests_are_read_in_every_form(tests: Any) -> None:
    assert parse_cases(tests) == (Case("stdin", "1\n2", "3"),)


def test_function_tests_are_read() -> None:
    raw = {"type": "function_call", "fn_name": "f", "input": [[1, 2], "a"], "output": [[3]]}
    assert parse_cases([raw]) == (Case("call", '[[1, 2], "a"]', "[3]", "f"),)


@pytest.mark.parametrize(
    "tests",
    [
        [],
        None,
        7,
        ["x"],
        [{"type": "unheard_of", "input": "", "output": ""}],
        [{"type": "stdin_stdout", "input": "1", "output": "1"}, {"type": "unheard_of"}],
        [{"type": "stdin_stdout", "input": "1"}],
        [{"type": "function_call", "input": [], "output": [1]}],
    ],
)
def test_tests_that_nobody_could_pass_are_none(tests: Any) -> None:
    assert parse_cases(tests) == ()
    assert judge(TWICE, parse_cases(tests), RUNNER) is not None


def test_nothing_of_a_row_is_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(ValueError):
        parse_cases(f"__import__('pathlib').Path({str(mark)!r}).touch()")
    with pytest.raises((ValueError, RecursionError, MemoryError)):
        parse_cases("(" * 100_000)
    assert not mark.exists()


def test_zero_is_text_and_nothing_is_empty() -> None:
    assert (as_text(0), as_text(None), as_text([[1, 2], "a"]), as_text({"a": 1})) == ("0", "", "1\n2\na", '{"a": 1}')
    assert parse_row({"program": "p", "inputs": 0}).inputs == "0"


# -- corpora --------------------------------------------------------------------------------------------------------


def test_rows_of_the_hub_are_played(write: Write) -> None:
    literal = str({"test_cases": row()["test_cases"]})
    corpus = write(row(output="stored wrongly", verification_info=literal, test_cases=None))
    abduction = Abduction(corpus=corpus, allow_unisolated=True)
    assert "Output:\n```\n8\n```" in abduction.reset(0, 0)  # that of the program
    assert abduction.step(str(abduction.expert())).info["success"]
    deduction = Deduction(corpus=corpus, allow_unisolated=True)
    deduction.reset(0, 0)
    assert deduction.step(str(deduction.expert())).info["success"]


def test_a_program_that_fails_on_its_own_input_keeps_the_stored_output(write: Write) -> None:
    environment = Abduction(corpus=write(row(inputs="no number", output="8")), allow_unisolated=True)
    assert "Output:\n```\n8\n```" in environment.reset(0, 0)
    assert environment.step("<INPUT>4</INPUT>").info["success"]


def test_functions_are_named_in_the_problem(write: Write) -> None:
    cases = [{"type": "function_call", "fn_name": "twice", "input": [i], "output": [2 * i]} for i in (1, 5)]
    environment = Deduction(corpus=write(row(test_cases=cases)), allow_unisolated=True)
    assert environment.reset(0, 0).endswith("The tests call twice: define it, and read nothing.")
    assert environment.step(fenced("def twice(x):\n    return 2 * x")).info["success"]


def test_unusable_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(row())
    bad = ["{broken", "[1]", "", '{"prompt": "no tests"}', good]
    path.write_text("\n".join([good, *bad]))
    corpus = open_corpus(str(path))
    assert len(corpus.entries) == 1
    assert corpus.left_out == {
        "cannot be read": 2,
        "have neither a program with its output nor a problem with its tests": 1,
        "repeat a problem": 1,
    }
    path.with_name("bad").mkdir()
    (path.with_name("bad") / "rows.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="1 cannot be read"):
        open_corpus(str(path.with_name("bad")))


def test_a_corpus_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*nowhere.jsonl"):
        Abduction(corpus=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match=r"contains no \.jsonl"):
        Abduction(corpus=str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'rl_python'"):
        Abduction(corpus="rl_pyton")
    with pytest.raises(UserError, match="agentforge download"):
        Deduction(corpus="rl_python", hub_mirror=str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"read from \.jsonl"):
        Deduction(corpus=str(tmp_path / "a.txt"))


def test_the_registered_data_set_is_read_from_a_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "satpalsr" / "rl-python"
    folder.mkdir(parents=True)
    rows = [json.dumps(row(prompt=f"Problem {i}")) for i in range(40)]
    (folder / "python_dataset.jsonl").write_text("\n".join(rows))
    assert Deduction(corpus="rl_python", hub_mirror=str(tmp_path)).tasks > 10


def test_our_corpus_is_what_is_promised() -> None:
    rows = [
        json.loads(line)
        for path in sorted((CHECKOUT / "programs").glob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    assert len(rows) >= 150
    assert len({r["family"] for r in rows}) >= 5
    assert {r["difficulty"] for r in rows} == {0, 1, 2, 3}
    assert len({r["id"] for r in rows}) == len({r["prompt"] for r in rows}) == len(rows)
    for r in rows:
        assert r["inputs"] not in {case["input"] for case in r["test_cases"]}  # the example is no hidden test
        assert len({case["output"] for case in r["test_cases"]} | {r["output"]}) >= 3
    assert not open_corpus(DEFAULT).left_out


@pytest.mark.parametrize("slug", ["to-roman", "tidy-path", "snake-game"])
def test_the_corpus_is_made_by_its_script(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (CHECKOUT / "programs") / "build.py"
    if not script.is_file():
        pytest.skip("the sources of the corpus are not installed with the package")
    monkeypatch.syspath_prepend(str(script.parent))
    spec = importlib.util.spec_from_file_location("corpus_build", script)
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    monkeypatch.setattr(build, "RUNNER", RUNNER)
    problem = next(p for p in build.PROBLEMS if p.slug == slug)
    made = json.dumps(build.row(problem), ensure_ascii=False)
    assert made in ((CHECKOUT / "programs") / f"{problem.family}.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("kind", [Abduction, Deduction])
def test_a_problem_is_in_one_split_of_both_environments(kind: type[Abduction] | type[Deduction]) -> None:
    environment = kind()
    assert environment.tasks > 150
    for task in range(environment.tasks):
        reserved = environment._entries[task].key % 5 == 0
        assert reserved == (split_of(environment.id, task) == "eval")
    assert len({entry.key for entry in environment._entries}) == environment.tasks
    assert len(task_ids(environment, "eval")) > 20


def test_max_difficulty() -> None:
    environment = Abduction(max_difficulty=1)
    assert 50 < environment.tasks < Abduction().tasks
    assert {environment.difficulty(task) for task in range(environment.tasks)} == {0, 1}
    with pytest.raises(UserError, match="max_difficulty"):
        Abduction(max_difficulty=-1)


def test_experts_are_right_and_trivial_strategies_are_not() -> None:
    for environment in (Abduction(allow_unisolated=True), Deduction(allow_unisolated=True)):
        ids = task_ids(environment, "eval", 8)
        won = dict.fromkeys(("expert", *environment.baselines), 0)
        for task in ids:
            for name in won:
                environment.reset(0, task)
                text = environment.expert() if name == "expert" else environment.baseline(name, Random(task))
                won[name] += environment.step(str(text)).info["success"]
        assert won.pop("expert") == len(ids)
        assert max(won.values()) <= 2, won
    with pytest.raises(UserError, match="no baseline"):
        Abduction().baseline("x", Random(0))


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "success", "valid"),
    [
        ("<INPUT>3</INPUT>", True, True),
        ("so\n<INPUT>\n\n7\n</INPUT> done", True, True),
        ("<INPUT>2</INPUT> or <INPUT>1</INPUT>", True, True),
        ("<INPUT>1</INPUT> or <INPUT>2</INPUT>", False, True),
        ("<think><INPUT>1</INPUT></think>", False, False),
        ("<think>hm</think><INPUT>1</INPUT>", True, True),
        ('<tool_call>{"name": "act", "arguments": {"action": "1"}}</tool_call>', True, True),
        ('<tool_call>{"name": "act", "arguments": {"action": "<INPUT>1</INPUT>"}}</tool_call>', True, True),
        ("<INPUT></INPUT>", False, True),
        ("<INPUT>x</INPUT>", False, True),
        ("<INPUT>1", False, False),
        ("1", False, False),
        ("", False, False),
        ("<INPUT>-1</INPUT>", False, True),  # the program does not end
    ],
)
def test_abduction_answers(write: Write, text: str, success: bool, valid: bool) -> None:
    environment = Abduction(
        corpus=write(row(PARITY, "5", "1", verified=True)), allow_unisolated=True, timeout=0.7, max_turns=1
    )
    environment.reset(0, 0)
    step = environment.step(text)
    assert (step.info["success"], step.info["valid_action"], step.reward) == (success, valid, float(success))
    assert step.terminated and not step.truncated
    assert ("problem" in step.info) == (not valid)


@pytest.mark.parametrize(
    ("text", "success", "valid"),
    [
        (fenced(TWICE), True, True),
        ("```py\nprint(1)\n```\nbetter:\n" + fenced(TWICE), True, True),
        (fenced(TWICE) + "\n```\n42\n```", True, True),
        (fenced(TWICE) + "\nor\n" + fenced("print(1)"), False, True),
        (f"```\n{TWICE}\n```", True, True),
        (f"<think>{fenced(TWICE)}</think>", False, False),
        (TWICE, False, False),
        ("```python\nprint(1)", False, False),
        (f"<tool_call>{json.dumps({'name': 'act', 'arguments': {'action': TWICE}})}</tool_call>", True, True),
        (fenced("import sys\nsys.exit(0)"), False, True),
    ],
)
def test_deduction_answers(write: Write, text: str, success: bool, valid: bool) -> None:
    environment = Deduction(corpus=write(row()), allow_unisolated=True)
    environment.reset(0, 0)
    step = environment.step(text)
    assert (step.info["success"], step.info["valid_action"]) == (success, valid)
    assert step.terminated


def test_several_attempts_are_told_what_is_wrong_but_no_hidden_test(write: Write) -> None:
    environment = Deduction(corpus=write(row()), allow_unisolated=True, max_turns=3)
    environment.reset(0, 0)
    first = environment.step(fenced("print(2 * int(input()) + 1)"))
    assert first.observation == "The program is not right: test 1 of 2: it prints something else."
    assert not first.terminated and not first.truncated
    assert not {"21", "42"} & set(first.observation.split())
    assert environment.step("hm").info["problem"].startswith("There is no program")
    assert environment.step(fenced("1 / 0")).truncated


def test_the_output_of_a_wrong_input_is_shown(write: Write) -> None:
    environment = Abduction(corpus=write(row(verified=True)), allow_unisolated=True, max_turns=2)
    environment.reset(0, 0)
    assert environment.step("<INPUT>5</INPUT>").observation == "With this input the program prints:\n10"
    assert environment.step("<INPUT>4</INPUT>").terminated


def test_no_such_task() -> None:
    environment = Abduction()
    for task in (-1, environment.tasks):
        with pytest.raises(UserError, match="there is no task"):
            environment.reset(0, task)


def test_same_tasks_whatever_the_hash_seed() -> None:
    code = (
        "from random import Random\n"
        "from agentforge.environments.programs.environment import Abduction, Deduction\n"
        "for e in (Abduction(), Deduction()):\n"
        "    for task in range(0, e.tasks, 20):\n"
        "        print(e.reset(1, task), e.expert(), e.difficulty(task), e.baseline('random', Random(task)))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(printed) == 1
    assert "```python" in printed.pop()
