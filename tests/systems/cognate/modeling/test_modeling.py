"""The model: its size, its state, its gradients, and how it is opened, decoded and adapted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.generation.utils import DeferredStopCheck

import agentforge.systems.cognate.auto  # noqa: F401
from agentforge.errors import UserError
from agentforge.models.row_isolation import WAYS, isolation_of
from agentforge.systems.cognate.modeling.configuration import CognateConfig, parameter_count
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from tests.systems.cognate.tiny import some_ids, tiny_cognate, tiny_config


def test_the_default_model_has_25193777_parameters() -> None:
    with torch.device("meta"):
        model = CognateForCausalLM(CognateConfig())
    assert model.num_parameters() == parameter_count(CognateConfig()) == 25_193_777


def test_the_formula_counts_every_variant() -> None:
    variants: list[dict[str, Any]] = [
        {"recursion": "plain"},
        {"memory_layers": []},
        {"memory_layers": [0, 2]},
        {"halting": "none"},
        {"max_recursions": 1},
        {"tie_word_embeddings": False},
        {"persistent_tokens": 0},
        {"memory_momentum": True, "memory_heads": 3, "memory_conv_kernel": 2, "gate_rank": 7},
        {"num_prelude_layers": 0, "num_attention_heads": 3},
    ]
    for one, other in itertools.pairwise([{}, *variants, {}]):
        config = tiny_config(**one, **{name: value for name, value in other.items() if name not in one})
        with torch.device("meta"):
            assert CognateForCausalLM(config).num_parameters() == parameter_count(config), (one, other)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"max_recursions": 0}, "max_recursions: 0 is too few"),
        ({"head_dim": 7}, "must be even"),
        ({"no_grad_recursions": 3}, "leaves none that learns"),
        ({"exit_threshold": 1.5}, "is no probability"),
        ({"exit_threshold": 0.5, "halting": "none"}, "no probabilities to compare it to"),
        ({"memory_layers": [3]}, "there is no layer 3"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        tiny_config(**fields)


def test_there_is_no_state_beside_parameters() -> None:
    model, ids = tiny_cognate(), some_ids(2, 9)
    assert list(model.buffers()) == []
    assert set(model.state_dict()) == {*dict(model.named_parameters()), "lm_head.weight"}
    first, _, again = model(ids).logits, model(some_ids(3, 9, seed=4)), model(ids).logits
    assert torch.equal(first, again)


@pytest.mark.parametrize("halting", ["act", "pondernet", "expected"])
@pytest.mark.parametrize("recursion", ["trm", "plain"])
def test_the_loss_reaches_every_parameter(recursion: str, halting: str) -> None:
    ids = some_ids(2, 9)
    model = tiny_cognate(recursion=recursion, halting=halting, gate_floor=0.9, memory_momentum=True).train()
    model(ids, labels=ids).loss.backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_iterations_without_gradient_get_none_and_the_others_do() -> None:
    model = tiny_cognate(no_grad_recursions=2)
    hidden = model.model.steps(some_ids(1, 6)).hidden
    assert [state.requires_grad for state in hidden] == [False, False, True]


def test_detaching_cuts_the_loop_but_not_the_injection() -> None:
    def gradient(**fields: Any) -> torch.Tensor:
        model = tiny_cognate(recursion="plain", **fields)
        model.model.steps(some_ids(1, 6)).hidden[-1].square().sum().backward()
        assert model.model.initial.grad is not None or fields
        return model.get_input_embeddings().weight.grad

    cut, whole = gradient(detach_between_recursions=True), gradient()
    assert cut.any()
    assert not torch.allclose(cut, whole)


@pytest.mark.parametrize("fields", [{}, {"memory_momentum": True}, {"exit_threshold": 0.6}, {"recursion": "plain"}])
def test_a_text_read_in_segments_is_the_text_read_at_once(fields: dict[str, Any]) -> None:
    model, ids = tiny_cognate(**fields), some_ids(2, 20)
    cache, pieces = None, []
    for segment in ids.split(5, 1):
        out = model(segment, past_key_values=cache, use_cache=True)
        cache = out.past_key_values.detach()
        pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids).logits, atol=1e-4, rtol=0)
    tensors = [t for slot in cache.slots for t in (slot.keys, slot.values, slot.memory.tail, slot.memory.matrix)]
    assert not any(t.requires_grad for t in tensors)
    # what is carried is a value, and what is learned of the next segment is learned all the same
    pieces[-1].sum().backward()
    assert model.model.embed_tokens.weight.grad is not None


def test_the_cache_keeps_no_more_than_the_window_sees() -> None:
    model = tiny_cognate()
    cache = model(some_ids(2, 30), use_cache=True).past_key_values
    assert cache.get_seq_length() == 30
    assert {slot.keys.shape[2] for slot in cache.slots} == {model.config.sliding_window - 1}
    assert len(cache.slots) == model.config.layer_calls == 1 + 3 * 3 * 2


def test_rows_of_a_cache_can_be_chosen_repeated_and_reordered() -> None:
    model, ids, following = tiny_cognate(), some_ids(3, 7), some_ids(3, 2, seed=9)
    alone = model(torch.cat([ids[[2, 0]], following[[2, 0]]], 1)).logits[:, 7:]
    cache = model(ids, use_cache=True).past_key_values
    cache.reorder_cache(torch.tensor([2, 0]))
    torch.testing.assert_close(model(following[[2, 0]], past_key_values=cache).logits, alone, atol=1e-4, rtol=0)
    cache = model(ids, use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([4, 1]))
    torch.testing.assert_close(model(following[[2, 0]], past_key_values=cache).logits, alone, atol=1e-4, rtol=0)
    cache.reset()
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits, atol=1e-4, rtol=0)


def test_a_cache_is_not_cropped_and_no_other_cache_is_taken() -> None:
    model = tiny_cognate()
    cache = model(some_ids(1, 5), use_cache=True).past_key_values
    assert not cache.is_croppable
    with pytest.raises(UserError, match="cannot be taken back"):
        cache.crop(-1)
    with pytest.raises(UserError, match="CognateCache, not in a DynamicCache"):
        model(some_ids(1, 5), past_key_values=DynamicCache())
    with pytest.raises(UserError, match="has no static cache"):
        model.generate(some_ids(1, 5), max_new_tokens=2, cache_implementation="static")
    with pytest.raises(UserError, match="a Cognate keeps no attention weights"):
        model.generate(some_ids(1, 5), max_new_tokens=2, output_attentions=True)


def test_packed_and_padded_rows_are_allowed_by_the_house() -> None:
    found = isolation_of(tiny_config(num_prelude_layers=2))
    assert [way for way in WAYS if not found.allows(way)] == ["carried"]  # it has a cache of its own


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"prefill_chunk_size": 4}, {"exit_threshold": 0.5}])
def test_generating_from_padded_rows_is_generating_from_each(how: dict[str, Any]) -> None:
    model = tiny_cognate()
    ids = some_ids(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    together = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, **how)
    for row, prompt in enumerate((ids[:1], ids[1:, 4:])):
        alone = model.generate(prompt, max_new_tokens=6, do_sample=False, **how)
        assert together[row, 9:].tolist() == alone[0, prompt.shape[1] :].tolist()


def test_greedy_decoding_is_what_the_whole_pass_says() -> None:
    model, ids = tiny_cognate(exit_threshold=0.6), some_ids(2, 5)
    written = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(model(written[:, :-1]).logits.argmax(-1)[:, 4:], written[:, 5:])
    without = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(written, without)


def test_sampling_repeats_with_its_seed() -> None:
    model, ids = tiny_cognate(), some_ids(2, 5)

    def sample() -> torch.Tensor:
        torch.manual_seed(3)
        return model.generate(ids, max_new_tokens=8, do_sample=True, num_return_sequences=2)

    assert torch.equal(sample(), sample())


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_the_same_model(tmp_path: Path, tied: bool) -> None:
    model, ids = tiny_cognate(tie_word_embeddings=tied), some_ids(2, 9)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert "import agentforge" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, model(ids).logits)


def test_lora_learns_and_merges(tmp_path: Path) -> None:
    model, ids = tiny_cognate(), some_ids(2, 9)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted(input_ids=ids, labels=ids).loss.backward()
    learning = [weight.grad for weight in adapted.parameters() if weight.requires_grad]
    assert len(learning) > 20
    assert all(gradient is not None and gradient.any() for gradient in learning)
    with torch.no_grad():
        before = adapted(input_ids=ids, exit_threshold=0.6).logits
        after = adapted.merge_and_unload()(ids, exit_threshold=0.6).logits
    torch.testing.assert_close(before, after, atol=1e-3, rtol=0)


def test_bfloat16_is_finite_and_close() -> None:
    model, ids = tiny_cognate(), some_ids(2, 40)
    exact = model(ids).logits
    model = model.to(torch.bfloat16).train()
    out = model(ids, labels=ids)
    out.loss.backward()
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in model.parameters())
    assert (out.logits.float() - exact).std() < 0.3 * exact.std()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    ids = some_ids(2, 9)

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = tiny_cognate(gate_floor=0.9).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            with pytest.raises(UserError, match="runs layers twice"):
                model(ids, past_key_values=tiny_cognate()(ids, use_cache=True).past_key_values)
        model(ids, labels=ids).loss.backward()
        return [w.grad for w in model.parameters() if w.grad is not None]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, again)


def test_only_the_last_logits_are_computed_where_only_they_are_wanted() -> None:
    model, ids = tiny_cognate(), some_ids(2, 9)
    assert torch.equal(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:])


def test_the_loss_is_divided_by_what_trainer_counts() -> None:
    model, ids = tiny_cognate().train(), some_ids(2, 9)
    mean, summed = model(ids, labels=ids).loss, model(ids, labels=ids, num_items_in_batch=1).loss
    torch.testing.assert_close(mean * 16, summed)


def test_a_conversation_goes_on_from_its_cache() -> None:
    model, ids = tiny_cognate(), some_ids(1, 6)
    first = model.generate(ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, some_ids(1, 4, seed=8)], 1)
    again = model.generate(longer, past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False)
    assert torch.equal(again, model.generate(longer, max_new_tokens=4, do_sample=False))


def test_generating_from_embeddings_is_generating_from_their_tokens() -> None:
    model, ids = tiny_cognate(), some_ids(2, 6)
    written = model.generate(ids, max_new_tokens=4, do_sample=False)[:, 6:]
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embedded, max_new_tokens=4, do_sample=False), written)


def test_a_cache_that_is_given_is_one_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # On an Apple GPU `generate` runs a step too many, unless it is told that the cache cannot be set back.
    asked = []
    monkeypatch.setattr(DeferredStopCheck, "is_supported", lambda *given, **_: asked.append(given[2]))
    model, ids = tiny_cognate(), some_ids(1, 5)
    model.generate(ids, max_new_tokens=2, do_sample=False)
    model.generate(ids, max_new_tokens=2, do_sample=False, past_key_values=model.new_cache())
    assert asked == [False, True]


def test_assisted_decoding_is_refused() -> None:
    model = tiny_cognate()
    with pytest.raises(ValueError, match="stateful"):
        model.generate(some_ids(1, 6), max_new_tokens=4, assistant_model=tiny_cognate(seed=1))
