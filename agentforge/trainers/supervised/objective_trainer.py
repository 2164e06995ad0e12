"""Trainers of nested models: the parent's loop around another objective, each part of which is logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentforge.artifacts import write_json
from agentforge.systems.adamba.training.objective import GATES, Moment, NestedObjective
from agentforge.systems.adamba.training.old_entries import OldEntries
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer

PARTS = "loss_parts.json"


class NestedTrainer(GuardedTrainer):
    """A Trainer whose step is a `NestedObjective`; evaluation is of the full width, by the parent.

    Attributes:
        last_parts: what was logged last of the objective's parts, in nats or shares a token.
    """

    def __init__(
        self,
        *args: Any,
        objective: NestedObjective | None,
        old_entries: OldEntries | None,
        continued: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.objective: NestedObjective | None = objective
        self.old_entries: OldEntries | None = old_entries
        self.continued = continued
        if self.model is not None and hasattr(self.model, GATES):
            self.extra_modules = {GATES: getattr(self.model, GATES)}
        self.last_parts: dict[str, float] = {}
        self._parts: dict[str, Tensor] = {}  # name: (sum, tokens)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Have the objective wrapped for several processes, and the model itself saved."""
        wrapped = super()._wrap_model(model, training, dataloader)
        if self.objective is None or not training or wrapped is not self.model:
            return wrapped
        return self.accelerator.prepare_model(self.objective)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the parent's; what an expansion has copied is held back in each of its steps."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.old_entries is not None:
            self.old_entries.attach(optimizer)
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.old_entries is not None:
            self.old_entries.mask_gradients()  # what does not move is no part of the norm
        return super()._clip_grad_norm(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective a token; in evaluation the parent's loss."""
        if self.objective is None or not model.training:
            with self.accelerator.autocast():  # the parent's model has not been wrapped, the objective was
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        progress = 1.0 if self.continued else self.state.global_step / max(self.state.max_steps - 1, 1)
        loss, parts = model(
            moment=Moment(self.state.global_step, progress),
            input_ids=inputs["input_ids"],
            labels=inputs["labels"],
            attention_mask=inputs.get("attention_mask"),
        )
        tokens = parts.pop("tokens")
        count = tokens if num_items_in_batch is None else num_items_in_batch
        self._add(parts, tokens, torch.isfinite(loss.detach()))
        loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean of the gradients
        return loss

    def _add(self, parts: dict[str, Tensor], tokens: Tensor, finite: Tensor) -> None:
        for name, value in parts.items():
            pair = torch.stack([value.float(), tokens.float()])
            pair = torch.where(finite, pair, torch.zeros_like(pair))
            self._parts[name] = self._parts.get(name, torch.zeros_like(pair)) + pair

    def _summed(self) -> dict[str, list[float]]:
        """Return sum and tokens of each part over all processes; the draw of widths is the same on each."""
        if not self._parts:
            return {}
        names = sorted(self._parts)
        sums = torch.stack([self._parts[name] for name in names])
        return dict(zip(names, self.accelerator.reduce(sums, "sum").tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts since the last logged line."""
        if "loss" in logs and self._parts:
            self.last_parts |= {name: value / max(tokens, 1) for name, (value, tokens) in self._summed().items()}
            logs |= {name: self.last_parts[name] for name in sorted(self._parts)}
            self._parts = {}
        super().log(logs, start_time)

    def _save_state(self, checkpoint: Path) -> None:
        super()._save_state(checkpoint)
        summed = self._summed()
        if self.args.should_save:
            write_json(checkpoint / PARTS, {"since": summed, "last": self.last_parts})

    def restore(self, checkpoint: Path) -> None:
        """Read also what was summed since the last logged line."""
        super().restore(checkpoint)
        saved = json.loads((checkpoint / PARTS).read_text(encoding="utf-8"))
        self.last_parts = saved["last"]
        share = 1.0 if self.args.process_index == 0 else 0.0  # the sums are those of all processes
        self._parts = {
            name: torch.tensor(pair, device=self.args.device) * share for name, pair in saved["since"].items()
        }


class NestedPretrainTrainer(NestedTrainer, PretrainTrainer):
    """Next-token training of all widths and exits."""


class NestedSupervisedTrainer(NestedTrainer, SupervisedTrainer):
    """Supervised fine-tuning of all widths and exits."""
