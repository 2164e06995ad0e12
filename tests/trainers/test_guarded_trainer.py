"""The NaN guard, the golden losses, the counts: what a step does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments
from trl import SFTConfig

from agentforge.errors import CheckRefused
from agentforge.models.build import from_scratch
from agentforge.recipe.schema import Model
from agentforge.trainers.batching import PackedRows, make_collator, training_rows
from agentforge.trainers.guarded_trainer import GuardedTrainer, Guards
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer
from tests.trainers.tiny import TINY, VOCABULARY, make_rows, tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
POISON = 63


def tiny_model() -> PreTrainedModel:
    return from_scratch(Model(config=TINY), VOCABULARY, seed=0)


def rows_of(directory: Path, packing: bool, rows: list[dict[str, Any]] | None = None) -> Dataset:
    dataset = Dataset.from_list(rows or make_rows(60, 0))
    return training_rows(dataset, max_length=32, packing=packing, masked=True, cache=directory / f"rows-{packing}")


def make_trainer(
    kind: type[GuardedTrainer], directory: Path, model: PreTrainedModel, rows: Dataset, limit: int = 3, **args: Any
) -> GuardedTrainer:
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "seed": 0,
        "save_strategy": "no",
        "use_cpu": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "activation_checkpointing": False,
    } | args
    if kind is SupervisedTrainer:
        arguments: TrainingArguments = SFTConfig(
            str(directory), bf16=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=32, **options
        )
    else:
        arguments = TrainingArguments(str(directory), **options)
    collator = make_collator(model, 0, packing="seq_lengths" in rows.column_names)
    return kind(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=tiny_tokenizer(),
        guards=Guards(max_nonfinite_steps=limit),
    )


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(("name", "kind"), [("pretrain", PretrainTrainer), ("sft", SupervisedTrainer)])
def test_golden_losses(name: str, kind: type[GuardedTrainer], tmp_path: Path) -> None:
    """The numbers of a fixed tiny run; they may change only with the model, the data order or the loss."""
    trainer = make_trainer(kind, tmp_path, tiny_model(), rows_of(tmp_path, packing=True), gradient_accumulation_steps=2)
    trainer.train()
    golden = json.loads((GOLDEN / f"loss_{name}.json").read_text())
    assert losses(trainer) == pytest.approx(golden["loss"], rel=1e-4)
    assert trainer.counters.trained_tokens == golden["trained_tokens"]


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_at_trained_positions_is_the_models_own(packing: bool, tmp_path: Path) -> None:
    """`SupervisedTrainer` runs the head on few positions: loss and gradients must be those of the plain way."""
    rows = rows_of(tmp_path, packing)
    trainer = make_trainer(SupervisedTrainer, tmp_path, tiny_model(), rows)
    batch = trainer.data_collator([rows[i] for i in range(3)])
    count = (batch["labels"][:, 1:] != -100).sum()
    ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
    ours.backward()
    reference_model = tiny_model()
    reference = reference_model(**batch, use_cache=False).loss
    reference.backward()
    assert ours.item() == pytest.approx(reference.item(), rel=1e-6)
    for mine, theirs in zip(trainer.model.parameters(), reference_model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-5)


def test_large_logits_take_trls_way_to_the_same_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(tmp_path, packing=True)
    trainer = make_trainer(SupervisedTrainer, tmp_path, tiny_model(), rows)
    batch = trainer.data_collator([rows[0], rows[1]])
    small = trainer.compute_loss(trainer.model, dict(batch)).item()
    monkeypatch.setattr("agentforge.trainers.supervised.sft.MAX_LOGITS_BYTES", 0)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(small, rel=1e-6)
    assert trainer._metrics["train"]["entropy"]  # only TRL's way computes it


@pytest.mark.filterwarnings("ignore:.*compute_loss_func")
def test_a_loss_of_the_users_own_is_computed(tmp_path: Path) -> None:
    """It was accepted, and the cross-entropy was computed."""
    rows = rows_of(tmp_path, packing=True)
    trainer = make_trainer(SupervisedTrainer, tmp_path, tiny_model(), rows)
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.mean() * 0 + 7
    assert trainer.compute_loss(trainer.model, trainer.data_collator([rows[0]])).item() == 7


def test_experts_are_balanced_once_an_update_however_it_is_cut(tmp_path: Path) -> None:
    """The model adds the balance to a mean over all tokens of the update: 1x4 added it four times."""
    config = {
        "model_type": "mixtral",
        "num_local_experts": 4,
        "output_router_logits": True,
        "router_aux_loss_coef": 1.0,
    }
    plain = {key: value for key, value in TINY.items() if key not in ("model_type", "head_dim")}
    rows = rows_of(tmp_path, packing=False, rows=make_rows(1, 0) * 4)
    made = []
    for cut, steps in [(4, 1), (1, 4)]:
        model = from_scratch(Model(config=plain | config), VOCABULARY, seed=0)
        options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e6, "max_steps": 1}
        cut_so = {"per_device_train_batch_size": cut, "gradient_accumulation_steps": steps}
        make_trainer(PretrainTrainer, tmp_path, model, rows, **options | cut_so).train()
        made.append(model.state_dict())
    for name, weight in made[0].items():
        torch.testing.assert_close(made[1][name], weight, atol=1e-6, rtol=0)


def test_tokens_are_counted_exactly(tmp_path: Path) -> None:
    for packing in (True, False):
        rows = rows_of(tmp_path, packing)
        trainer = make_trainer(PretrainTrainer, tmp_path, tiny_model(), rows, max_steps=-1, num_train_epochs=1)
        trainer.train()
        made = make_rows(60, 0)
        assert trainer.counters.tokens == sum(len(row["input_ids"]) for row in made)
        assert trainer.counters.trained_tokens == sum(sum(row["assistant_masks"]) for row in made)


class PoisonedModel(torch.nn.Module):
    """Turns the loss or the gradient of a batch that holds the poison token into something that is no number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * {"nan": math.nan, "inf": math.inf}[self.kind]


def poison(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    bad = PoisonedModel(kind)

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None and (ids == POISON).any():
            output.last_hidden_state = bad(output.last_hidden_state)
        return output

    model.model.register_forward_hook(hook, with_kwargs=True)
    return model


def poisoned_rows(tmp_path: Path, which: set[int], count: int = 24) -> Dataset:
    rows = [{"input_ids": [2 + n % 50, 3, 4, 5, 6, 7], "assistant_masks": [0, 0, 1, 1, 1, 1]} for n in range(count)]
    for n in which:
        rows[n]["input_ids"][1] = POISON
    return rows_of(tmp_path, packing=False, rows=rows)


class InOrder:
    """A mixin that takes the rows in order, so that the test knows which step meets the poison."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


class OrderedPretrain(InOrder, PretrainTrainer):
    pass


class OrderedSupervised(InOrder, SupervisedTrainer):
    pass


@pytest.mark.fault("NaN, infinity", "train, in a batch", "skipped: all weights stay finite")
@pytest.mark.parametrize("kind", [OrderedPretrain, OrderedSupervised])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nonfinite_batch_changes_no_weight_and_is_never_logged_as_zero(kind: Any, bad: str, tmp_path: Path) -> None:
    """Rows 9 and 10 lie in the second micro-batch of step 3 (2 rows x 2 micro-batches a step)."""
    weights: list[torch.Tensor] = []
    trainer = make_trainer(
        kind,
        tmp_path,
        poison(tiny_model(), bad),
        poisoned_rows(tmp_path, {10}),
        gradient_accumulation_steps=2,
        max_steps=5,
    )
    original = trainer.callback_handler.on_step_end

    def watch(*args: Any, **kwargs: Any) -> Any:
        weights.append(torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()]))
        return original(*args, **kwargs)

    trainer.callback_handler.on_step_end = watch
    trainer.train()
    assert all(torch.isfinite(w).all() for w in weights)
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])
    logged = {line["step"]: line for line in trainer.state.log_history if "skipped_steps" in line}
    assert "loss" not in logged[3] and "grad_norm" not in logged[3]
    assert logged[3]["skipped_steps"] == 1 and logged[5]["skipped_steps"] == 1
    assert all(logged[step]["loss"] > 1 for step in (1, 2, 4, 5))


def test_a_window_with_one_bad_step_logs_the_mean_of_the_others(tmp_path: Path) -> None:
    clean = make_trainer(
        OrderedPretrain, tmp_path, tiny_model(), poisoned_rows(tmp_path, set()), max_steps=3, learning_rate=0
    )
    clean.train()
    single = losses(clean)
    bad = make_trainer(
        OrderedPretrain,
        tmp_path,
        poison(tiny_model(), "nan"),
        poisoned_rows(tmp_path / "bad", {2}),
        max_steps=3,
        logging_steps=3,
        learning_rate=0,
    )
    bad.train()
    assert losses(bad) == pytest.approx([(single[0] + single[2]) / 2], rel=1e-5)


@pytest.mark.fault("NaN", "train, three batches in a row", "the run stops")
def test_the_run_stops_after_k_bad_batches_in_a_row(tmp_path: Path) -> None:
    rows = poisoned_rows(tmp_path, {2, 6, 8, 10})  # steps 2, 4, 5, 6 of two rows each
    trainer = make_trainer(OrderedPretrain, tmp_path, poison(tiny_model(), "nan"), rows, limit=3, max_steps=12)
    with pytest.raises(CheckRefused, match="in 3 steps in a row, up to step 6"):
        trainer.train()
    assert trainer.counters.skipped_steps == 4


def test_checkpoints_hold_no_pickled_arguments(tmp_path: Path) -> None:
    trainer = make_trainer(
        SupervisedTrainer,
        tmp_path,
        tiny_model(),
        rows_of(tmp_path, True),
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert "training_args.bin" not in names
    assert {"complete.json", "counters.json", "optimizer.pt"} <= names


def test_the_collator_of_packed_rows_is_the_cheap_one(tmp_path: Path) -> None:
    assert isinstance(make_collator(tiny_model(), 0, packing=True), PackedRows)
