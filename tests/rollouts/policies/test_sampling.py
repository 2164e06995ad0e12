"""The filters against transformers' own, and the draws against the filtered distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from agentforge.data import chat_template
from agentforge.rollouts.policies.base import Request, Sampling
from agentforge.rollouts.policies.sampling import draw, draw_next, filtered, penalize
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy

from ...data.small_tokenizers import chatml_tokenizer
from ..players import random_policy

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12)


def theirs(logits: torch.Tensor, context: list[int], sampling: Sampling) -> torch.Tensor:
    """What `generate` of transformers draws from."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors(torch.tensor([context], dtype=torch.long), logits[None].clone()).softmax(-1)[0]


def ours(logits: torch.Tensor, context: list[int], sampling: Sampling) -> torch.Tensor:
    penalized = penalize(logits[None], [context], sampling.repetition_penalty)
    left = filtered(penalized / sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
    return left.exp()[0]


@settings(max_examples=100, deadline=None)
@given(
    LOGITS,
    st.builds(
        Sampling,
        max_new_tokens=st.just(1),
        temperature=st.sampled_from([0.5, 1.0, 1.7]),
        top_p=st.sampled_from([1.0, 0.93, 0.61, 0.07]),
        top_k=st.sampled_from([0, 1, 2, 3, 50]),
        min_p=st.sampled_from([0.0, 0.04, 0.31, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    ),
    st.lists(st.integers(0, 1), min_size=1, max_size=3),
)
def test_the_filters_leave_what_transformers_leaves(
    values: list[float], sampling: Sampling, context: list[int]
) -> None:
    # equal logits are ordered by whoever sorts them, so the nucleus may end in another one of them: here none are equal
    logits = torch.tensor(values) + torch.arange(len(values)) * 0.0137
    if logits.unique().numel() < len(values):
        return
    torch.testing.assert_close(ours(logits, context, sampling), theirs(logits, context, sampling), atol=1e-6, rtol=1e-4)


def test_ties_at_the_last_place_of_top_k_stay() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 0.0])
    sampling = Sampling(1, 1.0, top_k=2)
    assert ours(logits, [0], sampling).tolist() == pytest.approx(theirs(logits, [0], sampling).tolist())
    assert (ours(logits, [0], sampling) > 0).tolist() == [True, True, True, False]


def test_without_options_the_draw_is_the_one_it_was() -> None:
    """Reinforcement learning compares log-probabilities bit by bit with those of earlier runs."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    uniforms = [0.1, 0.5, 0.99]
    tokens, logprobs = draw(logits, 0.7, 0.9, uniforms)
    assert draw_next(logits, Sampling(1, 0.7, 0.9), uniforms, []) == (tokens, logprobs)
    plain = (logits / 0.7).log_softmax(-1)
    assert draw(logits, 0.7, 1.0, uniforms)[1] == [
        float(row[t]) for row, t in zip(plain, draw(logits, 0.7, 1.0, uniforms)[0], strict=True)
    ]


def test_a_penalty_counts_each_token_once_and_reads_only_its_own_row() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    changed = penalize(logits, [[0, 0, 1], [2]], 2.0)
    assert changed.tolist() == [[1.0, -4.0, 1.0], [2.0, -2.0, 0.5]]
    assert logits[0, 0] == 2.0, "what was given stays as it was"


@pytest.fixture(scope="module")
def policy() -> TransformersPolicy:
    tokenizer: PreTrainedTokenizerFast = chatml_tokenizer()
    chat_template.install_template(tokenizer)
    return random_policy(tokenizer)


@pytest.mark.parametrize("option", [{"top_k": 3}, {"min_p": 0.5}, {"repetition_penalty": 1.8}])
def test_every_way_of_writing_a_turn_heeds_the_options(policy: TransformersPolicy, option: dict[str, float]) -> None:
    """`draw` reads all again, the decoder keeps a cache: the same request must give the same turn, and another one
    than without the option. Two rows of unequal length: padding is not taken for a token that was said."""
    sampling = Sampling(max_new_tokens=12, temperature=1.5, **option)  # type: ignore[arg-type]
    ids = policy.encode([{"role": "user", "content": "abc"}])
    requests = [Request(ids, 12, seed=5), Request([*ids, *ids[:3]], 12, seed=6)]
    read_again = policy.draw(requests, sampling)
    with policy.decoder(sampling, slots=2) as decoder:
        for slot, request in enumerate(requests):
            decoder.begin(slot, request)
        kept: dict[int, list[int]] = {}
        while len(kept) < 2:
            kept |= {slot: turn.token_ids for slot, turn in decoder.advance()}
    assert [turn.token_ids for turn in read_again] == [kept[0], kept[1]]
    assert read_again != policy.draw(requests, Sampling(max_new_tokens=12, temperature=1.5))
