"""What is refused before a run starts on the wrong number of processes, and that the accelerate files are read."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from transformers import TrainingArguments

from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Recipe
from agentforge.trainers.launch import check_launch

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


def arguments(directory: Path) -> TrainingArguments:
    return TrainingArguments(str(directory), use_cpu=not torch.cuda.is_available(), report_to=[])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    config = load_config_from_file(str(path))
    gpus = int(path.stem[0]) if path.stem[0].isdigit() else 1 if path.stem == "cpu" else 8
    assert config.num_processes == gpus
    assert config.use_cpu == (path.stem == "cpu")


def test_fsdp_without_a_gpu_is_refused_instead_of_being_ddp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(CheckRefused, match="asked for FSDP, but the run would be NO"):
        check_launch(Recipe(name="x"), args)


def test_processes_that_do_not_take_part_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CheckRefused, match="asked for 2 processes, but 1 take part"):
        check_launch(Recipe(name="x"), args)


@pytest.mark.parametrize(("asked", "refused"), [("1", False), ("2", True)])
def test_a_launcher_that_starts_one_process_of_two_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, refused: bool
) -> None:
    """With the environment that accelerate itself prepares for the one process."""
    args = arguments(tmp_path)
    words = ["--cpu", "--num_processes", asked, "--mixed_precision", "no", "--dynamo_backend", "no", "program.py"]
    launched, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    for name, value in prepare_simple_launcher_cmd_env(launched)[1].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckRefused, match="asked for several processes") if refused else nullcontext():
        check_launch(Recipe(name="x"), args)


def test_a_tracker_that_is_not_installed_is_refused_with_its_command(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=["clearml"])
    with pytest.raises(UserError, match=r"train\.args\.report_to: clearml cannot be used here: .*pip install clearml"):
        check_launch(Recipe(name="x"), args)


def test_a_plain_run_on_the_cpu_is_let_through(tmp_path: Path) -> None:
    check_launch(Recipe(name="x"), arguments(tmp_path))
