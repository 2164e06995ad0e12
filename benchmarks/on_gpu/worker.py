"""One part of the GPU benchmark in this process; `benchmarks.gpu` starts it and reads what it writes to its stdout."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
import traceback
from typing import Any, TextIO

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import torch
import transformers

from benchmarks.on_gpu.measuring import Contestant, Missing, Reading, mfu, peak_gib, start_of_peak

MODULES = {
    "sft": "supervised:sft",
    "pretrain": "supervised:pretrain",
    "hybrid": "supervised:hybrid",
    "grpo": "reinforcement:grpo",
    "cognate": "own_models:cognate",
    "agiformer": "own_models:agiformer",
    "memory": "layers:memory",
    "optimizers": "layers:optimizers",
}


def machine() -> str:
    """Return the card's name and the versions that decide its speed."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{card}, torch {torch.__version__}, transformers {transformers.__version__}"


def row_of(part: str, contestant: Contestant, until: float) -> dict[str, Any]:
    """Measure a contestant; what goes wrong is its row."""
    row: dict[str, Any] = {"part": part, "name": contestant.name, "peer": contestant.peer}
    start_of_peak()
    begun = time.monotonic()
    try:
        reading: Reading = contestant.run(until)
        row |= {"seconds": reading.seconds, "tokens": reading.tokens, "mfu": mfu(reading), "note": reading.note}
        row["peak_gib"] = peak_gib()
    except Missing as missing:
        row["note"] = str(missing)
    except torch.OutOfMemoryError:
        traceback.print_exc()
        row["note"] = "out of memory"
    except Exception as error:  # a line of the table, whatever it is: the others must be measured all the same
        traceback.print_exc()
        row["note"] = f"failed: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"[:300]
    return row | {"machine": machine(), "took": round(time.monotonic() - begun, 1)}


def run(part: str, seconds: float, tiny: bool, out: TextIO) -> None:
    """Measure a part's contestants, each within its share of the time that is left."""

    def say(**what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    module, function = MODULES[part].split(":")
    make = getattr(importlib.import_module(f"benchmarks.on_gpu.{module}"), function)
    say(ready=True)
    sys.stdin.readline()
    deadline = time.monotonic() + seconds
    contestants: list[Contestant] = make(tiny)
    say(planned=[contestant.name for contestant in contestants])
    for place, contestant in enumerate(contestants):
        now = time.monotonic()
        if now > deadline:
            say(part=part, name=contestant.name, note="no time left for it")
            continue
        say(**row_of(part, contestant, now + (deadline - now) / (len(contestants) - place)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=MODULES)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like; stdout is for rows
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run(options.part, options.seconds, options.tiny, out)


if __name__ == "__main__":
    main()
