"""One process or many: who writes, what the others are told, and whether the launcher did what it was asked."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from agentforge.errors import CheckRefused, UserError
from agentforge.planning.launch import strategy_here
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.launch import CALLED, DIVIDED, OURS, Strategy, launched_strategy
from agentforge.recipe.schema import Recipe

log = logging.getLogger(__name__)

SEEN_WITHIN = 30.0  # seconds in which a network's file system shows a new file on all nodes

# Sharded layer by layer; `save_model` writes a plain checkpoint only from full state dicts. The first process alone
# reads the weights into memory, and sends the others their parts.
FSDP2 = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
    "cpu_ram_efficient_loading": True,
}
VARIABLES = (
    *("ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_DEEPSPEED"),
    OURS,
)
# `auto`: transformers fills in what `train.args` says.
ZERO: dict[str, Any] = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "gradient_clipping": "auto",
    "gradient_accumulation_steps": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "zero_allow_untested_optimizer": True,  # transformers makes the optimiser, also 8-bit ones
}


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


def wanted_strategy(recipe: Recipe) -> Strategy:
    """Return what the processes of this training shall share, once a launcher has started them.

    Raises:
        UserError: the recipe forbids it, or a library is missing.
    """
    strategy = strategy_here(recipe)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return "none"
    if strategy == "none" and recipe.train.launch == "none":
        raise UserError("train.launch is none, but a launcher has started several processes; leave out one of them")
    if strategy in ("zero2", "zero3") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"train.launch: {CALLED[strategy]} needs DeepSpeed; pip install agentforge-train[deepspeed], or set fsdp2"
        )
    return "ddp" if strategy == "none" else strategy


def strategy_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of `TrainingArguments` that make the processes share what they shall.

    To be called once, before a model is made: DeepSpeed and FSDP change how weights are loaded.

    Raises:
        UserError: as in `wanted_strategy`.
    """
    strategy = wanted_strategy(recipe)
    if launched_strategy() is not None:  # accelerate's launcher has said it by variables
        return {}
    for name in VARIABLES:  # of a training that this process has made before
        os.environ.pop(name, None)
    if strategy not in DIVIDED:
        return {}
    os.environ[OURS] = strategy
    if strategy == "fsdp2":
        # transformers asks these while it loads weights, long before the Trainer makes accelerate's plugin
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
        return {"fsdp": True, "fsdp_config": dict(FSDP2)}
    if not torch.cuda.is_available():
        import deepspeed

        # else it looks for a GPU's backend as soon as weights are loaded in parts
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    stage = 3 if strategy == "zero3" else 2
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # else no process has the whole model to save
    return {"deepspeed": ZERO | {"zero_optimization": zero}}


def effective_strategy(trainer: Trainer) -> Strategy:
    """Return what the processes of a trainer really share."""
    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return "zero3" if accelerator.state.deepspeed_plugin.zero_stage == 3 else "zero2"
    if accelerator.distributed_type == DistributedType.FSDP:
        return "fsdp2"
    return "ddp" if accelerator.num_processes > 1 else "none"


class StrategyCheck(TrainerCallback):
    """Refuses a training whose processes share something else than they were asked to: some launches lie."""

    def __init__(self, trainer: Trainer, wanted: Strategy) -> None:
        """Check what accelerate has made of it.

        Raises:
            CheckRefused: it is something else.
        """
        self._trainer, self._wanted = trainer, wanted
        if (found := effective_strategy(trainer)) != wanted:
            raise CheckRefused(
                f"the run was to train with {CALLED[wanted]}, but it would be {CALLED[found]}; see train.launch"
            )
        if wanted == "fsdp2" and "FULL" not in str(trainer.accelerator.state.fsdp_plugin.state_dict_type):
            raise CheckRefused(
                "the accelerate file's fsdp_state_dict_type leaves no process the whole model to save; set it to "
                "FULL_STATE_DICT"
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the wrapped model itself.

        Raises:
            CheckRefused: it is not what it was to be.
        """
        model = self._trainer.model_wrapped
        there = {
            "none": True,
            "ddp": isinstance(model, DistributedDataParallel),
            "fsdp2": any(isinstance(weight, DTensor) for weight in model.parameters()),
            "zero2": getattr(model, "zero_optimization_stage", int)() == 2,
            "zero3": getattr(model, "zero_optimization_stage", int)() == 3,
        }
        if not there[self._wanted]:
            raise CheckRefused(
                f"the run was to train with {CALLED[self._wanted]}, but the model is a plain {type(model).__name__}; "
                "see train.launch"
            )


def check_shared_directory(directory: Path | None) -> None:
    """Refuse nodes that do not see the directory that the first process writes to.

    Args:
        directory: the first process's; None on the others.

    Raises:
        CheckRefused: on all of them, with the host that does not see it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == int(
        os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))
    ):
        return
    sign = None
    if directory is not None:
        sign = directory.resolve() / f".seen-{uuid.uuid4().hex}"
        sign.touch()
    seen = Path(share(str(sign) if sign is not None else None))
    deadline = time.monotonic() + SEEN_WITHIN
    while not (there := seen.is_file()) and time.monotonic() < deadline:
        time.sleep(0.5)
    answers: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(answers, None if there else socket.gethostname())
    if sign is not None:
        sign.unlink(missing_ok=True)
    if blind := sorted({host for host in answers if host is not None}):
        raise CheckRefused(
            f"{', '.join(blind)} cannot see {seen.parent}: several nodes need one output_dir on a file system that "
            "they share (and data and base there too)"
        )


def check_launch(recipe: Recipe, args: TrainingArguments) -> None:
    """Refuse a run whose processes are not those that the recipe or the launcher speaks of.

    One launch lies already here: ``accelerate launch --cpu --num_processes 2`` starts one process. What the others have
    made of it is only known once there is a trainer (`StrategyCheck`).

    Raises:
        CheckRefused: with the command that does it right.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if args.world_size == 1 and _accelerate_asked_for_more():
        raise CheckRefused(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; leave it out, and "
            "set train.processes"
        )
    if args.world_size != asked:
        raise CheckRefused(f"the launcher asked for {asked} processes, but {args.world_size} take part; use torchrun")
    gpus = load_hardware(recipe.hardware).gpus
    if args.n_gpu > 1 or (gpus and torch.cuda.is_available() and gpus != args.world_size):
        raise CheckRefused(
            f"hardware is {recipe.hardware}, but {args.world_size} process(es) see {args.n_gpu} GPU(s) each; start one "
            "a GPU (`agentforge train` does, unless another launcher has started it) or choose another profile"
        )
    _check_trackers(args)
    log.info("%d process(es) on %s", args.world_size, args.device)


def _check_trackers(args: TrainingArguments) -> None:
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
