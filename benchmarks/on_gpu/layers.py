"""Cognate's memory beside titans-pytorch's and flash-linear-attention's, and the step of its optimiser."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agentforge.models.delta_rule import gated_delta_rule
from benchmarks import cognate_memory
from benchmarks import optimizers as on_a_cpu
from benchmarks.on_gpu.measuring import Contestant, Reading, autocast, device, repeated
from benchmarks.on_gpu.own_models import COGNATE_TINY, _cognate


def memory(tiny: bool) -> list[Contestant]:
    """Forward and backward pass of the layer, 16 rows of 512, and of the gated delta rule alone, 4 rows of 4,096."""
    rows, length = (2, 64) if tiny else (16, 512)
    peer = "titans-pytorch, chunk and batch of 64"
    found = [
        Contestant(f"cognate's memory layer, {rows} x {length}", layer(cognate_memory.ours, rows, length), peer),
        Contestant(peer, layer(_theirs((64, 64)), rows, length)),
        Contestant("titans-pytorch, own writes", layer(_theirs((1, 64)), rows, length), peer),
        Contestant("cognate's memory layer, bf16", layer(cognate_memory.ours, rows, length, bf16=True), peer),
    ]
    if not tiny:  # its kernels are Triton's
        fla = "fla.ops.gated_delta_rule, bf16"
        found += [
            Contestant("agentforge's gated delta rule, fp32", lambda until: rule(_ours, torch.float32, until), fla),
            Contestant("agentforge's gated delta rule, bf16", lambda until: rule(_ours, torch.bfloat16, until), fla),
            Contestant(fla, lambda until: rule(_fla(), torch.bfloat16, until)),
        ]
    return found


def layer(make: Callable[[], Any], rows: int, length: int, *, bf16: bool = False) -> Callable[[float], Reading]:
    """Return what measures a layer on random states."""

    def run(until: float) -> Reading:
        torch.manual_seed(0)
        model = make().to(device())
        x = torch.randn(rows, length, cognate_memory.WIDTH, device=device())

        def work() -> None:
            with torch.autocast(device().type, dtype=torch.bfloat16, enabled=bf16):
                cognate_memory.train(model, x)

        return Reading(repeated(work, until), rows * length)

    return run


def _theirs(sizes: tuple[int, int]) -> Callable[[], Any]:
    return functools.partial(cognate_memory.theirs, *sizes)


Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of q, k, v `(B, T, H, d)`, beta and the logarithm of the decay `(B, T, H)`."""


def rule(compute: Rule, dtype: torch.dtype, until: float) -> Reading:
    """Measure forward and backward pass of 8 heads of 64 over 4 rows of 4,096."""
    torch.manual_seed(0)
    rows, length, heads, size = 4, 4096, 8, 64
    q, k, v = (torch.randn(rows, length, heads, size, device=device(), dtype=dtype) for _ in range(3))
    q, k = (torch.nn.functional.normalize(x.float(), dim=-1).to(dtype).requires_grad_() for x in (q, k))
    beta = torch.rand(rows, length, heads, device=device()).to(dtype).requires_grad_()
    decay = torch.nn.functional.logsigmoid(torch.randn(rows, length, heads, device=device()) + 4).requires_grad_()
    v.requires_grad_()
    inputs = (q, k, v, beta, decay)

    def work() -> None:
        compute(*inputs).sum().backward()
        for tensor in inputs:
            tensor.grad = None

    return Reading(repeated(work, until), rows * length)


def _ours(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    q, k, v, beta, decay = (x.transpose(1, 2) for x in (q, k, v, beta, decay))
    return gated_delta_rule(q, k, v, beta, decay)[0]


def _fla() -> Rule:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # asks for the GPU when it is imported

    def compute(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
        made: Tensor = chunk_gated_delta_rule(q, k, v, g=decay, beta=beta, scale=1.0)[0]
        return made

    return compute


def optimizers(tiny: bool) -> list[Contestant]:
    """A step of each optimiser on the parameters of the Cognate of 25 million."""
    torch.manual_seed(0)
    model = _cognate(COGNATE_TINY if tiny else {}).to(device()).train()
    ids = torch.randint(1, model.config.vocab_size, (2, 64), device=device())
    with autocast():
        model(input_ids=ids, labels=ids).loss.backward()
    made = on_a_cpu.optimizers(model)
    peer = "AdamW"

    def run(name: str) -> Callable[[float], Reading]:
        return lambda until: Reading(repeated(made[name].step, until))

    return [Contestant(name, run(name), None if name == peer else peer) for name in made]
