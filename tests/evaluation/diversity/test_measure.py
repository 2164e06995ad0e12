"""Sums over rows against one token after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from agentforge.errors import CheckRefused
from agentforge.evaluation.diversity.behaviour import Behaviour, Reading, behaviour_of
from agentforge.evaluation.diversity.measure import jensen_shannon, measure_sets, voted
from agentforge.evaluation.losses.measure import HeldOut, held_out
from tests.trainers.tiny import VOCABULARY, make_rows, tiny_tokenizer


class Thoughtful(Behaviour):
    """Says of each token its own number as steps."""

    def read(self, inputs: Any) -> Reading:
        return Reading(super().read(inputs).logits, {"steps": inputs["input_ids"]})


def llama(seed: int, vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, initializer_range=0.5, **sizes)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows() -> HeldOut:
    return held_out(Dataset.from_list(make_rows(5, seed=3)), None, tiny_tokenizer())


def test_sums_are_those_of_single_tokens(rows: HeldOut) -> None:
    models = [llama(seed) for seed in range(3)]
    found = measure_sets({"set": [Thoughtful(model) for model in models]}, rows, batch_size=2)["set"]
    for number, ids in enumerate(rows.ids):
        with torch.no_grad():
            logits = [model(torch.tensor([ids])).logits[0] for model in models]
        expected: dict[str, Any] = {"vote": 0, "oracle": 0, "steps": 0, "correct": np.zeros(3)}
        expected |= {name: np.zeros(3) for name in ("disagree", "distance", "both_wrong")}
        for position in np.flatnonzero(rows.counted[number]):
            chosen = [int(one[position].argmax()) for one in logits]
            average = sum(one[position].double().softmax(-1) for one in logits) / 3
            target = ids[position + 1]
            most = max(chosen, key=lambda token: (chosen.count(token), float(average[token])))
            expected["vote"] += most == target
            expected["oracle"] += target in chosen
            expected["steps"] += ids[position]
            expected["correct"] += [token == target for token in chosen]
            for place, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
                expected["disagree"][place] += chosen[a] != chosen[b]
                expected["both_wrong"][place] += target not in (chosen[a], chosen[b])
                expected["distance"][place] += slow_distance(logits[a][position], logits[b][position])
        assert found.quantities["steps"][number] == pytest.approx([expected.pop("steps")] * 3)
        for name, value in expected.items():
            assert getattr(found, name)[number] == pytest.approx(value, rel=1e-6), name


def slow_distance(one: Tensor, other: Tensor) -> float:
    p, q = one.double().softmax(-1).tolist(), other.double().softmax(-1).tolist()
    divergence = 0.0
    for a, b in zip(p, q, strict=True):
        middle = (a + b) / 2
        divergence += (a * math.log2(a / middle) + b * math.log2(b / middle)) / 2
    return math.sqrt(divergence)


def test_a_model_is_at_no_distance_from_itself(rows: HeldOut) -> None:
    model = Behaviour(llama(0))
    found = measure_sets({"set": [model, model]}, rows)["set"]
    assert not found.distance.any() and not found.disagree.any()
    assert (found.vote == found.correct[:, 0]).all() and (found.oracle == found.vote).all()


def test_distances_are_0_for_equal_and_1_for_disjoint_distributions() -> None:
    sure = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    other = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert jensen_shannon(sure, other).tolist() == [0.0, 1.0]


def test_the_vote_is_the_majority_s_and_else_the_likeliest_on_average() -> None:
    # on the first token two of three agree; on the second all differ
    first = [[0.1, 0.6, 0.3], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]]
    second = [[0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]
    logs = [torch.tensor(both).log() for both in zip(first, second, strict=True)]
    likeliest = torch.stack([one.argmax(-1) for one in logs])
    assert voted(likeliest, logs).tolist() == [1, 0]


def test_a_quantity_that_one_model_cannot_tell_is_left_out(rows: HeldOut) -> None:
    model = llama(0)
    assert measure_sets({"set": [Thoughtful(model), behaviour_of(model)]}, rows)["set"].quantities == {}


@pytest.mark.parametrize(("sizes", "message"), [((64, 96), "vocabularies of 64, 96"), ((40, 40), "only 40")])
def test_other_vocabularies_are_refused(rows: HeldOut, sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(CheckRefused, match=message):
        measure_sets({"set": [Behaviour(llama(0, size)) for size in sizes]}, rows)
