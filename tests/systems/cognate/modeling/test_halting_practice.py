"""Steps of training in which tokens stop as they do in use: what a model then learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from tests.systems.cognate.tiny import some_ids, tiny_cognate

IDS = some_ids(2, 12)


def practising(share: float = 1.0, **fields: object) -> CognateForCausalLM:
    return tiny_cognate(halting_practice=share, **fields).train()


def gradients(model: CognateForCausalLM, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_tokens_stop_in_training_as_they_do_in_use() -> None:
    model = practising()
    torch.manual_seed(0)
    _, place = torch.rand(2).tolist()
    torch.manual_seed(0)
    practised = model.model.steps(IDS, use_cache=False)
    used = model.eval().model.steps(IDS, use_cache=False, exit_threshold=1 - 0.5 * 0.002**place)
    assert 1 < practised.halting_steps.float().mean() < 3
    assert torch.equal(practised.halting_steps, used.halting_steps)
    torch.testing.assert_close(practised.answer, used.answer)


def test_without_practice_all_tokens_take_all_steps_and_nothing_is_drawn() -> None:
    model = practising(0.0)
    torch.manual_seed(0)
    assert int(model.model.steps(IDS, use_cache=False).halting_steps.min()) == 3
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))


def test_the_share_is_of_steps() -> None:
    model = practising(0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        practised = [model.model._practised_threshold() is not None for _ in range(400)]
    assert 0.4 < sum(practised) / 400 < 0.6
    drawn = [practising().model._practised_threshold() for _ in range(100)]
    assert all(threshold is not None and 0.5 <= threshold <= 0.999 for threshold in drawn)


def test_every_parameter_learns_in_practice_too() -> None:
    model = practising()
    missing = {name for name, _ in model.named_parameters()} - set(gradients(model, 0))
    assert not missing


def test_layers_that_are_computed_again_for_their_gradient_find_what_they_found() -> None:
    plain, again = practising(), practising()
    again.gradient_checkpointing_enable({"use_reentrant": False})
    for seed in range(3):
        wanted, found = gradients(plain, seed), gradients(again, seed)
        assert wanted.keys() == found.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, msg=name)
