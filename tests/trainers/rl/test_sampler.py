"""vLLM as the sampler of a run: the trainer's weights reach it whole, and where they do not, the run stops."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agentforge.errors import CheckRefused, MachineRefused, UserError
from agentforge.recipe.loading import load_recipe
from agentforge.rollouts import play
from agentforge.trainers.rl import sampler as module
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.rl.fake_vllm import FakeLLM, FakeServer, free_port, install_client, install_module, serving
from tests.trainers.tiny import LORA

SYNC = ["start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache"]
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
ARGS = {"max_steps": 4, "num_iterations": 1, "logging_steps": 1}


@pytest.fixture
def server(toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    install_client(monkeypatch)
    return FakeServer(toy_base)


@pytest.fixture
def url(server: FakeServer) -> Iterator[str]:
    with serving(server) as address:
        yield address


def played_by(url: str, **vllm: Any) -> dict[str, Any]:
    section = {"mode": "server", "url": url, "group_port": free_port(), "tolerance": 1e-3, "timeout": 1.0}
    return {"max_new_tokens": 4, "batch_size": 32, "engine": "vllm", "vllm": section | vllm}


def weights_of(made: Path) -> dict[str, torch.Tensor]:
    return load_file(made / "model.safetensors")


@pytest.fixture
def small_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's seeds have 63 bits and ours 64: with these both draw the same."""
    full = play.turn_seed
    monkeypatch.setattr(play, "turn_seed", lambda *words: full(*words) % (1 << 63))


def logged(made: Path, key: str) -> list[float]:
    return [line[key] for line in read_metrics(made / "metrics.jsonl") if key in line]


@pytest.mark.usefixtures("small_seeds")
def test_a_server_plays_the_same_run_as_the_trainer_itself(make_toy: MakeRecipe, server: FakeServer, url: str) -> None:
    own = train(make_toy("grpo", "own", train={"args": ARGS}))
    made = train(make_toy("grpo", "served", rollouts=played_by(url), train={"args": ARGS}))
    assert server.events == ["init_weight_transfer_engine", *SYNC * 4], "one sync before each rollout"
    for name, weight in weights_of(own).items():
        torch.testing.assert_close(weights_of(made)[name], weight, rtol=1e-3, atol=1e-4)
    assert logged(made, "success") == logged(own, "success")
    for key in ("sampling_logp_difference/mean", "sampling_logp_difference/max", "canary", "kl"):
        values = logged(made, f"sampling/{key}")
        assert len(values) == 4 and max(values) < 1e-4, key
    ratios = logged(made, "sampling/importance_sampling_ratio/mean")
    assert ratios == pytest.approx([1.0] * 4, abs=1e-4)


def test_the_next_rollout_is_played_while_this_one_is_trained_on(
    make_toy: MakeRecipe, server: FakeServer, url: str
) -> None:
    learns = {"max_steps": 12, "num_iterations": 1, "per_device_train_batch_size": 48, "learning_rate": 1e-3}
    recipe = make_toy("grpo", rollouts=played_by(url, asynchronous=True), train={"args": learns})
    made = train(recipe)
    assert logged(made, "sampling/staleness") == [0.0, *[1.0] * 11]
    assert server.events == ["init_weight_transfer_engine", *SYNC * 12]
    differences = logged(made, "sampling/sampling_logp_difference/mean")
    assert differences[0] < 1e-4 < min(differences[1:]), "what is sampled is one update old"
    assert max(logged(made, "sampling/canary")) < 1e-4, "the canary is asked after the sync"


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_an_adapter_arrives_merged(make_toy: MakeRecipe, server: FakeServer, url: str, method: str) -> None:
    before = copy.deepcopy(server.model.state_dict())
    section = {"lora": LORA, "args": {"max_steps": 5, "save_steps": 100}}
    made = train(make_toy(method, rollouts=played_by(url), train=section))
    changed = {name for name, weight in server.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {f"model.layers.{i}.self_attn.{name}.weight" for i in (0, 1) for name in ("q_proj", "v_proj")}
    assert len(logged(made, "sampling/canary")) == server.events.count("update_weights")


@pytest.mark.parametrize("section", [{}, {"lora": LORA | {"r": 16, "lora_alpha": 64}}])
def test_a_sampler_that_ignores_its_updates_ends_the_run(
    make_toy: MakeRecipe, server: FakeServer, url: str, section: dict[str, Any]
) -> None:
    server.ignores = True
    recipe = make_toy("grpo", rollouts=played_by(url), train=section | {"args": ARGS | {"learning_rate": 3e-2}})
    with pytest.raises(
        CheckRefused, match=r"after the weight sync at step [1-3] vLLM and the trainer differ by"
    ) as end:
        train(recipe)
    assert "\n" not in str(end.value) and not recipe.trained.exists()


def test_one_wrong_tensor_ends_the_run_before_it_plays(make_toy: MakeRecipe, server: FakeServer, url: str) -> None:
    server.spoils = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(CheckRefused, match="after the weight sync at step 0"):
        train(make_toy("grpo", rollouts=played_by(url), train={"args": ARGS}))


def test_an_answer_that_was_broken_off_cuts_the_episode(make_toy: MakeRecipe, server: FakeServer, url: str) -> None:
    server.aborts = 7  # the canary's eight answers have one of them, which is no difference
    made = train(make_toy("grpo", rollouts=played_by(url), train={"args": ARGS | {"max_steps": 2}}))
    assert all(0 < share < 1 for share in logged(made, "truncated"))
    assert all(turns < 2 for turns in logged(made, "turns"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_transfer_config": None}, "cannot be given weights; start it by: VLLM_SERVER_DEV_MODE=1 vllm serve"),
        ({"model_config": {"logprobs_mode": "raw_logprobs", "max_model_len": 128}}, "returns raw_logprobs"),
        ({"model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 32}}, "--max-model-len 64"),
        (None, "started without what training needs; start it by"),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused(
    make_toy: MakeRecipe, server: FakeServer, url: str, change: dict[str, Any] | None, words: str
) -> None:
    server.config = {} if change is None else server.config | change
    with pytest.raises(UserError, match=words):
        train(make_toy("grpo", rollouts=played_by(url), train={"args": ARGS}))
    assert server.events == []


def test_no_server_and_no_vllm_are_said(make_toy: MakeRecipe, server: FakeServer, monkeypatch: Any) -> None:
    nobody = played_by(f"http://127.0.0.1:{free_port()}", timeout=0.1)
    with pytest.raises(MachineRefused, match=r"no vLLM server answers at http://127\.0\.0\.1"):
        train(make_toy("grpo", rollouts=nobody, train={"args": ARGS}))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install agentforge-train\[vllm\]"):
        train(make_toy("grpo", rollouts=nobody, train={"args": ARGS}))


@pytest.mark.usefixtures("small_seeds")
@pytest.mark.parametrize("sleep", [True, False])
def test_a_colocated_engine_plays_the_same_run_and_sleeps_between(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch, sleep: bool
) -> None:
    install_module(monkeypatch)
    rollouts = {"max_new_tokens": 4, "batch_size": 32, "engine": "vllm", "vllm": {"sleep": sleep, "tolerance": 1e-3}}
    own = train(make_toy("grpo", "own", train={"args": ARGS}))
    made = train(make_toy("grpo", "colocated", rollouts=rollouts, train={"args": ARGS}))
    (engine,) = FakeLLM.made
    step = ["wake weights", "wake kv_cache", "reset", "sleep"] if sleep else ["reset"]
    assert engine.events == (["sleep"] if sleep else []) + step * 4
    assert engine.launched and not LAUNCHED & os.environ.keys(), "only while the engine is made"
    assert engine.options["gpu_memory_utilization"] == module.COLOCATED_SHARE
    assert engine.options["distributed_executor_backend"] == "external_launcher"
    for name, weight in weights_of(own).items():
        torch.testing.assert_close(weights_of(made)[name], weight, rtol=1e-3, atol=1e-4)


def test_a_second_rollout_in_one_step_wakes_the_engine_with_its_weights(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(monkeypatch)
    rollouts = {"max_new_tokens": 4, "batch_size": 32, "engine": "vllm", "vllm": {"tolerance": 1e-3}}
    args = ARGS | {"max_steps": 1, "gradient_accumulation_steps": 2, "steps_per_generation": 1}
    train(make_toy("grpo", rollouts=rollouts, train={"args": args}))
    assert FakeLLM.made[0].events.count("wake weights") == 2


def test_the_importance_of_tokens_is_truncated_as_trl_does_it(
    make_toy: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(monkeypatch)
    honest = FakeLLM.answer

    def biased(self: FakeLLM, settings: dict[str, Any], ids: list[int]) -> Any:
        written, reason = honest(self, settings, ids)
        return type(written)(written.token_ids, written.stopped, [value - 2.0 for value in written.logprobs]), reason

    monkeypatch.setattr(FakeLLM, "answer", biased)
    rollouts = {"max_new_tokens": 4, "batch_size": 32, "engine": "vllm", "vllm": {"tolerance": 3.0}}
    args = ARGS | {"max_steps": 1, "vllm_importance_sampling_clip_max": 2.0}
    made = train(make_toy("grpo", rollouts=rollouts, train={"args": args}))
    assert logged(made, "sampling/sampling_logp_difference/mean") == pytest.approx([2.0], abs=1e-3)
    assert logged(made, "sampling/importance_sampling_ratio/max") == [2.0], "e^2 is cut to 2"
    assert logged(made, "sampling/kl") == pytest.approx([torch.e**2 - 1 - 2], rel=1e-3)


@pytest.mark.parametrize(
    ("strategy", "method", "engine", "words"),
    [
        ("fsdp2", "grpo", {}, "with grpo each process plays its own episodes .* let vLLM play"),
        ("zero3", "ppo", {"engine": "vllm"}, "critic reads hidden states from inside the model, which ZeRO-3 does not"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    make_toy: MakeRecipe, strategy: str, method: str, engine: dict[str, str], words: str
) -> None:
    rollouts = {"max_new_tokens": 4, **engine}
    with pytest.raises(UserError, match=words):
        train(make_toy(method, hardware="8xh200", rollouts=rollouts, train={"launch": strategy}))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("rollouts: {vllm: {sleep: false}}", "vllm has no effect with engine transformers"),
        ("rollouts: {engine: vllm, vllm: {mode: server}}", "mode server needs url"),
        ("rollouts: {engine: vllm, vllm: {url: 'http://h:1'}}", "url has no effect with mode colocate"),
        ("rollouts: {engine: vllm, vllm: {mode: server, url: 'http://h:1', sleep: false}}", "sleep has no effect"),
        ("rollouts: {engine: vllm, vllm: {asynchronous: true}}", "asynchronous has no effect with mode colocate"),
        ("rollouts: {engine: vllm, vllm: {tensor_parallel: 2}}", "start a server with --tensor-parallel-size"),
        ("rollouts: {engine: vllm}\nmodel: {path: base, quantize: nf4}", "model.quantize is nf4"),
        ("rollouts: {engine: vllm}\ntrain: {method: grpo, lora: {use_dora: true}}", "train.lora.use_dora"),
        ("train: {method: grpo, args: {vllm_importance_sampling_clip_max: 2.0}}", "has no effect with rollouts.engine"),
        ("train: {method: grpo, args: {use_vllm: true}}", "set `rollouts.engine`"),
        (
            "rollouts: {engine: vllm}\ntrain: {method: grpo, args: {vllm_importance_sampling_correction: false, "
            "vllm_importance_sampling_clip_max: 2.0}}",
            "clip_max has no effect with vllm_importance_sampling_correction false",
        ),
        (
            "rollouts: {engine: vllm}\ntrain: {method: grpo, args: {loss_type: vespo, "
            "vllm_importance_sampling_mode: sequence_mask}}",
            "vespo needs token_truncate",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_recipe(tmp_path: Path, section: str, words: str) -> None:
    file = tmp_path / "recipe.yaml"
    text = section if "train:" in section else f"{section}\ntrain: {{method: grpo}}"
    file.write_text(f"name: toy\n{text}\n")
    with pytest.raises(UserError, match=words):
        load_recipe(str(file))
