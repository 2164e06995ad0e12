"""Reinforcement learning of a model that no process holds whole: two processes share it, and a server plays."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agentforge.recipe.schema import Recipe
from agentforge.trainers.rl.merged_weights import announced, merged, plain_weights
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.rl.fake_vllm import FakeServer, free_port, install_client, serving
from tests.trainers.rl.test_merged_weights import EVERYTHING, base, with_adapter
from tests.trainers.tiny import LORA
from tests.trainers.together import FSDP_ON_CPUS, NO_DEEPSPEED, assert_same, launch, run_twice, shared, write_two_gpus

# Both iterate to the end, or the other one would wait for ever; the first writes what it got.
GATHER = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from agentforge.trainers.rl.merged_weights import announced, merged, plain_weights
from tests.trainers.rl.test_merged_weights import EVERYTHING, base, with_adapter

torch.distributed.init_process_group("gloo")
rank, mesh = int(os.environ["RANK"]), init_device_mesh("cpu", (2,))
for kind in ("full", "lora"):
    model = base(Path(sys.argv[1]))
    layers = model.model.layers
    model = with_adapter(model, EVERYTHING) if kind == "lora" else model
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weights = plain_weights(model)
    parts = sum(weight.parameter.to_local().numel() for weight in weights)
    told, sent = announced(weights, torch.float32), dict(merged(weights, torch.float32))
    save_file(sent, f"{kind}-{rank}.safetensors")
    Path(f"{kind}-{rank}.json").write_text(json.dumps([told, parts]))
torch.distributed.destroy_process_group()
"""
# As `install_client` in this process.
PLAYED = """
import pytest
from tests.trainers.rl.fake_vllm import install_client
install_client(pytest.MonkeyPatch())
"""
ARGS = {"max_steps": 3, "num_iterations": 1, "logging_steps": 1, "save_steps": 2}


def test_two_processes_gather_what_one_has(toy_base: Path, tmp_path: Path) -> None:
    run = run_twice(GATHER, tmp_path, str(toy_base))
    assert run.returncode == 0, run.stderr[-3000:]
    for kind, model in {"full": base(toy_base), "lora": with_adapter(base(toy_base), EVERYTHING)}.items():
        weights = plain_weights(model)
        expected = dict(merged(weights, torch.float32))
        parts = []
        for rank in (0, 1):
            sent = load_file(tmp_path / f"{kind}-{rank}.safetensors")
            assert sent.keys() == expected.keys() and all(torch.equal(sent[n], w) for n, w in expected.items()), kind
            told, part = json.loads((tmp_path / f"{kind}-{rank}.json").read_text())
            assert [tuple(each) for each in told] == announced(weights, torch.float32)
            parts.append(part)
        whole = sum(weight.numel() for weight in expected.values())
        assert sum(parts) == whole and max(parts) < whole, "each process held a part"


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("zero3", marks=NO_DEEPSPEED)])
def test_a_sharded_run_is_the_run_of_one_process(
    make_toy: MakeRecipe, toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """All weights, then an adapter; a server of its own plays each run."""
    write_two_gpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    install_client(monkeypatch)
    kinds = {"full": None, "lora": LORA | {"lora_dropout": 0.0}}

    def recipe(name: str, kind: str, url: str, rows: int) -> Recipe:
        vllm = {"mode": "server", "url": url, "group_port": free_port(), "tolerance": 1e-3, "timeout": 1.0}
        rollouts = {"max_new_tokens": 4, "batch_size": 32, "engine": "vllm", "vllm": vllm}
        section = {"lora": kinds[kind], "args": ARGS | {"per_device_train_batch_size": rows}}
        return make_toy("grpo", f"{kind}-{name}", rollouts=rollouts, train=section)

    with ExitStack() as stack:
        servers = {(name, kind): FakeServer(toy_base) for name in ("one", "two") for kind in kinds}
        urls = {key: stack.enter_context(serving(server)) for key, server in servers.items()}
        twos = [shared(recipe("two", kind, urls["two", kind], 8), strategy) for kind in kinds]
        run = launch(twos, tmp_path, before=(FSDP_ON_CPUS if strategy == "fsdp2" else "") + PLAYED)
        assert run.returncode == 0, run.stderr[-3000:]
        ones = [train(recipe("one", kind, urls["one", kind], 16)) for kind in kinds]
    for kind, one, two in zip(kinds, ones, twos, strict=True):
        assert_same(one, two.trained, 1e-4)
        alone, together = servers["one", kind], servers["two", kind]
        assert together.events == alone.events and alone.events.count("update_weights") == 3, "one process sends"
        weights = together.model.state_dict()
        for name, weight in alone.model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
