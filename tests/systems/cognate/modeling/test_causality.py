"""No logit before a token depends on it, in any layout; and the same check finds a model that peeks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agentforge.systems.cognate.modeling import context, loop
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.modeling.neural_memory import NeuralMemory
from tests.systems.cognate.tiny import VOCABULARY, some_ids, tiny_cognate

LENGTH = 10
OPTIONS: dict[str, dict[str, Any]] = {
    "trm": {},
    "plain": {"recursion": "plain"},
    "one iteration": {"max_recursions": 1},
    "no memory": {"memory_layers": []},
    "memory in one layer": {"memory_layers": [1]},
    "momentum": {"memory_momentum": True},
    "no persistent tokens": {"persistent_tokens": 0},
    "untied, no norm of q and k": {"tie_word_embeddings": False, "qk_norm": False},
    "halting": {"exit_threshold": 0.6},
    "halting, plain": {"exit_threshold": 0.6, "recursion": "plain", "max_recursions": 4},
    "ACT": {"exit_threshold": 0.7, "halting": "act"},
    "no halting head": {"halting": "none"},
}
Layout = Callable[[CognateForCausalLM, Tensor], Tensor]


def whole(model: CognateForCausalLM, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


def cached(model: CognateForCausalLM, ids: Tensor) -> Tensor:
    """Five tokens, two, and then one by one."""
    past, logits = None, []
    for piece in (ids[:, :5], ids[:, 5:7], *ids[:, 7:].split(1, 1)):
        out = model(piece, past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits.append(out.logits)
    return torch.cat(logits, 1)


def padded(side: str) -> Layout:
    def run(model: CognateForCausalLM, ids: Tensor) -> Tensor:
        """Each row beside a longer one."""
        rows, length = ids.shape
        width = length + 3
        first = 0 if side == "right" else 3
        inputs, mask = some_ids(rows + 1, width, seed=5), torch.ones(rows + 1, width, dtype=torch.long)
        inputs[:rows, first : first + length] = ids
        mask[:rows] = 0
        mask[:rows, first : first + length] = 1
        return model(inputs, attention_mask=mask, use_cache=False).logits[:rows, first : first + length]

    return run


def packed(model: CognateForCausalLM, ids: Tensor) -> Tensor:
    """Behind another document in the same row, and before one."""
    rows = len(ids)
    others = some_ids(rows, 12, seed=6)
    joined = torch.cat([others[:, :7], ids, others[:, 7:]], 1)
    positions = torch.cat([torch.arange(7), torch.arange(ids.shape[1]), torch.arange(5)]).expand(rows, -1)
    return model(joined, position_ids=positions, use_cache=False).logits[:, 7:-5]


def one_by_one(model: CognateForCausalLM, ids: Tensor) -> Tensor:
    return torch.cat([whole(model, row[None]) for row in ids])


LAYOUTS: dict[str, Layout] = {
    "whole": whole,
    "cached": cached,
    "padded left": padded("left"),
    "padded right": padded("right"),
    "packed": packed,
    "one by one": one_by_one,
}


def peeked(model: CognateForCausalLM, layout: Layout) -> float:
    """Return the most that a logit before a changed token moves, of all places; or infinity if no later one moves."""
    ids = some_ids(1, LENGTH)
    most = 0.0
    # All perturbations as rows of one batch: the row is then also compared in another company than its own.
    with torch.no_grad():
        before = layout(model, ids)
        changed = ids.repeat(LENGTH, 1)
        places = torch.arange(LENGTH)
        changed[places, places] = changed[places, places] % (VOCABULARY - 1) + 1
        after = layout(model, changed)
    for place in range(LENGTH):
        moved = (after[place] - before[0]).abs().amax(-1)
        if not moved[place:].max() > 1e-2:
            return float("inf")
        most = max([most, *moved[:place].tolist()])
    return most


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("option", OPTIONS)
def test_no_logit_depends_on_a_later_token(option: str, layout: str) -> None:
    assert peeked(tiny_cognate(**OPTIONS[option]), LAYOUTS[layout]) < 1e-4


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "whole"])
@pytest.mark.parametrize("option", ["trm", "momentum", "halting", "ACT"])
def test_a_row_is_the_same_in_every_layout(option: str, layout: str) -> None:
    model, ids = tiny_cognate(**OPTIONS[option]), some_ids(3, LENGTH)
    with torch.no_grad():
        torch.testing.assert_close(LAYOUTS[layout](model, ids), whole(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("option", OPTIONS)
def test_no_gradient_flows_to_a_later_token(option: str) -> None:
    model = tiny_cognate(**OPTIONS[option])
    embedded = model.get_input_embeddings()(some_ids(1, LENGTH)).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    for place in (0, LENGTH // 2, LENGTH - 1):
        gradient = torch.autograd.grad(logits[0, place].square().sum(), embedded, retain_graph=True)[0][0].abs().sum(-1)
        assert gradient[place] > 0
        assert not gradient[place + 1 :].any()


def centred_window(new: context.Columns, past: context.Columns | None, window: int, persistent: int) -> Tensor:
    """The first implementation's mask: as far ahead as behind."""
    columns = torch.arange(new.rank.shape[1])
    seen = (columns[:, None] - columns).abs() < window
    return torch.nn.functional.pad(seen, (persistent, 0), value=True).expand(len(new.rank), 1, -1, -1)


def test_the_check_finds_a_centred_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentforge.systems.cognate.modeling.modeling.visible", centred_window)
    assert peeked(tiny_cognate(), whole) > 1e-2


def test_the_check_finds_a_centred_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = NeuralMemory.forward

    def leaky(self: NeuralMemory, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(self, x + torch.roll(x, -1, 1), *args, **kwargs)

    monkeypatch.setattr(NeuralMemory, "forward", leaky)
    assert peeked(tiny_cognate(), whole) > 1e-2


def test_the_check_finds_halting_by_the_mean_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = loop.has_halted

    def by_mean(config: Any, logits: Tensor, threshold: float) -> Tensor:
        return exact(config, logits.mean(1, keepdim=True).expand_as(logits), threshold)

    monkeypatch.setattr(loop, "has_halted", by_mean)
    model = tiny_cognate(max_recursions=4)
    logits = model.model.steps(some_ids(1, LENGTH)).halting_logits
    assert logits is not None
    # one token moves the mean a little, so the threshold is put where the mean is, on either side
    mean, found = torch.sigmoid(logits[0, :, 0].detach().mean()), []
    for model.config.exit_threshold in (float(mean) - 1e-4, float(mean) + 1e-4):
        found.append(peeked(model, whole))
    assert max(found) > 1e-2
