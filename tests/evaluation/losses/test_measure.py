"""Losses of widths and exits against slow loops over single rows; what the stage writes, and what it refuses."""

from __future__ import annotations

import json
import logging
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

from agentforge.data.tokenizer import BATTERY, train_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.losses import decoding_speed as speed
from agentforge.evaluation.losses.decoding_speed import decoding_speed
from agentforge.evaluation.losses.measure import HeldOut, LossReadings, batches, count_bytes, held_out, measure
from agentforge.evaluation.statistics.intervals import beta_jeffreys, ratio_t, share_over_rows
from agentforge.recipe.schema import Recipe
from agentforge.systems.adamba.evaluation.readings import AdambaReadings
from agentforge.systems.adamba.exits.exits import Exit, Exits, save_exits
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from tests.systems.adamba.checkpoints import llama
from tests.systems.adamba.decoding import heads_of_layers, random_model
from tests.trainers.tiny import make_rows, tiny_tokenizer, write_prepared

VOCABULARY = 64
ROWS = make_rows(9, seed=3)


@pytest.fixture(scope="module")
def model() -> AdambaForCausalLM:
    torch.manual_seed(0)
    return random_model(vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def rows() -> HeldOut:
    return held_out(Dataset.from_list(ROWS), None, tiny_tokenizer())


def slow_losses(logits: torch.Tensor, row: dict[str, Any]) -> list[float]:
    """The loss of each trained token, one after the other."""
    found = []
    for position in range(1, len(row["input_ids"])):
        if row["assistant_masks"][position]:
            distribution = logits[position - 1].double().softmax(-1)
            found.append(-math.log(float(distribution[row["input_ids"][position]])))
    return found


def logits_alone(model: Any, row: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([row["input_ids"]]), use_cache=False).logits[0]


def test_the_loss_of_each_row_is_that_of_the_row_alone(model: AdambaForCausalLM, rows: HeldOut) -> None:
    read = measure(LossReadings(model), rows, batch_size=4).widths["1"]
    expected = [sum(slow_losses(logits_alone(model, row), row)) for row in ROWS]
    assert read.loss == pytest.approx(expected, rel=1e-5)
    assert rows.tokens.tolist() == [sum(row["assistant_masks"][1:]) for row in ROWS]


def test_the_loss_at_a_width_is_that_of_the_checkpoint_cut_out(
    model: AdambaForCausalLM, rows: HeldOut, tmp_path: Path
) -> None:
    read = measure(AdambaReadings(model, ("1", "1/2", "1/4")), rows, batch_size=4).widths
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "half").mkdir()
    slice_checkpoint(tmp_path / "whole", tmp_path / "half", AdambaShape.of(model.config).scaled(Fraction(1, 2)))
    half = AdambaForCausalLM.from_pretrained(tmp_path / "half").eval()
    assert read["1/2"].loss == pytest.approx([sum(slow_losses(logits_alone(half, row), row)) for row in ROWS], rel=1e-5)
    assert len({round(float(one.loss.sum()), 3) for one in read.values()}) == 3


def test_exits_alone_and_together_are_read_as_decoding_would(model: AdambaForCausalLM, rows: HeldOut) -> None:
    every = [heads_of_layers(model, *2 * (torch.tensor([row["input_ids"]]),))[:2] for row in ROWS]
    surest = [torch.cat([heads[k][0].softmax(-1).amax(-1) for heads in every]) for k in range(2)]
    thresholds = {1: float(surest[0].quantile(0.7)), 2: float(surest[1].quantile(0.5))}
    calibrated = Exits({k: Exit(t, None, 0.9, 0, confidence="max_probability") for k, t in thresholds.items()})
    measured = measure(AdambaReadings(model, ("1",), (1, 2), calibrated), rows, batch_size=4)
    losses, agreeing, left = {1: 0.0, 2: 0.0, "together": 0.0}, {1: 0, 2: 0, "together": 0}, {1: 0, 2: 0, 4: 0}
    for row in ROWS:
        ids = torch.tensor([row["input_ids"]])
        heads = [logits[0] for logits in heads_of_layers(model, ids, torch.ones_like(ids))]
        slow = {layer: iter(slow_losses(heads[layer - 1], row)) for layer in (1, 2, 4)}
        for position in range(1, ids.shape[1]):
            if not row["assistant_masks"][position]:
                continue
            best = {layer: int(heads[layer - 1][position - 1].argmax()) for layer in (1, 2, 4)}
            sure = {k: float(heads[k - 1][position - 1].softmax(-1).max()) >= t for k, t in thresholds.items()}
            loss = {layer: next(values) for layer, values in slow.items()}
            taken = next((layer for layer in (1, 2) if sure[layer]), 4)
            left[taken] += 1
            for name, layer in ((1, 1), (2, 2), ("together", taken)):
                losses[name] += loss[layer]
                agreeing[name] += best[layer] == best[4]
    assert measured.left == left and all(left.values()), "the thresholds should divide the tokens among all"
    reads = {1: measured.exits[1], 2: measured.exits[2], "together": measured.together}
    for name, read in reads.items():
        assert read is not None and read.agreeing is not None
        assert read.loss.sum() == pytest.approx(losses[name], rel=1e-5)
        assert read.agreeing.sum() == agreeing[name]


def test_batches_hold_every_row_once_and_few_where_logits_are_large(rows: HeldOut) -> None:
    taken = list(batches(rows, 4, VOCABULARY))
    assert sorted(number for batch in taken for number in batch) == list(range(len(ROWS)))
    lengths = [len(rows.ids[number]) for batch in taken for number in batch]
    assert lengths == sorted(lengths, reverse=True) and max(map(len, taken)) == 4
    assert all(len(batch) == 1 for batch in batches(rows, 4, 1 << 26))


def test_bytes_of_tokens_are_those_of_the_text() -> None:
    tokenizer = train_tokenizer(BATTERY, 400)
    for text in BATTERY:
        ids = tokenizer.encode(text)
        written = tokenizer.decode(ids, skip_special_tokens=False)
        assert count_bytes(ids, tokenizer) == len(written.encode())
    assert count_bytes([tokenizer.convert_tokens_to_ids("<|im_end|>")], tokenizer) == 0
    assert count_bytes([3, 4], tiny_tokenizer()) is None, "words are no bytes"


def test_rows_without_a_trained_token_are_left_out_and_too_few_refused() -> None:
    untrained = {"input_ids": [5, 6, 7], "assistant_masks": [1, 0, 0], "source": "x"}
    kept = held_out(Dataset.from_list([ROWS[0], untrained, *ROWS[1:]]), 4, tiny_tokenizer())
    assert kept.ids == [row["input_ids"] for row in ROWS[:4]]
    assert kept.hash != held_out(Dataset.from_list(ROWS), None, tiny_tokenizer()).hash
    with pytest.raises(UserError, match="at least two eval rows, not 1"):
        held_out(Dataset.from_list([untrained, ROWS[0]]), None, tiny_tokenizer())


def test_the_interval_of_a_mean_over_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(2, 1, 12)
    same = ratio_t(values * 5, np.full(12, 5.0), 0.8)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.8)
    assert same == pytest.approx((values.mean(), expected.low, expected.high))
    covered = 0
    for _ in range(400):
        counts = rng.integers(5, 100, 40).astype(float)
        row_means = 3 + rng.normal(0, 0.5, 40)  # tokens of one row share their difficulty
        sums = counts * row_means + rng.normal(0, 1, 40) * np.sqrt(counts)
        low, high = ratio_t(sums, counts, 0.8)[1:]
        covered += low <= 3 <= high
    assert 0.74 <= covered / 400 <= 0.86
    with pytest.raises(ValueError, match="at least two"):
        ratio_t(np.ones(1), np.ones(1), 0.8)


def test_the_interval_of_a_share_over_rows_is_never_a_point() -> None:
    counts = np.full(10, 20.0)
    share, low, high = share_over_rows(counts, counts, 0.8)
    assert (share, low, high) == (1, *beta_jeffreys(10, 10, 0.8)), "ten rows that agree are no 200 trials"
    alike = share_over_rows(np.full(10, 10.0), counts, 0.8)
    apart = share_over_rows(np.array([20.0, 0] * 5), counts, 0.8)
    assert apart[2] - apart[1] > 3 * (alike[2] - alike[1]), "rows that are all right or all wrong count once each"


def test_milliseconds_a_token_leave_the_prompt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: 2 * clock[0])

    def way(prompt: float, token: float) -> Any:
        calls = iter(range(1000))

        def decode(ids: torch.Tensor, new: int) -> None:
            slower = 5 if next(calls) < 2 else 0  # a first call that loads something
            clock[0] += prompt * ids.shape[1] + token * new + slower

        return decode

    found = decoding_speed([[1, 2, 3], [1, 2]], {"a": way(7, 0.002), "b": way(1, 0.001)}, "cpu")
    assert (found["a"].cpu, found["a"].wall) == pytest.approx((2, 4))
    assert found["b"].cpu == pytest.approx(1)


# -- the stage ------------------------------------------------------------------------------------------------------


def recipe_on(directory: Path, model: Path, **loss: Any) -> Recipe:
    """A recipe whose base is ``model``, with prepared data."""
    recipe = Recipe.model_validate(
        {
            "name": "T",
            "output_dir": str(directory),
            "model": {"path": str(model)},
            "evaluate": {"loss": loss, "batch_size": 4},
        }
    )
    if not recipe.artifact("data").is_dir():
        write_prepared(recipe.artifact("data"), make_rows(4, 0), ROWS)
    return recipe


@pytest.fixture
def checkpoint(tmp_path: Path, model: AdambaForCausalLM) -> Path:
    """The model with exits beside it."""
    directory = tmp_path / "adamba"
    model.config.exit_layers = [1, 2]
    model.save_pretrained(directory)
    save_exits(directory, {layer: Exit(0.06, 0.9, 0.9, 10, confidence="max_probability") for layer in (1, 2)})
    return directory


def test_the_stage_writes_widths_exits_and_speeds(tmp_path: Path, checkpoint: Path) -> None:
    recipe = recipe_on(tmp_path, checkpoint, widths=["1/4", "1", "0.5"], exits=True, speed=True, rows=6)
    made = evaluate(recipe, "base")
    report = json.loads((made / "scores.json").read_text())["losses"]
    assert list(report["widths"]) == ["1", "1/2", "1/4"] and list(report["exits"]) == ["1", "2"]
    sizes = [entry["parameters"] for entry in report["widths"].values()]
    assert sizes == sorted(sizes, reverse=True)
    every = json.loads((made / "losses.json").read_text())["rows"]
    for width, entry in report["widths"].items():
        assert entry["loss"]["low"] < entry["loss"]["value"] < entry["loss"]["high"]
        assert entry["loss"]["value"] == pytest.approx(sum(every["widths"][width]) / sum(every["tokens"]))
        assert entry["speed"]["cpu"] > 0 and entry["speed"]["wall"] > 0
    assert report["data"]["rows"] == 6 and report["data"]["tokens"] == sum(every["tokens"])
    half = report["widths"]["1/2"]
    assert half["regret"]["value"] == pytest.approx(half["loss"]["value"] - report["widths"]["1"]["loss"]["value"])
    together = report["together"]
    assert sum(together["shares"].values()) == pytest.approx(1) and 1 <= together["layers"] <= 4
    assert together["speed"]["cpu"] > 0 and report["exits"]["1"]["calibrated"]["wanted"] == 0.9
    before = (made / "scores.json").stat().st_mtime_ns
    assert evaluate(recipe, "base") == made
    assert (made / "scores.json").stat().st_mtime_ns == before, "nothing has changed"


def test_any_causal_model_has_a_loss_and_no_narrower_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = llama(tmp_path / "llama")
    with caplog.at_level(logging.INFO):
        made = evaluate(recipe_on(tmp_path, base, exits=True, speed=True), "base")
    report = json.loads((made / "scores.json").read_text())["losses"]
    assert list(report["widths"]) == ["1"] and report["exits"] == {} and report["together"] is None
    assert report["widths"]["1"]["speed"]["wall"] > 0
    assert "has no early exits" in caplog.text
    with pytest.raises(UserError, match="a llama has no narrower models inside; set this to \\['1'\\]"):
        evaluate(recipe_on(tmp_path, base, widths=["1", "1/2"]), "base", replace=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer", "the rows contain token 63, but the model has only 40"),
        ("data", "does not exist; run the stage that makes it first"),
        ("width", "would be"),
        ("gguf", "is a GGUF: name another --model"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, checkpoint: Path, change: str, message: str) -> None:
    which = "base"
    recipe = recipe_on(tmp_path, checkpoint, widths=["1/3"] if change == "width" else ["1"])
    if change == "tokenizer":
        recipe = recipe_on(tmp_path, llama(tmp_path / "small", vocab_size=40))
    elif change == "data":
        recipe = recipe.model_copy(update={"version": "9.0.0"})
    elif change == "gguf":
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        which = str(tmp_path / "m.gguf")
    with pytest.raises(CheckRefused if change == "tokenizer" else UserError, match=message):
        evaluate(recipe, which)
    assert not list(tmp_path.glob("T-v*-eval-*")), "nothing is left of a refused evaluation"


def test_nothing_to_evaluate_names_all_three(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate\.loss"):
        evaluate(Recipe.model_validate({"name": "T", "output_dir": str(tmp_path)}), "base")
