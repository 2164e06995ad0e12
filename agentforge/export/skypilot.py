"""A SkyPilot task that makes a recipe's model on rented machines, and survives that they are taken away.

Several nodes work in one directory, the first one's, which the others mount over NFS: a bucket renames no directory and
locks no file. Each node runs the same script and learns from SkyPilot which one it is.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence

from agentforge.errors import UserError
from agentforge.recipe.hardware import Hardware, load_hardware
from agentforge.recipe.loading import Options
from agentforge.recipe.schema import Recipe, Stage
from agentforge.recipe.stages import stages_of
from agentforge.stopping import EXIT_CODE

SAVE_EVERY = 300  # seconds
SAVE_AT_MOST = 3600  # seconds; a bucket that hangs must not hold a paid machine for ever
BIN = ".venv/bin"
PORT = 29500  # of the first training at which several nodes meet; each later one has the next
MOUNT_TRIES = 60  # ten seconds apart
WHOLE_NODE = 8  # GPUs of a node that clouds also rent with a fast network
CLOUD_GPUS = {"H100", "H200", "RTX4090"}  # what SkyPilot's catalogue has of configs/hardware


def steps(recipe: Recipe) -> list[Stage]:
    """Return what makes a recipe's model: its stages, or, where it declares none, the verbs that it needs.

    Raises:
        UserError: it cannot begin on an empty machine: what it reads is made by another recipe.
    """
    if recipe.stages:
        return list(recipe.stages)
    read = [("model.path", recipe.model.path or ""), *(("train.episodes", path) for path in recipe.train.episodes)]
    read += [("data.mix", source.dataset) for source in recipe.data.mix]
    for key, path in read:
        if path.startswith(f"{recipe.output_dir}/"):
            raise UserError(f"{key} reads {path}, which other stages make; deploy the recipe that lists them")
    usual = [stage for stage in stages_of(recipe) if stage.verb not in ("download", "evaluate")]
    return [Stage(verb="download"), *usual]


def with_downloads(planned: Sequence[tuple[Stage, Recipe]]) -> list[tuple[Stage, Recipe]]:
    """Return the stages with a download before each that reads from the Hub: an empty machine has nothing."""
    fetched = {stage.recipe for stage, _ in planned if stage.verb == "download"}
    found: list[tuple[Stage, Recipe]] = []
    for stage, recipe in planned:
        local = (recipe.model.path or "").startswith(f"{recipe.output_dir}/")
        if (stage.verb == "prepare" or (stage.verb == "surgery" and not local)) and stage.recipe not in fetched:
            found.append((Stage(verb="download", recipe=stage.recipe), recipe))
            fetched.add(stage.recipe)
        found.append((stage, recipe))
    return found


def commands(name: str, planned: Sequence[tuple[Stage, Recipe]], options: Options) -> list[str]:
    """Return a command for each stage.

    Args:
        name: how the recipe that lists the stages is called.
        planned: the stages, each with the recipe that it reads.
        options: profile and overrides, for each of them.
    """
    return [shlex.join(_command(name, stage, options)) for stage, _ in planned]


def _command(name: str, stage: Stage, options: Options) -> list[str]:
    model = ["--model", stage.model] if stage.model else []
    return [f"{BIN}/agentforge", stage.verb, stage.recipe or name, *model, *options.words(stage)]


def skypilot(
    file: str,
    name: str,
    recipe: Recipe,
    planned: Sequence[tuple[Stage, Recipe]],
    options: Options,
    spot: bool = True,
) -> str:
    """Return the task.

    The work is done on the machine's own disk and copied to the bucket, because artefacts appear by renaming
    directories, which object stores cannot.

    Args:
        file: where it will lie, for its first line.
        name: how the recipe is called.
        recipe: names the task, the machine and the directory of the artefacts.
        planned: the stages, each with the recipe that it reads.
        options: profile and overrides, for each command.
        spot: rent machines that may be taken away, at the lower price; else machines that stay.

    Raises:
        UserError: SkyPilot rents no such machine.
    """
    hardware = load_hardware(recipe.hardware)
    resources = _indented(_resources(hardware, spot))
    runs = shlex.quote(recipe.output_dir)
    lines = commands(name, with_downloads(planned), options)
    several = hardware.nodes > 1
    install = "sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nfs-kernel-server"
    setup = _indented([*([install] if several else []), f"make {setup_targets(planned)}"])
    joined = f"\n{_indented(_joining(lines, runs))}" if several else ""
    return f"""# From the project's directory: sky jobs launch {file} --secret HF_TOKEN
name: {task_name(recipe)}
{f"num_nodes: {hardware.nodes}{chr(10)}" if several else ""}resources:
{resources}
workdir: .
secrets:
  HF_TOKEN: null
file_mounts:
  /bucket:
    name: agentforge-{task_name(recipe)}
    mode: MOUNT_CACHED
setup: |
  set -euo pipefail
{setup}
run: |
  set -euo pipefail{joined}
  # What a preempted machine left. A training goes on from its newest sealed checkpoint.
  {BIN}/python -m agentforge.export.bucket restore /bucket/{runs} {runs}
  # What fails is tried again by the next one.
  keep() {{ timeout {SAVE_AT_MOST} {BIN}/python -m agentforge.export.bucket save {runs} /bucket/{runs} || true; }}
  (while true; do sleep {SAVE_EVERY}; keep; done) &
  loop=$!
  trap 'kill "$loop"; wait "$loop" || true; keep' EXIT
{_indented(_meeting(lines) if several else lines)}
"""


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def is_training(line: str) -> bool:
    """Tell whether a command is one that all nodes run together."""
    return shlex.split(line)[1] == "train"


def _meeting(lines: Sequence[str]) -> list[str]:
    """Return the first node's commands: its trainings meet those of the others, each at a port of its own."""
    ports = itertools.count(PORT)
    return [
        f'{line} --node-rank 0 --rendezvous "$first:{next(ports)}"' if is_training(line) else line for line in lines
    ]


def _joining(lines: Sequence[str], runs: str) -> list[str]:
    """Return how nodes come to share a directory, and what all but the first do in it: train along."""
    trainings = [line for line in lines if is_training(line)]
    return [
        'first=$(head -n 1 <<< "$SKYPILOT_NODE_IPS")',
        f"mkdir -p {runs}",
        f"shared=$(cd {runs} && pwd)",
        "# What the first one downloads, the others read there.",
        'export HF_HOME="$shared/.huggingface"',
        'if [ "$SKYPILOT_NODE_RANK" != 0 ]; then',
        f"  for try in $(seq {MOUNT_TRIES}); do",
        '    ! mountpoint -q "$shared" || break',
        '    sudo mount -t nfs -o actimeo=3 "$first:$shared" "$shared" || sleep 10',
        "  done",
        '  mountpoint "$shared"',
        "  # The first one opens a training's port when it has come to it.",
        "  join() {",
        '    until (: > "/dev/tcp/$first/$1") 2> /dev/null; do sleep 5; done',
        '    "${@:2}" --node-rank "$SKYPILOT_NODE_RANK" --rendezvous "$first:$1"',
        "  }",
        *(f"  join {port} {line}" for port, line in enumerate(trainings, PORT)),
        "  exit 0",
        "fi",
        'for node in $SKYPILOT_NODE_IPS; do sudo exportfs -o rw,no_subtree_check,no_root_squash "$node:$shared"; done',
    ]


def task_name(recipe: Recipe) -> str:
    """Return the name of a recipe as clouds and schedulers take it: lower case, digits and hyphens."""
    return recipe.full_name.lower().replace(".", "-").replace("_", "-")


def setup_targets(planned: Sequence[tuple[Stage, Recipe]]) -> str:
    """Return the Makefile's targets that install what the stages need."""
    return "setup gguf-setup" if any(stage.verb == "gguf" for stage, _ in planned) else "setup"


def _resources(hardware: Hardware, spot: bool) -> list[str]:
    disk = f"disk_size: {hardware.disk_gib:.0f}"
    # A machine that is taken away is always replaced. A run that the watchdog or a signal has ended goes on, too; one
    # that was refused (exit codes 1 to 3) would only be refused again.
    terms = [f"use_spot: {str(spot).lower()}", "job_recovery:", f"  recover_on_exit_codes: [{EXIT_CODE}]"]
    if not hardware.gpus:
        return [f"cpus: {hardware.cores}+", disk, *terms]
    gpu = (hardware.gpu or "").replace(" ", "")
    if gpu not in CLOUD_GPUS:
        raise UserError(f"hardware is {hardware.name}, and SkyPilot rents no {hardware.gpu}; choose another profile")
    each = hardware.gpus // hardware.nodes
    network = ["network_tier: best"] if hardware.nodes > 1 and each == WHOLE_NODE else []
    return [f"accelerators: {gpu}:{each}", *network, disk, *terms]
