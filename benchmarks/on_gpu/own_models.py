"""The house's own models in bf16 beside Llamas of equal parameters: a step of training, far reading, decoding."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from benchmarks.cognate_training import cognate_loss, llama_like, llama_loss
from benchmarks.on_gpu.measuring import Contestant, Reading, Training, autocast, device, wait

COGNATE_TINY = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_prelude_layers": 1,
    "num_core_layers": 2, "memory_heads": 2, "memory_head_dim": 16, "gate_rank": 8,
}  # fmt: skip
AGIFORMER_TINY = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "window_size": 8,
}  # fmt: skip


def training(
    make: Callable[[], Any],
    loss: Callable[[Any, Tensor], Tensor],
    rows: int,
    length: int,
    until: float,
    *,
    compiled: bool = False,
    checkpointing: bool = False,
) -> Reading:
    """Measure steps on rows of random tokens."""
    torch.manual_seed(0)
    model = make().to(device())
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(1, min(model.config.vocab_size, 256), (rows, length), device=device())
    reading = Training(model, loss, ids, compiled).reading(until)
    return replace(reading, note=reading.note or f"{model.num_parameters():,} parameters")


def cognate(tiny: bool) -> list[Contestant]:
    """The Cognate of 25 million parameters, 16 rows of 512, with one and with three iterations."""
    shape, rows, length = (COGNATE_TINY, 2, 32) if tiny else ({}, 16, 512)
    base = CognateConfig(**shape, recursion="plain", max_recursions=1)
    once = functools.partial(_cognate, shape | {"max_recursions": 1})
    usual = functools.partial(_cognate, shape)

    def run(make: Callable[[], Any], loss: Any, **how: Any) -> Callable[[float], Reading]:
        return lambda until: training(make, loss, rows, length, until, **how)

    size = f"{rows} x {length}"
    peer, compiled = f"Llama, {size}", "Llama, compiled"
    found = [
        Contestant(peer, run(lambda: llama_like(base), llama_loss)),
        Contestant(f"cognate, 1 iteration, {size}", run(once, cognate_loss), peer),
        Contestant(f"cognate, 3 iterations, {size}", run(usual, cognate_loss), peer),
        Contestant("the same, checkpointing", run(usual, cognate_loss, checkpointing=True), peer),
    ]
    if torch.cuda.is_available() and not tiny:
        found += [
            Contestant(compiled, run(lambda: llama_like(base), llama_loss, compiled=True), peer),
            Contestant("cognate, 1 iteration, compiled", run(once, cognate_loss, compiled=True), compiled),
            Contestant("cognate, 3 iterations, compiled", run(usual, cognate_loss, compiled=True), compiled),
        ]
    return found


def _cognate(fields: dict[str, Any]) -> CognateForCausalLM:
    return CognateForCausalLM(CognateConfig(**fields))


def agiformer(tiny: bool) -> list[Contestant]:
    """The medium AGIFORMER, whose token is a byte."""
    config = AgiformerConfig(**AGIFORMER_TINY) if tiny else AgiformerConfig(preset="medium")
    rows, length, far, written = (2, 64, 256, 8) if tiny else (32, 1024, 8192, 256)
    ours, theirs = functools.partial(AgiformerForCausalLM, config), functools.partial(byte_llama, config)

    def run(make: Callable[[], Any], rows: int, **how: Any) -> Callable[[float], Reading]:
        return lambda until: training(make, llama_loss, rows, length, until, **how)

    def names(what: str) -> tuple[str, str]:
        return f"Llama of bytes, {what}", f"agiformer, {what}"

    large, small, writing = names(f"{rows} x {length}"), names(f"4 x {length}"), names("greedy, 1 text")
    found = [
        Contestant(large[0], run(theirs, rows)),
        Contestant(large[1], run(ours, rows), large[0]),
        Contestant(small[0], run(theirs, 4)),
        Contestant(small[1], run(ours, 4), small[0]),
        Contestant(f"agiformer, reads {far:,} bytes", lambda until: far_reading(ours(), far)),
        Contestant(writing[0], lambda until: decoding(theirs(), written)),
        Contestant(writing[1], lambda until: decoding(ours(), written), writing[0]),
    ]
    if torch.cuda.is_available() and not tiny:
        found += [
            Contestant("Llama of bytes, compiled", run(theirs, rows, compiled=True), large[0]),
            Contestant("agiformer, compiled", run(ours, rows, compiled=True), "Llama of bytes, compiled"),
        ]
    return found


def byte_llama(config: AgiformerConfig) -> LlamaForCausalLM:
    """Return a Llama of the same channels, heads and MLPs with as many layers as make it equally large."""

    def of(layers: int, width: int) -> LlamaForCausalLM:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=width,
                num_hidden_layers=layers,
                num_attention_heads=config.num_attention_heads,
                max_position_embeddings=16384,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=config.pad_token_id,
            )
        )

    with torch.device("meta"):
        wanted = AgiformerForCausalLM(config).num_parameters()
        one, two = (of(layers, config.intermediate_size).num_parameters() for layers in (1, 2))
    layers = max(1, 1 + round((wanted - one) / (two - one)))
    missing = wanted - (one + (layers - 1) * (two - one))
    return of(layers, config.intermediate_size + round(missing / (3 * config.hidden_size * layers)))


@torch.no_grad()
def far_reading(model: AgiformerForCausalLM, length: int) -> Reading:
    """Read a text far longer than those of the training, in bf16, and see that no logit is infinite or NaN."""
    model = model.to(device()).eval()
    ids = torch.randint(0, 256, (1, length), device=device())
    taken = []
    for _ in range(4):
        wait()
        begun = time.perf_counter()
        with autocast():
            logits = model(input_ids=ids, use_cache=False).logits
        wait()
        taken.append(time.perf_counter() - begun)
    if not torch.isfinite(logits).all():
        raise ValueError("not all logits are finite")
    return Reading(min(taken), length, note="a forward pass; all logits are finite")


@torch.no_grad()
def decoding(model: Any, written: int) -> Reading:
    """Continue one text greedily, weights in bf16, with the cache."""
    model = model.to(device(), torch.bfloat16).eval()
    ids = torch.randint(0, 256, (1, 512), device=device())
    taken = math.inf
    for count in (8, written, written):
        wait()
        begun = time.perf_counter()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            eos_token_id=None,
        )  # fmt: skip
        wait()
        if out.shape[1] != ids.shape[1] + count:
            raise ValueError(f"{out.shape[1] - ids.shape[1]} bytes were written, not {count}")
        taken = min(taken, time.perf_counter() - begun) if count == written else math.inf
    return Reading(taken, written, note=f"{model.num_parameters():,} parameters")
