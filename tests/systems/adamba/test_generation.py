"""Decoding with less: narrower models, fewer layers, and what of it is exactly the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconH1Config, FalconH1ForCausalLM, GenerationMixin

from agentforge.errors import UserError
from agentforge.systems.adamba.generation import generate
from agentforge.systems.adamba.modeling.copied_states import copy_state
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.widths.elastic import ElasticModel
from agentforge.systems.adamba.widths.submodels import parse_width, submodel
from tests.systems.adamba.checkpoints import NANOCHAT
from tests.systems.adamba.decoding import counted_layers, give_exits, heads_of_layers, prompts, random_model

NEW = 16
EXACT = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def model() -> AdambaForCausalLM:
    return give_exits(random_model(), 1, 2, 3)


def written(
    model: Any, rows: int = 1, padding: int = 0, inputs: dict[str, torch.Tensor] | None = None, **options: Any
) -> Any:
    return model.generate(
        **(inputs or prompts(rows, padding=padding)),
        **({"max_new_tokens": NEW, "do_sample": False, "output_logits": True} | options),
        return_dict_in_generate=True,
    )


def mask_of(output: Any, padding: int) -> torch.Tensor:
    mask = torch.ones_like(output.sequences)
    mask[0, :padding] = 0
    return mask


@pytest.mark.parametrize("width", ["1/4", "1/2", "1"])
@pytest.mark.parametrize("padding", [0, 4])
def test_cached_decoding_is_uncached_at_every_width(model: AdambaForCausalLM, width: str, padding: int) -> None:
    output = written(model, rows=2, padding=padding, width=width)
    full = heads_of_layers(submodel(model, width), output.sequences, mask_of(output, padding))[-1]
    torch.testing.assert_close(torch.stack(output.logits, 1), full[:, -NEW - 1 : -1], **EXACT)


def test_a_width_is_a_smaller_model_and_the_whole_one_is_not_called(model: AdambaForCausalLM) -> None:
    half = submodel(model, "1/2")
    assert half.config.hidden_size == 32
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in model.parameters()) / 2
    with counted_layers(model) as whole, counted_layers(half) as small:
        written(model, width="1/2")
    assert not whole
    assert set(small.values()) == {NEW}


def test_a_width_is_kept_until_the_weights_change(model: AdambaForCausalLM) -> None:
    changing = random_model()
    half = submodel(changing, "1/2")
    assert submodel(changing, 0.5) is half
    with torch.no_grad():
        changing.lm_head.weight[:, :8] += 1
    changed = submodel(changing, "1/2")
    assert torch.equal(changed.lm_head.weight, changing.lm_head.weight[:, :32])
    assert "exits" not in dict(changing.named_modules())


def test_layers_of_a_mix_have_widths_of_their_own(model: AdambaForCausalLM) -> None:
    mix = [("1/4", "1"), ("1/2", "1/2"), ("1", "1/4"), ("1/4", "1")]
    mixed = submodel(model, mix)
    sizes = [(layer.feed_forward.up_proj.out_features, layer.mamba.num_heads) for layer in mixed.model.layers]
    assert sizes == [(32, 4), (64, 2), (128, 1), (32, 4)]
    output = written(model, rows=2, padding=3, width=mix)
    elastic = ElasticModel(model).at([(parse_width(mlp), parse_width(mixers)) for mlp, mixers in mix])
    full = heads_of_layers(elastic, output.sequences, mask_of(output, 3))[-1]
    torch.testing.assert_close(torch.stack(output.logits, 1), full[:, -NEW - 1 : -1].detach(), **EXACT)


def test_tied_embeddings_stay_tied_in_a_width() -> None:
    half = submodel(random_model(tie_word_embeddings=True), "1/2")
    assert half.lm_head.weight is half.model.embed_tokens.weight


def test_a_saved_width_is_a_plain_falcon_h1(model: AdambaForCausalLM, tmp_path: Any) -> None:
    half = submodel(model, "1/2")
    half.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = prompts(2)["input_ids"]
    assert type(plain) is FalconH1ForCausalLM
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, half(ids).logits, **EXACT)


def thresholds(model: AdambaForCausalLM) -> list[float]:
    """Thresholds at which some tokens of `written` leave early and some do not."""
    best = [head.softmax(-1).amax(-1) for head in heads_of_layers(model, *prompts(4, 24, seed=7).values())[:-1]]
    return torch.stack(best).quantile(torch.tensor([0.3, 0.6, 0.9])).tolist()


@pytest.mark.parametrize(("rows", "padding"), [(1, 0), (2, 0), (2, 4)])
def test_a_token_that_leaves_is_its_exits_and_the_others_are_full_depths(
    model: AdambaForCausalLM, rows: int, padding: int
) -> None:
    seen = set()
    for threshold in [0.0, *thresholds(model)]:
        output = written(model, rows, padding, exit_threshold=threshold)
        heads = heads_of_layers(model, output.sequences, mask_of(output, padding))
        for step, (depth, logits) in enumerate(zip(output.depths, output.logits, strict=True)):
            torch.testing.assert_close(logits, heads[depth - 1][:, -NEW - 1 + step], **EXACT)
        seen |= set(output.depths)
    assert {1, 4} < seen


def test_layers_behind_an_exit_are_not_called(model: AdambaForCausalLM) -> None:
    with counted_layers(model) as calls:
        output = model.generate(**prompts(1), max_new_tokens=NEW, do_sample=False, exit_threshold={2: 0.0})
    assert output.shape[1] == 9 + NEW
    # the prompt is read by all; of the other tokens nobody asked for more than two layers
    assert calls == {0: NEW, 1: NEW, 2: 1, 3: 1}


def test_what_waited_is_read_in_one_call(model: AdambaForCausalLM) -> None:
    threshold = thresholds(model)[1]
    with counted_layers(model) as calls:
        output = written(model, exit_threshold=threshold)
    deepest = sum(depth == 4 for depth in output.depths)
    assert 1 < deepest < NEW
    # the cache is handed out, so what waits at the end is read as well
    assert calls[0] == NEW
    assert calls[3] in (deepest, deepest + 1)


def test_the_cache_handed_out_is_that_of_full_depth(model: AdambaForCausalLM) -> None:
    output = written(model, rows=2, exit_threshold=0.0)
    with torch.no_grad():
        whole = model(output.sequences[:, :-1], use_cache=True).past_key_values
    for exits, full in zip(output.past_key_values.layers, whole.layers, strict=True):
        torch.testing.assert_close(exits.keys, full.keys, **EXACT)
        torch.testing.assert_close(exits.recurrent_states[0], full.recurrent_states[0], **EXACT)


def test_the_cache_handed_out_is_gone_on_from(model: AdambaForCausalLM) -> None:
    first = written(model, exit_threshold=thresholds(model)[1])
    more = {"input_ids": torch.cat([first.sequences, prompts(1, 3, seed=5)["input_ids"]], 1), "do_sample": False}
    for options in ({}, {"exit_threshold": thresholds(model)[0]}):
        fresh = model.generate(**more, **options, max_new_tokens=6)
        cache = copy.deepcopy(first.past_key_values)
        assert torch.equal(model.generate(**more, **options, max_new_tokens=6, past_key_values=cache), fresh)


def test_a_streamer_gets_every_token_once(model: AdambaForCausalLM) -> None:
    class Collected(list[int]):
        def put(self, tokens: torch.Tensor) -> None:
            self.extend(tokens.flatten().tolist())

        def end(self) -> None:
            self.append(-1)

    streamer = Collected()
    output = model.generate(**prompts(1), max_new_tokens=NEW, do_sample=False, exit_threshold=0.0, streamer=streamer)
    assert streamer == [*output[0].tolist(), -1]


def row(index: int) -> dict[str, torch.Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in prompts(2).items()}


def test_a_row_leaves_only_with_all_rows_that_are_still_written(model: AdambaForCausalLM) -> None:
    threshold = {2: thresholds(model)[1]}
    together = written(model, rows=2, exit_threshold=threshold)
    heads = heads_of_layers(model, together.sequences, mask_of(together, 0))
    sure = heads[1].softmax(-1).amax(-1)[:, -NEW - 1 : -1] >= threshold[2]
    # the prompt is read by all layers
    assert [depth == 2 for depth in together.depths[1:]] == sure.all(0)[1:].tolist()
    assert sure.any(0)[1:].tolist() != sure.all(0)[1:].tolist()


def test_a_finished_row_has_no_say(model: AdambaForCausalLM) -> None:
    """The first row stops at its first token; the second then leaves as if it were alone."""
    stop = int(written(model, rows=2, exit_threshold=0.0).sequences[0, 9])
    options: dict[str, Any] = {"exit_threshold": thresholds(model)[1], "eos_token_id": stop}
    together, alone = written(model, rows=2, **options), written(model, inputs=row(1), **options)
    assert (together.sequences[0, 10:] == 0).all()
    assert together.depths == alone.depths
    assert len(set(alone.depths)) > 1
    assert torch.equal(together.sequences[1], alone.sequences[0])


def test_with_a_threshold_that_is_never_reached_it_is_generate() -> None:
    model = give_exits(random_model(), 1, 3)
    inputs = prompts(3, padding=5)
    for options in (
        {"do_sample": False, "repetition_penalty": 1.3},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_new_tokens": 4, "eos_token_id": 5},
    ):
        torch.manual_seed(3)
        usual = GenerationMixin.generate(model, **inputs, max_new_tokens=NEW, **options)
        torch.manual_seed(3)
        exits = model.generate(**inputs, max_new_tokens=NEW, exit_threshold=1.5, **options)
        assert torch.equal(usual, exits)


def test_the_same_seed_draws_the_same_tokens(model: AdambaForCausalLM) -> None:
    def drawn(seed: int, **options: Any) -> torch.Tensor:
        torch.manual_seed(seed)
        return written(model, rows=2, do_sample=True, **options).sequences

    for options in ({"exit_threshold": thresholds(model)[0]}, {"width": "1/2"}):
        assert torch.equal(drawn(1, **options), drawn(1, **options))
        assert not torch.equal(drawn(1, **options), drawn(2, **options))


@pytest.mark.parametrize("fields", [NANOCHAT, {"dropped_attention": [0, 2]}, {"dropped_attention": [0, 1, 2, 3]}])
@pytest.mark.parametrize("padding", [0, 4])
def test_every_kind_of_adamba_decodes_exactly(fields: dict[str, Any], padding: int) -> None:
    other = give_exits(random_model(**fields), 2)
    for options in ({"width": "1/2"}, {"exit_threshold": thresholds(other)[1]}):
        output = written(other, 2, padding, **options)
        whole = submodel(other, options.get("width", 1))
        heads = heads_of_layers(whole, output.sequences, mask_of(output, padding))
        depths = getattr(output, "depths", None) or [4] * NEW
        for step, (depth, logits) in enumerate(zip(depths, output.logits, strict=True)):
            torch.testing.assert_close(logits, heads[depth - 1][:, -NEW - 1 + step], **EXACT)
    assert set(depths) == {2, 4}


@pytest.mark.parametrize(
    "fields", [{}, NANOCHAT, {"dropped_attention": [2]}, {"ssm_multipliers": [0.9, 1.1, 1.2, 0.8, 0.7]}]
)
def test_a_copied_state_is_what_the_layer_itself_would_have_kept(fields: dict[str, Any]) -> None:
    """The same hidden state through the whole layer, and through what makes its states only."""
    model = random_model(key_multiplier=1.3, **fields)
    caches = [model(prompts(2)["input_ids"], use_cache=True).past_key_values for _ in range(2)]
    hidden = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[9]])
    rotary = model.model.rotary_emb(hidden, position_ids=positions)
    layer = model.model.layers[2]
    with torch.no_grad():
        layer(hidden, position_ids=positions, past_key_values=caches[0], use_cache=True, position_embeddings=rotary)
        copy_state(layer, hidden, caches[1], rotary)
    kept, copied = (cache.layers[2] for cache in caches)
    for name in ("keys", "values"):
        torch.testing.assert_close(getattr(copied, name), getattr(kept, name), **EXACT)
    torch.testing.assert_close(copied.conv_states[0], kept.conv_states[0], **EXACT)
    torch.testing.assert_close(copied.recurrent_states[0], kept.recurrent_states[0], **EXACT)


def test_copying_calls_no_layer_behind_an_exit_and_differs_from_full_depth(model: AdambaForCausalLM) -> None:
    threshold = thresholds(model)[1]
    with counted_layers(model) as calls:
        copied = written(model, rows=2, padding=3, exit_threshold=threshold, catch_up="copy")
    assert calls[3] == sum(depth == 4 for depth in copied.depths) < NEW
    heads = heads_of_layers(model, copied.sequences, mask_of(copied, 3))
    differences = [
        (logits - heads[depth - 1][:, -NEW - 1 + step]).abs().max().item()
        for step, (depth, logits) in enumerate(zip(copied.depths, copied.logits, strict=True))
    ]
    left = [depth < 4 for depth in copied.depths].index(True)
    assert max(differences[: left + 1]) < 1e-5
    assert max(differences) > 1e-3


def test_plain_falcon_h1_decodes_so_as_well() -> None:
    config = random_model().config.to_dict()
    plain = FalconH1ForCausalLM(FalconH1Config(**{k: v for k, v in config.items() if k != "model_type"})).eval()
    give_exits(plain, 2)  # type: ignore[arg-type]
    inputs = prompts(1) | {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(generate(plain, **inputs, width=1), plain.generate(**inputs))
    assert generate(plain, **inputs, width="1/2").shape == generate(plain, **inputs, exit_threshold=0.0).shape


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": "1/3"}, "width 1/3: hidden_size 64 would be 21.3333; widths are whole numbers of"),
        ({"width": "3/2"}, "width '3/2' is not valid; give a share of the whole model, such as 1/2, and at most 1"),
        ({"width": ["1/2"]}, "width: a mix must be a list of 4 pairs"),
        ({"width": "wide"}, "width 'wide' is not valid; give a share"),
        (
            {"width": "1/2", "exit_threshold": 0.5},
            "width and exit_threshold cannot be combined: exits are calibrated at full width",
        ),
        ({"exit_threshold": 0.5, "num_beams": 2}, "greedy decoding and sampling, not with beam_search"),
        ({"exit_threshold": 0.5, "use_cache": False}, "exits need the cache"),
        ({"exit_threshold": "often"}, "exit_threshold is 'often'; give a number"),
        ({"exit_threshold": {7: 0.5}}, "no calibrated exit after layer 7; there are: 1, 2, 3"),
        ({"exit_threshold": 0.5, "catch_up": "never"}, "catch_up is 'never'; it must be exact or copy"),
    ],
)
def test_what_cannot_be_done_is_said(model: AdambaForCausalLM, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        model.generate(**prompts(1), max_new_tokens=2, **options)
    assert sentence in str(refused.value)
