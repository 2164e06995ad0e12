"""Trainers whose step is a system's objective: the parent's loop around another loss, each part of which is logged."""

# How parts become figures. The objective returns sums over the tokens of a micro-batch; the trainer adds them up, over
# micro-batches, steps and processes, until a line is logged, divides by the tokens, and asks `Objective.figures` what
# the line should say. Only sums can be added up: a perplexity, or a standard deviation, is made of means at the end.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentforge.artifacts import write_json
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.supervised.additions import Additions, Moment
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer

PARTS = "loss_parts.json"


class ObjectiveTrainer(GuardedTrainer):
    """A Trainer whose step is an `Objective`; evaluation is the parent's, unless the objective has one of its own.

    Attributes:
        last_parts: what was logged last of the objective's parts, a mean over tokens each.
    """

    def __init__(self, *args: Any, additions: Additions, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.additions = additions
        self.extra_modules = dict(additions.modules)
        for callback in additions.callbacks:
            self.add_callback(callback)
        self.last_parts: dict[str, float] = {}
        self._parts: dict[str, Tensor] = {}  # name: (sum, tokens)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Wrap the objective for several processes, but let the model itself be saved."""
        wrapped = super()._wrap_model(model, training, dataloader)
        if self.additions.objective is None or not training or wrapped is not self.model:
            return wrapped
        # DDP watches the forward of what it wraps. An objective may run the model several times in one step, so it is
        # the objective that has to be wrapped; `self.model` stays the bare model that is saved.
        return self.accelerator.prepare_model(self.additions.objective)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the parent's, with the additions' hooks in its steps."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.additions.on_optimizer is not None:
            self.additions.on_optimizer(optimizer)
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.additions.before_clipping is not None:
            self.additions.before_clipping()
        return super()._clip_grad_norm(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective a token; in evaluation the parent's loss."""
        if self.additions.objective is None or not model.training:
            with self.accelerator.autocast():  # the parent's model has not been wrapped, the objective was
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # 0 at the first step and 1 at the last.
        progress = 1.0 if self.additions.continued else self.state.global_step / max(self.state.max_steps - 1, 1)
        loss, parts = model(
            moment=Moment(self.state.global_step, progress),
            input_ids=inputs["input_ids"],
            labels=inputs["labels"],
            attention_mask=inputs.get("attention_mask"),
            **({"position_ids": inputs["position_ids"]} if "position_ids" in inputs else {}),
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
            # As doubles: a deviation is the root of a small difference between two of these sums.
            pair = torch.stack([value.double(), tokens.double()])
            # A step that is skipped must not spoil the means either.
            pair = torch.where(finite, pair, torch.zeros_like(pair))
            self._parts[name] = self._parts.get(name, torch.zeros_like(pair)) + pair

    def _summed(self) -> dict[str, list[float]]:
        """Return sum and tokens of each part over all processes; each process has the same parts."""
        if not self._parts:
            return {}
        names = sorted(self._parts)
        sums = torch.stack([self._parts[name] for name in names])
        return dict(zip(names, self.accelerator.reduce(sums, "sum").tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts since the last logged line."""
        objective = self.additions.objective
        if "loss" in logs and self._parts and objective is not None:
            means = {name: value / max(tokens, 1) for name, (value, tokens) in self._summed().items()}
            figures = objective.figures(means)
            self.last_parts |= figures
            logs |= {name: figures[name] for name in sorted(figures)}
            self._parts = {}
        super().log(logs, start_time)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Evaluate a batch by the objective, where it can; its sums are added up for the end of the evaluation."""
        if self.additions.objective is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            sums = self.additions.objective.evaluate(**inputs)
        if sums is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows = torch.stack([sums[name].double() for name in sorted(sums)], dim=1)  # (B, parts)
        # Drops what processes read twice so that each has a last batch.
        total = self.accelerator.gather_for_metrics(rows).sum(0)
        for name, value in zip(sorted(sums), total, strict=True):
            self._evaluated[name] = self._evaluated.get(name, torch.zeros_like(value)) + value
        return sums["loss"].sum() / sums["tokens"].sum().clamp(min=1), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parent's, with the objective's figures and the loss as a mean over tokens, not over batches."""
        self._evaluated: dict[str, Tensor] = {}
        output = super().evaluation_loop(*args, **kwargs)
        if self._evaluated and self.additions.objective is not None:
            sums = {name: value.item() for name, value in self._evaluated.items()}
            tokens = max(sums.pop("tokens"), 1.0)
            means = {name: value / tokens for name, value in sums.items()}
            figures = {"eval_loss": means["loss"]} | self.additions.objective.figures(means)
            output = output._replace(metrics=(output.metrics or {}) | figures)
        return output

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
            name: torch.tensor(pair, dtype=torch.float64, device=self.args.device) * share
            for name, pair in saved["since"].items()
        }


class ObjectivePretrainTrainer(ObjectiveTrainer, PretrainTrainer):
    """Pre-training by an objective."""


class ObjectiveSupervisedTrainer(ObjectiveTrainer, SupervisedTrainer):
    """Supervised fine-tuning by an objective."""
