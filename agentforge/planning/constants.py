"""The constants that estimates rest on: each with its range, and where it comes from ("guess" where nobody knows).

`python -m agentforge.planning.constants docs/planning.md` writes them into the page. What belongs to one machine (its
peak, the share of it that training reaches, its price) is in configs/hardware.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from agentforge.planning.cost import Range

OPENING, END = "<!-- constants -->", "<!-- end of constants -->"


@dataclass(frozen=True)
class Constant:
    """A number that no formula gives.

    Attributes:
        what: with its unit.
        range: slow or dear things have their unfavourable value where an estimate of hours has it: at `high`.
        source: a page or a measurement; begins with ``guess`` where there is none.
    """

    what: str
    range: Range
    source: str


DISK = Constant(
    "seconds a GB read or written on a data centre's disk",
    Range(1 / 2.0, 1 / 0.8, 1 / 0.3),
    "guess: network disks at 0.3 GB/s to local NVMe at 2 GB/s",
)
DOWNLOAD = Constant("seconds a GB downloaded from the Hub", Range(1 / 0.4, 1 / 0.1, 1 / 0.03), "guess")
NF4_TIME = Constant(
    "time of training on a base in nf4, as a multiple of bf16",
    Range(1.1, 1.28, 1.5),
    "LoRA at 3,083 and QLoRA at 2,413 tokens/s, Llama 3.1 8B on a 4090 (README of torchtune); the ends are a guess",
)
HYBRID_TIME = Constant(
    "time of a model with Mamba mixers, as a multiple of a dense one with as many operations",
    Range(1.0, 1.5, 3.0),
    "guess: 1 with fused kernels (328 TFLOP/s of an H100 for a Mamba-2 hybrid, NeMo Automodel's summary), up to 3 "
    "without",
)
LAYER_SECONDS = Constant(
    "seconds that a decoder layer of transformers takes for one token of each row, apart from the arithmetic",
    Range(0.4e-3, 0.7e-3, 1.2e-3),
    "guess",
)
SAMPLER_READS = Constant(
    "time in which vLLM writes one token of each row, as a multiple of reading the weights once",
    Range(1.3, 1.7, 3.0),
    "1.3 to 2.4 in the measurements of configs/hardware/samplers.yaml, up to 50 rows; the upper end is a guess",
)
EPISODE_SHARE = Constant(
    "tokens that the longest answer or episode of a batch has, as a share of what it may have",
    Range(0.25, 0.5, 1.0),
    "guess",
)
CORE_FLOPS = Constant(
    "operations a second of one core of the host in llama.cpp, reading",
    Range(6e10, 4e10, 2e10),
    "guess: 61 GFLOP/s in fp32 were measured on one AVX2 core",
)
CORE_BANDWIDTH = Constant(
    "bytes a second of the host's memory for each core, up to those of all its channels",
    Range(10e9, 6e9, 3e9),
    "guess",
)
HOST_BANDWIDTH = Constant(
    "bytes a second of the host's memory in all", Range(300e9, 150e9, 50e9), "guess: 12, 8 and 2 channels of DDR5"
)
CHARACTERS = Constant(
    "characters of an English text or tool call in a token", Range(4.5, 4.0, 3.0), "guess: tokenizers of 100,000 words"
)
CUDA_OVERHEAD = Constant(
    "GiB of a GPU for the CUDA context, cuBLAS's workspaces and NCCL's buffers", Range(0.8, 1.5, 2.5), "guess"
)
USABLE = Constant(
    "share of a device that the formulas may fill; the rest is for fragmentation", Range(0.92, 0.92, 0.92), "guess"
)
MATMUL_CEILING = Constant(
    "share of an H200's peak that matrix products reach by themselves",
    Range(0.78, 0.81, 0.81),
    "769 to 798 TFLOP/s measured on one H200",
)
MAX_MFU = Constant(
    "share of the dense bf16 peak, in useful work, above which no run is believed",
    Range(0.50, 0.50, 0.50),
    "nanochat's d24 on 8 H100s reached it (its leaderboard); none above it is known",
)

ALL: list[Constant] = [value for value in list(globals().values()) if isinstance(value, Constant)]


def constants_table() -> str:
    """Return the constants as a Markdown table."""
    rows = ["| what | good case | likely | bad case | source |", "|---|--:|--:|--:|---|"]
    for constant in ALL:
        span = constant.range
        numbers = " | ".join(f"{value:.3g}" for value in (span.low, span.mid, span.high))
        rows.append(f"| {constant.what} | {numbers} | {constant.source} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """Return a page with the table between its two marks."""
    before, rest = page.split(OPENING)
    return f"{before}{OPENING}\n{constants_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")
