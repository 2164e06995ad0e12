"""What is refused before a run starts in the wrong processes, and when `train` starts them itself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from transformers import TrainingArguments

from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.hardware import Gpu, Machine
from agentforge.recipe.schema import Recipe
from agentforge.trainers import launch as module
from agentforge.trainers import start
from agentforge.trainers.launch import (
    StrategyCheck,
    check_launch,
    check_shared_directory,
    strategy_arguments,
    wanted_strategy,
)

EIGHT = Recipe(name="x", hardware="8xh200")


def arguments(directory: Path) -> TrainingArguments:
    return TrainingArguments(str(directory), use_cpu=not torch.cuda.is_available(), report_to=[])


def recipe(hardware: str = "cpu", **train: Any) -> Recipe:
    return Recipe.model_validate({"name": "x", "hardware": hardware, "train": train})


# -- who starts the processes -----------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """On a machine with eight H200 `launch` only notes what it was asked for."""
    found: list[tuple[Any, ...]] = []

    def note(*given: Any) -> int:
        found.append(given)
        return 75

    monkeypatch.setattr(start, "launch", note)
    monkeypatch.setattr(start, "this_machine", lambda: Machine((Gpu("NVIDIA H200", 140.0),) * 8, 160, 1500.0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_a_process_is_started_on_each_gpu(started: list[tuple[Any, ...]]) -> None:
    words = ["train", "aj", "--profile", "8xh200"]
    assert start.start_processes(EIGHT, words) == 75
    assert started == [([sys.executable, "-m", "agentforge", *words], 8, None, 1)]


@pytest.mark.parametrize("hardware", ["cpu", "1xh200"])
def test_one_device_needs_no_second_process(started: list[tuple[Any, ...]], hardware: str) -> None:
    assert start.start_processes(recipe(hardware), ["train", "x"]) is None and not started


@pytest.mark.parametrize("variables", [{"RANK": "1", "WORLD_SIZE": "8"}, {"ACCELERATE_MIXED_PRECISION": "bf16"}])
def test_under_another_launcher_nothing_is_started(
    started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert start.start_processes(EIGHT, ["train", "x"]) is None and not started


def test_too_few_gpus_are_refused(started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="2 of them may be used; choose another profile"):
        start.start_processes(EIGHT, ["train", "x"])


def test_a_larger_machines_recipe_may_be_tried_without_gpus(
    started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "this_machine", lambda: Machine((), 2, 8.0))
    assert start.start_processes(EIGHT, ["train", "x"]) is None and not started


@pytest.mark.parametrize(
    ("nodes", "given", "words"),
    [
        (1, (0, "host:1"), "8xh200 is one machine"),
        (1, (0, None), "belong together"),
        (2, (None, None), "run `agentforge train` on each, with --node-rank 0 to 1"),
    ],
)
def test_nodes_say_which_they_are(
    started: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
    given: tuple[int | None, str | None],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        start.start_processes(two_nodes(tmp_path, monkeypatch) if nodes == 2 else EIGHT, ["train", "x"], *given)


def two_nodes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return a recipe for two machines with eight GPUs each."""
    file = directory / "configs" / "hardware" / "2x8xh200.yaml"
    file.parent.mkdir(parents=True)
    one = (Path(__file__).parents[2] / "configs" / "hardware" / "8xh200.yaml").read_text()
    file.write_text(one.replace("gpus: 8", "gpus: 16\nnodes: 2"))
    monkeypatch.chdir(directory)
    return recipe("2x8xh200")


def test_each_node_starts_its_own(
    started: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start.start_processes(two_nodes(tmp_path, monkeypatch), ["train", "x"], 1, "10.0.0.1:29500")
    ((_, processes, node, nodes),) = started
    assert (processes, node.rank, node.host, node.port, nodes) == (8, 1, "10.0.0.1", 29500, 2)


# -- what the processes share -----------------------------------------------------------------------------------------


def test_several_processes_share_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = recipe(launch="zero2", processes=2)
    assert wanted_strategy(zero) == "none"  # nobody has started a second one
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ZeRO-2 needs DeepSpeed; pip install agentforge-train\[deepspeed\]"):
        wanted_strategy(zero)
    assert wanted_strategy(recipe()) == "ddp"  # torchrun, and a recipe that says nothing
    assert strategy_arguments(recipe()) == {}
    with pytest.raises(UserError, match=r"train\.launch is none, but a launcher has started several"):
        wanted_strategy(recipe(launch="none"))


def test_a_launcher_that_says_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"accelerate launch asks for ZeRO-2, but train\.launch is ddp"):
        wanted_strategy(recipe(launch="ddp", processes=2))
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="accelerate launch asks for FSDP 1"):
        wanted_strategy(recipe())
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="accelerate launch: FSDP 2 needs GPUs: on CPUs it would silently be DDP"):
        wanted_strategy(recipe())


def test_another_strategy_than_the_wanted_one_is_refused(tmp_path: Path) -> None:
    """What accelerate makes of FSDP 2 on CPUs, if nobody has refused it."""
    from transformers import Trainer

    trainer = Trainer(torch.nn.Linear(1, 1), arguments(tmp_path))
    with pytest.raises(CheckRefused, match="was to train with FSDP 2, but it would be one process"):
        StrategyCheck(trainer, "fsdp2")
    check = StrategyCheck(trainer, "none")
    check._wanted = "ddp"  # as if accelerate had said so, and wrapped nothing
    with pytest.raises(CheckRefused, match="the model is a plain Linear"):
        check.on_train_begin(trainer.args, trainer.state, trainer.control)


# -- launches that are not what they seem -----------------------------------------------------------------------------


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


def test_nodes_that_do_not_share_a_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends of it: what the first process says to the others is put into a box, and read from it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(module, "SEEN_WITHIN", 0.0)
    said: list[Any] = []
    monkeypatch.setattr(module, "share", lambda value: said.append(value) or value if value else said[-1])
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def gather(answers: list[Any], mine: Any) -> None:
        answers[:] = [mine, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    other = None
    check_shared_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []
    other = "node-b"
    with pytest.raises(CheckRefused, match=f"node-b cannot see {tmp_path}: several nodes need one output_dir"):
        check_shared_directory(tmp_path)
    with pytest.raises(CheckRefused, match="cannot see"):
        check_shared_directory(None)  # the sign is gone, as if it had never been here
