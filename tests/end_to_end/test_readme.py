"""README's commands, run through the Makefile in a directory that holds what a clone holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentforge.artifacts import read_manifest
from tests.end_to_end.conftest import REPOSITORY, environment

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
# the demo in a minute: the same stages over the same code, with a base that has learnt nothing
SHRINK = (
    "train.args.max_steps=12 train.args.save_steps=6 train.args.eval_steps=6 "
    "evaluate.tool_calls.limit=12 evaluate.tool_calls.prompts=data/aj/heldout/files.jsonl"
)
# Fewer tasks and steps; one rollout of PPO and of GRPO.
SHRINK_AFFINE = (
    "collect.episodes=12 train.args.max_steps=4 train.args.save_steps=4 evaluate.environments.tasks=4 "
    "train.args.logging_steps=1"
)

pytestmark = pytest.mark.end_to_end


def commands(text: str) -> list[str]:
    """The lines of every bash block, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Makefile and what it names, with this environment as its .venv."""
    directory = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "constraints", "pyproject.toml", "data", "configs"):
        (directory / name).symlink_to(REPOSITORY / name)
    venv = directory / ".venv"
    venv.symlink_to(sys.prefix)
    if not (venv / "bin" / "agentforge").exists():
        pytest.skip("agentforge is not installed in an environment of its own (make setup)")
    (venv / ".ready").touch()
    return directory


def run(directory: Path, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, shell=True, cwd=directory, env=environment(), capture_output=True, text=True, timeout=280
    )


@pytest.mark.gguf
def test_make_demo_goes_from_text_to_a_chat_with_a_gguf(clone: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make gguf-setup)")
    assert "make demo" in commands(README)
    demo = run(clone, f'make demo-aj ARGS="{SHRINK}"')
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    made = {path.name for path in (clone / "runs/aj").iterdir() if not path.name.startswith(".")}
    tiny = "AJ-Tiny-v2.0.0"
    for artifact in ("data", "lora", "merged", "q8", "q4km", "eval-base", "eval-lora", "eval-q8", "eval-q4km"):
        assert f"{tiny}-{artifact}" in made
    finished = {name: read_manifest(clone / "runs/aj" / name)["finished"] for name in made}
    again = run(clone, f'make demo-aj ARGS="{SHRINK}"')
    assert again.returncode == 0
    assert finished == {name: read_manifest(clone / "runs/aj" / name)["finished"] for name in made}


def test_make_demo_goes_from_experts_to_rl_and_a_page(clone: Path) -> None:
    demo = run(clone, f'make demo-affine ARGS="{SHRINK_AFFINE}"')
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    made = {path.name for path in (clone / "runs/affine").iterdir() if not path.name.startswith(".")}
    for artifact in (
        "SFT-v1.0.0-eval-base",
        "SFT-v1.0.0-eval-merged",
        "PPO-v1.0.0-eval-model",
        "GRPO-v1.0.0-eval-model",
    ):
        assert f"Affine-Tiny-{artifact}" in made
    assert "frontier" in demo.stdout and (clone / "runs/affine/Affine-Tiny-SFT-v1.0.0-report/report.html").is_file()
    both = run(clone, "make --dry-run demo").stdout
    assert "run aj --profile tiny" in both and "run affine --profile tiny" in both


def test_every_other_command_of_the_readme_runs(clone: Path) -> None:
    others = [line for line in commands(README) if line.split()[:2] not in (["make", "demo"], ["make", "test"])]
    for line in others:
        if line.startswith(("git clone", "cd ")):
            continue
        done = run(clone, f'PATH=".venv/bin:$PATH" {line}')
        assert done.returncode in (0, 3), f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"  # 3: refused here
    targets = set(re.findall(r"`make ([a-z0-9-]+)`", README)) | {
        line.split()[1] for line in others if line.startswith("make ")
    }
    offered = run(clone, "make help").stdout
    for target in targets:
        assert re.search(rf"^\s+{target}\s", offered, flags=re.M), f"README names make {target}, make help does not"


def test_make_help_names_every_workflow_with_one_line(clone: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"\.PHONY: (.*?)\n\n", makefile, flags=re.S)
    assert phony
    listed = run(clone, "make help").stdout
    for target in phony.group(1).replace("\\", " ").split():
        assert re.search(rf"^\s+{target}\s+\S", listed, flags=re.M), target
