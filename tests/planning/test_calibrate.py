"""Twenty steps here, and a plan that rests on them; the memory model against a step's measured peak."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentforge.errors import UserError
from agentforge.planning.calibrate import FOR_MEMORY, STEPS, calibrate
from agentforge.planning.memory import estimate_memory
from agentforge.planning.tables import calibration_table
from agentforge.recipe.hardware import this_machine
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe
from agentforge.trainers.trial_steps import take_steps
from tests.trainers.tiny import TINY

on_a_cpu = pytest.mark.skipif(bool(this_machine().gpus), reason="a CPU recipe is measured on a machine without a GPU")


def recipe(tmp_path: Path, **sections: Any) -> Recipe:
    args = {"per_device_train_batch_size": 2, "max_steps": 500, "save_steps": 10, "bf16": False}
    train = {"method": "sft", "args": args} | sections.pop("train", {})
    return Recipe.model_validate(
        {
            "name": "x",
            "output_dir": str(tmp_path / "runs"),
            "model": {"config": {**TINY, "vocab_size": 512}, "dtype": "float32"},
            "data": {"max_length": 32},
            "train": train,
            **sections,
        }
    )


@on_a_cpu
def test_the_plan_rests_on_what_was_measured(tmp_path: Path) -> None:
    one = recipe(tmp_path)
    found = calibrate(one)
    fast, likely, slow = found.seconds
    assert 0 < fast <= likely <= slow and found.tokens_per_second == pytest.approx(64 / likely)
    train = next(stage for stage in found.plan.stages if stage.stage == "train")
    assert train.hours.mid == pytest.approx(500 * likely / 3600)
    assert (train.hours.low, train.hours.high) == pytest.approx((500 * fast / 3600, 500 * slow / 3600))
    expected = next(stage for stage in found.expected.stages if stage.stage == "train")
    assert found.time_off == pytest.approx(expected.hours.mid / train.hours.mid - 1)
    assert not (tmp_path / "runs").exists(), "a trial leaves nothing"
    out = io.StringIO()
    Console(file=out, width=160).print(calibration_table(found))
    assert "measured here in 17 steps" in out.getvalue() and f"{found.time_off:+.0%} in time" in out.getvalue()
    if sys.platform == "linux":
        assert found.peak is not None
        assert found.plan.memory.total() == found.peak + found.plan.memory.overhead


@on_a_cpu
@pytest.mark.parametrize(
    "train", [{"lora": {"r": 4, "target_modules": ["q_proj"]}}, {"optimizer": {"name": "mugrokfast"}}], ids=str
)
def test_the_steps_are_those_of_the_recipe(train: dict[str, Any], tmp_path: Path) -> None:
    meter = take_steps(recipe(tmp_path, train=train), 3, for_memory=1)
    assert len(meter.seconds) == 3 and all(second > 0 for second in meter.seconds)


def test_another_machine_s_recipe_is_refused() -> None:
    with pytest.raises(UserError, match=r"--calibrate measures this machine \(.*\), but the recipe is for 8xh200"):
        calibrate(load_recipe("aj", profile="8xh200"))


@on_a_cpu
def test_what_has_no_rows_or_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes steps of pretrain and sft only; ppo has no rows to repeat"):
        calibrate(recipe(tmp_path, train={"method": "ppo", "args": {}}))
    with pytest.raises(UserError, match="run `prepare` first"):
        calibrate(recipe(tmp_path, train={"args": {"num_train_epochs": 1}}))
    quantised = {"path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "quantize": "nf4"}
    with pytest.raises(UserError, match="is not here, and 4-bit weights are made from it"):
        take_steps(recipe(tmp_path, model=quantised), STEPS, for_memory=FOR_MEMORY)


MEASURED = """
import sys
from agentforge.recipe.schema import Recipe
from agentforge.trainers.trial_steps import take_steps
for file in sys.argv[1:]:
    peak = take_steps(Recipe.model_validate_json(open(file).read()), 2, for_memory=2).peak
print(peak)
"""


@on_a_cpu
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_a_step_needs_what_is_planned(tmp_path: Path) -> None:
    """The grid is in benchmarks/memory_model.py; here is one cell, to 15 %.

    In a process of its own: what a thousand tests before it have left in this one's heap moves the figure by 20 %.
    """
    config = {
        **{"model_type": "llama", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704},
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    }
    args = {"per_device_train_batch_size": 8, "max_steps": 2, "bf16": False}
    train = {"method": "pretrain", "args": args}
    small = recipe(tmp_path, train=train)  # libraries and kernels are loaded once
    one = recipe(tmp_path, model={"config": config, "dtype": "float32"}, train=train, data={"max_length": 256})
    files = [tmp_path / "small.json", tmp_path / "one.json"]
    for file, made in zip(files, (small, one), strict=True):
        file.write_text(made.model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, files)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    memory = estimate_memory(one)
    assert (memory.total() - memory.overhead) / int(done.stdout.split()[-1]) == pytest.approx(1, abs=0.15)
