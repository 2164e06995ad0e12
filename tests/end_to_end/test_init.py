"""From a file to a model that has learnt it: `init`, `run`, `chat`, for formats and template families."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentforge import pipeline
from agentforge.evaluation.answers import read_answers
from agentforge.evaluation.losses.loss_results import measures, read_losses
from agentforge.evaluation.pipeline_artifacts import finished_evaluations
from agentforge.models.locate_model import locate_model
from agentforge.planning.first_recipe.init import init
from agentforge.planning.first_recipe.wishes import complete
from agentforge.recipe.loading import load_recipe
from agentforge.rollouts.policies.base import Conversation, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from tests.data.dialects.families import BY_NAME
from tests.end_to_end.conftest import REPOSITORY, agentforge
from tests.end_to_end.family_models import save_model

pytestmark = pytest.mark.end_to_end

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo", "Peru": "Lima",
    "Kenya": "Nairobi", "Egypt": "Cairo", "Chile": "Santiago", "Cuba": "Havana", "Ghana": "Accra", "Iran": "Tehran",
    "Iraq": "Baghdad", "India": "Delhi", "China": "Beijing", "Greece": "Athens", "Poland": "Warsaw", "Turkey": "Ankara",
}  # fmt: skip
ASKED = {f"What is the capital of {country}?": f"{city}." for country, city in CAPITALS.items()}


def write_messages(path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in ASKED.items()
    ]
    return write_lines(path / "chats.jsonl", rows)


def write_sharegpt(path: Path) -> Path:
    rows = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in ASKED.items()]
    (path / "chats.json").write_text(json.dumps(rows), encoding="utf-8")
    return path / "chats.json"


def write_table(path: Path) -> Path:
    with (path / "faq.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *ASKED.items()])
    return path / "faq.csv"


def write_completions(path: Path) -> Path:
    return write_lines(path / "pairs.jsonl", [{"prompt": q, "completion": a} for q, a in ASKED.items()])


def write_lines(file: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_alpaca(path: Path) -> Path:
    table = {"instruction": list(ASKED), "input": [""] * len(ASKED), "output": list(ASKED.values())}
    pq.write_table(pa.table(table), path / "alpaca.parquet")
    return path / "alpaca.parquet"


CASES = [
    ("Qwen2.5", write_messages),
    ("Qwen2.5", write_alpaca),
    ("Llama 3.1", write_sharegpt),
    ("Gemma 3", write_table),
    ("Mistral Nemo", write_completions),
]
SMALLER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "head_dim": 16,
}


@pytest.mark.parametrize(("family", "write"), [case for case in CASES if BY_NAME[case[0]].source is not None])
def test_a_file_is_learnt(
    family: str, write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(family, Path("base"))
    data = write(tmp_path)
    init(complete(data.name, "base", None, "my", "cpu", None))
    made: list[str] = []
    pipeline.run("my", announce=lambda title, paths: made.append(title) if paths is None else None)
    assert [title.split("] ")[1] for title in made] == [
        "prepare my",
        "evaluate my base",
        "train my",
        "evaluate my model",
    ]

    recipe = load_recipe("my")
    policy = open_policy(locate_model(recipe))
    asked = [Conversation([{"role": "user", "content": question}]) for question in ASKED]
    answers = [generation.text.strip() for generation in policy.generate(asked, Sampling(16))]
    known = sum(answer == right for answer, right in zip(answers, ASKED.values(), strict=True))
    assert known >= len(ASKED) - 4, "all but those held out"

    evaluations = finished_evaluations(recipe)
    base, trained = (measures(one)["width 1"]["loss"]["value"] for one in read_losses(evaluations))
    assert trained < base
    (answered,) = read_answers(evaluations)
    assert answered.labels == ["base", "model"] and len(answered.rows) == 2
    for prompt, expected, (before, after) in answered.rows:
        assert expected.strip() == ASKED[next(question for question in ASKED if question in prompt)]
        assert after != before


def test_the_commands_of_the_quickstart(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for page in sorted((REPOSITORY / "docs").glob("*.md"))[:12]:
        shutil.copy(page, tmp_path / "texts")
    write_messages(tmp_path)
    agentforge(tmp_path, "init", "texts", "--base", "scratch", "--name", "base")
    small = [f"model.config.{key}={size}" for key, size in SMALLER.items()]
    agentforge(tmp_path, "run", "base", "train.args.max_steps=10", "train.args.warmup_steps=1", *small)
    assert agentforge(tmp_path, "generate", "base", "--prompt", "What is", "--tokens", "5").stdout.startswith("What is")
    said = agentforge(tmp_path, "init", "chats.jsonl", "--base", "runs/base/base-v0.1.0-model").stdout
    assert "18 rows" in said and "format messages; goal: sft" in said
    assert "⟦Paris.<|im_end|>" in said and said.count("╭─") == 3
    assert said.endswith("my.yaml\nNext: agentforge run my\n")
    shown = agentforge(tmp_path, "run", "my").stdout
    assert "held-out rows, nats a token" in shown and "2 held-out prompts, answered greedily" in shown
    question, answer = "What is the capital of Italy?", "Rome."  # that of France is held out
    assert agentforge(tmp_path, "chat", "my", "--prompt", question).stdout.strip() == answer
