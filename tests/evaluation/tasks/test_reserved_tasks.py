"""The stage over environments whose right answers are known, and what is read from what it wrote."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from agentforge.artifacts import stage_directory
from agentforge.cli import app
from agentforge.environments.registry import make
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation import evaluate as stage
from agentforge.evaluation.compare.comparison import Comparison, read_evaluations
from agentforge.evaluation.compare.side_by_side import find_evaluations, tables
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.tasks.episode_results import paired, read_results
from agentforge.evaluation.tasks.sample_episodes import read_examples
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.rollouts_section import Rollouts
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from tests.evaluation.toy import ENVIRONMENTS, Say, skilled, toy_recipe


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names such as ``skill-0.6`` are policies of that skill."""
    weights = tmp_path / "weights"
    weights.write_text("none")
    monkeypatch.setattr(stage, "locate_model", lambda _, which: ModelLocation("hf", str(weights), which))
    monkeypatch.setattr(stage, "open_policy", lambda place, rollouts: skilled(float(place.label[6:]), place.label))


def scores(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "scores.json").read_text())["environments"]
    return report


def test_the_expert_is_perfect_and_random_is_chance(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, tasks=200)
    expert = scores(evaluate(recipe, "expert"))
    assert [expert["scores"][name]["success_rate"]["value"] for name in ("say", "climb")] == [1.0, 1.0]
    assert expert["aggregates"]["weighted_accuracy"]["value"] == 1.0 and expert["episodes"] == 400
    say = scores(evaluate(recipe, "random"))["scores"]["say"]
    assert say["success_rate"]["low"] - 0.05 < 1 / 4 < say["success_rate"]["high"] + 0.05
    assert say["chance"] == say["baselines"]["random"]["success_rate"]["value"]
    assert set(say["baselines"]) == {"random", "always_zero"}


def test_a_models_scores_are_those_of_its_episodes(tmp_path: Path) -> None:
    made = evaluate(toy_recipe(tmp_path, tasks=60), "skill-0.6")
    report, table = scores(made), read_results(made)
    rows = [row for row in table.to_pylist() if row["environment"] == "climb"]
    climb = report["scores"]["climb"]
    assert climb["mean"]["value"] == pytest.approx(sum(row["score"] for row in rows) / 60, abs=1e-6)
    assert climb["success_rate"]["value"] == pytest.approx(sum(row["success"] for row in rows) / 60, abs=1e-6)
    assert climb["success_rate"]["value"] < climb["mean"]["value"], "a third of the way up is no success"
    assert climb["truncated"] == pytest.approx(sum(row["truncated"] for row in rows) / 60, abs=1e-6)
    assert climb["headline"] == "mean" and climb["mean"]["kind"] == "bootstrap ABC"
    say = [row for row in table.to_pylist() if row["environment"] == "say"]
    assert report["scores"]["say"]["valid_actions"] == pytest.approx(sum(r["valid_turns"] for r in say) / 60, abs=1e-6)
    assert 0.4 < report["scores"]["say"]["valid_actions"] < 0.8
    assert report["new_tokens"] == sum(row["new_tokens"] for row in table.to_pylist()) > 0
    examples = read_examples(made)
    assert {(e.environment, e.success) for e in examples} == {(n, s) for n in ("say", "climb") for s in (True, False)}
    assert all(e.turns and e.messages for e in examples)


def test_only_reserved_tasks_are_played_and_the_same_for_everyone(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    tables_read = [read_results(evaluate(recipe, model)) for model in ("random", "skill-0.5")]
    for name in ENVIRONMENTS:
        tasks = [[r["task_id"] for r in t.to_pylist() if r["environment"] == name] for t in tables_read]
        environment = make(name, ENVIRONMENTS[name])
        assert tasks[0] == tasks[1] == task_ids(environment, "eval", 40, recipe.seed)
        assert {split_of(environment.id, task) for task in tasks[0]} == {"eval"}


def test_baselines_are_played_once(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    evaluate(recipe, "skill-0.5")
    file = recipe.artifact("baselines") / "baselines.json"
    before = file.stat().st_mtime_ns
    evaluate(recipe, "skill-0.9")
    assert file.stat().st_mtime_ns == before
    evaluate(toy_recipe(tmp_path, tasks=20), "skill-0.5", replace=True)
    assert file.stat().st_mtime_ns != before


def test_samples_of_a_task_are_one_cluster(tmp_path: Path) -> None:
    settings = {"environments": {"tasks": 30, "samples": 4, "temperature": 1.0, "names": ["say"]}}
    made = evaluate(toy_recipe(tmp_path, evaluate=settings), "skill-0.5")
    say = scores(made)["scores"]["say"]
    # this policy answers every sample of a task alike: 120 episodes are worth 30
    assert (say["n"], say["tasks"], say["success_rate"]["n"]) == (120, 30, 30)
    assert sorted({row["sample"] for row in read_results(made).to_pylist()}) == [0, 1, 2, 3]


def test_a_broken_environment_loses_its_episode_and_no_more(tmp_path: Path) -> None:
    environment = make("say", ENVIRONMENTS["say"])
    broken = task_ids(environment, "eval", 40, 42)[3]
    recipe = toy_recipe(tmp_path, environments={"say": {**ENVIRONMENTS["say"], "broken": broken}})
    say = scores(evaluate(recipe, "skill-0.9"))["scores"]["say"]
    assert (say["n"], say["lost"]) == (39, 1)


def test_where_fewer_tasks_are_reserved_all_of_them_are_played(tmp_path: Path) -> None:
    reserved = task_ids(make("say", ENVIRONMENTS["say"]), "eval")
    recipe = toy_recipe(tmp_path, evaluate={"environments": {"tasks": 900, "names": ["say"]}})
    assert scores(evaluate(recipe, "skill-0.5"))["scores"]["say"]["n"] == len(reserved)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": {}}, r"set evaluate\.tool_calls"),
        ({"environments": {}}, "no environments to evaluate in"),
        ({"evaluate": {"environments": {"names": ["sya"]}}}, "did you mean 'say'"),
        ({"evaluate": {"environments": {"samples": 3}}}, "temperature above 0"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        evaluate(toy_recipe(tmp_path, **changes), "skill-0.5")


def test_the_recipe_says_what_runs_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_with(place: ModelLocation, rollouts: Rollouts) -> Any:
        opened.append(rollouts.engine)
        return skilled(0.5, place.label)

    monkeypatch.setattr(stage, "open_policy", open_with)
    evaluate(toy_recipe(tmp_path, rollouts={"engine": "vllm"}), "skill-0.5")
    assert opened == ["vllm"]


def test_a_baseline_that_an_environment_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="climb has no baseline 'always_zero'"):
        evaluate(toy_recipe(tmp_path), "always_zero")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "directory"])
@pytest.mark.parametrize("named", ["say", "toy:say"])
def test_tasks_that_were_trained_on_are_refused(tmp_path: Path, kind: str, named: str) -> None:
    task = task_ids(make("say", ENVIRONMENTS["say"]), "eval", 40, 42)[7]
    rows = [{"environment": named, "task_id": t, "messages": []} for t in (10**9, task)]
    directory = tmp_path / "collected"
    directory.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), directory / "rows.parquet")
    else:
        (directory / "rows.jsonl").write_text("{broken\n" + "".join(json.dumps(row) + "\n" for row in rows))
    source = str(directory if kind == "directory" else next(directory.iterdir()))
    recipe = toy_recipe(tmp_path, data={"mix": [{"dataset": source}]})
    with pytest.raises(CheckRefused, match=f"task {task}, which is reserved"):
        evaluate(recipe, "skill-0.5")
    assert not recipe.artifact("eval-skill-0.5").exists()
    rows.pop()
    (directory / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    if kind != "parquet":
        evaluate(recipe, "skill-0.5")


@pytest.mark.parametrize("against", [False, True])
def test_a_model_whose_base_has_seen_the_tasks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, against: bool
) -> None:
    """collect -> prepare -> train -> train again: the last recipe names no data, the manifests do."""
    task = task_ids(make("say", ENVIRONMENTS["say"]), "eval", 40, 42)[7]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"environment": "toy:say", "task_id": task}) + "\n")
    data: dict[str, Any] = {"decontaminate": {"against": [str(rows)] if against else []}}
    stages: list[tuple[str, dict[str, Any], dict[str, Path | str]]] = [
        ("prepare", {"data": data}, {f"{rows} rows.jsonl": rows, "card": "none"}),
        ("train", {}, {"data": tmp_path / "prepare", "base": "org/name@main"}),
        ("merge", {}, {"model": tmp_path / "train"}),
    ]
    for name, recipe, inputs in stages:
        with stage_directory(tmp_path / name, stage=name, recipe=recipe, inputs=inputs):
            pass
    place = ModelLocation("adapter", str(tmp_path / "lora"), "skill-0.5", base=str(tmp_path / "merge"))
    monkeypatch.setattr(stage, "locate_model", lambda _, which: place)
    (tmp_path / "lora").mkdir()
    if against:
        evaluate(toy_recipe(tmp_path), "lora")  # prepare has kept them out
        return
    with pytest.raises(CheckRefused, match=rf"rows\.jsonl holds an episode of toy:say, task {task}"):
        evaluate(toy_recipe(tmp_path), "lora")


# -- comparing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[Recipe, list[Path]]]:
    recipe = toy_recipe(tmp_path, tasks=80)
    yield recipe, [evaluate(recipe, name) for name in ("skill-0.3", "skill-0.6", "skill-0.9")]


def rendered(made: list[Any]) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    for table in made:
        console.print(table)
    return console.export_text()


def test_models_are_paired_by_task_whatever_the_order_of_rows(three: tuple[Recipe, list[Path]]) -> None:
    read = [read_results(path) for path in three[1]]
    shuffled = read[1].take(list(reversed(range(len(read[1])))))
    assert (paired([read[0], shuffled], "say", "score") == paired(read[:2], "say", "score")).all()
    without = read[1].slice(5)
    assert len(paired([read[0], without], "say", "score")) == 75


def test_the_better_model_dominates_under_every_rule_that_has_enough(three: tuple[Recipe, list[Path]]) -> None:
    comparison = Comparison(read_evaluations(three[1]))
    assert comparison.labels == ["skill-0.3", "skill-0.6", "skill-0.9"]
    for rule in ("point", "interval", "affine_margin", "champion_margin", "posterior"):
        assert comparison.dominates(rule)[2, 0], rule
        assert comparison.frontier(rule) == ["skill-0.9"], rule
    assert comparison.frontier("affine_ci") == comparison.labels, "fewer than 200 results: nobody wins"
    assert comparison.probability[2, 0] > 0.99 and comparison.frontier_probability[2] > 0.99
    with pytest.raises(UserError, match="did you mean 'posterior'"):
        comparison.dominates("posteror")


def test_the_smallest_difference_is_that_of_the_corrected_rule(three: tuple[Recipe, list[Path]]) -> None:
    """More models share the 5 %, so the same tasks tell them apart only further off; the rope comes on top."""
    read = read_evaluations(three[1])
    of_two, of_three = Comparison(read[:2]).smallest_differences(1, 0), Comparison(read).smallest_differences(1, 0)
    assert all(few < many for few, many in zip(of_two, of_three, strict=True))
    without_rope = Comparison(read[:2], rope=0.0).smallest_differences(1, 0)
    assert of_two == pytest.approx([0.02 + difference for difference in without_rope])


def test_tables_say_n_interval_chance_and_power(three: tuple[Recipe, list[Path]]) -> None:
    text = rendered(tables(three[1], "posterior"))
    for words in (
        "80%",
        "chance",
        "best trivial",
        "▲",
        "Pareto frontier",
        "80% power",
        "points",
        "weighted by n",
        "greedy, 40 tokens",
        "80 trials",
        "an 80% Beta-Jeffreys",
        "at worst",
    ):
        assert words in text
    assert "●" not in rendered(tables(three[1][:1], "posterior")), "one model has nobody to dominate"


def test_only_the_same_tasks_are_compared(three: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    other = evaluate(toy_recipe(tmp_path, tasks=80, seed=7, name="Other"), "skill-0.6")
    with pytest.raises(UserError, match="not made on the same tasks of climb, say"):
        tables([three[1][0], other])


def decoded(tmp_path: Path, name: str, **changes: Any) -> Path:
    return evaluate(toy_recipe(tmp_path, name=name, **changes), "skill-0.6")


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("temperature", {"evaluate": {"environments": {"tasks": 80, "temperature": 1.0}}}),
        ("max_new_tokens", {"rollouts": {"max_new_tokens": 3}}),
        ("max_length", {"rollouts": {"max_new_tokens": 40, "max_length": 5000}}),
        ("max_turns", {"environments": {**ENVIRONMENTS, "climb": {**ENVIRONMENTS["climb"], "max_turns": 6}}}),
    ],
)
def test_models_that_were_decoded_otherwise_are_not_compared_unasked(
    three: tuple[Recipe, list[Path]], tmp_path: Path, setting: str, changes: dict[str, Any]
) -> None:
    pair = [three[1][0], decoded(tmp_path, "Other", **{"evaluate": {"environments": {"tasks": 80}}, **changes})]
    with pytest.raises(UserError, match=rf"Toy.*was decoded with {setting} .*--mixed-decoding"):
        tables(pair, "posterior")
    text = rendered(tables(pair, "posterior", mixed=True))
    assert "Pareto frontier" in text and "decoding" in text
    if setting not in ("temperature", "max_new_tokens"):
        assert re.search(rf"│ {setting} ", text)


def test_another_template_is_another_question(
    three: tuple[Recipe, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Otherwise(ScriptedPolicy):
        def encode(self, messages: Any, tools: Any = ()) -> list[int]:
            return [257, *b"{}", 256, *super().encode(messages, tools)]

    monkeypatch.setattr(stage, "open_policy", lambda place, rollouts: Otherwise(lambda _: "up", place.label))
    with pytest.raises(UserError, match="was decoded with template"):
        tables([three[1][0], evaluate(three[0], "skill-0.1")])


def test_how_the_expert_decodes_has_no_meaning(three: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    sampled = toy_recipe(tmp_path, name="Other", evaluate={"environments": {"tasks": 80, "temperature": 1.0}})
    text = rendered(tables([three[1][0], evaluate(sampled, "expert")], "posterior"))
    assert "greedy, 40 tokens" in text and "T=1" not in text


def test_tasks_whose_text_has_changed_are_not_the_same(
    three: tuple[Recipe, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ids and options; but the environment was mended between the two evaluations."""
    monkeypatch.setattr(Say, "instructions", "Say the number, and nothing else.")
    later = evaluate(three[0], "skill-0.7")
    with pytest.raises(UserError, match=r"asked different things in task \d+ of say"):
        tables([three[1][0], later], mixed=True)


def test_the_command_refuses_and_is_told_otherwise(three: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    sampled = decoded(tmp_path, "Other", evaluate={"environments": {"tasks": 80, "temperature": 1.0}})
    pair = [str(three[1][0]), str(sampled)]
    refused = CliRunner().invoke(app, ["compare", *pair])
    assert refused.exit_code != 0 and "--mixed-decoding" in str(refused.exception)
    asked = CliRunner().invoke(app, ["compare", "--mixed-decoding", *pair])
    assert asked.exit_code == 0 and "T=1" in asked.output


def test_compare_takes_directories_and_recipes(three: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    recipe, made = three
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(recipe.model_dump(include={"name", "output_dir", "environments"})))
    assert set(find_evaluations([str(file)])) == set(made)
    assert find_evaluations([str(made[2]), str(made[0])]) == [made[2], made[0]]
    with pytest.raises(UserError, match="is not an evaluation"):
        find_evaluations([str(tmp_path)])
    with pytest.raises(UserError, match="needs a recipe or directories"):
        find_evaluations([])


def test_both_kinds_of_questions_in_one_evaluation(tmp_path: Path, learnt_conversations: Any, two_tools: Any) -> None:
    prompts = tmp_path / "heldout.jsonl"
    prompts.write_text(json.dumps({"messages": learnt_conversations[0], "tools": two_tools}) + "\n")
    both = {"tool_calls": {"prompts": str(prompts)}, "environments": {"tasks": 10}}
    made = evaluate(toy_recipe(tmp_path, evaluate=both), "skill-0.9")
    report = json.loads((made / "scores.json").read_text())
    assert report["scores"]["right_tool"]["value"] == 0 and report["environments"]["episodes"] == 20
    assert "tool calls in 1 held-out" in rendered(tables([made]))


def test_a_real_model_plays(tmp_path: Path, talking_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has never seen the task: every turn of it is an invalid action, counted, and none is an error."""
    monkeypatch.undo()
    recipe = toy_recipe(tmp_path, tasks=6, model={"path": str(talking_checkpoint)}, rollouts={"max_new_tokens": 12})
    report = scores(evaluate(recipe, "base"))
    assert report["scores"]["say"]["n"] == report["scores"]["climb"]["n"] == 6
    assert report["scores"]["say"]["valid_actions"] == 0 and report["scores"]["say"]["success_rate"]["value"] == 0
    assert 30 <= report["new_tokens"] <= 30 * 12, "six single turns and six times four, of at most 12 tokens"
