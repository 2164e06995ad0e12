"""What a token costs with less of an Adamba: narrower widths, and early exits.

Widths: a random model so large that reading its weights decides; the widths take turns, and the figure is the least of
the turns. Exits: a small model of bytes, trained for a minute or two on this repository's own text with the loss of
every exit; thresholds are calibrated on files it has not seen, and it then continues other such files. Agreement there
is the share of written tokens that the full model, having read the same text, would have chosen. Batch of 1, greedy.

    python -m benchmarks.adamba_decoding [--hidden 1024] [--layers 4] [--tokens 32] [--steps 300]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from agentforge.systems.adamba.exits.calibration import calibrate_exits
from agentforge.systems.adamba.exits.depth import hidden_after
from agentforge.systems.adamba.exits.exits import Exits
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.widths.submodels import submodel

ROOT = Path(__file__).parent.parent
WIDTHS = ("1", "1/2", "1/4")
TURNS = 5
KINDS = ("cpu", "wall")
CONTEXT, BATCH, HELD_OUT = 128, 8, 10
EXIT_LAYERS = (2, 4)
WANTED = (0.8, 0.9, 0.95, 0.98)


def config_of(hidden: int, layers: int, vocabulary: int) -> AdambaConfig:
    """Falcon-H1's proportions; four key-value heads, so that there is a quarter."""
    head = 64 if hidden >= 512 else 16
    return AdambaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        num_key_value_heads=4,
        head_dim=head,
        mamba_d_ssm=2 * hidden,
        mamba_n_heads=2 * hidden // head,
        mamba_d_head=head,
        mamba_n_groups=1,
        mamba_d_state=min(128, head),
        mamba_chunk_size=64,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


class Clock:
    """CPU and wall seconds of what runs inside."""

    def __enter__(self) -> Clock:
        self.begun = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        self.cpu, self.wall = time.process_time() - self.begun[0], time.perf_counter() - self.begun[1]


def widths_table(hidden: int, layers: int, tokens: int, dtype: torch.dtype) -> Iterator[str]:
    """Milliseconds a token at each width, the prompt's forward left out."""
    torch.manual_seed(0)
    model = AdambaForCausalLM(config_of(hidden, layers, 512)).eval().to(dtype)
    prompt = torch.randint(0, 512, (1, 16))
    clocks: dict[tuple[str, int], list[Clock]] = {}
    for _ in range(TURNS):
        for width in WIDTHS:
            for new in (1, tokens + 1):
                with Clock() as clock:
                    model.generate(prompt, width=width, max_new_tokens=new, do_sample=False)
                clocks.setdefault((width, new), []).append(clock)
    kind = str(dtype).removeprefix("torch.")
    yield f"hidden {hidden}, {layers} layers, {kind}, {tokens} tokens, best of {TURNS} turns."
    yield ""
    yield "| width | parameters | CPU ms/token | wall ms/token | faster, CPU | faster, wall |"
    yield "|---|--:|--:|--:|--:|--:|"

    def per_token(width: str, kind: str) -> float:
        long, short = (min(getattr(clock, kind) for clock in clocks[width, new]) for new in (tokens + 1, 1))
        return (long - short) / tokens

    for width in WIDTHS:
        best = [per_token(width, kind) for kind in KINDS]
        size = sum(parameter.numel() for parameter in submodel(model, width).parameters())
        faster = [per_token("1", kind) / narrow for kind, narrow in zip(KINDS, best, strict=True)]
        yield (
            f"| {width} | {size / 1e6:.1f}M | {1e3 * best[0]:.2f} | {1e3 * best[1]:.2f} "
            f"| {faster[0]:.2f} | {faster[1]:.2f} |"
        )


def text() -> tuple[Tensor, Tensor]:
    """Bytes of this repository's documents and code: those to train on, and every tenth file held out."""
    files = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "agentforge").rglob("*.py")])
    parts = [
        b"".join(file.read_bytes() for index, file in enumerate(files) if (index % HELD_OUT == 0) == held)
        for held in (False, True)
    ]
    seen, unseen = (torch.tensor(list(part)) for part in parts)
    return seen, unseen


def train(model: AdambaForCausalLM, seen: Tensor, steps: int) -> None:
    """Cross-entropy at full depth and, with the weights of LayerSkip, at the exits."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        starts = torch.randint(0, len(seen) - CONTEXT, (BATCH,), generator=generator)
        ids = torch.stack([seen[start : start + CONTEXT] for start in starts])
        with hidden_after(model, EXIT_LAYERS) as hidden:
            loss = model(ids, labels=ids, use_cache=False).loss
        for state in hidden.values():
            logits = head(model, model.model.final_layernorm(state[:, :-1]))
            loss = loss + 0.3 * torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


@contextmanager
def layer_calls(model: AdambaForCausalLM) -> Iterator[list[int]]:
    """Collect the index of each layer that is called."""
    calls: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda module, given, output, index=index: calls.append(index))
        for index, layer in enumerate(model.model.layers)
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def exits_table(steps: int, tokens: int, prompts: int) -> Iterator[str]:
    """Layer calls, time and agreement at each wanted agreement, exact and copied."""
    torch.manual_seed(0)
    model = AdambaForCausalLM(config_of(128, 6, 256))
    seen, unseen = text()
    train(model, seen, steps)
    rows = unseen[: len(unseen) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    continued, calibrating = rows[:prompts, : CONTEXT // 2], rows[prompts : prompts + 256].split(16)
    with torch.no_grad():
        loss = torch.stack([model(batch, labels=batch, use_cache=False).loss for batch in calibrating]).mean()
    yield (
        f"6 layers of 128, exits after {' and '.join(map(str, EXIT_LAYERS))}, {steps} steps, "
        f"{loss / math.log(2):.2f} bits a byte on unseen files; {prompts} continuations of {tokens} bytes."
    )
    yield ""
    yield "| wanted | catch-up | left early | layer calls | agreement | CPU ms/token | wall ms/token |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    yield row(model, continued, tokens, "full depth", {})
    for wanted in WANTED:
        calibrated = calibrate_exits(
            model, ({"input_ids": b} for b in calibrating), wanted, layers=EXIT_LAYERS, confidence="softmax_gap"
        )
        model.exits = Exits(calibrated)
        for catch_up in ("exact", "copy"):
            options = {"exit_threshold": "calibrated", "catch_up": catch_up}
            yield row(model, continued, tokens, f"{wanted} | {catch_up}", options)


def row(model: AdambaForCausalLM, prompts: Tensor, tokens: int, name: str, options: dict[str, Any]) -> str:
    """Continue the prompts one by one and say what it cost and how often full depth would have said the same."""
    agreed = left = called = 0
    clocks = []
    for prompt in prompts.split(1):
        generate = dict(max_new_tokens=tokens, do_sample=False, **options)
        with Clock() as clock:
            written = model.generate(prompt, **generate)
        clocks.append(clock)
        with layer_calls(model) as calls:
            output = model.generate(prompt, **generate, return_dict_in_generate=True)
        called += len(calls)
        left += sum(depth < len(model.model.layers) for depth in getattr(output, "depths", None) or [])
        with torch.no_grad():
            full = model(written, use_cache=False).logits[:, -tokens - 1 : -1].argmax(-1)
        agreed += int((full == written[:, -tokens:]).sum())
    total = tokens * len(prompts)
    times = [1e3 * sum(getattr(clock, kind) for clock in clocks) / total for kind in KINDS]
    cells = [f"{left / total:.2f}", f"{called / total / len(model.model.layers):.2f}", f"{agreed / total:.3f}"]
    name = name if "|" in name else f"{name} | "
    return f"| {name} | {' | '.join(cells)} | {times[0]:.2f} | {times[1]:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=16)
    options = parser.parse_args()
    for line in widths_table(options.hidden, options.layers, options.tokens, getattr(torch, options.dtype)):
        print(line, flush=True)
    print()
    for line in exits_table(options.steps, options.tokens, options.prompts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
