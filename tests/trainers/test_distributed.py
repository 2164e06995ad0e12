"""Two processes over gloo: the losses of one at an equal global batch, whatever they share and whoever is killed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.recipe.loading import resolved_yaml
from agentforge.recipe.schema import Recipe
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA, make_rows, write_prepared
from tests.trainers.together import (
    FSDP_ON_CPUS,
    NO_DEEPSPEED,
    ROOT,
    assert_same,
    environment,
    launch,
    shared,
    write_two_gpus,
)
from tests.trainers.toys import toy_recipe

OPTIONS: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "logging_steps": 1}
DIVIDED = [
    "fsdp2",
    pytest.param("zero2", marks=NO_DEEPSPEED),
    pytest.param("zero3", marks=NO_DEEPSPEED),
]


@pytest.fixture(autouse=True)
def two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_two_gpus(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("strategy", DIVIDED)
def test_divided_a_killed_process_ends_both_and_the_run_goes_on(
    make_recipe: MakeRecipe, tmp_path: Path, strategy: str
) -> None:
    """Nine eval rows on two processes: one is read twice, and counts once."""
    # on a checkpoint: ZeRO-3 would draw other random weights for a model from scratch
    base = make_recipe("base", "pretrain", max_steps=1)
    model = {"model": base.model.model_copy(update={"path": str(train(base)), "config": {}})}
    one = make_recipe("one", "sft", per_device_train_batch_size=4, packing=False, **OPTIONS).model_copy(update=model)
    two = make_recipe("two", "sft", per_device_train_batch_size=2, packing=False, **OPTIONS).model_copy(update=model)
    for recipe in (one, two):
        shutil.rmtree(recipe.artifact("data"))
        write_prepared(recipe.artifact("data"), make_rows(200, 0), make_rows(9, 1))
    two = shared(two, strategy)
    before = FSDP_ON_CPUS if strategy == "fsdp2" else ""
    killed = launch(two, tmp_path, "kill", before)
    assert killed.returncode == 137 and "process 1 was killed by SIGKILL" in killed.stderr, killed.stderr[-3000:]
    finished = launch(two, tmp_path, "finish", before)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "continuing from checkpoint-2" in finished.stderr
    assert_same(train(one), two.trained)
    metrics = read_manifest(two.trained)["metrics"]
    assert metrics["processes"] == 2 and metrics["parameters"] == metrics["trainable_parameters"] > 0
    opened, expected = (AutoModelForCausalLM.from_pretrained(made) for made in (two.trained, one.trained))
    assert opened.dtype == expected.dtype


def preferences(directory: Path) -> str:
    path = directory / "pairs.jsonl"
    colours = ["red", "green", "blue", "black"]
    rows = [{"prompt": a, "chosen": a, "rejected": b} for a in colours for b in colours if a != b]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_other_methods_are_divided_by_fsdp_too(make_recipe: MakeRecipe, toy_base: Path, tmp_path: Path) -> None:
    """One pair of processes trains an adapter on a checkpoint, some of the weights, and preferences."""
    base = train(make_recipe("base", "pretrain", max_steps=1))

    def recipes(name: str, rows: int) -> list[Recipe]:
        onto = {"model": make_recipe("base", "pretrain").model.model_copy(update={"path": str(base), "config": {}})}
        lora, some = {"lora": LORA | {"lora_dropout": 0.0}}, {"trainable": ["*.mlp.*"]}
        options = OPTIONS | {"per_device_train_batch_size": rows}
        pairs = {"preferences": [{"dataset": preferences(tmp_path)}], "args": options}
        return [
            make_recipe(f"lora-{name}", "sft", lora, packing=False, **options).model_copy(update=onto),
            make_recipe(f"some-{name}", "pretrain", some, **options).model_copy(update=onto),
            toy_recipe(toy_base, tmp_path, "dpo", f"dpo-{name}", train=pairs),
        ]

    twos = [shared(recipe, "fsdp2") for recipe in recipes("two", 2)]
    finished = launch(twos, tmp_path, before=FSDP_ON_CPUS)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for one, two in zip(recipes("one", 4), twos, strict=True):
        assert_same(train(one), two.trained)


@NO_DEEPSPEED
def test_whoever_plays_divides_all_but_the_weights(toy_base: Path, tmp_path: Path) -> None:
    """ZeRO-2 leaves each process a whole copy to play with; PPO also saves its critic, which lies in a flat tensor."""

    def recipes(name: str, rows: int) -> list[Recipe]:
        args = {"per_device_train_batch_size": rows, "logging_steps": 1, "max_steps": 3, "save_steps": 2}
        made = partial(toy_recipe, toy_base, tmp_path, train={"args": args})
        return [made("grpo", f"grpo-{name}"), made("ppo", f"ppo-{name}")]

    twos = [shared(recipe, "zero2") for recipe in recipes("two", 8)]
    finished = launch(twos, tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for one, two in zip(recipes("one", 16), twos, strict=True):
        assert_same(train(one), two.trained, 1e-4)
    critics = [load_file(tmp_path / f"ppo-{n}-v0.1.0-model" / "value_head.safetensors") for n in ("one", "two")]
    assert critics[0].keys() == critics[1].keys()
    assert all((critics[0][key] - critics[1][key]).abs().max() < 1e-4 for key in critics[0])


# -- several nodes ----------------------------------------------------------------------------------------------------


def on_nodes(directory: Path, file: Path) -> list[tuple[int, str]]:
    """Run `agentforge train` on two "nodes" at once; return how each ended and what it said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "agentforge", "train", str(file), "--rendezvous", address, "--node-rank"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [subprocess.Popen([*command, rank], cwd=directory, env=environment(), **pipes) for rank in "01"]
    said = [node.communicate(timeout=400)[0] for node in nodes]
    return [(node.returncode, text) for node, text in zip(nodes, said, strict=True)]


def test_two_nodes_train_as_one_process(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Each node is a launcher with a process of its own; all meet at one address and share one directory."""
    hardware = tmp_path / "configs" / "hardware" / "2xcpu.yaml"
    hardware.write_text((ROOT / "configs" / "hardware" / "cpu.yaml").read_text() + "nodes: 2\n")
    one = make_recipe("one", "pretrain", per_device_train_batch_size=4, **OPTIONS)
    two = make_recipe("two", "pretrain", per_device_train_batch_size=2, **OPTIONS)
    two = two.model_copy(update={"hardware": "2xcpu"})
    file = tmp_path / "two.yaml"
    file.write_text(resolved_yaml(two))
    ends = on_nodes(tmp_path, file)
    assert [code for code, _ in ends] == [0, 0], "".join(text for _, text in ends)[-3000:]
    assert_same(train(one), two.trained)
    assert read_manifest(two.trained)["metrics"]["processes"] == 2
