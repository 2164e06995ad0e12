"""A system of another distribution, installed by an entry point, runs through all stages; no file here knows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agentforge.artifacts import read_manifest

TOY = Path(__file__).parent / "toy"
MODEL = Path("runs/Toy-v0.1.0-model")
RECIPE = {
    "name": "Toy",
    "model": {"config": {"model_type": "toy_gru", "hidden_size": 16}, "dtype": "float32", "tokenizer": "toy_bytes"},
    "data": {
        "max_length": 32,
        "eval_fraction": 0.2,
        "overflow": "split",
        "workers": 1,
        "minhash": {"enabled": False},
        "filters": {"max_ngram_repetition": 1.0},
        "mix": [{"dataset": "letters.jsonl"}, {"dataset": "digits.jsonl"}],
        "then": "digits.jsonl",
    },
    "train": {
        "method": "pretrain",
        "optimizer": {"name": "signum", "options": {"momentum": 0.8}},
        "ema": 0.9,
        "echo": {"weight": 0.5},
        "args": {"max_steps": 16, "save_steps": 4, "logging_steps": 1, "learning_rate": 0.01, "bf16": False,
                 "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    },
    "evaluate": {"bits": {"rows": 8}, "loss": {"rows": 8}},
    "stages": [{"verb": "train"}],
}  # fmt: skip

pytestmark = pytest.mark.end_to_end


def environment(site: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[2])])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def agentforge(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentforge", *words],
        cwd=project,
        env=environment(project / "site"),
        capture_output=True,
        text=True,
        timeout=200,
    )


def install(site: Path) -> None:
    """Do what pip would: the package, and a dist-info with its entry point."""
    shutil.copytree(TOY, site, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "toy_bytes-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-bytes\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[agentforge.systems]\ntoy = toy_bytes:SYSTEM\n")


def make_project(directory: Path) -> Path:
    directory.mkdir(parents=True)
    install(directory / "site")
    for name, alphabet in (("letters", "abcdefghij"), ("digits", "0123456789")):
        texts = [{"text": "".join(alphabet[(row * 7 + place) % 10] for place in range(60 + row))} for row in range(40)]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (directory / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    return directory


def ok(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the toy has been prepared and trained without a disturbance."""
    made = make_project(tmp_path_factory.mktemp("toy") / "project")
    ok(agentforge(made, "prepare", "toy.yaml"))
    ok(agentforge(made, "train", "toy.yaml"))
    return made


def test_it_is_planned_and_trained_with_all_that_is_its_own(project: Path) -> None:
    # embedding and head 2 x 258 x 16 + 258, the GRU 2 x 3 x (16 x 16 + 16)
    assert "10,146" in ok(agentforge(project, "plan", "toy.yaml"))
    metrics = read_manifest(project / MODEL)["metrics"]
    assert metrics["parameters"] == 10_146
    assert set(metrics["parts"]) == {"loss/next", "loss/echo"}
    assert metrics["echo_steps"] == 16
    assert json.loads((project / MODEL / "echo.json").read_text()) == {"weight": 0.5}
    lines = [json.loads(line) for line in (project / MODEL / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss/echo" in line]
    assert [line["loss"] for line in logged] == pytest.approx(
        [line["loss/next"] + 0.5 * line["loss/echo"] for line in logged], rel=1e-4
    )


def test_killed_and_run_again_it_has_the_same_bytes(project: Path, tmp_path: Path) -> None:
    again = make_project(tmp_path / "project")
    shutil.copytree(project / "runs/Toy-v0.1.0-data", again / "runs/Toy-v0.1.0-data")
    command = [sys.executable, "-m", "agentforge", "train", "toy.yaml"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, cwd=again, env=environment(again / "site"), start_new_session=True, **quiet)
    deadline = time.monotonic() + 120
    while not list(again.glob("runs/.*/checkpoint-*/complete.json")) and time.monotonic() < deadline:
        assert running.poll() is None, "it ended before its first checkpoint was seen"
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    said = agentforge(again, "train", "toy.yaml")
    ok(said)
    assert "continuing from checkpoint-" in said.stderr
    both = [read_manifest(place / MODEL)["files"]["model.safetensors"] for place in (project, again)]
    assert both[0] == both[1]


def test_it_is_evaluated_and_reported(project: Path) -> None:
    shown = ok(agentforge(project, "evaluate", "toy.yaml"))
    assert "bits a byte, chance 8" in shown.replace("\n", " ")
    scores = json.loads((project / "runs/Toy-v0.1.0-eval-model/scores.json").read_text())
    figure = scores["own"]["bits"]["figures"]["bits"]
    assert 0 < figure["low"] < figure["value"] < figure["high"] < 8.5
    assert scores["losses"]["widths"]["1"]["bits_per_byte"], "its tokenizer counts its own bytes"
    ok(agentforge(project, "report", "toy.yaml"))
    assert "bits a byte on held-out rows" in (project / "runs/Toy-v0.1.0-report/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["gguf", "toy.yaml"], 3, "GGUF has no way to say a GRU over bytes"),
        (["show", "toy.yaml", "train.optimizer.name=signun"], 2, "did you mean 'signum'"),
        (["show", "toy.yaml", "train.ecko.weight=1"], 2, "did you mean 'train.echo'"),
        (["train", "toy.yaml", "data.then=words.jsonl", "--replace"], 2, "wants rows of 'words.jsonl'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(project: Path, words: list[str], code: int, said: str) -> None:
    run = agentforge(project, *words)
    assert (run.returncode, said in run.stderr, "Traceback" in run.stderr) == (code, True, False), run.stderr
