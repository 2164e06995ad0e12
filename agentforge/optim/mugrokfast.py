"""MuGrokfast: Muon for hidden matrices, AdamW for everything else, and Grokfast's filter before both.

    g  <- g + lambda * ema(g)                                  Grokfast (Lee et al., arXiv 2405.20233), if lambda > 0
    hidden matrices, q, k and v each by itself:
        m  <- lerp(m, g, 1 - momentum);  u = lerp(g, m, momentum)      Nesterov's momentum
        w  <- w (1 - lr * decay) - lr * 0.2 sqrt(max(A, B)) * orthogonal(u)      Muon (arXiv 2502.16982)
    everything else:
        AdamW with a rate of its own

The filter adds the slow part of the gradient to it: a gradient that never changes becomes 1 + lambda times as large.
With the sign reversed, g + lambda (g - ema), it would amplify noise instead. It comes after the clipping of gradients,
which trainers do before `step`. Muon does not see how large a gradient is: for it, the filter turns the direction only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw
from transformers import TrainingArguments

from agentforge.errors import UserError
from agentforge.optim.fused_matrices import Blocks
from agentforge.optim.muon_rules import STACK
from agentforge.optim.orthogonal import matched_scale, orthogonalized
from agentforge.optim.parameter_split import split_parameters
from agentforge.optim.qk_clip import QKClip
from agentforge.recipe.optimizers import MuGrokfastOptions, filled_in

SHARDED = (
    "mugrokfast orthogonalises whole matrices, but FSDP and ZeRO hold parts of them; launch with DDP, or leave out "
    "train.optimizer"
)


class MuGrokfast(torch.optim.Optimizer):
    """One optimiser over two kinds of groups; both have a real ``lr``, so that schedulers work.

    Args:
        groups: of parameters, with ``use_muon: True`` for those of hidden matrices (see `parameter_split`).
        lr: learning rate of groups that have none of their own.
        weight_decay: decoupled, times the group's learning rate.
        momentum: of Muon.
        nesterov: whether Muon looks ahead.
        every: a hidden matrix moves in one of so many steps, then so many times as far; they take turns.
        betas: of AdamW.
        eps: of AdamW.
        grokfast_lambda: weight of the slow gradient; 0: no filter, and no memory for it.
        grokfast_alpha: decay of the average that is the slow gradient.
        blocks: how fused matrices (q, k and v in one) are taken apart.
        orthogonalize: makes `(N, A, B)` matrices orthogonal.
        qk_clip: clips the attention logits after each step.

    Raises:
        UserError: the parameters are sharded: half a matrix has other singular vectors than the whole.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        every: int = 1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        grokfast_lambda: float = 0.0,
        grokfast_alpha: float = 0.98,
        blocks: Mapping[Tensor, Blocks] | None = None,
        orthogonalize: Callable[[Tensor], Tensor] = orthogonalized,
        qk_clip: QKClip | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "every": every,
            "turn": 0,
            "betas": betas,
            "eps": eps,
            "grokfast_lambda": grokfast_lambda,
            "grokfast_alpha": grokfast_alpha,
            "use_muon": False,
            "fused": True,  # of AdamW; `load_state_dict` must know it, to leave the step counts where they are
        }
        super().__init__(groups, defaults)
        self.blocks = dict(blocks or {})
        self.orthogonalize = orthogonalize
        self.qk_clip = qk_clip
        # Squared norms of the last step, unread on the device: who asks for `statistics` waits for them, nobody else.
        self._update_squares: list[Tensor] = []
        self._update_numbers = 0
        self._filter_norms: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                _check(parameter, group["use_muon"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the parameters that have a gradient; without one, a parameter and its state stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update_squares, self._update_numbers, self._filter_norms = [], 0, []
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                gradients = self._filtered(group, parameters)
                (self._muon if group["use_muon"] else self._adamw)(group, parameters, gradients)
        if self.qk_clip is not None:
            self.qk_clip.clip()
        return loss

    def _filtered(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Return the gradients with their slow part added; they themselves are left alone."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        weight = group["grokfast_lambda"]
        if not weight:
            return gradients
        slow = self._states(parameters, "slow_gradient", first=gradients)
        # At its first step a parameter's average is the gradient itself, as in the authors' code; this leaves it so.
        torch._foreach_lerp_(slow, gradients, 1 - group["grokfast_alpha"])
        self._filter_norms.append((_norm(gradients), weight * _norm(slow)))
        return list(torch._foreach_add(gradients, slow, alpha=weight))

    def _states(self, parameters: list[Tensor], name: str, first: list[Tensor] | None = None) -> list[Tensor]:
        """Return a state of each parameter; a new one is a copy of `first`, or zeros."""
        for index, parameter in enumerate(parameters):
            state = self.state[parameter]
            if name not in state:
                state[name] = torch.zeros_like(parameter) if first is None else first[index].clone()
        return [self.state[parameter][name] for parameter in parameters]

    def _muon(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        momentum = self._states(parameters, "momentum")
        torch._foreach_lerp_(momentum, gradients, 1 - group["momentum"])
        # A momentum of 20 steps hardly turns from one to the next. So matrices may take turns: half of them move in a
        # step, twice as far, and orthogonalising costs half. The turn is in the group, and so in the checkpoint.
        due = [index for index in range(len(parameters)) if (group["turn"] + index) % group["every"] == 0]
        group["turn"] = (group["turn"] + 1) % group["every"]
        if not due:
            return
        parameters, gradients, momentum = ([kind[i] for i in due] for kind in (parameters, gradients, momentum))
        ahead = torch._foreach_lerp(gradients, momentum, group["momentum"]) if group["nesterov"] else momentum
        updates = self._orthogonal(parameters, list(ahead))
        rate = group["lr"] * group["every"]
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-rate)

    def _orthogonal(self, parameters: list[Tensor], matrices: list[Tensor]) -> list[Tensor]:
        """Return the matrices made orthogonal, each scaled to the root mean square of AdamW's updates.

        Those of one shape are computed together, and one that stands upright counts as lying.
        """
        blocks = [self.blocks.get(parameter, Blocks.whole) for parameter in parameters]
        pieces = [take.apart(matrix) for take, matrix in zip(blocks, matrices, strict=True)]
        same: dict[Any, list[tuple[int, int]]] = defaultdict(list)
        for owner, parts in enumerate(pieces):
            for part, piece in enumerate(parts):
                same[(min(piece.shape), max(piece.shape), piece.device, piece.dtype)].append((owner, part))
        for (height, width, device, dtype), places in same.items():
            precision = torch.bfloat16 if device.type == "cuda" else torch.float32
            many = max(1, STACK // (height * width))
            for start in range(0, len(places), many):
                some = places[start : start + many]
                stack = torch.stack([_lying(pieces[owner][part]) for owner, part in some]).to(precision)
                found = self.orthogonalize(stack).mul_(matched_scale(height, width))
                self._update_squares.append(torch.linalg.vector_norm(found, dtype=torch.float32).square())
                self._update_numbers += found.numel()
                for (owner, part), update in zip(some, found.to(dtype), strict=True):
                    upright = pieces[owner][part].shape[0] == width
                    pieces[owner][part] = update.mT if upright and width != height else update
        return [take.together(parts) for take, parts in zip(blocks, pieces, strict=True)]

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
        adamw(
            parameters,
            gradients,
            self._states(parameters, "exp_avg"),
            self._states(parameters, "exp_avg_sq"),
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def statistics(self) -> dict[str, float]:
        """Return figures of the last step by name; what it did not have is absent.

        ``lr_muon``, ``lr_aux``: learning rates that it used. ``update_rms``: root mean square of what Muon added to the
        hidden matrices that moved. ``grokfast_ratio``: norm of what the filter added, as a share of the gradient's.
        QK-Clip adds its own.
        """
        found: dict[str, float] = {}
        for group in self.param_groups:
            found.setdefault("lr_muon" if group["use_muon"] else "lr_aux", float(group["lr"]))
        if self._update_numbers:
            mean = torch.stack(self._update_squares).sum() / self._update_numbers
            found["update_rms"] = found["lr_muon"] * self.param_groups[0]["every"] * float(mean.sqrt())
        if self._filter_norms:
            gradient, added = (torch.stack(norms).norm() for norms in zip(*self._filter_norms, strict=True))
            if gradient > 0:
                found["grokfast_ratio"] = float(added / gradient)
        return found | (self.qk_clip.statistics() if self.qk_clip is not None else {})


def _lying(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _norm(tensors: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()


def _check(parameter: Tensor, use_muon: bool) -> None:
    if isinstance(parameter, DTensor) or hasattr(parameter, "ds_id"):
        raise UserError(SHARDED)
    if use_muon and parameter.ndim != 2:
        raise ValueError(f"Muon is for matrices, not for a parameter of shape {tuple(parameter.shape)}")


def make_mugrokfast(model: nn.Module, args: TrainingArguments, **options: Any) -> MuGrokfast:
    """Return the optimiser of a model, for `train.optimizer: {name: mugrokfast, options: ...}`.

    Args:
        model: what is trained; frozen parameters are left out.
        args: learning rate, weight decay, betas and epsilon are read from here.
        options: of `MuGrokfastOptions`.

    Raises:
        UserError: the model has nothing for Muon, or LoRA adapters, or is sharded.
    """
    chosen = MuGrokfastOptions.model_validate(filled_in(options))
    split = split_parameters(model, chosen.adamw)
    split.log()
    groups = split.groups()
    if chosen.aux_learning_rate is not None:
        for group in groups[1:]:
            group["lr"] = chosen.aux_learning_rate
    return MuGrokfast(
        groups,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        every=chosen.every,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        grokfast_lambda=chosen.grokfast_lambda,
        grokfast_alpha=chosen.grokfast_alpha,
        blocks=split.blocks,
        qk_clip=None if chosen.qk_clip is None else QKClip(model, chosen.qk_clip),
    )
