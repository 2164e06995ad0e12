"""Decoding with states that are carried from turn to turn against reading everything again: the same episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agentforge.data import chat_template
from agentforge.models.auto import register_all
from agentforge.models.ragged_cache import RaggedCache, _State
from agentforge.models.row_isolation import probe
from agentforge.models.small_twin import small_twin
from agentforge.rollouts.policies import state_decoding
from agentforge.rollouts.policies.base import Completion, Decoder, Request, Sampling
from agentforge.rollouts.policies.cached_decoding import common_length
from agentforge.rollouts.policies.state_decoding import StateDecoder
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import SIZES, random_policy
from tests.rollouts.same_episodes import DRAWN, GREEDY, assert_same, played, reference

register_all()

MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HYBRIDS: dict[str, dict[str, Any]] = {
    "falcon_h1": SIZES | MAMBA2 | {"mamba_d_ssm": 64},
    "adamba": SIZES | MAMBA2 | {"mamba_d_ssm": 64, "dropped_attention": [1]},
    "bamba": SIZES | MAMBA2 | {"mamba_expand": 1, "attn_layer_indices": [1]},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = chatml_tokenizer()
    chat_template.install_template(made)
    return made


def hybrid(tokenizer: PreTrainedTokenizerFast, name: str) -> TransformersPolicy:
    policy = random_policy(tokenizer, name, **(HYBRIDS[name] | {"vocab_size": len(tokenizer)}))
    assert policy.keeps_cache
    return policy


@pytest.fixture(scope="module")
def policy(tokenizer: PreTrainedTokenizerFast) -> TransformersPolicy:
    return hybrid(tokenizer, "adamba")


@pytest.mark.parametrize(("sampling", "few"), [(GREEDY, 1), (DRAWN, state_decoding.FEW)])
@pytest.mark.parametrize("name", HYBRIDS)
def test_carried_is_read_again_is_one_at_a_time(
    tokenizer: PreTrainedTokenizerFast, name: str, sampling: Sampling, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight episodes of one to four turns in three slots: rows join late, in the place of others."""
    monkeypatch.setattr(state_decoding, "FEW", few)
    policy = hybrid(tokenizer, name)
    episodes = played(policy, sampling)
    assert max(len(episode.turns) for episode in episodes) == 4
    for episode in episodes:
        reference(policy, episode, sampling)
    assert_same(episodes, played(policy, sampling, batch_size=1))
    monkeypatch.setattr(TransformersPolicy, "keeps_cache", False)
    assert_same(episodes, played(policy, sampling))


def not_at_all(*args: Any) -> None:
    """Do nothing, where something must be done."""


def copy_keys_alone(cache: RaggedCache, source: int, target: int, start: int, end: int) -> None:
    for store in (*cache._keys.values(), *cache._values.values()):
        store[target, start:end] = store[source, start:end]


TAKE = _State.take


def spare_nobody(state: _State, rows: int, batch: Any, spared: Any, before: Any) -> None:
    TAKE(state, rows, batch, [], None)


def forget(state: _State, *args: Any) -> None:
    if state.store is not None:
        state.store.zero_()
    TAKE(state, *args)
    if state.store is not None:
        state.store.zero_()


BROKEN: list[tuple[type, str, Callable[..., Any]]] = [
    (RaggedCache, "clear", not_at_all),  # the next episode begins in the state of the last
    (RaggedCache, "copy", copy_keys_alone),
    (_State, "take", spare_nobody),  # rows that were not read have read padding
    (_State, "take", forget),
]


@pytest.mark.parametrize("name", ["falcon_h1", "adamba"])
@pytest.mark.parametrize(("where", "method", "broken"), BROKEN)
def test_a_wrong_state_is_caught(
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    where: type,
    method: str,
    broken: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the probe that decides whether states are carried, so a cache that is wrong for a model is never used."""
    model = hybrid(tokenizer, name).model
    twin = small_twin(type(model), model.config)
    assert twin is not None
    with torch.no_grad():
        assert probe(twin, name).allows("carried")
        monkeypatch.setattr(where, method, broken)
        found = probe(twin, name)
    assert found.reason is None and 0.01 < found.differences["carried"] < float("inf")


def test_episodes_show_a_state_that_is_not_reset(policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    right = played(policy, GREEDY)
    monkeypatch.setattr(RaggedCache, "clear", not_at_all)
    monkeypatch.setattr(StateDecoder, "_copy_beginning", not_at_all)  # else most episodes begin with a copied state
    with pytest.raises(AssertionError):
        assert_same(right, played(policy, GREEDY))


def write(decoder: Decoder, *turns: tuple[int, list[int]]) -> dict[int, Completion]:
    """Begin a turn of six tokens in each slot, and write all of them."""
    for slot, token_ids in turns:
        decoder.begin(slot, Request(token_ids, 6, slot))
    written: dict[int, Completion] = {}
    while len(written) < len(turns):
        written.update(decoder.advance())
    return written


def text(policy: TransformersPolicy, words: str) -> list[int]:
    return policy.encode([{"role": "system", "content": "You count. " * 20}, {"role": "user", "content": words}])


def test_a_turn_that_is_taken_back_is_read_again(policy: TransformersPolicy) -> None:
    """A state cannot be cut short. Nothing that plays asks for it, and who does gets the right tokens all the same."""
    prompt, between = text(policy, "one two"), policy.continuation([{"role": "user", "content": "three"}])
    with policy.decoder(GREEDY, 1) as decoder:
        first = write(decoder, (0, prompt))[0].token_ids
        said = prompt + first + between
        going_on = write(decoder, (0, said))[0]
        cut = prompt + first[:2] + between
        taken_back = write(decoder, (0, cut))[0]
        same_again = write(decoder, (0, said))[0]
    assert same_again.token_ids == going_on.token_ids
    assert same_again.logprobs == pytest.approx(going_on.logprobs, abs=1e-5)
    with policy.decoder(GREEDY, 1) as fresh:
        expected = write(fresh, (0, cut))[0]
    assert taken_back.token_ids == expected.token_ids
    assert taken_back.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_a_turn_reads_what_is_new_and_nothing_else(policy: TransformersPolicy) -> None:
    prompt, between = text(policy, "one two"), policy.continuation([{"role": "user", "content": "three " * 30}])
    with policy.decoder(GREEDY, 1) as decoder:
        assert isinstance(decoder, StateDecoder)
        first = write(decoder, (0, prompt))[0].token_ids
        read = decoder.tokens_read
        assert read == len(prompt) + 5
        write(decoder, (0, prompt + first + between))
    assert decoder.tokens_read == read + 1 + len(between) + 5


def test_equal_prompts_are_read_once(policy: TransformersPolicy) -> None:
    prompt = text(policy, "word " * 50)
    with policy.decoder(DRAWN, 6) as decoder:
        assert isinstance(decoder, StateDecoder)
        written = write(decoder, *((slot, prompt) for slot in range(6)))
    tokens = sum(len(turn.token_ids) for turn in written.values())
    assert decoder.tokens_read == len(prompt) - 1 + tokens
    assert len({tuple(turn.token_ids) for turn in written.values()}) > 1


def test_what_prompts_begin_with_is_read_once_and_stays_on_the_shelf(policy: TransformersPolicy) -> None:
    """Beside it, beginnings that only two prompts share come and go; the one that all share is not driven out."""
    prompts = [text(policy, f"{number} " * 20 + "apples " * (number % 3)) for number in range(12)]
    shared = min(common_length(prompts[0], prompt) for prompt in prompts[1:])
    assert shared > 40
    with policy.decoder(GREEDY, 2) as decoder:
        assert isinstance(decoder, StateDecoder)
        for number in range(0, 12, 2):
            before = decoder.tokens_read
            written = write(decoder, (0, prompts[number]), (1, prompts[number + 1]))
            new = decoder.tokens_read - before
            whole = len(prompts[number]) + len(prompts[number + 1])
            assert new <= whole - (1 if number == 0 else 2) * shared + sum(len(t.token_ids) for t in written.values())
    with policy.decoder(GREEDY, 1) as fresh:
        alone = write(fresh, (0, prompts[11]))[0]
    assert alone.token_ids == written[1].token_ids
    assert alone.logprobs == pytest.approx(written[1].logprobs, abs=1e-5)
