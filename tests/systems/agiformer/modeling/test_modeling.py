"""The model sees nothing that comes later, and reads a text alike however it is cut, padded, packed or cached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import agentforge.systems.agiformer.auto
from agentforge.models.row_isolation import WAYS, isolation_of
from agentforge.systems.agiformer.modeling import window
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.ngrams import ngram_keys
from agentforge.systems.agiformer.training.row_optimizer import tables_of

LENGTH = 23
GRID: list[dict[str, Any]] = [
    {},
    {"linear_attention": False},
    {"thinking_steps": 0},
    {"patch_size": 1},
    {"patch_size": 3},
    {"ngram_sizes": [1, 3, 5]},
    {"byte_decoder": "gru"},
    {"byte_decoder": "gru", "ngram_sizes": [2], "patch_size": 3},
    {"num_byte_layers": 2, "byte_window": 4},
    {"thinking_halting": "expected", "exit_threshold": 0.6},
    {"thinking_halting": "pondernet", "exit_threshold": 0.3, "ngram_sizes": [2]},
    {"counted_sizes": [1, 2, 4]},
    {"counted_sizes": [3], "ngram_sizes": [2], "thinking_halting": "expected"},
]


def make(**options: Any) -> AgiformerForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window_size": 3, "byte_window": 6}
    model = AgiformerForCausalLM(
        AgiformerConfig(**{**sizes, "ngram_buckets": 64, "initializer_range": 0.3, **options})
    ).eval()
    for table in tables_of(model):  # new ones are zero, and could leak without a trace
        torch.nn.init.normal_(table.weight, std=model.config.initializer_range)
    model.count(text(4, 60).repeat(2, 1).tolist())
    return model


def text(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=GRID, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "default")
def model(request: pytest.FixtureRequest) -> Iterator[AgiformerForCausalLM]:
    with torch.no_grad():
        yield make(**request.param)


def leak(model: AgiformerForCausalLM, ids: Tensor) -> float:
    """Return by how much a byte moves the logits before it: 0 in a causal model."""
    before = model(ids).logits
    worst = 0.0
    for place in range(1, ids.shape[1]):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % 256
        difference = (model(changed).logits - before).abs()
        assert difference[:, place].max() > 1e-4, "the byte must matter where it is read"
        worst = max(worst, float(difference[:, :place].max()))
    return worst


def test_no_logit_moves_before_the_byte(model: AgiformerForCausalLM) -> None:
    assert leak(model, text()) < 1e-4  # rounding: which tokens are computed together varies with halting


def test_a_patch_that_is_read_too_early_fails_the_same_check() -> None:
    model = make()
    # The mistake of the first implementation's second version: patches that reach one byte too far.
    right = type(model.model)._patches

    def early(self: Any, tokens: Tensor, *rest: Any) -> Tensor:
        return right(self, tokens.roll(-1, dims=1), *rest)

    with torch.no_grad(), patch.object(type(model.model), "_patches", early):
        assert leak(model, text()) > 1e-3


def test_a_window_to_both_sides_fails_the_same_check() -> None:
    def both(queries: Tensor, keys: Tensor, values: Tensor, size: int, *_: Any) -> Tensor:
        distance = torch.arange(keys.shape[2])[:, None] - torch.arange(keys.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=distance.abs() < size)

    with torch.no_grad(), patch("agentforge.systems.agiformer.modeling.layers.window_attention", both):
        assert leak(make(), text()) > 1e-3


def test_ngrams_that_look_ahead_are_caught() -> None:
    def early(tokens: Tensor, *rest: Any) -> Tensor:
        return ngram_keys(tokens.roll(-1, dims=1), *rest)

    with torch.no_grad(), patch("agentforge.systems.agiformer.modeling.ngrams.ngram_keys", early):
        assert leak(make(ngram_sizes=[2]), text()) > 1e-3


def test_counts_that_look_ahead_are_caught() -> None:
    def early(tokens: Tensor, *rest: Any) -> Tensor:
        return ngram_keys(tokens.roll(-1, dims=1), *rest)

    with torch.no_grad(), patch("agentforge.systems.agiformer.modeling.modeling.ngram_keys", early):
        assert leak(make(counted_sizes=[1, 2]), text()) > 1e-3


def test_an_ngram_never_seen_says_nothing() -> None:
    config = AgiformerConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ngram_sizes=[2, 3])
    ngrams = AgiformerForCausalLM(config).model.ngrams
    assert ngrams(text(), text()[:, :2]).abs().max() == 0


def test_every_place_and_byte_of_an_ngram_counts() -> None:
    ids = torch.tensor([[1, 2, 3], [2, 1, 3], [1, 2, 4], [4, 2, 3], [0, 2, 3]])
    pairs, triples = ngram_keys(ids, [2, 3]).flatten(0, 1).T
    assert pairs[0] == pairs[3] == pairs[4] and len(set(pairs.tolist())) == 3
    assert len(set(triples.tolist())) == 5


def test_no_gradient_reaches_a_later_byte() -> None:
    model = make(ngram_sizes=[2, 4])
    embedded: list[Tensor] = []

    def keep(_: Any, __: Any, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.model.embed_tokens.register_forward_hook(keep)
    model(text(1)).logits[0, 10].sum().backward()
    of_patches, of_bytes = (output.grad for output in embedded)
    assert of_bytes is not None and of_patches is not None
    assert of_bytes[0, 11:].abs().max() == 0 and of_bytes[0, 10].abs().max() > 0
    assert of_patches[0, 8:].abs().max() == 0 and of_patches[0, 7].abs().max() > 0  # patch 2 has byte 11


@pytest.mark.parametrize("prompt", range(1, 10))
def test_cached_bytes_are_those_of_the_whole_text(model: AgiformerForCausalLM, prompt: int) -> None:
    ids = text()
    made = model(ids[:, :prompt], use_cache=True)
    logits = [made.logits]
    for place in range(prompt, LENGTH):
        made = model(ids[:, place : place + 1], past_key_values=made.past_key_values, use_cache=True)
        logits.append(made.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("cuts", [(5, 6, 13), (1, 2, 3), (4, 8, 12), (9,), (22,)])
def test_segments_give_what_the_whole_text_gives(model: AgiformerForCausalLM, cuts: tuple[int, ...]) -> None:
    ids, past, logits = text(), None, []
    for start, stop in zip((0, *cuts), (*cuts, LENGTH), strict=True):
        made = model(ids[:, start:stop], past_key_values=past, use_cache=True)
        past = made.past_key_values
        logits.append(made.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, atol=5e-4, rtol=1e-3)


def test_rows_that_begin_with_padding_go_on_as_if_alone(model: AgiformerForCausalLM) -> None:
    ids, lengths = text(), (23, 20)
    padded = torch.full((2, 29), 256)
    mask = torch.zeros_like(padded)
    for row, length in enumerate(lengths):
        padded[row, -length:], mask[row, -length:] = ids[row, :length], 1
    made = model(padded, attention_mask=mask, use_cache=True)
    following = text(2, 7).flip(1)
    logits = []
    for place in range(7):
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
        step = following[:, place : place + 1]
        made_next = model(step, attention_mask=mask, past_key_values=made.past_key_values, use_cache=True)
        logits.append(made_next.logits)
    for row, length in enumerate(lengths):
        alone = model(torch.cat([ids[row : row + 1, :length], following[row : row + 1]], dim=1)).logits[0]
        torch.testing.assert_close(made.logits[row, -length:], alone[:length], atol=5e-4, rtol=1e-3)
        torch.testing.assert_close(torch.cat(logits, dim=1)[row], alone[length:], atol=5e-4, rtol=1e-3)


def test_packed_documents_are_those_alone(model: AgiformerForCausalLM) -> None:
    ids = text(2)
    positions = torch.cat([torch.arange(9), torch.arange(14)]).expand(2, -1)
    packed = model(ids, position_ids=positions).logits
    torch.testing.assert_close(packed[:, :9], model(ids[:, :9]).logits, atol=5e-4, rtol=1e-3)
    torch.testing.assert_close(packed[:, 9:], model(ids[:, 9:]).logits, atol=5e-4, rtol=1e-3)


def test_the_house_finds_rows_isolated_in_every_way_but_in_a_cache_that_is_not_its_own() -> None:
    found = isolation_of(make(ngram_sizes=[3]))
    assert [way for way in WAYS if not found.allows(way)] == ["carried"]


def test_greedy_generation_equals_the_uncached_loop(model: AgiformerForCausalLM) -> None:
    prompt = text(2, 6)
    made = model.generate(prompt, max_new_tokens=9, do_sample=False, eos_token_id=None)
    wanted = prompt
    for _ in range(9):
        wanted = torch.cat([wanted, model(wanted).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, wanted)


def test_beams_and_sampling_run(model: AgiformerForCausalLM) -> None:
    beams = model.generate(text(2, 5), max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None)
    sampled = model.generate(text(2, 5), max_new_tokens=6, do_sample=True, num_return_sequences=2, eos_token_id=None)
    assert beams.shape == (2, 11) and sampled.shape == (4, 11)


def test_the_best_beam_is_scored_as_the_uncached_model_scores_it() -> None:
    model, prompt = make(), text(1, 5)
    made = model.generate(
        prompt,
        max_new_tokens=4,
        num_beams=4,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
        length_penalty=0.0,
    )
    with torch.no_grad():
        log = model(made.sequences).logits[0, 4:-1].log_softmax(-1)
    alone = log.gather(1, made.sequences[0, 5:, None]).sum()
    torch.testing.assert_close(made.sequences_scores[0], alone, atol=1e-3, rtol=1e-3)


def test_only_complete_patches_go_through_the_global_stack() -> None:
    model, calls = make(), []
    model.model.layers[0].register_forward_hook(lambda _, args, __: calls.append(tuple(args[0].shape)))
    with torch.no_grad():
        model.generate(text(2, 6), max_new_tokens=13, do_sample=False, eos_token_id=None)
    # the prompt gives the start and one patch; bytes 7 ... 18 complete patches at 8, 12 and 16
    assert calls == [(2, 2, 32), (2, 1, 32), (2, 1, 32), (2, 1, 32)]


def test_halted_patches_are_not_computed() -> None:
    model = make(thinking_halting="expected", exit_threshold=0.0)
    with torch.no_grad(), patch.object(model.model.thinking, "step", side_effect=AssertionError):
        assert model(text()).thinking_steps.max() == 0
    steps = [model(text(), exit_threshold=threshold).thinking_steps.float().mean() for threshold in (0.1, 0.6, 0.95)]
    assert steps[0] < steps[1] < steps[2] <= 3


def test_steps_are_what_forward_gives_with_as_many_thinking_steps() -> None:
    model, ids = make(thinking_halting="expected"), text()
    with torch.no_grad():
        hidden, halting, _ = model.model.steps(ids)
        assert len(hidden) == 4 and halting is not None and halting.shape == (*ids.shape, 4)
        for count, made in enumerate(hidden):
            wanted = model(ids, thinking_steps=count, exit_threshold=1.1).logits
            torch.testing.assert_close(model.lm_head(made), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("halting", ["none", "expected", "pondernet"])
def test_every_parameter_gets_a_gradient(halting: str) -> None:
    model = make(thinking_halting=halting, ngram_sizes=[2, 3]).train()
    model(text(), labels=text()).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_the_loss_is_the_mean_over_trained_bytes() -> None:
    model, ids = make(), text()
    labels = ids.clone()
    labels[0, :10] = -100
    with torch.no_grad():
        made = model(ids, labels=labels)
        given = model(ids, labels=labels, num_items_in_batch=torch.tensor(7)).loss
    log = made.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    counted = labels[:, 1:] != -100
    torch.testing.assert_close(made.loss, -log[counted].mean())
    torch.testing.assert_close(given, -log[counted].sum() / 7)


def test_a_random_model_costs_about_eight_bits_and_a_uniform_one_exactly() -> None:
    model, ids = make(initializer_range=0.02), text(4, 200)
    with torch.no_grad():
        bits = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1, :256].flatten(0, 1), ids[:, 1:].flatten())
        assert abs(float(bits) / 0.6931472 - 8) < 0.1
        model.lm_head.weight.zero_()
        bits = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1, :256].flatten(0, 1), ids[:, 1:].flatten())
    assert float(bits) / 0.69314718 == pytest.approx(8, abs=1e-5)


def test_bfloat16_stays_finite_on_a_long_text() -> None:
    model = make(initializer_range=0.02, ngram_sizes=[3]).to(torch.bfloat16)
    with torch.no_grad():
        assert torch.isfinite(model(text(1, 8192)).logits).all()


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    model = make(ngram_sizes=[2])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, AgiformerForCausalLM) and isinstance(AutoConfig.from_pretrained(tmp_path), AgiformerConfig)
    with torch.no_grad():
        assert torch.equal(again(text()).logits, model(text()).logits)


def test_nothing_but_parameters_is_stored() -> None:
    model = make(ngram_sizes=[2])
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_lora_trains_the_projections() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(make(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    adapted(input_ids=text(), labels=text()).loss.backward()
    assert all(weight.grad is not None for name, weight in adapted.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        assert adapted.generate(input_ids=text(1, 4), max_new_tokens=3).shape[1] <= 7


@pytest.mark.parametrize("length", [1, 5, 6, 7, 20])
def test_window_attention_is_the_masked_one(length: int) -> None:
    queries, keys, values = torch.randn(3, 2, 2, length, 4, generator=torch.Generator().manual_seed(0))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=(distance >= 0) & (distance < 6)
    )
    torch.testing.assert_close(window.window_attention(queries, keys, values, 6), wanted)


assert agentforge.systems.agiformer.auto
