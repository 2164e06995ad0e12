"""QK-Clip: after a step, heads whose attention logits have grown too large get smaller queries and keys.

    S_h = largest q.k scale that the step saw in head h;  gamma_h = min(1, threshold / S_h)
    W_q^h and W_k^h are multiplied by sqrt(gamma_h), so that the head's logits shrink by gamma_h

(Kimi K2, arXiv 2507.20534: Muon lets logits grow where AdamW does not.) Where several query heads share keys, the keys
stay and each query head takes its whole gamma_h: nobody else's logits change. K2 does so with keys that MLA shares.

The logits are measured where every model of transformers computes attention, at
`torch.nn.functional.scaled_dot_product_attention`, while a module with a `q_proj` and a `k_proj` runs. So a model need
not know of it. Fused kernels do not give the logits away: measuring multiplies queries and keys once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from agentforge.errors import UserError

# Queries are multiplied in blocks, so that the logits of a long row are never all there at once.
QUERIES = 256


class QKClip:
    """Measures the attention logits of a model, and clips after each step.

    Args:
        model: runs with `attn_implementation: sdpa`. It is run twice on a few tokens, to see that clipping works.
        threshold: largest logit of a head; K2 took 100.

    Raises:
        UserError: no logits can be seen, or the model normalises its queries and keys, so that scaling does nothing.
    """

    def __init__(self, model: nn.Module, threshold: float) -> None:
        self.threshold = threshold
        self.largest: dict[nn.Module, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._measuring: list[_Measure] = []
        self._proving = False
        for module in model.modules():
            if isinstance(getattr(module, "q_proj", None), nn.Linear) and isinstance(
                getattr(module, "k_proj", None), nn.Linear
            ):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave, always_call=True)
        self._prove(model)

    def _enter(self, module: nn.Module, *_: Any) -> None:
        mode = _Measure(lambda logits: self._note(module, logits), active=module.training or self._proving)
        self._measuring.append(mode)
        mode.__enter__()

    def _leave(self, *_: Any) -> None:
        self._measuring.pop().__exit__(None, None, None)

    def _note(self, module: nn.Module, logits: Tensor) -> None:
        """Keep the largest logits `(heads,)` of a module; a looped layer runs several times in a step."""
        before = self.largest.get(module)
        if before is None:
            self.largest[module] = logits
        elif not self._proving:
            self.largest[module] = torch.maximum(before, logits)

    @torch.no_grad()
    def clip(self) -> None:
        """Scale the heads whose logits were above the threshold, and forget what was measured."""
        measured, self.largest = self.largest, {}
        if not measured:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # All processes must scale alike, whichever of them saw the largest logit.
            joined = torch.cat(list(measured.values()))
            torch.distributed.all_reduce(joined, op=torch.distributed.ReduceOp.MAX)
            parts = joined.split([len(part) for part in measured.values()])
            measured = dict(zip(measured, parts, strict=True))
        events = []
        for module, largest in measured.items():
            # A batch that is skipped may have had logits that are no numbers: they must not reach the weights.
            gamma = (self.threshold / largest).clamp(max=1)
            gamma = torch.where(torch.isfinite(largest) & (largest > self.threshold), gamma, torch.ones_like(gamma))
            _scale(module, gamma)
            events.append((gamma < 1).sum())
        finite = torch.nan_to_num(torch.cat(list(measured.values())), nan=0.0, posinf=0.0, neginf=0.0)
        self._last = {"qk_max_logit": finite.max(), "qk_clip_events": torch.stack(events).sum()}

    def statistics(self) -> dict[str, float]:
        """Return of the last step ``qk_max_logit``, and ``qk_clip_events``: how many heads were clipped."""
        return {name: float(value) for name, value in self._last.items()}

    @torch.no_grad()
    def _prove(self, model: nn.Module) -> None:
        """Double the queries of every head: if the logits do not double, clipping would do nothing either.

        With queries and keys normalised to length sqrt(d), no logit is above sqrt(d), and their projections' size is
        divided out again. No list of models is needed to find that.
        """
        before = self._logits(model)
        if not before:
            raise UserError(
                "qk_clip sees no attention with q_proj and k_proj under sdpa; set model.attn_implementation to sdpa, "
                "or leave out qk_clip"
            )
        for module in before:
            _multiply(module.q_proj, 2.0)  # type: ignore[arg-type]
        after = self._logits(model)
        for module in before:
            # A power of two: the weights have all their bits again.
            _multiply(module.q_proj, 0.5)  # type: ignore[arg-type]
        for module, logits in before.items():
            if not torch.allclose(after[module], 2 * logits, rtol=0.05, atol=1e-6):
                raise UserError(
                    "qk_clip would do nothing: the model normalises queries and keys (QK-norm), which bounds its "
                    "logits and undoes every scaling of their projections; leave out qk_clip"
                )

    def _logits(self, model: nn.Module) -> dict[nn.Module, Tensor]:
        """Return the largest logits by module of a few tokens, only of the first attention that runs."""
        training = model.training
        model.eval()
        self._proving, self.largest = True, {}
        device = next(model.parameters()).device
        # Only the inputs of the first attention are the same whatever the queries are, so only that one is compared.
        model(input_ids=torch.arange(1, 9, device=device)[None])
        found = dict([next(iter(self.largest.items()))]) if self.largest else {}
        self._proving, self.largest = False, {}
        model.train(training)
        return found


class _Measure(TorchFunctionMode):
    """Hands on the largest logit of each head whenever attention is computed."""

    def __init__(self, note: Callable[[Tensor], None], *, active: bool) -> None:
        super().__init__()
        self.note, self.active = note, active

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.active and func is functional.scaled_dot_product_attention:
            self.note(largest_logits(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def largest_logits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the largest logit of each query head `(H,)`, of pairs that may see each other.

    The arguments are those of `torch.nn.functional.scaled_dot_product_attention`.
    """
    heads, length, dim = query.shape[-3:]
    if key.shape[-3] != heads:
        key = key.repeat_interleave(heads // key.shape[-3], dim=-3)
    scale = dim**-0.5 if scale is None else scale
    found = torch.full((heads,), -torch.inf, device=query.device)
    for start in range(0, length, QUERIES):
        logits = (query[..., start : start + QUERIES, :] @ key.mT).float() * scale
        if attn_mask is not None:
            rows = attn_mask if attn_mask.shape[-2] == 1 else attn_mask[..., start : start + QUERIES, :]
            logits = logits.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else logits + rows
        if is_causal:
            own = torch.arange(start, start + logits.shape[-2], device=query.device)
            later = torch.arange(key.shape[-2], device=query.device)[None] > own[:, None]
            logits = logits.masked_fill(later, -torch.inf)
        found = torch.maximum(found, logits.amax((-2, -1)).view(-1, heads).amax(0))
    return found


def _scale(module: Any, gamma: Tensor) -> None:
    """Multiply the logits of each query head by its gamma `(H,)`."""
    heads = len(gamma)
    shared = module.k_proj.weight.shape[0] != module.q_proj.weight.shape[0]
    _multiply(module.q_proj, gamma if shared else gamma.sqrt(), heads)
    if not shared:
        _multiply(module.k_proj, gamma.sqrt(), heads)


def _multiply(projection: nn.Linear, factor: Tensor | float, heads: int = 1) -> None:
    """Multiply a projection's rows, head by head; its bias is a part of what it gives."""
    for parameter in (projection.weight, projection.bias):
        if parameter is not None:
            by_head = parameter.data.view(heads, -1)
            by_head.mul_(factor[:, None].to(by_head) if isinstance(factor, Tensor) else factor)
