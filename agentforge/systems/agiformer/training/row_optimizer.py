"""MuGrokfast, and for the n-gram tables an Adam that touches only the rows of a step.

A step of a few thousand bytes uses a few thousand of a hundred thousand rows. Dense gradients and moments of all of
them would cost more than the rest of the model; with sparse gradients a table costs memory, and hardly any arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from agentforge.optim.mugrokfast import MuGrokfast
from agentforge.optim.parameter_split import split_parameters
from agentforge.systems.agiformer.modeling.ngrams import NgramTable


class RowMuGrokfast(MuGrokfast):
    """`MuGrokfast` whose groups may be tables (``rows: True``) with sparse gradients."""

    def __init__(self, groups: Any, **options: Any) -> None:
        super().__init__(groups, **options)
        self._aside: dict[Tensor, Tensor] = {}

    def set_aside(self) -> None:
        """Take the sparse gradients away until `step`: torch cannot take the norm of a sparse tensor.

        The tables' rows are therefore not clipped. Adam does not see how large a gradient is anyway.
        """
        for group in self.param_groups:
            if group.get("rows"):
                for table in group["params"]:
                    if table.grad is not None:
                        self._aside[table], table.grad = table.grad, None

    @torch.no_grad()
    def step(self, closure: Any = None) -> float | None:  # type: ignore[override]
        """Change the parameters, and of each table the rows that have a gradient."""
        for table, gradient in self._aside.items():
            table.grad = gradient
        self._aside = {}
        return super().step(closure)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not group.get("rows"):
            super()._adamw(group, parameters, gradients)
            return
        for table, gradient in zip(parameters, gradients, strict=True):
            self._adam_of_rows(group, table, gradient)

    def _adam_of_rows(self, group: dict[str, Any], table: Tensor, gradient: Tensor) -> None:
        if not gradient.is_sparse:
            raise ValueError("a table of n-grams has a dense gradient; its embedding must be sparse")
        gradient = gradient.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        mean, square = self._states([table], "exp_avg")[0], self._states([table], "exp_avg_sq")[0]
        state = self.state[table]
        state["step"] = state.get("step", torch.zeros(())) + 1
        count, (first, second) = float(state["step"]), group["betas"]
        # Moments of a row stand still while it is not used: they belong to its own gradients.
        new_mean = torch.lerp(mean[rows], values, 1 - first)
        new_square = torch.lerp(square[rows], values.square(), 1 - second)
        mean[rows], square[rows] = new_mean, new_square
        spread = (new_square / (1 - second**count)).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, (new_mean / (1 - first**count)) / spread, alpha=-group["lr"])


def tables_of(model: nn.Module) -> list[NgramTable]:
    """Return the n-gram tables of a model; none where it has none."""
    return [module for module in model.modules() if isinstance(module, NgramTable)]


def make_row_mugrokfast(
    model: nn.Module,
    args: TrainingArguments,
    rows_learning_rate: float = 3e-3,
    momentum: float = 0.95,
    aux_learning_rate: float | None = None,
) -> RowMuGrokfast:
    """Return the optimiser for `train.optimizer: {name: mugrokfast_rows}`.

    Args:
        model: its n-gram tables get sparse gradients from now on.
        args: learning rate, weight decay, betas and epsilon are read from here.
        rows_learning_rate: of the tables.
        momentum: of Muon.
        aux_learning_rate: of what AdamW trains; None: ``args.learning_rate``.
    """
    tables = tables_of(model)
    for table in tables:
        table.sparse = True
    split, own = split_parameters(model), {id(table.weight) for table in tables}
    split.log()
    split.decayed = [parameter for parameter in split.decayed if id(parameter) not in own]
    groups = split.groups()
    for group in groups[1:]:
        group["lr"] = aux_learning_rate if aux_learning_rate is not None else args.learning_rate
    if tables:
        rows = [table.weight for table in tables]
        groups.append({"params": rows, "lr": rows_learning_rate, "weight_decay": 0.0, "rows": True})
    return RowMuGrokfast(
        groups,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        momentum=momentum,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        blocks=split.blocks,
    )
