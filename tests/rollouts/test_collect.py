"""`collect`: only training tasks, only good episodes, once each, as rows that `prepare` reads as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentforge.artifacts import read_manifest
from agentforge.cli import app
from agentforge.data import chat_template
from agentforge.data.prepare import load_prepared, prepare
from agentforge.environments.splits import split_of
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Recipe
from agentforge.rollouts import collect as stage
from agentforge.rollouts.collect import collect
from agentforge.rollouts.episode_store import read_episodes
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import SIZES, random_policy
from tests.rollouts.toys import Add, Count

TOYS = {"add": {"class": "tests.rollouts.toys:Add"}, "count": {"class": "tests.rollouts.toys:Count"}}


def recipe_for(directory: Path, environments: Any = None, **sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "toy",
            "output_dir": str(directory / "runs"),
            "environments": TOYS if environments is None else environments,
            "collect": {"episodes": 30, **sections.pop("collect", {})},
            **sections,
        }
    )


def rows_of(made: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_experts_play_training_tasks_only(tmp_path: Path) -> None:
    made = collect(recipe_for(tmp_path))
    episodes, rows = list(read_episodes(made / "episodes.parquet")), rows_of(made)
    assert made.name == "toy-v0.1.0-episodes" and len(episodes) == len(rows) == 60
    ids = {"add": Add.id, "count": Count.id}
    assert {split_of(ids[row["environment"]], row["task_id"]) for row in rows} == {"train"}
    assert all(row["score"] == 1 and row["messages"][-1]["role"] == "assistant" for row in rows)
    metrics = read_manifest(made)["metrics"]
    assert (metrics["policy"], metrics["episodes"], metrics["rows"], metrics["dropped"]) == ("expert", 60, 60, {})
    assert metrics["environments"]["count"]["success"] == 1
    assert sorted(path.name for path in made.iterdir()) == ["episodes.parquet", "manifest.json", "rows.jsonl"]


def test_no_number_of_episodes_reaches_a_reserved_task(tmp_path: Path) -> None:
    environments = {"add": TOYS["add"] | {"largest": 3}}
    made = collect(recipe_for(tmp_path, environments, collect={"episodes": 100}))
    played = {episode.task_id for episode in read_episodes(made / "episodes.parquet")}
    reserved = {task for task in range(16) if split_of(Add.id, task) == "eval"}
    assert reserved and played == set(range(16)) - reserved
    metrics = read_manifest(made)["metrics"]
    assert metrics["rows"] == len(played) and metrics["dropped"] == {"duplicate": 100 - len(played)}


def test_rows_below_the_score_are_dropped_and_counted(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, {"add": TOYS["add"]}, collect={"policy": "random", "episodes": 60})
    metrics = read_manifest(made := collect(recipe))["metrics"]
    scores = [episode.score for episode in read_episodes(made / "episodes.parquet")]
    assert 0 < metrics["rows"] == sum(scores) < 60
    assert metrics["dropped"] == {"score below 1": 60 - metrics["rows"]}
    hopeless = {"count": TOYS["count"] | {"max_turns": 1}}
    with pytest.raises(CheckRefused, match=r"none of 9 episodes of random was kept \(score below 1: 9\)"):
        collect(recipe_for(tmp_path / "other", hopeless, collect={"policy": "random", "episodes": 9}))


@pytest.mark.parametrize("act", ["text", "tool"])
def test_prepare_reads_the_rows_as_they_are(tmp_path: Path, act: str) -> None:
    made = collect(recipe_for(tmp_path, rollouts={"act": act}))
    tokenizer = chatml_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data: dict[str, Any] = {
        "max_length": 8192,
        "mix": [{"dataset": str(made / "rows.jsonl")}],
        "minhash": {"enabled": False},
        "eval_fraction": 0.0,
        "workers": 1,
    }
    recipe = recipe_for(tmp_path, data=data, model={"tokenizer": str(tmp_path / "tokenizer")})
    prepared = load_prepared(prepare(recipe))["train"]
    chat_template.install_template(tokenizer)
    wanted = [chat_template.encode(tokenizer, row["messages"], row.get("tools")) for row in rows_of(made)]
    assert sorted(prepared["input_ids"]) == sorted(row.input_ids for row in wanted)
    assert sorted(prepared["assistant_masks"]) == sorted(row.assistant_masks for row in wanted)
    said = tokenizer.decode([i for i, m in zip(wanted[0].input_ids, wanted[0].assistant_masks, strict=True) if m])
    assert ("<tool_call>" in said) == (act == "tool") and "+" not in said


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect(recipe_for(tmp_path / "whole"))
    monkeypatch.setattr(stage, "PART", 8)
    begun: list[int] = []
    reset = Count.reset

    def stops(self: Count, seed: int, task_id: int) -> str:
        begun.append(task_id)
        if len(begun) == 15:
            raise KeyboardInterrupt
        return reset(self, seed, task_id)

    monkeypatch.setattr(Count, "reset", stops)
    recipe = recipe_for(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        collect(recipe)
    assert not recipe.artifact("episodes").exists()
    left = list((tmp_path / "stopped" / "runs").rglob("part-*.parquet"))
    assert sum(len(list(read_episodes(file))) for file in left) == 30 + 14
    made = collect(recipe)
    assert len(begun) == 15 + 16, "what was played is not played again"
    assert (made / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    assert not list(made.glob("part-*"))
    collect(recipe)
    assert len(begun) == 31, "an artefact that is there is not made again"


def test_a_first_attempt_that_did_not_get_far_blocks_no_corrected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, corrected = recipe_for(tmp_path), recipe_for(tmp_path, collect={"episodes": 3})
    reset = Count.reset

    def fails(self: Count, seed: int, task_id: int) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Count, "reset", fails)
        with pytest.raises(KeyboardInterrupt):
            collect(wrong)
    assert list((tmp_path / "runs").rglob("part-*.parquet")), "the same recipe would go on with them"
    assert read_manifest(collect(corrected))["metrics"]["episodes"] == 6
    monkeypatch.setattr(stage, "PART", 8)
    with monkeypatch.context() as patched:
        patched.setattr(Count, "reset", fails)
        with pytest.raises(KeyboardInterrupt):
            collect(recipe_for(tmp_path / "far"))
    with pytest.raises(CheckRefused, match=r"collect\.episodes: 30 -> 3"):
        collect(recipe_for(tmp_path / "far", collect={"episodes": 3}))
    assert Count.reset is reset


def test_a_model_collects_and_its_episodes_hold_its_tokens(tmp_path: Path) -> None:
    tokenizer = chatml_tokenizer()
    chat_template.install_template(tokenizer)
    policy = random_policy(tokenizer, "qwen3", **(SIZES | {"vocab_size": len(tokenizer)}))
    policy.model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = recipe_for(
        tmp_path,
        {"add": TOYS["add"]},
        model={"path": str(tmp_path / "base")},
        collect={"policy": "base", "episodes": 12, "min_score": 0.0},
        rollouts={"max_new_tokens": 5, "batch_size": 4, "temperature": 1.0},
    )
    made = collect(recipe)
    episodes = list(read_episodes(made / "episodes.parquet"))
    assert len(episodes) == 12 and len({tuple(e.token_ids) for e in episodes}) > 6
    for episode in episodes:
        assert policy.encode(episode.messages[:2]) == episode.prompt_ids
        assert 0 < sum(episode.mask) <= 5 and max(episode.logprobs) <= 0 > min(episode.logprobs)
        assert policy.decode(episode.token_ids).startswith(episode.messages[-1]["content"])
    assert "model" in read_manifest(made)["inputs"]


def test_wrong_recipes_are_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ({"environments": {}}, "has no environments to collect from"),
        ({"collect": {"environments": ["cout"]}}, "'cout' is not under `environments`; did you mean 'count'"),
        ({"collect": {"policy": "zero"}}, "count has no baseline 'zero'"),
        ({"collect": {"policy": "experd"}}, "there is no model 'experd'"),
        ({"environments": {"affine:sta": {}}}, "did you mean 'affine:sat'"),
    ]
    for sections, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            collect(recipe_for(tmp_path, **sections))
    monkeypatch.delattr(Add, "expert")
    with pytest.raises(UserError, match="add has no expert"):
        collect(recipe_for(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_broken_environment_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {task for task in range(0, 50, 2)}
    monkeypatch.setattr(Count, "broken", broken)
    metrics = read_manifest(collect(recipe_for(tmp_path)))["metrics"]
    lost = metrics["environments"]["count"]["lost"]
    assert 0 < lost < 30 and metrics["dropped"] == {"environment failed": lost} and metrics["rows"] == 60 - lost


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(
        json.dumps({"name": "toy", "output_dir": str(tmp_path / "runs"), "environments": TOYS}), encoding="utf-8"
    )
    result = CliRunner().invoke(
        app, ["collect", str(tmp_path / "toy.yaml"), "collect.episodes=3"], catch_exceptions=False
    )
    assert result.exit_code == 0 and result.stdout.strip().endswith("toy-v0.1.0-episodes")
