"""CPU seconds of a training step at three widths: the sandwich over one set of weights, and three separate models.

Both compute the same losses at full, half and quarter width on the same tokens: labels, and for the narrow widths the
full one's distribution. The separate models are extracted checkpoints with weights and optimisers of their own. The
sandwich must add the narrow widths' gradients to the full one's; the separate models have a third more weights to step.
The contestants take turns, for a machine's speed drifts; the figure is the median of all steps of all turns but each
turn's first.

    python benchmarks/adamba_sandwich.py [--turns 6] [--steps 4] [--hidden 384] [--tokens 512]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers

from agentforge.losses.matryoshka import inplace_distillation
from agentforge.recipe.schema import Train
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.training.objective import Moment, NestedObjective
from agentforge.systems.adamba.widths.submodels import cut

WIDTHS = ("1/2", "1/4")
LAYERS, VOCABULARY, LENGTH, ALPHA = 6, 4096, 128, 0.5


def full_model(hidden: int) -> AdambaForCausalLM:
    """Return an Adamba whose sizes divide by four."""
    heads = hidden // 32
    config = AdambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        mamba_d_ssm=hidden,
        mamba_n_heads=heads,
        mamba_d_head=32,
        mamba_n_groups=1,
        mamba_d_state=32,
        mamba_chunk_size=64,
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return AdambaForCausalLM(config).train()


def batches(tokens: int) -> Iterator[torch.Tensor]:
    """Return token ids `(B, LENGTH)`, the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(VOCABULARY, (tokens // LENGTH, LENGTH), generator=generator)


Step = Callable[[torch.Tensor], torch.Tensor]


def sandwich(hidden: int) -> tuple[Step, list[torch.nn.Parameter]]:
    """Return the objective of `train.nested` as a function of a batch, and its parameters."""
    model = full_model(hidden)
    train = Train.model_validate({"nested": {"widths": list(WIDTHS), "random": 1, "alpha": ALPHA}})
    objective = NestedObjective(model, train, seed=0)
    return lambda ids: objective(Moment(0), ids, ids)[0], list(model.parameters())


def separate(hidden: int) -> tuple[Step, list[torch.nn.Parameter]]:
    """Return the same losses of three models that share nothing, and the parameters of all."""
    full = full_model(hidden)
    models = [full, *(cut(full, AdambaShape.of(full.config).scaled(Fraction(width))) for width in WIDTHS)]
    for model in models:
        model.requires_grad_(True).train()

    def losses(ids: torch.Tensor) -> torch.Tensor:
        targets = ids[:, 1:].flatten()
        logits = [head(model, states(model, ids)) for model in models]
        total = torch.nn.functional.cross_entropy(logits[0], targets, reduction="sum")
        for narrow in logits[1:]:
            total = total + inplace_distillation(narrow, logits[0], targets, alpha=ALPHA, temperature=1.0)[0]
        return total / len(models)

    return losses, [parameter for model in models for parameter in model.parameters()]


def states(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the hidden states from which each next token is read, `(K, D)`."""
    hidden: torch.Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1].flatten(0, 1)


def seconds(step: Step, parameters: list[torch.nn.Parameter], steps: int, tokens: int) -> list[tuple[float, float]]:
    """Return for each step but the first the CPU seconds of forward and backward, and of the optimiser."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    times = []
    for ids, _ in zip(batches(tokens), range(steps + 1), strict=False):
        begun = time.process_time()
        step(ids).backward()
        between = time.process_time()
        optimizer.step()
        optimizer.zero_grad()
        times.append((between - begun, time.process_time() - between))
    return times[1:]


def main() -> None:
    """Take turns and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    contestants = {"sandwich, one set of weights": sandwich, "three separate models": separate}
    made = {name: make(options.hidden) for name, make in contestants.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(options.turns):
        for name, (step, parameters) in made.items():
            times[name] += seconds(step, parameters, options.steps, options.tokens)
    rows = {
        name: (statistics.median(forth for forth, _ in found), statistics.median(sum(pair) for pair in found))
        for name, found in times.items()
    }
    base = rows["three separate models"]
    print("| step at widths 1, 1/2, 1/4 | forward and backward, CPU s | ratio | with the optimiser, CPU s | ratio |")
    print("|---|---|---|---|---|")
    for name, (passes, whole) in rows.items():
        print(f"| {name} | {passes:.4f} | {passes / base[0]:.3f} | {whole:.4f} | {whole / base[1]:.3f} |")


if __name__ == "__main__":
    main()
