"""What `generate` asks of a model beyond logits, and what an AGIFORMER refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.generation.utils import DeferredStopCheck

from agentforge.errors import UserError
from tests.systems.agiformer.modeling.test_modeling import make, text


@pytest.mark.parametrize("options", [{}, {"byte_decoder": "gru"}, {"num_byte_layers": 2}])
def test_hidden_states_are_those_around_the_decoders_layers(options: dict[str, Any]) -> None:
    model, ids = make(**options), text()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    made = model(ids, attention_mask=mask, output_hidden_states=True)
    wanted = [(2, ids.shape[1], 32)] * (1 + model.config.num_byte_layers)
    assert [states.shape for states in made.hidden_states] == wanted
    assert torch.equal(model.lm_head(made.hidden_states[-1]), made.logits)
    assert not made.hidden_states[0][0, :4].any() and made.hidden_states[0][0, 4:].any()
    assert model(ids).hidden_states is None


def test_generate_returns_the_hidden_states_of_each_step() -> None:
    model, ids = make(), text()
    told = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    made = model.generate(ids, output_hidden_states=True, output_logits=True, **told)
    assert [step[-1].shape[1] for step in made.hidden_states] == [ids.shape[1], 1, 1]
    for step, logits in zip(made.hidden_states, made.logits, strict=True):
        torch.testing.assert_close(model.lm_head(step[-1][:, -1]), logits)


def test_a_prompt_can_be_read_in_chunks() -> None:
    model, ids = make(patch_size=3), text()
    told = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(ids, prefill_chunk_size=5, **told), model.generate(ids, **told))


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"output_attentions": True}, "output_attentions: an AGIFORMER keeps no attention weights"),
        ({"cache_implementation": "static"}, "an AGIFORMER has no static cache"),
        ({"past_key_values": DynamicCache()}, "in an AgiformerCache, not in a DynamicCache"),
        ({"position_ids": torch.arange(23).remainder(12).expand(2, -1)}, "position_ids: they begin a second document"),
    ],
)
def test_generate_refuses_what_the_model_cannot(told: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make().generate(text(), max_new_tokens=2, **told)


def test_embeddings_are_refused() -> None:
    model, ids = make(), text()
    embedded = model.get_input_embeddings()(ids)
    with pytest.raises(UserError, match="give it input_ids"):
        model(ids, inputs_embeds=embedded)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(inputs_embeds=embedded, max_new_tokens=2)


def test_a_cache_that_is_given_is_one_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # On an Apple GPU `generate` runs a step too many, unless it is told that the cache cannot be set back.
    asked = []
    monkeypatch.setattr(DeferredStopCheck, "is_supported", lambda *given, **_: asked.append(given[2]))
    model, ids = make(), text()
    model.generate(ids, max_new_tokens=2, do_sample=False)
    model.generate(ids, max_new_tokens=2, do_sample=False, past_key_values=model.new_cache())
    assert asked == [False, True]
