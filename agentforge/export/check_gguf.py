"""Is a GGUF the model it was made from? What can be exact is compared exactly, the rest by its predictions."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused, UserError, first_line
from agentforge.export.agreement import Agreement, agreement, tokenizer_texts
from agentforge.export.gguf_pieces import Pieces
from agentforge.export.gguf_settings import SETTINGS, check_carried, check_general, check_settings
from agentforge.export.gguf_tensors import TensorReport, check_tensors
from agentforge.export.gguf_vocabulary import check_behaviour, check_vocabulary
from agentforge.export.llama_cpp import ask_llama_cpp
from agentforge.models.checkpoint import Checkpoint
from agentforge.recipe.schema import Quantization, Recipe

log = logging.getLogger(__name__)

# bfloat16 weights make llama.cpp round activations, too: 2e-5, 99.4 % and 0.04 on random models.
CONVERSION_KL, CONVERSION_TOP1, CONVERSION_DIFFERENCE = 1e-3, 0.97, 0.25


@dataclass(frozen=True)
class Reference:
    """What a GGUF is compared with.

    Attributes:
        weights: the checkpoint.
        config: its config, as it was converted.
        tokenizer: the checkpoint's.
        stops: tokens at which its generation ends.
        template: the chat template that must be in the file, None for a model without one.
        general: entries of the file that say what it is: name, version, licence ...
        rows: token ids of held-out text.
        sweep: token ids that cover the vocabulary.
        logits: directory with the checkpoint's logits of each row, then of the sweep, ``logits-NNN.npy`` (T, V).
        conversion: the GGUF that it was quantised from; None if it is that one.
        pieces: of the checkpoint's ``tokenizer.model``, if it has one.
    """

    weights: Checkpoint
    config: Mapping[str, Any]
    tokenizer: Any
    stops: Sequence[int]
    template: str | None
    general: Mapping[str, Any]
    rows: Sequence[Sequence[int]]
    sweep: Sequence[Sequence[int]]
    logits: Path
    conversion: Path | None = None
    pieces: Pieces | None = None


@dataclass(frozen=True)
class Findings:
    """What the comparison of a GGUF with its checkpoint found.

    Attributes:
        text: on held-out text.
        sweep: on rows that cover the vocabulary.
        coverage: share of the vocabulary whose tokens were in either.
        tensors: which tensors were compared.
        experts: the model is a mixture of experts.
    """

    text: Agreement
    sweep: Agreement
    coverage: float
    tensors: TensorReport
    experts: bool

    @property
    def difference(self) -> float:
        """The difference that is bounded: the largest anywhere, in standard deviations of the checkpoint's logits.

        Where a mixture of experts nearly ties, rounding chooses another expert, and all logits there are others: of its
        positions the tenth that differ most are left out.
        """
        parts = (self.text, self.sweep)
        found = (part.usual_difference if self.experts else part.max_difference for part in parts)
        return max(difference / max(part.spread, 1e-9) for difference, part in zip(found, parts, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            **self.text.as_dict(),
            "max_difference": max(self.text.max_difference, self.sweep.max_difference),
            "bounded_difference": self.difference,
            "sweep": self.sweep.as_dict(),
            "vocabulary_coverage": self.coverage,
            "tensors_compared": len(self.tensors.compared),
            "tensors_not_compared": self.tensors.others,
        }


def check_file(file: Path, reference: Reference) -> Findings:
    """Compare a GGUF with the checkpoint: metadata, tensors, vocabulary, template and logits.

    Raises:
        CheckRefused: it does not load, or differs in anything that is compared exactly.
    """
    # First what takes no model: no forward pass is spent on a file that says something wrong.
    tensors = check_contents(file, reference)
    rows = [*reference.rows, *reference.sweep]
    # Beside the file, where there is room: logits of 512 tokens over a vocabulary of 150,000 are 300 MB.
    scratch = file.with_suffix(".check")
    scratch.mkdir()
    try:
        texts = tokenizer_texts(reference.tokenizer)
        write_json(scratch / "questions.json", {"rows": rows, "texts": texts})
        ask_llama_cpp("examine", file, scratch / "questions.json", scratch)
        answers = json.loads((scratch / "answers.json").read_text(encoding="utf-8"))
        # The tokens first: if a text is read as other tokens, equal logits mean nothing.
        tokens = _read(file)[0]["tokenizer.ggml.tokens"]
        check_behaviour(answers, tokens, reference.tokenizer, reference.stops)
        check_texts(answers, texts, reference.tokenizer)
        split = len(reference.rows)
        text, sweep = (
            agreement(saved_logits(reference.logits, part), saved_logits(scratch, part))
            for part in (slice(None, split), slice(split, None))
        )
        covered = len({token for row in rows for token in row}) / len(tokens)
        experts = any(reference.config.get(key) for key in SETTINGS["expert_count"])
        return Findings(text, sweep, covered, tensors, experts)
    finally:
        shutil.rmtree(scratch)


def check_contents(file: Path, reference: Reference) -> TensorReport:
    """Compare what can be read from a GGUF without running it: everything but its predictions.

    Raises:
        CheckRefused: with the first entry, token, tensor or row that differs.
    """
    fields, tensors = _read(file)
    check_general(fields, reference.general)
    check_settings(fields, reference.config, vocabulary_size(reference.weights, reference.config))
    check_vocabulary(fields, reference.tokenizer, reference.pieces)
    if reference.template is not None and fields.get("tokenizer.chat_template") != reference.template:
        raise CheckRefused("the GGUF's chat template differs from the checkpoint's; it was not published")
    of_conversion = None
    if reference.conversion is not None:
        carried, of_conversion = _read(reference.conversion)
        check_carried(fields, carried)
    architecture = fields["general.architecture"]
    return check_tensors(tensors, architecture, reference.weights, reference.config, of_conversion)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a GGUF's metadata and its tensors, which are mapped and not read."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        return (
            {name: field.contents() for name, field in reader.fields.items()},
            {tensor.name: tensor for tensor in reader.tensors},
        )
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise CheckRefused(f"{file.name} is damaged and cannot be read: {first_line(error)}") from None


def vocabulary_size(weights: Checkpoint, config: Mapping[str, Any]) -> int:
    """Return the number of rows of the embedding, which may be more than the tokenizer has tokens."""
    rows = [
        info.shape[0] for name, info in weights.tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight"))
    ]
    return rows[0] if rows else int(config["vocab_size"])


def saved_logits(directory: Path, part: slice) -> Iterator[np.ndarray]:
    """Yield the logits of some rows; one row of a large vocabulary is hundreds of megabytes."""
    for file in sorted(directory.glob("logits-*.npy"))[part]:
        yield np.load(file)


def check_texts(answers: Mapping[str, Any], texts: Sequence[str], tokenizer: Any) -> None:
    """Refuse a GGUF that reads a text as other tokens than the checkpoint's tokenizer does."""
    for text, found in zip(texts, answers["tokens"], strict=True):
        # Token by token: a converter that mistakes the pre-tokenizer gets most texts right and a few wrong.
        expected = tokenizer.encode(text, add_special_tokens=False)
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((index for index, (left, right) in pairs if left != right), min(len(found), len(expected)))
            raise CheckRefused(
                f"the GGUF tokenises {text!r} differently than the checkpoint: from token {at} on "
                f"{found[at : at + 8]} instead of {expected[at : at + 8]}; it was not published"
            )


def refuse_conversion(name: str, found: Findings, cause: str | None = None) -> None:
    """Refuse an unquantised GGUF that computes something else than the checkpoint.

    Args:
        name: of the model.
        found: by the check.
        cause: what llama.cpp is known to compute otherwise (see `convert.known_difference`).

    Its bounds leave room only for llama.cpp's arithmetic: after quantising, a graph that is a little wrong would be
    taken for rounding.
    """
    wrong = found.text.kl > CONVERSION_KL or found.text.top1 < CONVERSION_TOP1
    if wrong or found.difference > CONVERSION_DIFFERENCE:
        raise CheckRefused(
            f"llama.cpp does not compute what {name} computes: unquantised, KL {found.text.kl:.3g} nats per token, "
            f"same top token {found.text.top1:.1%}, largest logit difference {found.difference:.3g} standard "
            f"deviations{f'; {cause}' if cause else ''}; serve the merged checkpoint with transformers or vLLM instead"
        )
    if cause:
        log.warning("%s: %s; it hardly matters on the tokens compared, and more on longer texts", name, cause)


def refuse_disagreement(recipe: Recipe, quantization: Quantization, found: Findings) -> None:
    """Refuse a file whose next-token distributions are too far from the checkpoint's.

    Perplexity is not looked at: it hardly moves, or improves, where KL and top-1 show the damage.
    """
    limits = recipe.export
    if any(quantization not in bounds for bounds in (limits.max_kl, limits.min_top1, limits.max_difference)):
        raise UserError(
            f"export.max_kl, export.min_top1 and export.max_difference must each have a bound for {quantization}"
        )
    max_kl, min_top1 = limits.max_kl[quantization], limits.min_top1[quantization]
    max_difference = limits.max_difference[quantization]
    # All are needed: KL averages away a few flipped tokens, top-1 misses a distribution that is flattened everywhere,
    # and both miss one token whose logit is wrong where it is never likely.
    if found.text.kl > max_kl or found.text.top1 < min_top1 or found.difference > max_difference:
        raise CheckRefused(
            f"{recipe.full_name}-{quantization} disagrees with its checkpoint on {found.text.tokens} tokens: "
            f"KL {found.text.kl:.3g} nats per token (export.max_kl {max_kl:g}), same top token {found.text.top1:.1%} "
            f"(export.min_top1 {min_top1:.1%}), largest logit difference {found.difference:.3g} standard deviations "
            f"(export.max_difference {max_difference:g}); it was not published"
        )
