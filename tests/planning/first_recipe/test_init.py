"""`init`: what it asks, what it refuses, and what it suggests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentforge.cli import app
from agentforge.data.train_eval_split import is_eval
from agentforge.errors import UserError
from agentforge.planning.first_recipe.init import init
from agentforge.planning.first_recipe.look import Look
from agentforge.planning.first_recipe.suggest import FEWEST, held_out_fraction, suggest
from agentforge.planning.first_recipe.wishes import Wishes, complete, hardware_of
from agentforge.recipe.hardware import Gpu, Machine, load_hardware
from agentforge.recipe.loading import load_recipe
from tests.data.small_tokenizers import chatml_tokenizer

CHAT = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]}
PAIR = {"prompt": "Which way?", "chosen": "Left.", "rejected": "No idea."}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chatml_tokenizer().save_pretrained("base")
    return tmp_path


def write(name: str, rows: Sequence[Mapping[str, object]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def wishes(data: str, goal: str | None = None, name: str = "my", base: str = "base", hardware: str = "cpu") -> Wishes:
    return complete(data, base, goal, name, hardware, None)


def chats(count: int) -> list[dict[str, object]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"A number: {n}."},
            ]
        }
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the data, as in `agentforge init chats.jsonl`"),
        (["chats.jsonl"], "name the base with --base: a directory, a Hub id"),
        (["chats.jsonl", "--base", ""], "the name of the base is empty"),
        (["", "--base", "base"], "the name of the data is empty"),
        (["chats.jsonl", "--base", "base", "--goal", "stf"], "--goal is 'stf'; it must be one of sft, dpo"),
        (["chats.jsonl", "--base", "base", "--name", "../x"], "--name is '../x'; it must be letters"),
        (["chats.jsonl", "--base", "base", "--name", "x.yaml"], "without .yaml at the end"),
        (["chats.jsonl", "--base", "base", "--name", "aj"], "which a shipped recipe is called"),
        (["chats.jsonl", "--base", "base", "--name", "here"], "here.yaml is here already"),
        (["chats.jsonl", "--base", "base", "--hardware", "rtx409"], "did you mean 'rtx4090'?"),
        (["chat.jsonl", "--base", "base"], "chat.jsonl"),
        (["chats.jsonl", "--base", "bases"], "no tokenizer could be loaded from bases"),
        (["chats.jsonl", "--base", "base", "--goal", "dpo"], "dpo needs chosen and rejected answers"),
        (["chats.jsonl", "--base", "base", "--goal", "kto"], "kto needs a label"),
        (["chats.jsonl", "--base", "base", "--goal", "grpo"], "name an environment instead of 'chats.jsonl'"),
        (["affine:sa", "--base", "base", "--goal", "grpo"], "did you mean 'affine:sat'?"),
        (["affine:sat", "--base", "base"], "'affine:sat' is an environment; add --goal grpo"),
        (["affine:sat", "--base", "scratch", "--goal", "grpo"], "a model from scratch cannot play"),
        (["chats.jsonl", "--base", "scratch"], "a model from scratch has to learn to write first"),
        (["text.txt", "--base", "base", "--goal", "sft"], "holds texts and no conversations; use --goal pretrain"),
        (["odd.jsonl", "--base", "base"], "no adapter fits rows with the columns a, b"),
        (["empty.jsonl", "--base", "base"], "have no readable row: empty"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(words: list[str], says: str) -> None:
    write("chats.jsonl", [CHAT])
    write("odd.jsonl", [{"a": 1, "b": 2}])
    write("empty.jsonl", [])
    Path("text.txt").write_text("Once upon a time.", encoding="utf-8")
    Path("here.yaml").write_text("mine", encoding="utf-8")
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(app, ["init", *words])  # no terminal: it never asks
    assert isinstance(result.exception, UserError) and says in str(result.exception)
    assert "\n" not in str(result.exception) and not result.stdout
    assert sorted(Path().rglob("*")) == before and Path("here.yaml").read_text(encoding="utf-8") == "mine"


def test_on_a_terminal_only_what_is_missing_is_asked() -> None:
    asked: list[tuple[str, str | None]] = []

    def ask(question: str, default: str | None) -> str:
        asked.append((question, default))
        return default or " chats.jsonl "

    got = complete(None, None, None, "my", "rtx4090", ask)
    assert (got.data, got.base) == ("chats.jsonl", "Qwen/Qwen2.5-3B-Instruct")
    assert [default for _, default in asked] == [None, "Qwen/Qwen2.5-3B-Instruct"]
    complete("chats.jsonl", "base", None, "my", None, ask)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("rows", "goal"),
    [
        (chats(3), "sft"),
        ([PAIR], "dpo"),
        ([{"prompt": "Which?", "completion": "Left.", "label": True}], "kto"),
        ([{"text": "Once upon a time there was a row."}], "pretrain"),
    ],
)
def test_the_goal_follows_from_the_data(rows: list[dict[str, object]], goal: str) -> None:
    made = init(wishes(write("rows.jsonl", rows)))
    assert made.found.endswith(f"goal: {goal}") and len(made.shown) == len(rows)
    recipe = load_recipe("my")
    assert recipe.train.method == goal
    assert bool(recipe.train.preferences) == (goal in ("dpo", "kto"))
    assert recipe.evaluate.loss is None, "too few rows to hold any out"


def test_preferences_are_evaluated_on_rows_that_they_do_not_train_on() -> None:
    init(wishes(write("rows.jsonl", [{**PAIR, "prompt": f"Which way to place {n}?"} for n in range(40)])))
    recipe = load_recipe("my")
    (trained,) = recipe.train.preferences
    assert trained.part == [0, 0.9]
    assert [(source.part, source.held_out) for source in recipe.data.mix] == [([0, 0.9], False), ([0.9, 1], True)]


def test_an_environment_needs_no_rows() -> None:
    assert init(wishes("affine:sat", "grpo")).shown == []
    recipe = load_recipe("my")
    assert list(recipe.environments) == ["affine:sat"] and recipe.evaluate.environments is not None


def test_the_prompts_of_an_environment_are_measured() -> None:
    found = init(wishes("affine:sat", "grpo", name="known")).found
    longest = int(re.search(r"first prompts of up to ([\d,]+) tokens", found)[1].replace(",", ""))  # type: ignore[index]
    assert longest > 64 and f"up to {longest}" in Path("known.yaml").read_text(encoding="utf-8")
    small = {"model_type": "qwen3", "max_position_embeddings": longest + 10}
    Path("base/config.json").write_text(json.dumps(small), encoding="utf-8")
    with pytest.raises(UserError, match=rf"up to {longest} tokens, and a turn 64, but the base has positions for only"):
        init(wishes("affine:sat", "grpo", name="small"))
    assert not Path("small.yaml").exists()


def test_names_that_yaml_would_read_otherwise_are_kept() -> None:
    name = write("a: {b} #c.jsonl", chats(3))
    init(wishes(name))
    assert load_recipe("my").data.mix[0].dataset == name


@given(st.sets(st.integers(0, 2**64 - 1), min_size=FEWEST, max_size=60))
def test_as_many_rows_are_held_out_as_are_wanted(hashes: set[int]) -> None:
    found = Look("messages", "sft", len(hashes), [10], 100, sorted(hashes), [])
    held_out = int(is_eval(np.array(sorted(hashes), dtype=np.uint64), held_out_fraction(found)).sum())
    # two hashes may lie so close together that no share is between them
    close = min(b - a for a, b in zip(sorted(hashes), sorted(hashes)[1:], strict=False)) < 2**12
    assert close or held_out == max(2, len(hashes) // 10)


def test_lengths_rates_and_steps_follow_from_data_base_and_machine() -> None:
    few = Look("messages", "sft", 40, [30, 90], 2400, [n << 58 for n in range(40)], [])
    many = Look("messages", "sft", 100_000, [300, 900], 60_000_000, None, [])
    cpu, gpu = load_hardware("cpu"), load_hardware("1xh200")
    tiny = suggest(few, cpu, 1_000_000, 2048)
    assert (tiny.lora, tiny.packing, tiny.max_length, tiny.learning_rate) == (False, False, 128, 1e-3)
    assert 200 <= tiny.max_steps <= 300
    large = suggest(many, gpu, 7_000_000_000, 32768)
    assert (large.lora, large.packing, large.max_length, large.learning_rate) == (True, True, 960, 2e-4)
    assert "about 1 epochs" in large.steps_why
    assert suggest(many, gpu, None, 512).max_length == 512, "no row may be longer than the base reads"
    slow = suggest(many, cpu, 135_000_000, 2048)
    assert slow.max_steps < 200 and "about ten minutes on a CPU" in slow.steps_why


def test_the_machine_decides_the_hardware() -> None:
    four = Machine((Gpu("NVIDIA GeForce RTX 4090", 24.0),), 8, 64.0)
    assert hardware_of(four).name == "rtx4090"
    assert hardware_of(Machine((Gpu("NVIDIA H200", 140.0),) * 8, 8, 64.0)).name == "8xh200"
    assert hardware_of(Machine((), 8, 64.0)).name == "cpu"
    with pytest.raises(UserError, match="name the nearest with --hardware: 1xh100"):
        hardware_of(Machine((Gpu("Radeon", 24.0),), 8, 64.0))


def test_a_long_text_is_measured_by_its_beginning() -> None:
    words = Random(0).choices([f"word{n}" for n in range(997)], k=300_000)
    Path("book.txt").write_text("\n\n".join(" ".join(words[i : i + 50]) for i in range(0, len(words), 50)))
    made = init(wishes("book.txt", base="scratch"))
    size = Path("book.txt").stat().st_size
    assert size > 2_000_000 and "format text; goal: pretrain" in made.found
    recipe = load_recipe("my")
    assert recipe.model.path is None and recipe.model.config and 0 < recipe.data.eval_fraction <= 0.2
