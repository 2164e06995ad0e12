"""What every trainer gets: a guard against NaN, exact counts of tokens, sealed checkpoints. The parent's loop stays."""

# The life of one optimiser step. The parent's loop calls the methods below in this order:
#
#   get_batch_samples   fetches the step's micro-batches and counts their labels, over all processes. The supervised
#                       loss of each is its sum over tokens divided by that count, so short ones do not weigh more.
#   training_step       forward and backward of one micro-batch. Loss and tokens are added up on the device, unread.
#   _clip_grad_norm     clips the accumulated gradients and returns the norm that they had before.
#   _get_grad_norm      here all processes decide together whether the step counts. A bad one loses its gradients, so
#                       that optimizer.step() changes neither weights nor moments; schedule and data go on all the same.
#   log                 at the steps that are logged: the mean loss of the steps that counted.
#   _save_checkpoint    at the steps that are saved: the parent writes weights, optimiser, random states and its own
#                       state; then come our state and the counters, and last the seal, a hash of every file.
#
# Killed at any point, the run goes on from the newest sealed checkpoint and makes the same steps again.

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_file
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused
from agentforge.optim.parameter_split import UNDECAYED
from agentforge.trainers.averaged_weights import AveragedWeights
from agentforge.trainers.batching import IGNORED
from agentforge.trainers.checkpoints import MARKER, seal
from agentforge.trainers.supervised.epoch_stages import EpochStages

log = logging.getLogger(__name__)

COUNTERS = "counters.json"
AVERAGED = "averaged_weights.safetensors"
# A key of the parent's final summary, and of no other line.
SUMMARY = "train_runtime"


@dataclass
class RunCounters:
    """What a run has done so far, over all its processes and restarts; saved with each checkpoint.

    Attributes:
        tokens: seen by the model, without padding.
        trained_tokens: that a loss was computed for.
        seconds: of training, evaluation and saving.
        skipped_steps: batches whose loss or gradient was not finite.
        skipped_in_a_row: the latest of them.
        loss_sum, loss_steps: since the last logged line.
        loss: of the last logged line.
        run_id: by which trackers know the run.
    """

    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    loss: float | None = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @classmethod
    def load(cls, checkpoint: Path) -> RunCounters:
        """Return those saved with a checkpoint."""
        return cls(**json.loads((checkpoint / COUNTERS).read_text()))


@dataclass
class Guards:
    """What a recipe asks of every trainer, whatever its method.

    Attributes:
        counters: where the run is, if it goes on from a checkpoint.
        max_nonfinite_steps: skipped batches in a row at which the run stops.
        make_optimizer: makes the optimiser of a model, in place of the parent's `args.optim`.
        ema_decay: of an average of the weights (`AveragedWeights`); None: no average is kept.
    """

    counters: RunCounters = field(default_factory=RunCounters)
    max_nonfinite_steps: int = 3
    make_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer] | None = None
    ema_decay: float | None = None


class GuardedTrainer(Trainer):
    """A Trainer that skips non-finite batches, counts tokens and seals its checkpoints.

    Attributes:
        extra_modules: submodules of the model by name that are only needed for training (a critic): each is saved in a
            file of its own, so that what is trained opens as any model or adapter does.
        train_sampler: draws the indices of the training rows; None: the parent shuffles them.
    """

    def __init__(self, *args: Any, guards: Guards, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guards = guards
        self.counters = guards.counters
        self.average: AveragedWeights | None = None
        self.train_sampler: Sampler[int] | None = None
        self.extra_modules: dict[str, torch.nn.Module] = {}
        self._clock = time.monotonic()
        # On the device, whose numbers cost a wait to read: they are read once a step, not once a micro-batch.
        self._step_loss = torch.zeros((), device=self.args.device)
        self._step_tokens = torch.zeros(2, dtype=torch.long, device=self.args.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the recipe's optimiser, or the parent's; from here on the average follows its steps."""
        if self.optimizer is None and self.guards.make_optimizer is not None:
            trained = self.model if model is None else model
            assert trained is not None
            # The parent makes an optimiser only where there is none yet.
            self.optimizer = self.guards.make_optimizer(trained)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        if self.guards.ema_decay is not None and self.average is None:
            self.average = AveragedWeights(self.accelerator.unwrap_model(self.model), self.guards.ema_decay)
            made.register_step_post_hook(lambda *_: self.average.update() if self.average else None)
        return made

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights, where there are any: they are what will be published.

        The loader of the eval rows draws a random number. Dropout must not depend on how often there was an evaluation.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with self.published_weights(), torch.random.fork_rng(devices):
            evaluated: dict[str, float] = super().evaluate(*args, **kwargs)
        return evaluated

    @contextmanager
    def published_weights(self) -> Iterator[None]:
        """Have the model hold the weights that are published: the average, or those that are trained."""
        if self.average is None:
            yield
            return
        with self.average.swapped_in():
            yield

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the sampler of the rows: a schedule over sources, if there is one, else the parent's shuffle."""
        return self.train_sampler if self.train_sampler is not None else super()._get_train_sampler(train_dataset)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the parent's without the rates of state-space layers, whose logarithms must not be pulled towards 0.

        mamba_ssm exempts them as well; the parent leaves out only those with `bias` in their names.
        """
        return [n for n in super().get_decay_parameter_names(model) if n.rpartition(".")[2] not in UNDECAYED]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return no batch after the last step: the parent, resumed from its checkpoint, would make one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Count the micro-batch; keep a non-finite loss from the parent's running sum, which it would spoil."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_tokens += torch.stack(self._count(inputs)).to(self._step_tokens)
        # Not cleaned, unlike what is returned: a NaN here is how `_get_grad_norm` learns of it.
        self._step_loss = self._step_loss + loss
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def _count(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how many tokens of the micro-batch the model has seen, and how many were trained."""
        real = inputs["attention_mask"].sum() if "attention_mask" in inputs else self._unpadded(inputs)
        trained = inputs["labels"][:, 1:] != IGNORED if "labels" in inputs else inputs["completion_mask"]
        return torch.as_tensor(real), trained.sum()

    def _unpadded(self, inputs: dict[str, Any]) -> torch.Tensor:
        # packed rows `(B, T)` are padded at their end, with positions that stay at 0
        inside = inputs["position_ids"] > 0
        columns = torch.arange(1, inside.shape[1] + 1, device=inside.device)
        return (columns * inside).amax(dim=1).sum()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Drop the gradients before the optimiser's step if loss or norm is not finite on any of the processes.

        The parent calls this once a step, with all micro-batches accumulated and the norm reduced over processes.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        # fp16's loss scaler expects gradients that overflow, and skips such steps itself
        scaled = self.accelerator.scaler is not None
        finite = torch.isfinite(self._step_loss) & (scaled or math.isfinite(norm))
        # Summed over processes, because a process that skipped alone would have other weights from here on. As doubles,
        # which hold counts of tokens exactly up to 2^53.
        totals = torch.cat([(~finite).view(1), self._step_tokens, self._step_loss.view(1)]).double()
        if self.args.world_size > 1:
            torch.distributed.all_reduce(totals)
        bad, tokens, trained, loss = totals.tolist()
        self.counters.tokens += int(tokens)
        self.counters.trained_tokens += int(trained)
        self._step_loss = torch.zeros_like(self._step_loss)
        self._step_tokens.zero_()
        if bad:
            self._skip(model, scaled)
        else:
            self.counters.skipped_in_a_row = 0
            # Each process's share was multiplied by their number, for DDP's mean, so the loss is a mean here too.
            self.counters.loss_sum += loss / self.args.world_size
            self.counters.loss_steps += 1
        return norm

    def _skip(self, model: Any, scaled: bool) -> None:
        step = self.state.global_step + 1
        self.counters.skipped_steps += 1
        self.counters.skipped_in_a_row += 1
        log.warning("step %d: the loss or its gradient is not finite; the batch is skipped", step)
        if self.is_deepspeed_enabled:  # its engine has made the step inside backward()
            raise CheckRefused(
                f"step {step}: the loss is not finite, and DeepSpeed cannot skip a batch; {self._advice()}"
            )
        if not scaled:
            model.zero_grad(set_to_none=True)  # without gradients the optimiser changes neither weights nor moments
        if self.counters.skipped_in_a_row >= self.guards.max_nonfinite_steps:
            raise CheckRefused(
                f"the loss was not finite in {self.counters.skipped_in_a_row} steps in a row, up to step {step}; "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        return "lower train.args.learning_rate or set train.args.max_grad_norm; the last checkpoint is from before"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replace the parent's loss by that of the steps that counted; add the counters and the optimiser's figures.

        The parent's final summary is dropped: it knows nothing of earlier starts. The manifest has the true figures.
        """
        if SUMMARY in logs:
            return
        if "loss" in logs:
            counters = self.counters
            del logs["loss"]
            # The parent divides its sum by all steps since the last line, the skipped ones too; and if all were skipped
            # there is no loss to show.
            if counters.loss_steps:
                counters.loss = logs["loss"] = counters.loss_sum / counters.loss_steps
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            counters.loss_sum, counters.loss_steps = 0.0, 0
            logs |= {
                "tokens": counters.tokens,
                "trained_tokens": counters.trained_tokens,
                "skipped_steps": counters.skipped_steps,
            }
            logs |= self._optimizer_statistics() | self._curriculum_statistics()
        logs["seconds"] = round(self.seconds(), 3)
        super().log(logs, start_time)

    def _optimizer_statistics(self) -> dict[str, float]:
        """Return what the optimiser says of its last step, if it is one that says anything."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        statistics: Callable[[], dict[str, float]] | None = getattr(inner, "statistics", None)
        return statistics() if statistics is not None else {}

    def _curriculum_statistics(self) -> dict[str, float]:
        """Return the stage of the last step and the entropy of its sources' shares, if the training has stages."""
        schedule = getattr(self.train_sampler, "schedule", None)
        if not isinstance(schedule, EpochStages):
            return {}
        # Of the step that was made, not of the one to come, which at an epoch's end is in the next stage.
        steps_an_epoch = self.state.max_steps / schedule.epochs
        reading = schedule.at(max(self.state.global_step - 1, 0) / steps_an_epoch)
        return {"curriculum_stage": reading.number, "mixture_entropy": reading.entropy}

    def seconds(self) -> float:
        """Seconds of this run, restarts included."""
        return self.counters.seconds + time.monotonic() - self._clock

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save without `training_args.bin`: it is a pickle, and holds every token of the environment in clear."""
        if not self.args.should_save:  # the parent also asks the others, where weights are divided
            return
        target = Path(output_dir or str(self.args.output_dir))
        for name, module in self.extra_modules.items():
            assert self.model is not None
            whole = self.model.state_dict() if state_dict is None else state_dict
            # Whoever opens the model knows nothing of a critic: its weights would be unexpected keys.
            state_dict = {key: value for key, value in whole.items() if not key.startswith(f"{name}.")}
            target.mkdir(parents=True, exist_ok=True)
            save_file(_own_tensors(module), str(target / f"{name}.safetensors"), metadata={"format": "pt"})
        super()._save(output_dir, state_dict)
        (target / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def restore(self, checkpoint: Path) -> None:
        """Read what the parent does not: the extra modules."""
        for name, module in self.extra_modules.items():
            load_model(module, str(checkpoint / f"{name}.safetensors"))

    def keep_checkpoint(self) -> None:
        """Save a checkpoint of the step that was made last, unless there is one; on every process."""
        checkpoint = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not (checkpoint / MARKER).is_file():
            self._save_checkpoint(self.model, None)

    def _save_state(self, checkpoint: Path) -> None:
        """Write what else a resumed run needs, on every process; before the checkpoint is sealed."""
        if self.average is not None and self.args.should_save:
            self.average.save(checkpoint / AVERAGED)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read the average beside the optimiser, which had to be made first."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            self.average.load(Path(checkpoint) / AVERAGED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, then seal: only a checkpoint with its marker is ever resumed from."""
        super()._save_checkpoint(model, trial)
        checkpoint = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # The parent has deleted older checkpoints by now, and this one has no seal yet: with a save_total_limit of 1 a
        # kill here would leave none to go on from.
        self._save_state(checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_json(checkpoint / COUNTERS, asdict(self.counters) | {"seconds": self.seconds()})
            # Behind the barrier: the hashes must cover what the other processes have written.
            seal(checkpoint, world_size=self.args.world_size)
        self.accelerator.wait_for_everyone()


def _own_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's tensors, tied ones once, each with memory of its own: DeepSpeed's lie in one long one."""
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(module.state_dict(keep_vars=True).items())}
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.values()}
