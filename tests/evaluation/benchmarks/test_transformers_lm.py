"""Checkpoints and adapters as lm-eval asks them: settings, padding, contexts that are too short."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks
from agentforge.evaluation.benchmarks.transformers_lm import TransformersLM
from agentforge.evaluation.evaluate import evaluate
from agentforge.recipe.schema import Benchmarks
from tests.evaluation.benchmarks.conftest import recipe_of


def by_lm_eval(tasks: list[str], monkeypatch: pytest.MonkeyPatch, model_args: str, **options: Any) -> Any:
    """What ``lm_eval --model hf --model_args ... --tasks ...`` computes: its command calls this function."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip and nvcc for seconds
    return evaluator.simple_evaluate(
        model="hf",
        model_args=model_args,
        tasks=tasks,
        device="cpu",
        bootstrap_iters=0,
        fewshot_as_multiturn=False,
        task_manager=TaskManager(include_defaults=False),
        **options,
    )


def test_a_limit_few_shots_and_the_length_of_answers(
    tiny_checkpoint: Path, tasks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, tiny_checkpoint, [tasks["write"]], limit=3, num_fewshot=1, max_new_tokens=2)
    rows = [json.loads(line) for line in (evaluate(recipe, "base") / "benchmarks.jsonl").read_text().splitlines()]
    theirs = by_lm_eval(
        [tasks["write"]],
        monkeypatch,
        f"pretrained={tiny_checkpoint}",
        batch_size=4,
        limit=3,
        num_fewshot=1,
        gen_kwargs={"max_gen_toks": 2},
    )
    assert [row["prompt"].count("Question:") for row in rows] == [2, 2, 2]
    assert [row["written"] for row in rows] == [one["resps"][0][0] for one in theirs["samples"]["toy_write"]]


def test_an_adapter_scores_as_its_merged_model_does_in_lm_eval(
    tiny_checkpoint: Path, tasks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    load_and_save(tiny_checkpoint, tmp_path / "adapter")
    recipe = recipe_of(tmp_path, tiny_checkpoint, [tasks["choice"]])
    made = evaluate(recipe, str(tmp_path / "adapter"))
    theirs = by_lm_eval(
        [tasks["choice"]], monkeypatch, f"pretrained={tiny_checkpoint},peft={tmp_path / 'adapter'}", batch_size=4
    )
    rows = [json.loads(line) for line in (made / "benchmarks.jsonl").read_text().splitlines()]
    for one, other in zip(rows, theirs["samples"]["toy_choice"], strict=True):
        assert one["answer"] == [list(pair) for pair in other["filtered_resps"]]


def load_and_save(source: Path, target: Path) -> None:
    from agentforge.data.tokenizer import load_tokenizer

    load_tokenizer(source).save_pretrained(target)


def test_rows_of_a_model_with_a_state_are_not_padded(tiny_tokenizer: Any, tasks: dict[str, str]) -> None:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        context_length=256,
        eos_token_id=tiny_tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = RwkvForCausalLM(config).eval()
    # Wide apart, so that what is written depends on what was read.
    for parameter in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        torch.nn.init.normal_(parameter)
    task = load_tasks(Benchmarks(tasks=[tasks["write"]]), None)["toy_write"]
    task.build_all_requests()

    def written(lm: Any) -> list[str]:
        return list(lm.generate_until(task.instances, disable_tqdm=True))

    alone = written(TransformersLM(model, tiny_tokenizer, 1))
    assert written(TransformersLM(model, tiny_tokenizer, 4)) == alone
    assert written(HFLM(pretrained=model, tokenizer=tiny_tokenizer, batch_size=4)) != alone  # what padding does to it


def test_an_answer_that_does_not_fit_and_prompts_that_lose_their_beginning(
    tiny_checkpoint: Path, tasks: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = recipe_of(tmp_path, tiny_checkpoint, [tasks["write"]], max_new_tokens=600)
    with pytest.raises(UserError, match="600 tokens, but this one reads at most 512"):
        evaluate(long, "base")
    shortened = recipe_of(tmp_path, tiny_checkpoint, [tasks["write"]], max_new_tokens=500, limit=2)
    with caplog.at_level("WARNING"):
        evaluate(shortened, "base")
    assert "2 prompts were longer than the context" in caplog.text


def test_without_lm_eval_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else real(name, *a))
    with pytest.raises(UserError, match=r"pip install agentforge-train\[benchmarks\]"):
        load_tasks(Benchmarks(tasks=["gsm8k"]), None)


def test_reading_a_recipe_does_not_import_lm_eval() -> None:
    import subprocess

    code = (
        "import sys; from agentforge.recipe.schema import Recipe; import agentforge.evaluation.compare.side_by_side, "
        "agentforge.evaluation.evaluate; "
        "Recipe.model_validate({'name': 'A', 'evaluate': {'benchmarks': {'tasks': ['gsm8k']}}}); "
        "sys.exit('lm_eval' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
