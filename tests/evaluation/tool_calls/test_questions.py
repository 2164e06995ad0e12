"""Scoring against answers whose right scores are known by hand."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentforge.data.tools import ToolSet
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.compare.side_by_side import compare_table, evaluations
from agentforge.evaluation.compare.tables import relation
from agentforge.evaluation.contamination import refuse_trained_questions
from agentforge.evaluation.evaluate import answer_questions, evaluate
from agentforge.evaluation.tool_calls.questions import Question, judge, read_questions, score
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Generation, Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from tests.manifests import write_manifest


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def as_text(*calls: Any) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


@pytest.fixture
def tools(two_tools: list[dict[str, Any]]) -> ToolSet:
    return ToolSet("two", two_tools)


@pytest.fixture
def question(tools: ToolSet) -> Question:
    expected = [{"type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}]
    return Question("q:1:1", [{"role": "user", "content": "List"}], tools, expected)


RIGHT = {"name": "bash", "arguments": {"command": "ls"}}
CASES: dict[str, tuple[str, str]] = {
    "right": (as_text(RIGHT), "well_formed right_tool exact_arguments"),
    "words around it": ("Sure.\n" + as_text(RIGHT), "well_formed right_tool exact_arguments"),
    "another command": (as_text({"name": "bash", "arguments": {"command": "pwd"}}), "well_formed right_tool"),
    "another tool": (as_text({"name": "think", "arguments": {"thought": "ls"}}), "well_formed"),
    "unknown tool": (as_text({"name": "shell", "arguments": {"command": "ls"}}), ""),
    "missing argument": (as_text({"name": "bash", "arguments": {}}), "right_tool"),
    "wrong type": (as_text({"name": "bash", "arguments": {"command": 3}}), "right_tool"),
    "one argument too many": (as_text({"name": "bash", "arguments": {"command": "ls", "x": 1}}), "right_tool"),
    "one call too many": (as_text(RIGHT, RIGHT), "well_formed"),
    "no JSON": ("<tool_call>\n{'name': 'bash'}\n</tool_call>", ""),
    "not closed": ("<tool_call>\n" + json.dumps(RIGHT), ""),
    "no call": ("I cannot.", ""),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_judges_as_a_reader_would(case: str, question: Question) -> None:
    text, right = CASES[case]
    answer = judge(question, Generation(text, [1], [2], stopped=True))
    measured = {name for name in ("well_formed", "right_tool", "exact_arguments") if getattr(answer, name)}
    assert measured == set(right.split())
    assert bool(answer.problems) != answer.well_formed
    json.dumps(answer.row())


def test_key_order_and_order_of_parallel_calls_have_no_meaning(tools: ToolSet) -> None:
    calls = [{"name": "bash", "arguments": {"a": 1, "b": [1, {"c": None}]}}, {"name": "think", "arguments": {}}]
    expected = [{"type": "function", "function": call} for call in calls]
    question = Question("q:1:1", [{"role": "user", "content": "?"}], tools, expected)
    written = as_text(calls[1], {"arguments": {"b": [1, {"c": None}], "a": 1}, "name": "bash"})
    assert judge(question, Generation(written, [], [1], True)).exact_arguments


@pytest.mark.parametrize("named", [["bash"], ["bash", "think"], ["bash", "bash"], ["bash", "bash", "think"]])
def test_chance_is_the_share_of_all_draws_that_are_right(named: list[str], tools: ToolSet) -> None:
    expected = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in named]
    question = Question("q:1:1", [{"role": "user", "content": "?"}], tools, expected)
    draws = list(itertools.product(tools.names, repeat=len(named)))
    right = [
        judge(question, Generation(as_text(*({"name": n, "arguments": {}} for n in d)), [], [1], True)).right_tool
        for d in draws
    ]
    assert question.chance == pytest.approx(sum(right) / len(draws))


def test_every_call_of_a_conversation_is_a_question_with_the_true_history(tmp_path: Path, tools: ToolSet) -> None:
    call = {"type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    messages = [
        {"role": "user", "content": "List"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "a b"},
        {"role": "assistant", "content": "", "tool_calls": [RIGHT]},
        {"role": "tool", "content": "a"},
        {"role": "assistant", "content": "Done"},
    ]
    file = write(tmp_path / "q.jsonl", [{"messages": messages}, {"messages": messages[:2]}])
    questions = read_questions([file], tools, "Be AJ.")
    assert [question.id for question in questions] == [f"{file}:1:2", f"{file}:1:4", f"{file}:2:2"]
    assert questions[0].expected[0]["function"]["arguments"] == {"command": "ls"}
    assert [message["role"] for message in questions[1].context] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2"),
        ('{"text": "no messages"}', "line 2"),
        (json.dumps({"messages": [{"role": "tool", "content": "x"}]}), "line 2.*without a call"),
    ],
)
def test_a_broken_question_file_is_refused_by_line(tmp_path: Path, tools: ToolSet, line: str, message: str) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(UserError, match=message):
        read_questions([write(tmp_path / "q.jsonl", [good, line])], tools, None)
    with pytest.raises(UserError, match="nothing to ask"):
        read_questions([write(tmp_path / "q.jsonl", [good])], tools, None)


def test_scores_count_and_give_chance_and_interval(question: Question) -> None:
    texts = [as_text(RIGHT)] * 3 + ["I cannot."]
    scores = score([judge(question, Generation(text, [], [1], stopped=text != texts[0])) for text in texts], 0.8)
    assert {name: entry["successes"] for name, entry in scores.items()} == {
        "well_formed": 3,
        "right_tool": 3,
        "exact_arguments": 3,
        "finished": 1,
    }
    assert scores["right_tool"]["chance"] == 0.5 and scores["exact_arguments"]["chance"] is None
    assert scores["right_tool"]["low"] < 0.75 == scores["right_tool"]["value"] < scores["right_tool"]["high"]


def test_answers_keep_the_order_of_the_questions(tools: ToolSet) -> None:
    contents = ["xxxx", "x", "xxx", "xx"]
    questions = [Question(c, [{"role": "user", "content": c}], tools, []) for c in contents]
    policy = ScriptedPolicy(lambda conversation: str(conversation.messages[-1]["content"]))
    answers = answer_questions(policy, questions, Sampling(100), batch_size=3)
    assert [answer.generation.text for answer in answers] == contents


def learnt_recipe(tmp_path: Path, checkpoint: Path, conversations: Any, tools: Any, **changes: Any) -> Recipe:
    rows = [{"messages": conversation, "tools": tools} for conversation in conversations]
    prompts = write(tmp_path / "heldout.jsonl", rows)
    raw = {
        "name": "T",
        "output_dir": str(tmp_path / "runs"),
        "model": {"path": str(checkpoint)},
        "evaluate": {"tool_calls": {"prompts": str(prompts), "max_new_tokens": 60}},
    }
    return Recipe.model_validate(raw | changes)


@pytest.fixture
def recipe(
    tmp_path: Path, talking_checkpoint: Path, learnt_conversations: Any, two_tools: Any
) -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        return learnt_recipe(tmp_path, talking_checkpoint, learnt_conversations, two_tools, **changes)

    return make


def test_the_stage_scores_a_real_model(recipe: Callable[..., Recipe]) -> None:
    made = evaluate(recipe(), "base")
    report = json.loads((made / "scores.json").read_text())
    assert {name: entry["value"] for name, entry in report["scores"].items()} == dict.fromkeys(
        ("well_formed", "right_tool", "exact_arguments", "finished"), 1.0
    )
    right_tool = report["scores"]["right_tool"]
    assert (right_tool["n"], right_tool["high"], right_tool["chance"]) == (1, 1.0, 0.5)
    # Beta(3/2, 1/2) has the distribution function 2/pi (t - sin t cos t) at x = sin(t)^2: 0.1 at x = 0.3514
    assert right_tool["low"] == pytest.approx(0.3514, abs=1e-4)
    rows = [json.loads(line) for line in (made / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["calls"] == [{"name": "bash", "arguments": {"command": "echo seven"}}]
    before = (made / "scores.json").stat().st_mtime_ns
    evaluate(recipe(), "base")
    assert (made / "scores.json").stat().st_mtime_ns == before, "a second run has nothing to do"


def test_other_questions_need_replace(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    evaluate(recipe(), "base")
    changed = recipe(evaluate={"tool_calls": {"prompts": str(tmp_path / "heldout.jsonl"), "max_new_tokens": 3}})
    with pytest.raises(CheckRefused, match="max_new_tokens"):
        evaluate(changed, "base")
    made = evaluate(changed, "base", replace=True)
    scores = json.loads((made / "scores.json").read_text())["scores"]
    assert scores["finished"]["value"] == 0 and scores["well_formed"]["value"] == 0


def test_trained_prompts_are_refused(
    recipe: Callable[..., Recipe], tmp_path: Path, two_tools: Any, learnt_conversations: Any
) -> None:
    shouted = [
        dict(m, content=f"  {m['content'].upper()}") if m["role"] == "user" else m for m in learnt_conversations[0]
    ]
    trained = write(tmp_path / "train.jsonl", ["{broken", {"messages": shouted}])
    mixed = recipe(data={"mix": [{"dataset": str(trained)}]})
    with pytest.raises(CheckRefused, match=r"train\.jsonl, line 2"):
        evaluate(mixed, "base")
    assert not mixed.artifact("eval-base").exists()
    against = {"mix": [{"dataset": str(trained)}], "decontaminate": {"against": [str(tmp_path / "heldout.jsonl")]}}
    refuse_trained_questions(recipe(data=against), [])


def test_missing_questions_are_named(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        evaluate(recipe(evaluate={"tool_calls": {"prompts": str(tmp_path / "none*.jsonl")}}), "base")
    with pytest.raises(UserError, match=r"set evaluate\.tool_calls"):
        evaluate(recipe(evaluate={}), "base")


def rendered(table: Any) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_comparison_marks_what_does_not_overlap(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    one = recipe()
    evaluate(one, "base")
    base = json.loads((one.artifact("eval-base") / "scores.json").read_text())
    worse = json.loads(json.dumps(base))
    worse["model"]["label"] = "worse"
    worse["scores"]["right_tool"] |= {"value": 0.0, "low": 0.0, "high": 0.2}
    other = one.artifact("eval-worse")
    other.mkdir()
    (other / "scores.json").write_text(json.dumps(worse))
    write_manifest(other, finished="2026")
    assert evaluations(one) == [one.artifact("eval-base"), other]
    text = rendered(compare_table(evaluations(one)))
    assert "0.0% [0.0%, 20.0%] ▼" in text and "100.0% [35.1%, 100.0%] ≈" in text and "50.0%" in text
    assert relation({"low": 0.5, "high": 0.6}, {"low": 0.1, "high": 0.4}) == "above"
    worse["questions"]["hash"] = "other"
    (other / "scores.json").write_text(json.dumps(worse))
    with pytest.raises(UserError, match="different questions"):
        compare_table(evaluations(one))


def test_models_that_were_decoded_otherwise_are_not_compared_unasked(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    prompts = str(tmp_path / "heldout.jsonl")
    recipes = [recipe(), recipe(name="U", evaluate={"tool_calls": {"prompts": prompts, "max_new_tokens": 3}})]
    pair = [evaluate(one, "base") for one in recipes]
    with pytest.raises(UserError, match=r"was decoded with max_new_tokens 60, .* with 3"):
        compare_table(pair)
    text = rendered(compare_table(pair, mixed=True))
    assert "greedy, 60 tokens" in text and "greedy, 3 tokens" in text
    assert "T-v0.1.0 base" in text and "U-v0.1.0 base" in text, "two bases have two names"
    assert len(json.loads((pair[0] / "scores.json").read_text())["decoding"]["template"]) == 8


def test_nothing_evaluated_yet_is_said(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match="agentforge evaluate"):
        evaluations(recipe())
