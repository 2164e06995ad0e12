"""One process or many: who writes, what the others are told, and whether the launcher did what it was asked."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.schema import Recipe

log = logging.getLogger(__name__)


def main_rank() -> bool:
    """Tell whether this process is the one that writes (torchrun's and accelerate's ``RANK`` 0)."""
    return int(os.environ.get("RANK", "0")) == 0


def share(value: Any) -> Any:
    """Return what the main process passed, on every process."""
    if not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def check_launch(recipe: Recipe, args: TrainingArguments) -> None:
    """Refuse a run whose processes are not those that the recipe or the launcher speaks of.

    Two launch modes lie: ``accelerate launch --cpu --num_processes 2`` starts one process, and FSDP 2 without a GPU is
    plain DDP.

    Raises:
        CheckRefused: with the command that does it right.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if args.world_size == 1 and _accelerate_asked_for_more():
        raise CheckRefused(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; use torchrun "
            "--nproc_per_node N -m agentforge train ..."
        )
    if args.world_size != asked:
        raise CheckRefused(f"the launcher asked for {asked} processes, but {args.world_size} take part; use torchrun")
    gpus = load_hardware(recipe.hardware).gpus
    if args.n_gpu > 1 or (gpus and torch.cuda.is_available() and gpus != args.world_size):
        raise CheckRefused(
            f"hardware is {recipe.hardware}, but {args.world_size} process(es) see {args.n_gpu} GPU(s) each; start one "
            f"a GPU (accelerate launch --num_processes {gpus or args.n_gpu} -m agentforge train ...) or choose another "
            "profile"
        )
    effective = args.distributed_state.distributed_type
    wanted = {"ACCELERATE_USE_FSDP": DistributedType.FSDP, "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED}
    for variable, asked_for in wanted.items():
        if os.environ.get(variable, "false").lower() == "true" and effective != asked_for:
            raise CheckRefused(
                f"the launcher asked for {asked_for.value}, but the run would be {effective.value}: "
                f"{asked_for.value} needs CUDA GPUs; launch without it"
            )
    check_trackers(args)
    log.info("%d process(es) on %s", args.world_size, args.device)


def check_trackers(args: TrainingArguments) -> None:
    """Refuse a tracker of `report_to` that cannot be used here, before the model is loaded and the rows are packed.

    Raises:
        UserError: with what the tracker's own callback says: the command that installs it.
    """
    for name in args.report_to or ():
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError, ValueError) as error:
            raise UserError(f"train.args.report_to: {name} cannot be used here: {error}") from error


def _accelerate_asked_for_more() -> bool:
    """Tell whether accelerate's launcher for one process was asked for more than one.

    It does not pass the number on. It does set the address at which several processes would meet, and then starts no
    second one and gives nobody a rank (`accelerate.utils.launch.prepare_simple_launcher_cmd_env`, 1.15).
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    return launched and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
