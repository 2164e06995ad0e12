"""Decoding with a cache per episode against reading everything again: the same tokens and log-probabilities."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agentforge.data import chat_template
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Request, Sampling
from agentforge.rollouts.policies.cached_decoding import CachedDecoder, common_length
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from agentforge.rollouts.scheduler import Task
from tests.data.small_tokenizers import chatml_tokenizer
from tests.rollouts.players import SIZES, TOYS, random_policy
from tests.rollouts.same_episodes import DRAWN, GREEDY, TASKS, assert_same, played, reference


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = chatml_tokenizer()
    chat_template.install_template(made)
    return made


@pytest.fixture(scope="module")
def policy(tokenizer: PreTrainedTokenizerFast) -> TransformersPolicy:
    return random_policy(tokenizer)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_the_cache_changes_neither_tokens_nor_logprobs(policy: TransformersPolicy, sampling: Sampling) -> None:
    episodes = played(policy, sampling)
    assert max(len(episode.turns) for episode in episodes) == 4
    for episode in episodes:
        reference(policy, episode, sampling)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_cached_is_plain_is_one_at_a_time(
    policy: TransformersPolicy, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = played(policy, sampling)
    assert_same(episodes, played(policy, sampling, batch_size=1))
    assert_same(episodes[::-1], played(policy, sampling, batch_size=5, tasks=TASKS[::-1]))
    monkeypatch.setattr(TransformersPolicy, "keeps_cache", False)
    assert_same(episodes, played(policy, sampling))


def test_samples_of_a_task_differ(policy: TransformersPolicy) -> None:
    tasks = [Task("count", 3, sample=sample) for sample in range(4)]
    episodes = played(policy, DRAWN, tasks=tasks)
    assert len({tuple(episode.prompt_ids) for episode in episodes}) == 1
    assert len({tuple(episode.token_ids) for episode in episodes}) == 4
    assert [e.token_ids for e in episodes] == [e.token_ids for e in played(policy, DRAWN, tasks=tasks)]
    assert played(policy, Sampling(9, 0.7, 0.9, seed=4), tasks=tasks)[0].token_ids != episodes[0].token_ids


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_other_attentions(tokenizer: PreTrainedTokenizerFast, name: str, attention: str) -> None:
    policy = random_policy(tokenizer, name, **(SIZES | {"vocab_size": len(tokenizer)}))
    policy.model.set_attn_implementation(attention)
    assert policy.keeps_cache
    for episode in played(policy, GREEDY, tasks=TASKS[:4]):
        reference(policy, episode, GREEDY)


@pytest.mark.parametrize("name", ["mamba", "jamba", "gemma3_text", "bloom"])
def test_models_that_keep_no_such_cache_read_again(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """A window, scans that cannot go on from a state, and attention that takes no mask of ours."""
    experts = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}
    sizes: dict[str, dict[str, Any]] = {
        "mamba": {"hidden_size": 64, "state_size": 8},
        "jamba": SIZES | experts,
        "gemma3_text": SIZES | {"sliding_window": 8},
        "bloom": {"hidden_size": 64, "n_head": 4},
    }
    policy = random_policy(tokenizer, name, **(sizes[name] | {"vocab_size": len(tokenizer), "num_hidden_layers": 2}))
    assert not policy.keeps_cache
    for sampling in (GREEDY, DRAWN):
        for episode in played(policy, sampling, tasks=TASKS[:3]):
            assert len(episode.turns) > 1 or episode.terminated
            reference(policy, episode, sampling)


def test_what_was_read_is_not_read_again(policy: TransformersPolicy) -> None:
    """Of eight episodes in two slots every token is read once, and the common beginning of all prompts once for all."""
    tasks = [Task("count", task) for task in range(3, 11)]
    with policy.decoder(GREEDY, 2) as decoder, EnvironmentPool(TOYS) as pool:
        assert isinstance(decoder, CachedDecoder)
        policy_of = type("Fixed", (TransformersPolicy,), {"decoder": lambda *_: nullcontext(decoder)})
        fixed = policy_of(policy.model, policy.tokenizer, "fixed")
        episodes = play(fixed, pool, tasks, sampling=GREEDY, batch_size=2)
    whole = [episode.prompt_ids + episode.token_ids for episode in episodes]
    shared = min(common_length(whole[0], ids) for ids in whole[1:])
    assert shared > 40
    # the last token of an episode is written and never read
    assert decoder.tokens_read <= sum(len(ids) - 1 - shared for ids in whole) + shared + 20
    tokens = sum(sum(episode.mask) for episode in episodes)
    assert decoder.forwards < 0.8 * tokens


def test_equal_prompts_are_read_once(policy: TransformersPolicy) -> None:
    prompt = policy.encode([{"role": "user", "content": "word " * 50}])
    with policy.decoder(DRAWN, 6) as decoder:
        for slot in range(6):
            decoder.begin(slot, Request(prompt, 1, slot))
        done = decoder.advance()
        while len(done) < 6:
            done += decoder.advance()
    assert isinstance(decoder, CachedDecoder) and decoder.tokens_read == len(prompt) + 5
    assert {slot for slot, _ in done} == set(range(6))


def test_a_seat_forgets_what_its_next_episode_does_not_share(policy: TransformersPolicy) -> None:
    long, short = (policy.encode([{"role": "user", "content": text}]) for text in ("one two three " * 40, "four"))
    with policy.decoder(GREEDY, 1) as decoder:
        turns = []
        for prompt in (short, long, short):
            decoder.begin(0, Request(prompt, 6, 0))
            turns += [completion for _, completion in decoder.advance()]
        assert decoder.advance() == []
    assert turns[0].token_ids == turns[2].token_ids
    assert turns[0].logprobs == pytest.approx(turns[2].logprobs, abs=1e-5)


def test_the_model_is_left_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    from peft import LoraConfig, get_peft_model

    plain = random_policy(tokenizer)
    episodes = played(plain, GREEDY)
    adapted: Any = get_peft_model(plain.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for model in (adapted, plain.model):
        model.train()
        model.model.layers[0].eval() if model is plain.model else None
        model.generation_config.temperature = 0.3
        before = [module.training for module in model.modules()]
        policy = TransformersPolicy(model, tokenizer, "live")
        assert_same(played(policy, GREEDY), episodes)
        policy.chat([{"role": "user", "content": "Hello"}], sampling=GREEDY)
        assert [module.training for module in model.modules()] == before
        assert model.generation_config.temperature == 0.3
        loss = model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
        loss.backward()
        assert torch.is_grad_enabled()


def test_draws_follow_the_distribution() -> None:
    from agentforge.rollouts.policies.sampling import draw

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(4000, 1)
    uniforms = [(i + 0.5) / 4000 for i in range(4000)]
    for temperature, top_p, kept in ((1.0, 1.0, 4), (0.5, 1.0, 4), (1.0, 0.7, 2), (1.0, 0.6, 1), (2.0, 0.95, 4)):
        weights = [math.exp(x / temperature) for x in (2.0, 1.0, 0.0, -1.0)][:kept]
        tokens, logprobs = draw(logits, temperature, top_p, uniforms)
        for token, weight in enumerate(weights):
            assert tokens.count(token) / 4000 == pytest.approx(weight / sum(weights), abs=1e-3)
            assert logprobs[tokens.index(token)] == pytest.approx(math.log(weight / sum(weights)), abs=1e-5)
        assert max(tokens) < kept


def test_nan_is_said_and_not_sampled() -> None:
    from agentforge.errors import UserError
    from agentforge.rollouts.policies.sampling import draw

    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="NaN"):
            draw(torch.tensor([[0.0, 1.0], [0.0, math.nan]]), temperature, 1.0, [0.5, 0.5])


def test_common_length() -> None:
    for a, b, shared in (
        ([], [], 0),
        ([1], [], 0),
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3, 4], [1, 2, 9, 4, 5], 2),
        ([7], [8], 0),
    ):
        assert common_length(a, b) == common_length(b, a) == shared
    assert common_length(list(range(100)), [*range(63), -1, *range(64, 100)]) == 63
