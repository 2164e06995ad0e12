"""Where `train.args` come from: the recipe wins, the card decides on precision, and `show` says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from agentforge.cli import app
from agentforge.planning import train_defaults
from agentforge.planning.train_defaults import Device, device_of, explained, training_defaults
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

CARD = Device(gpu=True, bf16=True, tf32=True)
CPU = Device(gpu=False, bf16=True, tf32=False)


def values(device: Device, method: str = "sft", **args: Any) -> dict[str, Any]:
    recipe = Recipe.model_validate({"name": "x", "train": {"method": method, "args": args}})
    return {key: d.value for key, d in training_defaults(recipe, device, "none", evaluates=True).items()}


def test_the_card_decides_on_precision() -> None:
    assert (values(CARD)["bf16"], values(CARD)["tf32"]) == (True, True)
    assert values(CPU)["bf16"] and "tf32" not in values(CPU)
    assert not values(CARD, fp16=True)["bf16"]
    assert values(CARD, "grpo")["bf16"] and not values(CPU, "grpo")["bf16"]  # sampled in fp32


@pytest.mark.parametrize(
    ("hardware", "bf16", "tf32"), [("1xh200", True, True), ("rtx4090", True, True), ("1xt4", False, False)]
)
def test_hardware_profiles_know_their_card(hardware: str, bf16: bool, tf32: bool) -> None:
    device = device_of(Recipe(name="x", hardware=hardware))
    assert (device.gpu, device.bf16, device.tf32) == (True, bf16, tf32)


def test_a_cpu_is_asked_for_its_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("avx2 avx512_bf16", True), ("avx2", False)):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr(train_defaults, "INSTRUCTIONS", tmp_path / "cpuinfo")
        assert device_of(Recipe(name="x")).bf16 is expected


def test_every_value_says_where_it_comes_from() -> None:
    lines = explained(load_recipe("aj/sft", ["train.args.bf16=false"])).splitlines()
    said = {line.split(":")[0].removeprefix("#").strip(): line for line in lines[1:]}
    assert said["bf16"].split() == ["#", "bf16:", "false", "the", "recipe"]
    assert said["learning_rate"].endswith("the recipe")
    left_open = explained(load_recipe("aj/sft", ["train.args={}"]))
    for key, why in (
        ("bf16: true", "the GPU multiplies in bf16"),
        ("tf32: true", "what stays fp32 is multiplied by tensor cores"),
        ("activation_checkpointing: true", "the plan does not fit without recomputing"),
        ("seed: 42", "`seed` of the recipe"),
    ):
        assert any(line.startswith(f"#   {key} ") and line.endswith(why) for line in left_open.splitlines()), key


def test_show_prints_them_as_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(app, ["show", "aj/sft", "--profile", "8xh200"]).stdout
    assert yaml.safe_load(shown)["train"]["launch"] == "auto"
    assert "# train.launch: 8 processes, DDP: all of it fits on each device" in shown
    assert "--nproc_per_node 8 -m agentforge train aj/sft --profile 8xh200" in shown
    assert "#   seed: 42" in shown
    assert "# train.launch" not in CliRunner().invoke(app, ["show", "adamba/phase1_graft"]).stdout
