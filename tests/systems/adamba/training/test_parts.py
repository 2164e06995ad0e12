"""Which parameters and entries a phase trains, and which recipes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconH1Config

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, put, resized, take
from agentforge.trainers import train as stage
from agentforge.trainers.train import train
from tests.systems.adamba.training.tiny_adamba import NESTED, logged, weights
from tests.trainers.conftest import MakeRecipe
from tests.trainers.together import launch


def test_only_the_named_parameters_move(make_adamba: MakeRecipe, adamba_base: Path) -> None:
    teacher = {"distill": {"teacher": str(adamba_base), "weight": 0.5, "temperature": 2.0}}
    keys = {"trainable": ["*.mamba.*", "*.1.feed_forward.*"], **teacher}
    made = train(make_adamba("phase1", "pretrain", keys, weight_decay=0.1, max_steps=4, logging_steps=1))
    before, after = weights(adamba_base), weights(made)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        moved = ".mamba." in name or "layers.1.feed_forward" in name
        assert torch.equal(tensor, after[name]) is not moved, name
    lines = logged(made)
    assert abs(lines[0]["divergence/teacher"]) < 1e-5 < lines[-1]["divergence/teacher"]
    assert read_manifest(made)["inputs"]["teacher"]["path"] == str(adamba_base)


def test_rates_of_state_space_layers_do_not_decay(make_adamba: MakeRecipe, adamba_base: Path) -> None:
    options = {"weight_decay": 50.0, "learning_rate": 1e-2, "max_steps": 1}
    before, after = weights(adamba_base), weights(train(make_adamba("decay", "pretrain", {}, **options)))
    for name in before:
        moved = (after[name] - before[name]).abs().max()
        decays = not name.endswith(("A_log", ".D", "bias", "norm.weight"))
        assert moved <= 1.001e-2 or decays, name  # an AdamW step moves no entry further than the rate
    assert ".A_log" in "".join(before) and before["model.layers.0.mamba.A_log"].max() > 1


# -- expansions -----------------------------------------------------------------------------------------------------


def old_and_new(directory: Path, smaller: AdambaShape) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the entries that the smaller model had, and the other ones."""
    config = FalconH1Config.from_pretrained(directory)
    small = resized(config, smaller)
    old, new = {}, {}
    for name, tensor in weights(directory).items():
        inside = torch.zeros_like(tensor, dtype=torch.bool)
        if ".layers.4." not in name:
            index = index_of(name, small, config)
            put(inside, index, torch.ones_like(take(inside, index)))
        old[name], new[name] = tensor[inside], tensor[~inside]
    return old, new


def test_only_new_entries_of_an_expansion_move_also_after_a_restart(
    make_adamba: MakeRecipe, expanded: tuple[Path, AdambaShape], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, smaller = expanded
    options = {"max_steps": 6, "save_steps": 3, "weight_decay": 0.1, "learning_rate": 1e-2}
    whole = train(make_adamba("whole", "pretrain", {"expanded": "expanded_only"}, path=path, **options))
    recipe = make_adamba("grown", "pretrain", {"expanded": "expanded_only"}, path=path, **options)
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_raise_if_ended", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe)
        (last,) = recipe.trained.parent.glob(".grown*.partial/checkpoint-6")
        (last / "complete.json").unlink()
    before, after = (old_and_new(directory, smaller) for directory in (path, train(recipe)))
    for name in before[0]:
        assert torch.equal(before[0][name], after[0][name]), name
        assert not before[1][name].numel() or not torch.equal(before[1][name], after[1][name]), name
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(recipe.trained).items())


def test_what_stands_still_is_no_part_of_the_clipped_norm(
    make_adamba: MakeRecipe, expanded: tuple[Path, AdambaShape]
) -> None:
    path, _ = expanded
    norms = [
        logged(train(make_adamba(f"norm{number}", "pretrain", keys, path=path, max_steps=1, logging_steps=1)))[0]
        for number, keys in enumerate(({}, {"expanded": "expanded_only"}))
    ]
    assert 0 < norms[1]["grad_norm"] < norms[0]["grad_norm"]


def test_graded_entries_move_at_their_share_of_the_rate(
    make_adamba: MakeRecipe, expanded: tuple[Path, AdambaShape]
) -> None:
    path, smaller = expanded
    options = {"max_steps": 1, "learning_rate": 1e-2, "weight_decay": 0.3}
    keys = {"expanded": "graded", "old_learning_rate_share": 0.25}
    graded = old_and_new(train(make_adamba("graded", "pretrain", keys, path=path, **options)), smaller)
    whole = old_and_new(train(make_adamba("whole", "pretrain", {}, path=path, **options)), smaller)
    before = old_and_new(path, smaller)
    for name in before[0]:
        expected = before[0][name] + 0.25 * (whole[0][name] - before[0][name])
        torch.testing.assert_close(graded[0][name], expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(graded[1][name], whole[1][name])


def test_two_processes_train_as_one_with_twice_the_batch(
    make_adamba: MakeRecipe, expanded: tuple[Path, AdambaShape], tmp_path: Path
) -> None:
    path, smaller = expanded
    options: dict[str, Any] = {"max_steps": 3, "save_steps": 100, "logging_steps": 1}
    keys = {"nested": {"widths": ["4/5", "1/5"]}, "exits": {"layers": [1, 2]}, "expanded": "expanded_only"}
    one = train(make_adamba("one", "sft", keys, path=path, per_device_train_batch_size=4, **options))
    recipe = make_adamba("two", "sft", keys, path=path, per_device_train_batch_size=2, **options)
    finished = launch(recipe, tmp_path, "finish")
    assert finished.returncode == 0, finished.stderr[-3000:]
    for of_one, of_two in zip(logged(one), logged(recipe.trained), strict=True):
        parts = [name for name in of_one if name.startswith(("loss", "divergence", "agreement"))]
        assert len(parts) > 8
        assert [of_two[name] for name in parts] == pytest.approx([of_one[name] for name in parts], rel=1e-3, abs=1e-6)
    before, after = (old_and_new(directory, smaller)[0] for directory in (path, recipe.trained))
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "keys", "args", "words"),
    [
        ("pretrain", {"nested": {"widths": ["1/3"]}}, {}, r"train\.nested\.widths: width 1/3: hidden_size 32 would be"),
        ("pretrain", {"nested": {"widths": ["half"]}}, {}, "give a share of the whole model"),
        ("pretrain", {"nested": {"widths": ["1"]}}, {}, "width 1 is always trained"),
        ("pretrain", {"exits": {"layers": [2, 4]}}, {}, "rising numbers from 1 to 3"),
        ("pretrain", {"exits": {"layers": [0]}}, {}, "rising numbers from 1 to 3"),
        ("pretrain", {"trainable": ["*.mambo.*"]}, {}, "no parameter matches .*did you mean 'mamba'"),
        ("pretrain", {"expanded": "graded"}, {}, "has not been expanded"),
        ("pretrain", NESTED, {"packing": True}, "cannot be packed"),
        ("pretrain", NESTED, {"label_smoothing_factor": 0.1}, "label_smoothing_factor does not act"),
        ("sft", NESTED, {"loss_type": "dft"}, "only nll is computed"),
        ("sft", NESTED | {"lora": {"r": 4}}, {}, r"leave train\.lora out"),
        ("grpo", NESTED, {}, "belongs to the methods pretrain and sft; grpo does not read it"),
        ("pretrain", {"distill": {"teacher": "/nowhere"}}, {}, "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    make_adamba: MakeRecipe, method: str, keys: dict[str, Any], args: dict[str, Any], words: str
) -> None:
    recipe = make_adamba("wrong", method, keys, **args)
    with pytest.raises(UserError, match=words):
        train(recipe)
    assert not list(recipe.trained.parent.glob(".wrong*"))


def test_a_model_of_another_kind_has_no_widths(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match="is a qwen3; this needs an Adamba"):
        train(make_recipe("wrong", "pretrain", NESTED))


def test_sharded_weights_have_no_parts(make_adamba: MakeRecipe) -> None:
    recipe = make_adamba("wrong", "pretrain", NESTED | {"launch": "zero3", "processes": 2})
    with pytest.raises(
        UserError, match=r"train\.nested reads parts of whole matrices in a loss of its own, which ZeRO-3"
    ):
        train(recipe)
