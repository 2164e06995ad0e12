"""The metrics of a Cognate: how each is made of means over tokens, and the table that the documentation shows.

A metric that is not known is absent; none is ever filled in. The names are those of `metrics.jsonl` and of every
tracker. Where the house had a metric already, it keeps its name.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

When = Literal["step", "epoch", "final"]


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: everywhere.
        when: it is in every logged line, with every evaluation (or, of the data schedule, in every line), or in the
            manifest of the training or of the evaluation of diversity.
        definition: in one sentence.
        needs: what a run must have for the metric to exist; empty: nothing.
    """

    name: str
    when: When
    definition: str
    needs: str = ""


MUON, GROKFAST, QK_CLIP = "optimiser mugrokfast", "its Grokfast", "QK-Clip"
HALTING, MEMORY, EVAL = "a halting head", "a memory", "eval rows"
CURRICULUM, DIVERSITY = "data.curriculum", "evaluate.diversity"
METRICS = (
    Metric("loss", "step", "what is minimised: loss_ce + loss_act + weight * loss_gate, in nats a trained token"),
    Metric("loss_ce", "step", "cross-entropy of the answer, in nats a token"),
    Metric("loss_act", "step", "what halting adds to the loss, in nats a token", HALTING),
    Metric("loss_gate", "step", "how far the memory's share of the layers is below `gate_floor`", MEMORY),
    Metric("perplexity", "step", "exp(loss_ce)"),
    Metric("lr_muon", "step", "learning rate of the orthogonalised matrices", MUON),
    Metric("lr_aux", "step", "learning rate of what AdamW updates", MUON),
    Metric("grad_norm", "step", "norm of all gradients before clipping"),
    Metric("update_rms", "step", "root mean square of the matrices' last update", MUON),
    Metric("grokfast_ratio", "step", "norm of what Grokfast adds to the gradients, over their own norm", GROKFAST),
    Metric("qk_max_logit", "step", "largest attention logit of any head", QK_CLIP),
    Metric("qk_clip_events", "step", "how often a head was scaled down", QK_CLIP),
    Metric("act/avg_halting_steps", "step", "expected number of iterations, sum of k * p(stop at k)", HALTING),
    Metric("act/halt_prob_mean", "step", "probability of stopping, mean over all iterations but the last", HALTING),
    Metric("act/halt_prob_std", "step", "its standard deviation over tokens and iterations", HALTING),
    Metric("act/halt_entropy", "step", "entropy of p, in nats", HALTING),
    Metric("ltm/gate_mean", "step", "the memory's share of what it and attention write, mean over layers", MEMORY),
    Metric("ltm/memory_usage", "epoch", "effective rank of the memory's matrices, as a share of their width", MEMORY),
    Metric("ltm/surprise_mean", "step", "norm of what a write corrects in the memory", MEMORY),
    Metric("ltm/decay_mean", "step", "share of the memory that is kept from one token to the next", MEMORY),
    Metric("tokens_per_second", "step", "tokens without padding, since the last line"),
    Metric("mem_allocated", "step", "bytes of tensors, the most since the last line; on a CPU, bytes of the process"),
    Metric("mem_reserved", "step", "bytes that torch's allocator held at most since the last line", "a GPU"),
    Metric("eval_loss", "epoch", "cross-entropy on the eval rows, in nats a token", EVAL),
    Metric("eval_perplexity", "epoch", "exp(eval_loss)", EVAL),
    Metric("eval_bits_per_byte", "epoch", "eval_loss in bits, a byte of text", f"{EVAL}, byte-level tokenizer"),
    Metric("eval_recursion_gain", "epoch", "eval_loss after the first iteration, less eval_loss", f"{EVAL}, K > 1"),
    Metric("curriculum_stage", "step", "number of the stage, from 1", CURRICULUM),
    Metric("mixture_entropy", "step", "entropy of the shares of the data sources, in nats", CURRICULUM),
    Metric("tokens", "step", "tokens read so far, without padding"),
    Metric("epoch_minutes", "step", "minutes that an epoch takes, at the speed since the last line"),
    Metric("parameters", "final", "number of parameters; a tied head counts once"),
    Metric("seconds", "final", "seconds of training, restarts included"),
    Metric("diversity/js", "final", "Jensen-Shannon distance of the models' next-token distributions", DIVERSITY),
    Metric("diversity/disagreement", "final", "share of tokens whose likeliest successor differs", DIVERSITY),
    Metric("diversity/steps_spread", "final", "largest less smallest mean number of iterations", DIVERSITY),
    Metric("diversity/latency_ratio", "final", "time a token of the slowest model over the fastest's", DIVERSITY),
)
"""The 37 metrics."""


def training_figures(means: dict[str, float]) -> dict[str, float]:
    """Return what a line of training says, of the means of the parts of the loss."""
    figures = dict(means) | {"perplexity": perplexity(means["loss_ce"])}
    square = figures.pop("act/halt_prob_square", None)
    if square is not None:
        # never below 0 but for rounding
        figures["act/halt_prob_std"] = math.sqrt(max(square - means["act/halt_prob_mean"] ** 2, 0.0))
    return figures


def evaluation_figures(means: dict[str, float]) -> dict[str, float]:
    """Return what a line of evaluation says beside the loss, of the means that `CognateObjective.evaluate` gave."""
    figures = {"eval_perplexity": perplexity(means["loss"])}
    if means.get("bytes"):
        figures["eval_bits_per_byte"] = means["loss"] / math.log(2) / means["bytes"]
    if "first" in means:
        figures["eval_recursion_gain"] = means["first"] - means["loss"]
    if means.get("usage_rows"):
        figures["ltm/memory_usage"] = means["usage"] / means["usage_rows"]
    return figures


def perplexity(loss: float) -> float:
    """Return ``exp(loss)``, infinite where that is no float; the log leaves out what is not finite."""
    return math.exp(loss) if loss < 700 else math.inf
