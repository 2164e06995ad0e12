"""A Slurm job that makes a recipe's model on a cluster's node, and goes on after it was stopped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from agentforge.export.skypilot import PORT, commands, is_training, setup_targets, task_name
from agentforge.recipe.hardware import Hardware, load_hardware
from agentforge.recipe.loading import Options
from agentforge.recipe.schema import Recipe, Stage
from agentforge.stopping import EXIT_CODE

WARNING = 300  # seconds before the end of its time at which the job is told; a checkpoint is saved in less


def slurm(file: str, name: str, recipe: Recipe, planned: Sequence[tuple[Stage, Recipe]], options: Options) -> str:
    """Return a job for `sbatch`, from the project's directory on a disk that outlives the job.

    Before its time is over, Slurm signals the job; the stage at work stops in order and the job is queued again. So is
    one whose node fails, or that the watchdog has ended.

    Args:
        file: where it will lie, for its first line.
        name: how the recipe is called.
        recipe: names the job and the machine.
        planned: the stages, each with the recipe that it reads.
        options: profile and overrides, for each command.
    """
    hardware = load_hardware(recipe.hardware)
    gpus = f"#SBATCH --gpus-per-node={hardware.gpus // hardware.nodes}\n" if hardware.gpus else ""
    lines = commands(name, planned, options)
    # Compute nodes often have no network: what is downloaded is downloaded where the job is submitted.
    first = {stage.recipe or name: stage for stage, _ in planned if stage.verb in ("prepare", "download")}
    download = " && ".join(
        shlex.join(["agentforge", "download", each, *options.words(stage)]) for each, stage in first.items()
    )
    run = "\n".join(f"step {_on_nodes(line, hardware)}" for line in lines if " download " not in line)
    return f"""#!/bin/bash
# Once, where there is a network: make {setup_targets(planned)}{f" && {download}" if download else ""}
# Then, from the project's directory: sbatch --time=24:00:00 {file}   (and --partition, --account as your cluster asks)
#SBATCH --job-name={task_name(recipe)}
#SBATCH --nodes={hardware.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={hardware.cores}
{gpus}#SBATCH --requeue
#SBATCH --signal=B:TERM@{WARNING}
#SBATCH --open-mode=append
#SBATCH --output={recipe.output_dir}/slurm-%j.log
set -uo pipefail
step() {{
  "$@" & child=$!
  # Slurm tells this shell alone; the stage gets it from here, once, saves and ends with {EXIT_CODE}.
  trap 'kill -TERM "$child"' TERM
  wait "$child"; code=$?
  trap '' TERM
  # A signal interrupts `wait`: the code is then the signal's, and the stage still at work.
  while kill -0 "$child" 2>/dev/null; do sleep 1; done
  wait "$child"; last=$?
  [ "$last" = 127 ] || code=$last
  [ "$code" != {EXIT_CODE} ] || scontrol requeue "$SLURM_JOB_ID"
  [ "$code" = 0 ] || exit "$code"
}}
{run}
"""


def _on_nodes(line: str, hardware: Hardware) -> str:
    """Return a stage's command: a training on all nodes, everything else on the first."""
    if hardware.nodes == 1 or not is_training(line):
        return line
    # Each node starts its own processes; they meet at the first one, where this script runs.
    own = f'exec {line} --node-rank "$SLURM_NODEID" --rendezvous "$1:{PORT}"'
    return f'srun --kill-on-bad-exit=1 bash -c {shlex.quote(own)} - "$(hostname)"'
