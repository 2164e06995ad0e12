"""Bits per byte over CPU seconds: AGIFORMER against a flat Llama, a flat FalconH1 and the least causal hierarchy.

All models have the same parameters (n-gram tables counted apart), batches, seed and number of steps; model, text, batch
and arithmetic of the optimiser are those of the recipe ``agiformer/bytes`` in its profile ``tiny``. Each trains in a
process of its own with one thread. Along the curve 32 KiB from everywhere in the held-out text are scored, at the end
all of it, with a sliding context; what that costs is not counted. The controls are trained with AdamW too, so that
nobody need believe that Muon suits them.

With ``--learning-rates`` every model is trained at each of these rates, and the table shows its best. The rate falls to
a tenth along a cosine of the share of steps or of CPU seconds, whichever is further: so with many steps and
``--max-cpu-seconds`` all models anneal in equal time.

Lines of JSON are written as they come, to ``OUTPUT/<model>, <rate>.jsonl``; at the end the table is printed and
``OUTPUT/curves.svg`` drawn of all lines that are there, whichever run wrote them.

    python -m benchmarks.agiformer_bpc [--text FILE] [--steps 600] [--max-cpu-seconds 600] [--workers 8] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from agentforge.data.sources.raw_bytes import read_bytes
from agentforge.evaluation.bits.compressors import compressed_bits
from agentforge.evaluation.bits.evaluate_bits import Tokens, bits_figure
from agentforge.evaluation.bits.sliding import token_losses
from agentforge.evaluation.report.svg import PlanePoint, alone, plane
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe
from agentforge.systems.agiformer.checkpoint_types import BYTES
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.training.row_optimizer import RowMuGrokfast, make_row_mugrokfast
from benchmarks._byte_models import NAMES, make, parameters

OUTPUT = Path("runs/benchmarks/agiformer_bpc")
CONTROLS = ("Llama", "FalconH1")
ADAMW = "; AdamW"
RUNS = (*NAMES, *(f"{name}{ADAMW}" for name in ("Llama", "FalconH1", "hierarchy")))
RATES = {"AdamW": 1e-3, "Muon": 3e-3}
PIECE, PIECES = 4096, 8
"""Bytes and number of the pieces that are scored along the curve."""
MARKS = (60, 120, 180, 300, 600)
"""CPU seconds at which the table compares."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of `RUNS`.
        rate: its learning rate.
        training, held_out: bytes.
        options: of the command line.
    """

    name: str
    rate: float
    training: bytes
    held_out: bytes
    options: argparse.Namespace

    @property
    def optimizer(self) -> str:
        return "AdamW" if self.name.endswith(ADAMW) else "Muon"

    @property
    def path(self) -> Path:
        return self.options.output / f"{self.name}, {self.rate:g}.jsonl"


def recipe() -> Recipe:
    return load_recipe("agiformer/bytes", [], "tiny")


def model_config() -> AgiformerConfig:
    fields = dict(recipe().model.config)
    del fields["model_type"]
    return AgiformerConfig(**fields)


def texts(path: Path | None) -> tuple[bytes, bytes]:
    """Return what is trained on and what is scored: the first 90 % of a file and the rest, or the recipe's."""
    if path is not None:
        text = path.read_bytes()
        return text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    chosen = recipe()
    bpc = chosen.evaluate.bpc
    assert bpc is not None and bpc.training is not None
    return read_bytes(bpc.training, chosen.data), read_bytes(bpc.text, chosen.data)[: bpc.max_bytes]


def optimizer_of(model: nn.Module, job: Job) -> torch.optim.Optimizer:
    """Return AdamW or Muon; tables of n-grams have their rows trained by Adam, as in the recipe."""
    chosen = recipe().train
    decay = float(chosen.args["weight_decay"])
    if job.optimizer == "AdamW":
        groups = [
            {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": decay},
            {"params": [weight for weight in model.parameters() if weight.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=job.rate, fused=True)
    args = TrainingArguments(
        output_dir="unused", learning_rate=job.rate, weight_decay=decay, use_cpu=True, report_to="none"
    )
    options = dict(chosen.optimizer.options) if chosen.optimizer is not None else {}
    return make_row_mugrokfast(model, args, **options)


def rows_of(text: bytes, context: int) -> Tensor:
    """Return a text cut into rows `(R, context)`; what is left at its end is not used."""
    whole = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return whole[: len(whole) // context * context].view(-1, context).long()


def batches(rows: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Yield `(size, context)` of the rows, in an order of their own each time: the same for every model."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)][: len(rows) // size * size].split(size)


def sample(text: bytes) -> list[bytes]:
    """Return pieces that lie evenly over a text; a short text is one piece."""
    if len(text) <= 2 * PIECES * PIECE:
        return [text]
    return [text[start : start + PIECE] for start in np.linspace(0, len(text) - PIECE, PIECES, dtype=int)]


def score(model: Any, pieces: Sequence[bytes], context: int) -> tuple[float, float, float]:
    """Return bits per byte of texts, and their interval of 80 %."""
    model.eval()
    impossible = range(BYTES, model.config.vocab_size)
    losses = [
        token_losses(
            model, list(text), context=context, stride=context // 2, begin=None, impossible=impossible, batch=8
        )
        for text in pieces
    ]
    model.train()
    ids = list(b"".join(pieces))
    figure = bits_figure(np.concatenate(losses), Tokens(ids, np.arange(1, len(ids) + 1)), 0.8)
    return figure.value, figure.low, figure.high


def train(job: Job) -> None:
    """Train one model, and write what it is and what it reaches."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    options = job.options
    torch.manual_seed(options.seed)
    model = make(job.name.removesuffix(ADAMW), model_config()).train()
    optimizer = optimizer_of(model, job)
    clip = float(recipe().train.args["max_grad_norm"])
    peaks = [group["lr"] for group in optimizer.param_groups]
    dense, tables = parameters(model)
    with job.path.open("w", encoding="utf-8") as file:

        def write(**entry: Any) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            print(f"{job.name}, {job.rate:g}: {entry}", file=sys.stderr, flush=True)

        write(model=job.name, rate=job.rate, parameters=dense, tables=tables, steps=options.steps, batch=options.batch,
              context=options.context, seed=options.seed, optimizer=job.optimizer)  # fmt: skip
        rows, before = rows_of(job.training, options.context), time.process_time()
        if hasattr(model, "count"):
            model.count(rows)
        data, due = batches(rows, options.batch, options.seed), options.every
        spent = time.process_time() - before
        for step in range(1, options.steps + 1):
            share = max(step / options.steps, spent / options.max_cpu_seconds)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1, step / options.warmup) * (0.55 + 0.45 * math.cos(math.pi * min(share, 1)))
            before = time.process_time()
            loss = one_step(model, optimizer, next(data), clip)
            spent += time.process_time() - before
            last = step == options.steps or spent >= options.max_cpu_seconds or not math.isfinite(loss)
            if spent >= due or last:
                due = (spent // options.every + 1) * options.every
                bits = score(model, sample(job.held_out), options.context)
                write(step=step, cpu_seconds=round(spent, 2), train_bpc=loss / math.log(2), bits=bits)
            if last:
                break
        write(whole=score(model, [job.held_out], options.context))


def one_step(model: Any, optimizer: torch.optim.Optimizer, ids: Tensor, clip: float) -> float:
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    optimizer.zero_grad()
    loss.backward()
    if isinstance(optimizer, RowMuGrokfast):
        optimizer.set_aside()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return float(loss.detach())


@dataclass(frozen=True)
class Curve:
    """What a file of lines holds.

    Attributes:
        head: what the model is.
        points: in time.
        whole: bits per byte of the whole held-out text at the end, and their interval.
    """

    head: dict[str, Any]
    points: list[dict[str, Any]]
    whole: tuple[float, float, float]

    def at(self, seconds: float) -> float | None:
        """Return the bits at the last point until then; None: there is none."""
        past = [point for point in self.points if point["cpu_seconds"] <= seconds * 1.02]
        return float(past[-1]["bits"][0]) if past else None


def read_curves(directory: Path) -> list[Curve]:
    """Return of each model the curve that ends lowest, in the order of `RUNS`."""
    best: dict[str, Curve] = {}
    for path in sorted(directory.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not lines or "whole" not in lines[-1]:
            continue  # still running, or ended by force
        head, *points, last = lines
        curve = Curve(head, points, tuple(last["whole"]))
        if head["model"] not in best or curve.whole < best[head["model"]].whole:
            best[head["model"]] = curve
    return [best[name] for name in RUNS if name in best]


def table(curves: Sequence[Curve]) -> str:
    """Return the models as Markdown: bits per byte at equal times and at the end."""
    times = [mark for mark in MARKS if any(curve.points[-1]["cpu_seconds"] >= mark * 0.98 for curve in curves)]
    lines = [
        "| model | parameters | tables | optimiser, rate | steps | CPU s | "
        + "".join(f"{mark} s | " for mark in times)
        + "end, whole text |",
        "|---|--:|--:|---|--:|--:|" + "--:|" * (len(times) + 1),
    ]
    for curve in curves:
        head, last = curve.head, curve.points[-1]
        tables = f"{head['tables'] / 1e6:.1f}M" if head["tables"] else ""
        cells = [f"{bits:.3f}" if (bits := curve.at(mark)) is not None else "" for mark in times]
        lines.append(
            f"| {head['model'].removesuffix(ADAMW)} | {head['parameters']:,} | {tables} | "
            f"{head['optimizer']}, {head['rate']:g} | {last['step']:,} | {last['cpu_seconds']:.0f} | "
            + "".join(f"{cell} | " for cell in cells)
            + "{:.3f} [{:.3f}, {:.3f}] |".format(*curve.whole)
        )
    return "\n".join(lines)


def comparison(curves: Sequence[Curve]) -> str:
    """Say at how many equal times after the first minute each AGIFORMER needs fewer bits than each flat model."""
    said = []
    for ours in (curve for curve in curves if curve.head["model"].startswith("AGIFORMER")):
        for name in CONTROLS:
            theirs = [curve for curve in curves if curve.head["model"].removesuffix(ADAMW) == name]
            times = [point["cpu_seconds"] for curve in (ours, *theirs) for point in curve.points]
            # Beyond the end of the shorter training its last figure stands: nothing has to be computed for it.
            pairs = [(ours.at(time), min((bits for one in theirs if (bits := one.at(time)) is not None), default=None))
                     for time in times if time >= MARKS[0]]  # fmt: skip
            known = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
            if known:
                better = sum(mine < other for mine, other in known)
                said.append(f"{ours.head['model']} against {name}: better at {better} of {len(known)} times from 60 s.")
    return "\n".join(said)


def compressors(training: bytes, held_out: bytes) -> str:
    """Return the compressors' bits of the same bytes as Markdown."""
    lines = ["| compressor | alone | after the training text |", "|---|--:|--:|"]
    for name, bits in compressed_bits(held_out, training).items():
        lines.append(f"| {name} | {bits['alone']:.3f} | {bits['after_training']:.3f} |")
    return "\n".join(lines)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw the curves; what lies far above all the ends is left out, or nothing else could be told apart."""
    ceiling = max(curve.points[-1]["bits"][0] for curve in curves) + 0.6
    series = []
    for number, curve in enumerate(curves):
        near = [point for point in curve.points if point["bits"][0] <= ceiling]
        places = [PlanePoint("", point["cpu_seconds"], *point["bits"]) for point in near]
        series.append((f"{curve.head['model']}, rate {curve.head['rate']:g}", number, places))
    picture = plane("Bits per byte over CPU seconds", "CPU seconds", "bits per byte", series)
    path.write_text(alone(picture), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    chosen = recipe()
    parser.add_argument("--text", type=Path, help="a file, of which the last tenth is held out; else the recipe's text")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--learning-rates", nargs="+", type=float, help="for every model; else each optimiser's own")
    parser.add_argument("--steps", type=int, default=chosen.train.args["max_steps"])
    parser.add_argument("--max-cpu-seconds", type=float, default=600.0)
    parser.add_argument("--batch", type=int, default=chosen.train.args["per_device_train_batch_size"])
    parser.add_argument("--context", type=int, default=chosen.data.max_length)
    parser.add_argument("--warmup", type=int, default=chosen.train.args["warmup_steps"])
    parser.add_argument("--seed", type=int, default=chosen.seed)
    parser.add_argument("--every", type=float, default=30.0, help="CPU seconds between evaluations")
    parser.add_argument("--workers", type=int, default=1, help="models trained at once, one thread each")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    training, held_out = texts(options.text)
    jobs = []
    for name in options.only:
        rates = options.learning_rates or [RATES["AdamW" if name.endswith(ADAMW) else "Muon"]]
        jobs += [Job(name, rate, training, held_out, options) for rate in rates]
    # A process for each: what one has warmed up or left in memory cannot help or hinder the next.
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        list(pool.map(train, jobs))
    curves = read_curves(options.output)
    draw(curves, options.output / "curves.svg")
    print(
        f"{len(training):,} bytes of training, {len(held_out):,} held out; steps of {options.batch} x "
        f"{options.context} bytes. Bits per byte at equal CPU seconds of training, on the sample, and at the end on "
        f"the whole held-out text with an interval of 80 % over its blocks.\n\n{table(curves)}\n\n{comparison(curves)}"
        f"\n\n{compressors(training, held_out)}"
    )


if __name__ == "__main__":
    main()
