#!/bin/bash
# Written by `agentforge deploy aj deploy`; change the recipe, not this.
# Once, where there is a network: make setup gguf-setup && agentforge download aj
# Then, from the project's directory: sbatch --time=24:00:00 deploy/slurm.sh   (and --partition, --account as your cluster asks)
#SBATCH --job-name=aj-deepseekr1qwen32b-v2-0-0
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=20
#SBATCH --gpus-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --open-mode=append
#SBATCH --output=runs/aj/slurm-%j.log
set -uo pipefail
step() {
  "$@" & child=$!
  # Slurm tells this shell alone; the stage gets it from here, once, saves and ends with 75.
  trap 'kill -TERM "$child"' TERM
  wait "$child"; code=$?
  trap '' TERM
  # A signal interrupts `wait`: the code is then the signal's, and the stage still at work.
  while kill -0 "$child" 2>/dev/null; do sleep 1; done
  wait "$child"; last=$?
  [ "$last" = 127 ] || code=$last
  [ "$code" != 75 ] || scontrol requeue "$SLURM_JOB_ID"
  [ "$code" = 0 ] || exit "$code"
}
step .venv/bin/agentforge prepare aj
step .venv/bin/agentforge train aj
step .venv/bin/agentforge evaluate aj --model base
step .venv/bin/agentforge merge aj
step .venv/bin/agentforge evaluate aj --model merged
step .venv/bin/agentforge gguf aj
step .venv/bin/agentforge evaluate aj --model q4km
