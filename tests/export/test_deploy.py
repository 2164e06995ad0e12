"""`deploy` for every shipped recipe: each command of its files is one that exists, of things that the recipe makes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer.main
import yaml

from agentforge.cli import app
from agentforge.cli.app import overrides
from agentforge.errors import CheckRefused, UserError
from agentforge.export.deploy import deploy, deployment
from agentforge.planning.container import PINS
from agentforge.recipe.loading import load_recipe, load_stages, recipe_names
from agentforge.recipe.schema import Recipe, Stage

ROOT = Path(__file__).parents[2]
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TASKS = {"skypilot.yaml", "slurm.sh", "train.Dockerfile"}
SERVERS = {"Dockerfile", "Modelfile", "llama-server.sh", "vllm.sh", "vllm-lora.sh"}


SYSTEMS = [name for name in recipe_names() if "/" not in name]


@pytest.mark.parametrize(
    ("name", "profile"), [*((name, None) for name in recipe_names()), *((name, "tiny") for name in SYSTEMS)]
)
def test_every_command_of_every_shipped_recipe_resolves(name: str, profile: str | None) -> None:
    recipe = load_recipe(name, profile=profile)
    made = deployment(name, "out", profile=profile)
    assert {*made.files, *made.refused} == {*TASKS, *SERVERS}
    assert all(reason and "\n" not in reason for reason in made.refused.values())
    planned = load_stages(recipe, profile=profile)
    for file, text in made.files.items():
        if file == "skypilot.yaml":
            resolve_task(name, profile, text, planned)
        elif file == "train.Dockerfile":
            resolve_train_image(recipe, text)
        elif file == "slurm.sh":  # tests/export/test_launch.py
            assert text.startswith("#!/bin/bash\n")
        elif file == "Dockerfile":
            resolve_dockerfile(recipe, profile, text)
        else:
            resolve_server(recipe, file, text)


def resolve_verb(words: list[str]) -> Recipe:
    """Parse a command line as `agentforge` would, and return its recipe."""
    verb = VERBS[words[0]]
    context = verb.make_context(words[0], words[1:])
    assert not [word for word in overrides(context) if "=" not in word]
    return load_recipe(context.params["recipe"], overrides(context), context.params["profile"])


def resolve_task(name: str, profile: str | None, text: str, planned: list[tuple[Stage, Recipe]]) -> None:
    task = yaml.safe_load(text)
    for step in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[step], text=True, check=True)
    targets = re.search(r"^make (.*)$", task["setup"], re.M)
    assert targets and all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M) for t in targets[1].split())
    lines = [line for line in task["run"].splitlines() if line.startswith(".venv/bin/")]
    assert all(line.split()[0] in (".venv/bin/agentforge", ".venv/bin/python") for line in lines)
    ran = []
    for line in lines:
        words = shlex.split(line)
        if words[0].endswith("python"):
            continue
        recipe = resolve_verb(words[1:])
        ran.append((words[1], recipe.name))
        assert Path(recipe.output_dir) == Path(planned[0][1].output_dir if planned else recipe.output_dir)
    assert [step for step in ran if step[0] != "download"] == [
        (stage.verb, recipe.name) for stage, recipe in planned if stage.verb != "download"
    ] or not planned
    assert "gguf" not in dict(ran) or "gguf-setup" in task["setup"]


def artifacts_of(recipe: Recipe) -> set[str]:
    """Return the paths that the verbs make of a recipe's own model."""
    suffixes = ["merged", "lora"] if recipe.train.lora is not None else ["model"]
    return {str(recipe.artifact(suffix)) for suffix in [*suffixes, *recipe.export.gguf]}


def resolve_dockerfile(recipe: Recipe, profile: str | None, text: str) -> None:
    assert "-p 127.0.0.1:8080:8080" in text
    (make,) = re.findall(r"^RUN make (.*)$", text, re.M)
    assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M) for t in make.split())
    command = json.loads(re.findall(r"^CMD (.*)$", text, re.M)[0])
    assert command[0] == "agentforge" and resolve_verb(command[1:]) == recipe
    model = command[command.index("--model") + 1]
    assert str(recipe.artifact(model)) in artifacts_of(recipe)
    assert model not in recipe.export.gguf or "gguf-setup" in make


def resolve_train_image(recipe: Recipe, text: str) -> None:
    run = next(line for line in text.splitlines() if line.startswith("# docker run"))
    assert resolve_verb(run.partition("agentforge-train agentforge ")[2].split()) == recipe
    assert f":/app/{recipe.output_dir}" in run
    assert json.loads(re.findall(r"^CMD (.*)$", text, re.M)[0]) == ["agentforge", "doctor", "--in-container"]
    for package in ("flash-attn", "mamba-ssm", "causal-conv1d"):
        assert f" {package}=={PINS[package]}" in text
    (make,) = re.findall(r"^RUN make (.*)$", text, re.M)
    assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M) for t in make.split())
    for copied in re.findall(r"--constraint (\S+)", text):
        assert (ROOT / copied).is_file()


def resolve_server(recipe: Recipe, file: str, text: str) -> None:
    quantized = recipe.artifact(recipe.export.gguf[-1])
    if file == "Modelfile":
        assert f"FROM ./{quantized.name}.gguf" in text
        return
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    words = shlex.split(text.partition("exec ")[2])
    assert words[words.index("--host") + 1] == "127.0.0.1"
    paths = [word.rpartition("=")[2] for word in words if word.rpartition("=")[2].startswith(recipe.output_dir + "/")]
    if file == "llama-server.sh":
        assert words[0] == "llama-server" and paths == [f"{quantized}/{quantized.name}.gguf"]
    else:
        assert words[:2] == ["vllm", "serve"]
        known = artifacts_of(recipe) | {f"{recipe.trained}/chat_template.jinja", str(recipe.model.path)}
        assert set(paths) <= known and (recipe.train.lora is not None or file == "vllm.sh")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("aj", {*TASKS, *SERVERS}),
        ("affine", {*TASKS, "Dockerfile", "vllm.sh", "vllm-lora.sh"}),  # no stage makes a GGUF
        ("affine/ppo", SERVERS),  # its base is another recipe's: an empty machine cannot begin with it
        ("adamba", TASKS),
        ("adamba/phase5", SERVERS - {"vllm-lora.sh"}),
        ("cognate", TASKS),
        ("cognate/trunk", TASKS),  # trained on documents, and no GGUF
        ("agiformer", TASKS),
    ],
)
def test_a_recipe_gets_what_it_can_do(name: str, written: set[str]) -> None:
    assert set(deployment(name, "out").files) == written


@pytest.mark.parametrize(
    ("name", "file", "reason"),
    [
        ("affine", "Modelfile", r"no stage of affine makes a GGUF; add `\{verb: gguf\}`"),
        ("adamba", "vllm.sh", "the stages of adamba train other recipes; to serve one, deploy it: adamba/phase1,"),
        ("adamba/phase5", "vllm-lora.sh", "trains all weights"),
        ("adamba/phase6", "skypilot.yaml", "model.path reads runs/adamba/.*, which other stages make"),
        ("cognate/trunk", "Dockerfile", "pretrain teaches documents"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(name: str, file: str, reason: str) -> None:
    assert re.search(reason, deployment(name, "out").refused[file])


def test_files_of_another_hand_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UserError, match=r"Dockerfile was not written by `agentforge deploy`; move it away"):
        deploy("aj", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"], "and nothing is half-written"


def test_another_recipes_files_do_not_stay(tmp_path: Path) -> None:
    deploy("aj", tmp_path)
    assert os.access(tmp_path / "vllm.sh", os.X_OK)
    deploy("cognate", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == TASKS


def test_profile_overrides_and_host_stand_in_the_files() -> None:
    made = deployment("aj", "out", ["train.lora.r=100"], "rtx4090", host="0.0.0.0").files
    assert "agentforge deploy aj out --profile rtx4090 train.lora.r=100 --host 0.0.0.0" in made["vllm.sh"]
    assert "--max-lora-rank 128" in made["vllm-lora.sh"].replace(" \\\n", "")
    assert "agentforge train aj --profile rtx4090 train.lora.r=100\n" in made["skypilot.yaml"]
    assert "accelerators: " in made["skypilot.yaml"]
    on_cpus = deployment("aj", "out", [], "tiny").files["skypilot.yaml"]
    assert "cpus:" in on_cpus and "accelerators" not in on_cpus
    assert "-p 0.0.0.0:8080:8080" in made["Dockerfile"] and "--host 0.0.0.0" in made["llama-server.sh"]


def test_nothing_to_deploy_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckRefused, match=r"^there is nothing to deploy of aj/base: aj/base has no model"):
        deploy("aj/base", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--host is 'a b'"):
        deploy("aj", tmp_path / "out", host="a b")


@pytest.mark.fault("the machine is taken away", "bucket, while checkpoints come and go", "the newest two are in it")
def test_the_skypilot_task_saves_while_checkpoints_come_and_go(tmp_path: Path) -> None:
    """The run script for real, with a training that writes and prunes checkpoints while copies are made.

    The first copy fails as rsync does when a file vanishes, and the second is killed: the loop goes on.
    """
    run = yaml.safe_load(deployment("cognate/trunk", "out").files["skypilot.yaml"])["run"]
    for line in [line for line in run.splitlines() if line.startswith(".venv/bin/agentforge")]:
        run = run.replace(line + "\n", ".venv/bin/agentforge\n" if " train " in line else "")
    run = run.replace("/bucket/", f"{tmp_path}/bucket/").replace("sleep 300", "sleep 0.1")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f"""#!/bin/sh
if [ "$3" = save ]; then
  echo >> {tmp_path}/copies
  case $(wc -l < {tmp_path}/copies) in 1) exit 24;; 2) kill -9 $$;; esac
fi
exec {sys.executable} "$@"
""")
    python.chmod(0o755)
    training = tmp_path / ".venv" / "bin" / "agentforge"
    training.write_text(f"""#!/bin/sh
exec {sys.executable} -c '
import shutil, time
from pathlib import Path
from agentforge.trainers.checkpoints import seal
place = Path("runs/cognate/.Cognate-v1.0.0-model.partial")
place.mkdir(parents=True, exist_ok=True)
place.with_name(place.name + ".json").write_text("{{}}")
began = max([int(c.name[11:]) for c in place.glob("checkpoint-*")], default=0)
for step in range(began + 1, began + 41):
    new = place / f"checkpoint-{{step}}"
    new.mkdir()
    for name in "ab":
        (new / name).write_bytes(bytes(200_000))
    seal(new, world_size=1)
    shutil.rmtree(place / f"checkpoint-{{step - 2}}", ignore_errors=True)
    time.sleep(0.15)
raise SystemExit(1)
'
""")
    training.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    bucket = tmp_path / "bucket" / "runs" / "cognate" / ".Cognate-v1.0.0-model.partial"
    task = subprocess.Popen(["bash", "-c", run], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(bucket.glob("checkpoint-*/complete.json")) and time.monotonic() < until:
        time.sleep(0.1)
    saved = max(int(c.name[11:]) for c in bucket.glob("checkpoint-*"))
    assert saved < 40, "while it ran, and not only at its end"
    task.wait(100)
    assert task.returncode == 1, "a training that failed has not succeeded"
    assert (tmp_path / "copies").read_text().count("\n") > 3
    assert {c.parent.name for c in bucket.glob("checkpoint-*/complete.json")} == {"checkpoint-39", "checkpoint-40"}


def test_the_image_gets_no_secrets_and_no_results() -> None:
    patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]

    def ignored(path: str) -> bool:
        parts = path.split("/")
        heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        return any(
            fnmatch(head, p) or (p.startswith("**/") and fnmatch(head.rpartition("/")[2], p[3:]))
            for p in patterns
            for head in heads
        )

    for path in (
        ".git/HEAD",
        ".env",
        "a/.env",
        ".env.local",
        ".venv/bin/x",
        "runs/aj/x",
        "wandb/run",
        "x/__pycache__/y",
    ):
        assert ignored(path), path
    for line in (ROOT / ".gitignore").read_text().split():
        assert ignored(line.rstrip("/").replace("*", "x")), line
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert [path for path in tracked if ignored(path)] == []
