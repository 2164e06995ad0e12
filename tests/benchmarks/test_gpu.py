"""The GPU benchmark, in shapes for a CPU: every part runs, and no failure ends the others or is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl.generation import vllm_generation

from agentforge.rollouts.policies.base import Request, Sampling
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from benchmarks.gpu import SECONDS, rows_of, spawn, table
from benchmarks.on_gpu import reinforcement
from benchmarks.on_gpu.own_models import AGIFORMER_TINY, byte_llama
from benchmarks.on_gpu.worker import MODULES, row_of
from tests.trainers.rl.fake_vllm import FakeLLM, install_module

ROOT = Path(__file__).parents[2]


def test_each_part_has_a_time() -> None:
    assert set(SECONDS) == set(MODULES)


def test_a_part_prints_its_table_and_keeps_its_rows(tmp_path: Path) -> None:
    """The last lines may be left out for want of time on a busy machine, but are there."""
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--part", "optimizers", "--seconds", "30", "--tiny"]
    run = subprocess.run(
        [*command, "--rows", str(rows)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
    )
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["name"] for row in kept][:2] == ["AdamW", "torch.optim.Muon, and AdamW"]
    assert kept[0]["seconds"] > 0
    assert run.stdout.count("\n| optimizers | ") == len(kept) == 4


def test_all_parts_take_eight_minutes() -> None:
    assert sum(SECONDS.values()) <= 480


def test_without_vllm_its_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(reinforcement.importlib.util, "find_spec", lambda name: None)
    *_, line = reinforcement.grpo(tiny=True)
    row = row_of("grpo", line, 0.0)
    assert row["name"] == "agentforge, vLLM writes" and "seconds" not in row
    assert row["note"] == "vLLM is not installed here: pip install agentforge-train[vllm]"


class BothAsk(FakeLLM):
    """Also asked as TRL asks: by one set of parameters for all prompts."""

    def generate(self, prompts: list[Any], sampling_params: Any, **options: Any) -> list[Any]:
        if isinstance(sampling_params, list):
            return super().generate(prompts, sampling_params, **options)
        assert self.parts == {"weights", "kv_cache"}, "it sleeps"
        room = sampling_params.max_tokens
        asked = [Request(prompt["prompt_token_ids"], room, seed) for seed, prompt in enumerate(prompts)]
        outputs = []
        for request, written in zip(
            asked, self.policy.draw(asked, Sampling(room, sampling_params.temperature)), strict=True
        ):
            logprobs = [
                {token: SimpleNamespace(logprob=value, rank=1)}
                for token, value in zip(written.token_ids, written.logprobs, strict=True)
            ]
            output = SimpleNamespace(token_ids=written.token_ids, logprobs=logprobs)
            outputs.append(SimpleNamespace(prompt_token_ids=list(request.token_ids), outputs=[output]))
        return outputs


def test_vllm_writes_for_both_trainers_on_equal_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(monkeypatch)
    monkeypatch.setattr(sys.modules["vllm"], "LLM", BothAsk)
    for name, value in {"is_vllm_available": lambda: True, "LLM": BothAsk, "SamplingParams": SimpleNamespace}.items():
        monkeypatch.setattr(vllm_generation, name, value, raising=False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # TRL sets them; so they go with the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(reinforcement, "STEPS", 2)
    _, _, ours, theirs = reinforcement.grpo(tiny=True)
    assert (ours.peer, theirs.peer) == (theirs.name, "TRL's GRPOTrainer")
    rows = [row_of("grpo", contestant, time.monotonic() + 30) for contestant in (ours, theirs)]
    assert all(row["seconds"] > 0 and row["tokens"] > 0 for row in rows), [row["note"] for row in rows]
    own, other = BothAsk.made
    same = ("gpu_memory_utilization", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_sleep_mode")
    assert {name: own.options[name] for name in same} == {name: other.options[name] for name in same}
    saved = json.loads(Path(other.model.name_or_path, "config.json").read_text())
    assert own.options["dtype"] == "bfloat16" == saved["dtype"], "which vLLM takes from the checkpoint for TRL"
    assert own.events.count("wake weights") >= 3 and other.events.count("wake weights") >= 3


def test_a_part_that_dies_keeps_what_it_had_measured() -> None:
    said: list[dict[str, Any]] = [
        {"ready": True},
        {"planned": ["first", "second", "third"]},
        {"part": "sft", "name": "first", "seconds": 1.0},
    ]
    code = f"import json, os\nfor said in {said!r}: print(json.dumps(said), flush=True)\nos._exit(7)"
    rows = list(rows_of("sft", spawn(["-c", code]), 30))
    assert [row["name"] for row in rows] == ["first", "second", "third"]
    assert "ended with 7" in rows[1]["note"] and rows[2]["note"].startswith("not reached")


def test_a_part_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.GRACE", 0)
    code = "import json, time\nprint(json.dumps({'ready': True}), flush=True)\ntime.sleep(100)"
    assert [row["note"] for row in rows_of("sft", spawn(["-c", code]), 0.5)] == ["took too long and was killed"]


def test_the_table_divides_a_speed_by_its_peers() -> None:
    card = "A card"
    rows = [
        {"part": "sft", "name": "ours", "peer": "theirs", "seconds": 0.5, "tokens": 100, "mfu": 0.4, "machine": card},
        {"part": "sft", "name": "theirs", "seconds": 1.0, "tokens": 100, "machine": card},
        {"part": "sft", "name": "lost", "peer": "theirs", "note": "out of memory"},
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "A card."
    assert lines[4] == "| sft | ours | 200 | 500.00 | 40.0% |  | 2.00 | theirs |  |"
    assert lines[6] == "| sft | lost |  |  |  |  |  | theirs | out of memory |"


@pytest.mark.parametrize("fields", [AGIFORMER_TINY, {"preset": "small"}, {"preset": "medium"}])
def test_the_byte_llama_has_as_many_parameters(fields: dict[str, Any]) -> None:
    config = AgiformerConfig(**fields)
    assert byte_llama(config).num_parameters() == pytest.approx(AgiformerForCausalLM(config).num_parameters(), rel=0.05)
