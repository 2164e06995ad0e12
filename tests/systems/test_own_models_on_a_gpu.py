"""On a CUDA GPU the house's models and optimiser compute what they do on a CPU, in bf16 nearly so, and decode alike.

pytest -m gpu
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

from agentforge.models.delta_rule import gated_delta_rule
from agentforge.models.row_isolation import probe
from agentforge.optim.mugrokfast import make_mugrokfast
from tests.systems.adamba.modeling.test_modeling import adamba, tokens
from tests.systems.agiformer.modeling.test_modeling import make, text
from tests.systems.cognate.tiny import some_ids, tiny_cognate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Tensor]]] = {
    "adamba": (adamba, tokens),
    "agiformer": (make, text),
    "cognate": (tiny_cognate, lambda: some_ids(2, 40)),
}


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Tensor]]:
    """A model and ids `(2, T)`, on the CPU; fp32 products keep all their digits."""
    make_model, make_ids = MODELS[request.param]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield make_model(), make_ids()
    torch.backends.cuda.matmul.allow_tf32 = before


def gradients(model: Any, ids: Tensor) -> tuple[float, Tensor]:
    """Return the loss and all gradients in a row, on the CPU."""
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    found = [weight.grad.float().flatten().cpu() for weight in model.parameters() if weight.grad is not None]
    return float(loss), torch.cat(found)


def test_logits_and_gradients_are_the_cpus(pair: tuple[Any, Tensor]) -> None:
    model, ids = pair
    wanted_loss, wanted = gradients(model, ids)
    found_loss, found = gradients(model.cuda(), ids.cuda())
    assert found_loss == pytest.approx(wanted_loss, rel=1e-4)
    assert (found - wanted).norm() < 2e-3 * wanted.norm()


@pytest.mark.parametrize("name", MODELS)
def test_bf16_trains_in_nearly_the_direction_of_fp32(name: str) -> None:
    """As initialised: weights as large as those of the other tests make every rounding grow from layer to layer."""
    torch.manual_seed(0)
    model, ids = type(MODELS[name][0]())(MODELS[name][0]().config).cuda(), MODELS[name][1]().cuda()
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.02)
    wanted_loss, wanted = gradients(model, ids)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found_loss, found = gradients(model, ids)
    assert found_loss == pytest.approx(wanted_loss, rel=0.03)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.97


@torch.no_grad()
def test_the_cache_writes_what_the_model_writes_without_it(pair: tuple[Any, Tensor]) -> None:
    model, ids = pair[0].cuda().eval(), pair[1].cuda()
    kept = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
    )
    read = ids
    for _ in range(12):
        logits = model(input_ids=read, use_cache=False).logits[:, -1]
        read = torch.cat([read, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(kept, read)


@torch.no_grad()
def test_rows_are_kept_apart_as_on_the_cpu(pair: tuple[Any, Tensor]) -> None:
    model = pair[0].eval()
    there = probe(copy.deepcopy(model), "on the CPU")
    here = probe(model.cuda(), "on the GPU")
    assert {way for way in here.differences if here.allows(way)} == {
        way for way in there.differences if there.allows(way)
    }


def test_the_delta_rule_is_the_cpus() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 150, 16) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1)
    beta, decay = torch.rand(2, 3, 150), -torch.rand(2, 3, 150)

    def run(device: str) -> list[Tensor]:
        inputs = [x.to(device).detach().requires_grad_() for x in (q, k, v, beta, decay)]
        out, state = gated_delta_rule(*inputs)
        (out.square().sum() + state.square().sum()).backward()
        return [x.detach().cpu() for x in (out, state, *(x.grad for x in inputs))]  # type: ignore[union-attr]

    for wanted, found in zip(run("cpu"), run("cuda"), strict=True):
        assert (found - wanted).norm() < 1e-3 * wanted.norm()


def test_mugrokfast_moves_the_weights_as_on_the_cpu() -> None:
    """On a GPU it orthogonalises in bf16, so an update is the CPU's to a few percent."""
    here = tiny_cognate()
    there = copy.deepcopy(here).cuda()
    before = torch.cat([weight.detach().flatten() for weight in here.parameters()])
    ids = some_ids(2, 40)
    gradients(here, ids)
    args = TrainingArguments(output_dir="unused", learning_rate=1e-2, report_to="none")
    for model in (here, there):
        for weight, source in zip(model.parameters(), here.parameters(), strict=True):
            weight.grad = None if source.grad is None else source.grad.to(weight.device)
        optimizer = make_mugrokfast(model, args)
        for _ in range(3):
            optimizer.step()
    wanted, found = (torch.cat([w.detach().cpu().flatten() for w in m.parameters()]) - before for m in (here, there))
    assert wanted.norm() > 0.1
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["agiformer", "cognate"])
def test_a_compiled_step_has_the_gradients_of_the_plain_one(name: str) -> None:
    make_model, make_ids = MODELS[name]
    model, ids = make_model().cuda().train(), make_ids().cuda()
    wanted_loss, wanted = gradients(model, ids)
    found_loss, found = gradients(torch.compile(model, dynamic=False), ids)
    assert found_loss == pytest.approx(wanted_loss, rel=1e-3)
    assert (found - wanted).norm() < 1e-2 * wanted.norm()
