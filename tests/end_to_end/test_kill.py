"""kill -9 at random moments: running the same command again finishes, and the result is the one of an undisturbed run.

AGENTFORGE_KILLS sets how many moments are tried per stage; the default keeps the suite short.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from tests.end_to_end.conftest import agentforge, command, environment, make_project

KILLS = int(os.environ.get("AGENTFORGE_KILLS", "2"))
# Verb: the rest of its command, and what it makes.
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "prepare": (["micro.yaml"], ["Micro-v1.0.0-data"]),
    "train": (["micro.yaml"], ["Micro-v1.0.0-lora"]),
    "merge": (["micro.yaml"], ["Micro-v1.0.0-merged"]),
    "gguf": (["micro.yaml"], ["Micro-v1.0.0-q8", "Micro-v1.0.0-q4km"]),
    "evaluate": (["micro.yaml", "--model", "lora"], ["Micro-v1.0.0-eval-lora"]),
    "collect": (["micro_collect.yaml"], ["MicroCollect-v1.0.0-episodes"]),
    "surgery": (["micro_graft.yaml"], ["MicroGraft-v1.0.0-grafted"]),
}
IMPORTS = 6.0  # seconds, before a stage begins
# Not for every commit: what they share with those above is most of them.
RARE = {"evaluate", "collect", "surgery"}

pytestmark = pytest.mark.end_to_end


def stages() -> list[Any]:
    rare = pytest.mark.skipif("AGENTFORGE_KILLS" not in os.environ, reason="set AGENTFORGE_KILLS=1 (make faults does)")
    marks = {"gguf": [pytest.mark.gguf]} | {verb: [rare] for verb in RARE}
    return [
        pytest.param(
            verb,
            marks=[
                *marks.get(verb, []),
                pytest.mark.fault(
                    "kill -9", f"{verb}, at random moments", "the same bytes as undisturbed", times=KILLS
                ),
            ],
        )
        for verb in STAGES
    ]


@pytest.mark.timeout(900 * KILLS)
@pytest.mark.parametrize("verb", stages())
def test_a_killed_stage_run_again_gives_the_same_bytes(
    verb: str, finished: Path, tmp_path: Path, write_llama: Callable[[Path], None]
) -> None:
    if verb == "gguf":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make gguf-setup)")
    words, made = STAGES[verb]
    project = with_inputs_of(verb, finished, tmp_path / "project")
    for place in (finished, project) if verb == "surgery" else ():
        write_llama(place / "llama")
    if not (finished / "runs/micro" / made[0]).is_dir():
        agentforge(finished, verb, *words)
    moments = random.Random(f"{verb} 1")
    longest = IMPORTS + sum(read_manifest(finished / "runs/micro" / name)["seconds"] for name in made)
    for _ in range(KILLS):
        kill_after(
            project, [verb, *words], moments.uniform(0.5, 1.0) * longest if KILLS == 1 else moments.uniform(0, longest)
        )
        for name in made:  # complete or not at all
            target = project / "runs/micro" / name
            assert not target.exists() or read_manifest(target)["files"]
    agentforge(project, verb, *words)
    for name in made:
        again, once = (read_manifest(place / "runs/micro" / name) for place in (project, finished))
        assert comparable(again["files"]) == comparable(once["files"])
        assert scores(project / "runs/micro" / name) == scores(finished / "runs/micro" / name)
        assert not list((project / "runs/micro").glob(f".{name}*"))


@pytest.fixture(scope="session")
def write_llama() -> Callable[[Path], None]:
    """Write the same small random Llama, without its tokenizer, which surgery does not need."""

    def write(directory: Path) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        if not directory.is_dir():
            LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(directory)

    return write


def with_inputs_of(verb: str, finished: Path, project: Path) -> Path:
    """A project in which everything before ``verb`` is done."""
    make_project(project)
    order = list(STAGES)
    earlier = [name for before in order[: order.index(verb)] for name in STAGES[before][1]]
    for name in ["MicroBase-v1.0.0-data", "MicroBase-v1.0.0-model", *earlier]:
        if (finished / "runs/micro" / name).is_dir():
            shutil.copytree(finished / "runs/micro" / name, project / "runs/micro" / name)
    return project


def kill_after(project: Path, words: list[str], seconds: float) -> None:
    process = subprocess.Popen(
        command(*words),
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def comparable(files: dict[str, str]) -> dict[str, str]:
    """Everything but the records of times (seconds and tokens per second)."""
    times = {"metrics.jsonl", "training.json", "episodes.parquet", "scores.json"}
    return {path: digest for path, digest in files.items() if Path(path).name not in times}


def scores(directory: Path) -> dict[str, Any]:
    """What an evaluation found, without how fast."""
    file = directory / "scores.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    return {key: value for key, value in found.items() if key not in ("seconds", "tokens_per_second")}
