"""From the prepared rows to batches: labels, packing, and the collator that keeps packed documents apart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedModel
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from agentforge.errors import CheckRefused, UserError
from agentforge.models.row_isolation import isolation_of, require

log = logging.getLogger(__name__)

IGNORED = -100
# Rows that are packed together. Of 1,000 conversations 0.6 % of the slots stay empty, of 20,000 0.02 %.
PACKING_WINDOW = 50_000


class PackedRows(DataCollatorForLanguageModeling):
    """Packed rows as a batch `(B, T)` of `input_ids`, `labels` and `position_ids` that restart at each document.

    TRL's padding-free collator joins the batch into one row `(1, B*T)`: right for flash attention, which is told the
    borders, but every other attention then computes a `(B*T)^2` mask. Rows cost B times less.
    """

    # Two documents, a b c and d e, in a row of six:
    #
    #     input_ids     a  b  c  d  e  .
    #     position_ids  0  1  2  0  1  0    where it returns to 0 a document begins, and attention stops
    #     labels        -  b  c  -  e  -    no document predicts the first token of the next
    def __init__(self, pad_token_id: int) -> None:
        super().__init__(pad_token_id, return_position_ids=True)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        del batch["attention_mask"]  # with a 2-D mask transformers no longer looks for borders in the position_ids
        batch["labels"][batch["position_ids"] == 0] = IGNORED  # the first token does not follow from the last document
        return batch


def choose_packing(model: PreTrainedModel, wanted: bool | None) -> bool:
    """Return whether to pack: where it is proven that the model keeps documents apart, unless the recipe says no.

    A model whose class says in ``unpacked_by_default`` why packing does not pay is packed only if the recipe says so.

    Raises:
        UserError: the recipe asks for it and the model would mix the documents; or it mixes even padded rows.
    """
    refusal = None if wanted is False else isolation_of(model).refusal("packed")
    if wanted is None:
        refusal = refusal or getattr(model, "unpacked_by_default", None)
    if refusal and wanted:
        raise UserError(
            f"train.args.packing: {model.config.model_type} cannot be packed: {refusal}; set packing to false"
        )
    if refusal:
        log.info("not packed: %s", refusal)
    if refusal or wanted is False:
        require(model, "right", "train.method: rows of unlike length cannot be batched for this model")
        return False
    return True


def make_collator(model: PreTrainedModel, pad_token_id: int, packing: bool) -> DataCollatorForLanguageModeling:
    """Return the collator that fits the model's attention."""
    if not packing:
        return DataCollatorForLanguageModeling(pad_token_id)
    if "flash" in (model.config._attn_implementation or ""):
        return DataCollatorForLanguageModeling(pad_token_id, padding_free=True)
    return PackedRows(pad_token_id)


def training_rows(dataset: Dataset, *, max_length: int, packing: bool, masked: bool, cache: Path) -> Dataset:
    """Return `input_ids`, `labels` and, if packed, `seq_lengths` of the prepared rows.

    Args:
        dataset: `input_ids`, `assistant_masks` and whatever else.
        max_length: tokens; a longer row is an error, for it would be cut without being counted.
        packing: join rows up to ``max_length``.
        masked: train only where `assistant_masks` is 1.
        cache: stem of the files that the result is stored in, memory-mapped.

    Raises:
        CheckRefused: a row is too long, or no token of the whole split is trained.
    """
    longest = max(
        (int(pc.max(pc.list_value_length(chunk)).as_py()) for chunk in dataset.data.column("input_ids").chunks),
        default=0,
    )
    if longest > max_length:
        raise CheckRefused(
            f"a prepared row has {longest} tokens, but max_length is {max_length}; run `agentforge prepare` again"
        )
    cache.parent.mkdir(parents=True, exist_ok=True)
    # As Arrow columns, not row by row in Python.
    labelled = dataset.with_format("arrow").map(
        _label,
        fn_kwargs={"masked": masked},
        batched=True,
        remove_columns=dataset.column_names,
        cache_file_name=f"{cache}-labelled.arrow",
        load_from_cache_file=True,
    )
    labelled = labelled.with_format(None)
    if not packing:
        return labelled
    storage = {"cache_file_name": f"{cache}-packed.arrow", "load_from_cache_file": True}
    return pack_dataset(labelled, max_length, "bfd", {"batch_size": PACKING_WINDOW, **storage})


def _label(table: pa.Table, masked: bool) -> pa.Table:
    ids = table.column("input_ids").combine_chunks()
    # The offsets of a slice begin where the slice does, but `flatten` gives its values from 0 on.
    values, offsets = ids.flatten(), pc.subtract(ids.offsets, ids.offsets[0])
    labels = values
    if masked:
        trained = pc.equal(table.column("assistant_masks").combine_chunks().flatten(), 1)
        labels = pc.if_else(trained, values, pa.scalar(IGNORED, values.type))
    make = type(ids).from_arrays
    return pa.table({"input_ids": make(offsets, values), "labels": make(offsets, labels)})


def packing_fill(dataset: Dataset, max_length: int) -> float:
    """Return the share of token slots that hold a token."""
    lengths = np.array([sum(row) for row in dataset["seq_lengths"]])
    return float(lengths.sum() / (len(lengths) * max_length))
