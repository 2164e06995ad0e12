"""Whatever is wrong with a recipe: one sentence, before anything is spent, and the same from every verb."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from agentforge.cli import main
from tests.planning.limits.wrong_recipes import WRONG

VERBS = ("show", "plan", "doctor", "train")
QWEN = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32768,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories and files that the recipes name."""
    root = tmp_path_factory.mktemp("places")
    bases = {
        "adapter": ("adapter_config.json", "{}"),
        "nothing": ("readme.md", ""),
        "broken": ("config.json", '{"model_type": "qwen3", '),
        "listed": ("config.json", "[]"),
        "heads": ("config.json", json.dumps(QWEN | {"num_key_value_heads": 3})),
        "short": ("config.json", json.dumps(QWEN | {"max_position_embeddings": 64})),
    }
    for name, (file, text) in bases.items():
        (root / name).mkdir()
        (root / name / file).write_text(text, encoding="utf-8")
    files = {"gsm8k_test": "math/gsm8k_test.jsonl", "mbpp": "mbpp.jsonl", "own_test": "own/test.jsonl"}
    files |= {"own_train": "own/train.jsonl"}
    for file in files.values():
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text('{"question": "a", "answer": "b"}\n', encoding="utf-8")
    return (
        {name: str(root / name) for name in bases}
        | {name: str(root / file) for name, file in files.items()}
        | {"own_both": str(root / "own" / "*.jsonl")}
    )


def say(verb: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a verb refuses; its exit code must say that it did."""
    monkeypatch.setattr(sys, "argv", ["agentforge", verb, *words])
    monkeypatch.setattr(logging.root, "handlers", [])  # the one of an earlier call writes to what is closed by now
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code in (2, 3), f"{verb} said nothing: {said.out[-300:]}"
    assert "Traceback" not in said.err
    return "\n".join(line for line in said.err.splitlines() if not line.startswith("["))


@pytest.mark.parametrize(("recipe", "overrides", "word"), WRONG, ids=[f"{r.split()[0]}-{o}"[:90] for r, o, _ in WRONG])
def test_every_verb_refuses_it_in_the_same_words(
    recipe: str,
    overrides: str,
    word: str,
    places: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), overrides)
    # a space within brackets belongs to a value
    words = [*recipe.split(), *re.split(r" (?=[\w.]+=)", text)]
    said = {verb: say(verb, words, monkeypatch, capsys) for verb in VERBS}
    assert said["show"].startswith("agentforge: ") and word in said["show"]
    assert set(said.values()) == {said["show"]}


@pytest.mark.parametrize("recipe", ["affine/grpo", "affine/dpo", "aj/sft"])
def test_a_recipe_without_a_base_is_shown_and_no_more(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [recipe, "--profile", "tiny", "model.path=null"]
    said = {say(verb, words, monkeypatch, capsys) for verb in VERBS if verb != "show"}
    assert len(said) == 1 and "set model.path" in said.pop()
    monkeypatch.setattr(sys, "argv", ["agentforge", "show", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "path: null" in capsys.readouterr().out
