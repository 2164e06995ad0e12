"""The objective is the model's own loss, however the step is cut; so do transformers and TRL train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.training.metrics import evaluation_figures, training_figures
from agentforge.systems.cognate.training.objective import CognateObjective
from agentforge.systems.cognate.training.plan import token_bytes
from agentforge.trainers.batching import PackedRows
from agentforge.trainers.supervised.additions import Moment
from tests.systems.cognate.training.conftest import CONFIG, byte_tokenizer, rows
from tests.trainers.tiny import tiny_tokenizer


def model(**more: Any) -> CognateForCausalLM:
    torch.manual_seed(0)
    return CognateForCausalLM(CognateConfig(**(CONFIG | {"vocab_size": 300} | more))).train()


def batch(cut: slice = slice(None)) -> dict[str, Tensor]:
    """Six rows of unlike length, padded on the right."""
    made = rows(6, 3)[cut]
    length = 32
    padded = {name: torch.zeros(len(made), length, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    padded["labels"] = torch.full((len(made), length), -100)
    for number, row in enumerate(made):
        ids = torch.tensor(row["input_ids"])
        padded["input_ids"][number, : len(ids)] = ids
        padded["attention_mask"][number, : len(ids)] = 1
        padded["labels"][number, 2 : len(ids)] = ids[2:]
    return padded


def gradients(trained: CognateForCausalLM) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in trained.named_parameters() if weight.grad is not None}
    trained.zero_grad()
    return found


@pytest.mark.parametrize("halting", ["none", "act", "pondernet", "expected"])
def test_it_is_the_forward_pass_with_labels(halting: str) -> None:
    trained = model(halting=halting, correctness_weight=0.1)
    loss, parts = CognateObjective(trained)(Moment(0, 0.0), **batch())
    loss.backward()
    ours = gradients(trained)
    out = trained(**batch(), num_items_in_batch=1)
    out.loss.backward()
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-6)
    for name, gradient in gradients(trained).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)
    assert parts["tokens"] == (batch()["labels"][:, 1:] != -100).sum()


@pytest.mark.parametrize("halting", ["act", "pondernet", "expected"])
def test_micro_batches_add_up_to_the_batch(halting: str) -> None:
    """The gate's hinge is on a row's mean for this: one on the batch's would depend on who is in it."""
    objective = CognateObjective(model(halting=halting, gate_weight=1.0, correctness_weight=0.1))
    whole, parts = objective(Moment(0, 0.0), **batch())
    whole.backward()
    expected = gradients(objective.model)
    total, found = 0.0, dict.fromkeys(parts, 0.0)
    for cut in (slice(0, 1), slice(1, 4), slice(4, 6)):
        loss, pieces = objective(Moment(0, 0.0), **batch(cut))
        loss.backward()
        total += loss.item()
        found = {name: found[name] + float(value) for name, value in pieces.items()}
    assert parts["loss_gate"] > 0
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert found == pytest.approx({name: float(value) for name, value in parts.items()}, rel=1e-4)
    for name, gradient in gradients(objective.model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3)


def test_packed_rows_are_their_documents() -> None:
    """A packed row gives the sums of its documents alone; only the gate's mean is over the row."""
    documents = [row["input_ids"][:10] for row in rows(3, 3)]
    joined = [token for ids in documents for token in ids]
    packed = PackedRows(0)([{"input_ids": joined, "labels": joined, "seq_lengths": [10, 10, 10]}])
    objective = CognateObjective(model(gate_weight=0.0))
    loss, parts = objective(Moment(0, 0.0), **packed)
    alone = [objective(Moment(0, 0.0), input_ids=torch.tensor([ids]), labels=torch.tensor([ids])) for ids in documents]
    assert parts["tokens"] == 27
    assert loss.item() == pytest.approx(sum(found.item() for found, _ in alone), rel=1e-5)


def test_the_gates_weight_falls_to_nothing() -> None:
    trained = model(gate_weight=1.0)

    def gate_at(progress: float, annealing: float) -> float:
        loss, parts = CognateObjective(trained, gate_annealing=annealing)(Moment(0, progress), **batch())
        return (loss - parts["loss_ce"] - parts["loss_act"]).item() / parts["loss_gate"].item()

    assert gate_at(0.0, 0.5) == pytest.approx(1.0, rel=1e-3)
    assert gate_at(0.25, 0.5) == pytest.approx(0.5, rel=1e-3)
    assert gate_at(0.75, 0.5) == pytest.approx(0.0, abs=1e-3)
    assert gate_at(0.75, 1.0) == pytest.approx(0.25, rel=1e-3)


def test_evaluation_reads_every_row() -> None:
    trained = model().eval()
    sizes = token_bytes(byte_tokenizer(), 300)
    objective = CognateObjective(trained, bytes_of=sizes)
    with torch.no_grad():
        sums = objective.evaluate(**batch())
        whole = trained(**batch()).loss
    tokens = sums["tokens"].sum()
    assert all(value.shape == (6,) for value in sums.values())
    assert (sums["loss"].sum() / tokens).item() == pytest.approx(whole.item(), rel=1e-5)
    assert (sums["first"] > 0).all() and not torch.equal(sums["first"], sums["loss"])
    texts = [byte_tokenizer().decode(row["input_ids"][2:]) for row in rows(6, 3)]
    assert sums["bytes"].tolist() == [len(text.encode()) for text in texts]
    means = {name: value.sum().item() / tokens.item() for name, value in sums.items()}
    figures = evaluation_figures(means)
    assert set(figures) == {"eval_perplexity", "eval_bits_per_byte", "eval_recursion_gain", "ltm/memory_usage"}
    assert figures["eval_bits_per_byte"] == pytest.approx(
        means["loss"] / 0.6931471805599453 * tokens.item() / sum(len(text.encode()) for text in texts)
    )
    assert 0 < figures["ltm/memory_usage"] <= 1
    assert figures["eval_recursion_gain"] == pytest.approx(means["first"] - means["loss"])


def test_what_is_not_known_is_absent() -> None:
    trained = model(memory_layers=[], max_recursions=1).eval()
    with torch.no_grad():
        sums = CognateObjective(trained).evaluate(**batch())
    assert set(sums) == {"tokens", "loss"}
    assert set(evaluation_figures({"loss": 1.0})) == {"eval_perplexity"}
    _, parts = CognateObjective(trained.train())(Moment(0, 0.0), **batch())
    assert set(parts) == {"loss_ce", "tokens"}
    assert set(training_figures({"loss_ce": 1.0})) == {"loss_ce", "perplexity"}
    assert training_figures({"loss_ce": 1e5})["perplexity"] == float("inf")


def test_a_deviation_is_one_over_tokens() -> None:
    figures = training_figures({"loss_ce": 1.0, "act/halt_prob_mean": 0.3, "act/halt_prob_square": 0.25})
    assert figures["act/halt_prob_std"] == pytest.approx((0.25 - 0.09) ** 0.5)
    assert "act/halt_prob_square" not in figures


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad on the right."""
    length = max(len(row["input_ids"]) for row in examples)
    full = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in examples]
    return {
        name: torch.tensor([list(row[name]) + [empty] * (length - len(row[name])) for row in full])
        for name, empty in {"input_ids": 0, "labels": -100, "attention_mask": 0}.items()
    }


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("library", ["transformers", "trl"])
def test_plain_trainers_make_the_same_step(library: str, accumulated: int, tmp_path: Path) -> None:
    """`num_items_in_batch`: rows of unlike length, six a step, in one batch or in three.

    TRL's SFTTrainer never asks a model for its loss: it makes the cross-entropy of the last hidden state itself. So it
    trains `loss_ce` alone; the house's `method: sft`, a subclass of it, trains everything.
    """
    options: dict[str, Any] = {"gate_floor": 0.9, "gate_weight": 1.0} | (
        {"halting": "none"} if library == "trl" else {}
    )
    if library == "trl":
        options["gate_weight"] = 0.0
    trained = model(**options)
    loss, parts = CognateObjective(trained)(Moment(0, 0.0), **batch())
    (loss / parts["tokens"]).backward()
    expected = gradients(trained)
    data = Dataset.from_list(
        [{"input_ids": row["input_ids"], "labels": [-100, -100, *row["input_ids"][2:]]} for row in rows(6, 3)]
    )
    common: dict[str, Any] = {
        "per_device_train_batch_size": 6 // accumulated,
        "gradient_accumulation_steps": accumulated,
        "max_steps": 1,
        "learning_rate": 0.0,
        "max_grad_norm": 1e9,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if library == "transformers":
        trainer = Trainer(model(**options), TrainingArguments(str(tmp_path), **common), collate, data)
    else:
        prepared = {"dataset_kwargs": {"skip_prepare_dataset": True}, "gradient_checkpointing": False}
        trainer = SFTTrainer(
            model(**options),
            SFTConfig(str(tmp_path), **prepared, **common),
            data_collator=collate,
            train_dataset=data,
            processing_class=tiny_tokenizer(),
        )
    seen: dict[str, Tensor] = {}
    trainer.create_optimizer().register_step_pre_hook(lambda *_: seen.update(gradients(trainer.model)))
    trainer.train()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx([(loss / parts["tokens"]).item()], rel=1e-3)
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, atol=1e-5, rtol=1e-3)
