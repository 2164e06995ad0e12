"""Every width over one set of weights: an extracted checkpoint's numbers, and gradients in the right places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import FalconH1Config, FalconH1ForCausalLM, set_seed

from agentforge.errors import UserError
from agentforge.systems.adamba.exits.depth import hidden_after, leaving_out
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, resized, take
from agentforge.systems.adamba.widths.elastic import ElasticModel, blocks, mixed_shape, runs_of
from tests.systems.adamba.checkpoints import NANOCHAT

ONE, HALF, QUARTER = Fraction(1), Fraction(1, 2), Fraction(1, 4)
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "pad_token_id": None,
}
KINDS: dict[str, Callable[[], Any]] = {
    "falcon_h1": lambda: FalconH1ForCausalLM(FalconH1Config(**SIZES, tie_word_embeddings=False)),
    "tied": lambda: FalconH1ForCausalLM(FalconH1Config(**SIZES, tie_word_embeddings=True)),
    "adamba": lambda: AdambaForCausalLM(AdambaConfig(**SIZES, tie_word_embeddings=False)),
    "adamba, expanded": lambda: AdambaForCausalLM(
        resized(AdambaConfig(**SIZES | {"hidden_size": 24}, tie_word_embeddings=False), AdambaShape(32, 8, 4, 64, 4, 3))
    ),
    "nanochat": lambda: AdambaForCausalLM(AdambaConfig(**SIZES, tie_word_embeddings=False, **NANOCHAT)),
}


def randomised(kind: str) -> Any:
    set_seed(0)
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return randomised(request.param)


@pytest.fixture
def falcon() -> Any:
    return randomised("falcon_h1")


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(1, 60, (2, 19), generator=torch.Generator().manual_seed(1))


def extracted(model: Any, width: Fraction) -> Any:
    """Return a model of its own with the weights of a width."""
    config = resized(model.config, AdambaShape.of(model.config).scaled(width))
    small, whole = type(model)(config), model.state_dict()
    small.load_state_dict({k: take(whole[k], index_of(k, config, model.config)).clone() for k in small.state_dict()})
    return small.train(model.training)


@pytest.mark.parametrize("training", [True, False])
def test_every_width_computes_what_an_extracted_model_does(model: Any, ids: Tensor, training: bool) -> None:
    elastic = ElasticModel(model).train(training)
    mask = torch.ones_like(ids)
    mask[1, -5:] = 0
    with torch.no_grad():
        for width, logits in zip((ONE, HALF, QUARTER), elastic(ids, mask, widths=(ONE, HALF, QUARTER)), strict=True):
            assert torch.equal(logits, extracted(model, width)(ids, attention_mask=mask).logits), width


def test_it_adds_no_parameter_and_follows_an_optimiser(falcon: Any, ids: Tensor) -> None:
    elastic = ElasticModel(falcon)
    elastic(ids, widths=[HALF])
    assert {f"full.{name}" for name in falcon.state_dict()} == set(elastic.state_dict())
    assert sum(p.numel() for p in elastic.parameters()) == sum(p.numel() for p in falcon.parameters())
    optimizer = torch.optim.AdamW(elastic.parameters(), lr=0.1)
    elastic(ids, widths=[HALF])[0].logsumexp(-1).sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(elastic(ids, widths=[HALF])[0], extracted(falcon, HALF)(ids).logits)


def test_gradients_are_the_extracted_models_own_and_nothing_outside(model: Any, ids: Tensor) -> None:
    small = extracted(model.train(), HALF)
    ElasticModel(model)(ids, widths=[HALF])[0].square().sum().backward()
    small(ids).logits.square().sum().backward()
    small_gradients = {name: parameter.grad for name, parameter in small.named_parameters()}
    for name, parameter in model.named_parameters():
        index = index_of(name, small.config, model.config)
        torch.testing.assert_close(take(parameter.grad, index), small_gradients[name], rtol=1e-5, atol=1e-5)
        assert parameter.grad.count_nonzero() <= small_gradients[name].numel(), name


def test_layers_have_widths_of_their_own_and_the_stream_stays_whole(model: Any, ids: Tensor) -> None:
    elastic = ElasticModel(model).train()
    mix = [(HALF, ONE), (ONE, ONE), (QUARTER, HALF)]
    with torch.no_grad():
        assert torch.equal(elastic(ids, widths=[[(ONE, ONE)] * 3])[0], elastic(ids)[0])
        logits = elastic(ids, widths=[mix])[0]
    shape = AdambaShape.of(model.config)
    reference = type(model)(model.config).train()
    for index, widths in enumerate(mix):
        config = resized(model.config, mixed_shape(shape, *widths))
        reference.model.layers[index] = type(model)(config).model.layers[index].train()
    whole = model.state_dict()
    state = {}
    for name in reference.state_dict():
        layer = int(name.split(".")[2]) if ".layers." in name else None
        config = model.config if layer is None else resized(model.config, mixed_shape(shape, *mix[layer]))
        state[name] = take(whole[name], index_of(name, config, model.config))
    reference.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(logits, reference(ids).logits)


def test_activation_checkpointing_changes_no_gradient(falcon: Any, ids: Tensor) -> None:
    """The backward pass runs narrow layers again: their weights must still be there."""
    elastic, gradients = ElasticModel(falcon).train(), []
    for checkpointing in (False, True):
        if checkpointing:
            falcon.activation_checkpointing_enable({"use_reentrant": False})
        falcon.zero_grad()
        logits = elastic(ids, widths=[ONE, HALF, [(HALF, QUARTER), (ONE, HALF), (QUARTER, ONE)]])
        sum(part.logsumexp(-1).sum() for part in logits).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in falcon.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_ddp_sees_one_module(falcon: Any, ids: Tensor, tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(ElasticModel(falcon).train())
        for widths in ((ONE, HALF), (ONE, QUARTER)):
            sum(part.sum() for part in wrapped(ids, widths=widths)).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in falcon.parameters())


def test_a_width_that_does_not_divide_is_refused(falcon: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="would be"):
        ElasticModel(falcon)(ids, widths=[Fraction(1, 3)])


# -- depth ----------------------------------------------------------------------------------------------------------


def test_an_exit_reads_what_a_truncated_model_would(model: Any, ids: Tensor) -> None:
    model.eval()
    with torch.no_grad(), hidden_after(model, [1, 2]) as seen:
        model(ids)
    for depth in (1, 2):
        short = type(model)(
            resized(model.config, replace(AdambaShape.of(model.config), num_hidden_layers=depth))
        ).eval()
        short.load_state_dict({name: model.state_dict()[name] for name in short.state_dict()})
        with torch.no_grad():
            assert torch.equal(head(model, model.model.final_layernorm(seen[depth])), short(ids).logits)


def test_a_row_that_skips_a_layer_is_as_if_the_layer_were_not_there(falcon: Any, ids: Tensor) -> None:
    falcon.eval()
    kept = torch.tensor([[True, True], [False, True], [True, True]])
    with torch.no_grad():
        whole = falcon(ids).logits
        with leaving_out(falcon, kept), hidden_after(falcon, [2]) as seen:
            logits = falcon(ids).logits
        assert torch.equal(logits[1], whole[1])
        del falcon.model.layers[1]
        with hidden_after(falcon, [1]) as without:
            assert torch.equal(logits[0], falcon(ids).logits[0])
    assert torch.equal(seen[2][0], without[1][0]), "what an exit sees is what the next layer gets"


def test_a_skipped_layer_gets_a_gradient_of_zero_and_no_missing_one(falcon: Any, ids: Tensor) -> None:
    falcon.train()
    kept = torch.tensor([[True, True], [False, False], [True, True]])
    with leaving_out(falcon, kept):
        falcon(ids).logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in falcon.model.layers[1].parameters())


# -- stretches ------------------------------------------------------------------------------------------------------


def test_stretches_of_positions() -> None:
    assert runs_of(slice(None), 9) == ((0, 9),)
    assert runs_of(slice(4), 9) == ((0, 4),)
    assert runs_of(torch.tensor([0, 1, 5, 6, 7, 9]), 12) == ((0, 2), (5, 3), (9, 1))
    assert runs_of(torch.arange(6), 6) == ((0, 6),)


def test_blocks_are_views_of_the_part() -> None:
    tensor = torch.arange(30.0).view(6, 5)
    for view in blocks(tensor, (((0, 1), (3, 2)), ((0, 2),))):
        view.zero_()
    assert (tensor == 0).sum() == 6
    assert tensor[3:5, :2].eq(0).all() and tensor[0, :2].eq(0).all()
