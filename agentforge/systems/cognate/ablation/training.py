"""One run: train the real model on one task with one seed, test it on the way, and measure it at the end."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import nn

from agentforge.systems.cognate.ablation.arms import Arm, Run
from agentforge.systems.cognate.ablation.controls import flops_per_token, replace_memories
from agentforge.systems.cognate.ablation.measuring import measure_exits, picture_of, score
from agentforge.systems.cognate.ablation.optimizers import decay_groups, make_mugrokfast
from agentforge.systems.cognate.ablation.tasks.base import seeded
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

WARMUP = 50
LAST_RATE = 0.1
"""Share of the rate that the cosine ends at."""
CLIP = 1.0
BETAS = (0.9, 0.95)
"""Of AdamW."""
TWICE = 2
"""Tests in a row at the target after which a task is solved: one alone may be luck."""


def make_model(arm: Arm) -> CognateForCausalLM:
    """Return an arm's model, with weights from torch's generator."""
    model = CognateForCausalLM(CognateConfig(vocab_size=arm.task.vocab_size, **arm.model))
    if arm.ema_memory:
        replace_memories(model)
    return model


def rate_at(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: linear warmup, then a cosine down to `LAST_RATE`."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


def train(run: Run) -> dict[str, Any]:
    """Train and measure; the same run gives the same numbers.

    Returns:
        what `summary` reads: accuracy and solved rows of the first test, all tests, the curve, the step at which the
        target was reached, parameters, FLOPs, CPU seconds, and for a model with halting its exits and a picture.
    """
    arm, started = run.arm, time.process_time()
    torch.manual_seed(run.seed)
    model = make_model(arm)
    flops = flops_per_token(model, arm.task.train_batch(arm.batch, seeded(run.seed)))
    tests = arm.task.test_batches()
    headline = next(iter(tests))
    curve, steps = _learn(run, model, tests[headline])
    scores = {name: score(model, batch) for name, batch in tests.items()}
    halts = model.config.halts
    return {
        "arm": arm.name,
        "seed": run.seed,
        "rate": run.rate,
        "accuracy": scores[headline].accuracy,
        "solved_rows": scores[headline].solved_rows,
        "loss": scores[headline].loss,
        "by_position": scores[headline].by_position,
        "tests": {name: one.accuracy for name, one in scores.items()},
        "reached": next((step for step, accuracy in curve if accuracy >= arm.target), None),
        "steps": steps,
        "budget": arm.steps,
        "curve": curve,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flops_per_token": flops,
        "exits": measure_exits(model, tests[headline]) if halts else None,
        "picture": picture_of(model, arm.task, tests[headline]) if halts else None,
        "cpu_seconds": time.process_time() - started,
    }


def _optimizer(model: CognateForCausalLM, arm: Arm, rate: float) -> torch.optim.Optimizer:
    if arm.own_optimizer:
        return make_mugrokfast(model, arm, rate, BETAS)
    return torch.optim.AdamW(decay_groups(model.parameters(), arm.weight_decay), lr=rate, betas=BETAS)


def _learn(run: Run, model: CognateForCausalLM, test: Any) -> tuple[list[tuple[int, float]], int]:
    arm, generator = run.arm, seeded(run.seed)
    optimizer = _optimizer(model, arm, run.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, arm.steps))
    curve: list[tuple[int, float]] = []
    for step in range(1, arm.steps + 1):
        batch = arm.task.train_batch(arm.batch, generator)
        # The model's own loss, halting included: what is measured here is what is trained everywhere else.
        model.train()
        model(input_ids=batch.input_ids, labels=batch.labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % arm.every == 0 or step == arm.steps:
            curve.append((step, score(model, test).accuracy))
            if len(curve) >= TWICE and min(accuracy for _, accuracy in curve[-TWICE:]) >= arm.stop:
                break
    return curve, step
