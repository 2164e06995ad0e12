"""From files to preferences: pairs for DPO and labelled answers for KTO, out of what `train.preferences` names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentforge.data.chat_template import encode_prompt, encode_rows_of, install_template
from agentforge.data.cleaning.ingest import NOWHERE, RowCounts, place
from agentforge.data.cleaning.repair_encoding import clean
from agentforge.data.messages import BadRow, Message
from agentforge.data.prepare_table import describe_left_out
from agentforge.data.sources.adapters.base import Rejected, SourceOptions, WatchedRow
from agentforge.data.sources.adapters.preferences import Labelled, Pair, read_labelled, read_pair
from agentforge.data.sources.open_sources import OpenSource, open_sources
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.progress import watched
from agentforge.recipe.schema import Recipe

log = logging.getLogger(__name__)

TOO_LONG = "longer than data.max_length"
Tools = list[dict[str, Any]] | None
PreferenceRow = dict[str, Any]


@dataclass(frozen=True)
class Preferences:
    """What `train.preferences` gave.

    Attributes:
        sources: the opened files.
        rows: for TRL's trainers, in the order of the files.
        counts: by source, for the manifest.
    """

    sources: list[OpenSource]
    rows: list[PreferenceRow]
    counts: dict[str, Any]


def read_preferences(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Preferences:
    """Read everything that `train.preferences` names, and log what was counted of each source.

    Args:
        recipe: of `dpo` or `kto`.
        tokenizer: of the base, with its chat template.

    Raises:
        UserError: a source is not here or has no preferences.
        CheckRefused: see `preference_rows`; or all answers have the same label, from which KTO learns nothing.
    """
    data, method = (
        recipe.data.model_copy(update={"mix": recipe.train.preferences, "curriculum": []}),
        recipe.train.method,
    )
    sources, _ = open_sources(data)
    rows, tallies = preference_rows(sources, method, tokenizer, data.max_length, data.max_bad_rows)
    for source, tally in zip(sources, tallies, strict=True):
        log.info(
            "%s: %d rows read; rejected: %s; not trained on: %s",
            source.name,
            tally.read,
            tally.describe_rejected(source.files) or "none",
            describe_left_out(tally.left_out) or "nothing",
        )
    if method == "kto" and len({row["label"] for row in rows}) == 1:
        raise CheckRefused(f"all {len(rows)} answers have the same label; KTO needs liked and disliked ones")
    counts = {source.name: _described(source, tally) for source, tally in zip(sources, tallies, strict=True)}
    return Preferences(sources, rows, counts)


def base_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Return the base's tokenizer with the recipe's chat template, as preferences and episodes are read with it.

    Raises:
        UserError: the base has none, or the template is wrong.
    """
    assert recipe.model.path is not None, "the recipe was checked"
    tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
    install_template(tokenizer, recipe.data.template, recipe.data.template_options, recipe.data.add_tokens)
    return tokenizer


def _described(source: OpenSource, tally: RowCounts) -> dict[str, Any]:
    return {
        "rows_read": tally.read,
        "rows_unreadable": tally.unreadable,
        "rows_rejected": dict(sorted(tally.rejected.items())),
        "first_lines": dict(sorted(tally.first_lines(source.files).items())),
        "left_out": dict(sorted(tally.left_out.items())),
    }


def preference_rows(
    sources: Sequence[OpenSource], method: str, tokenizer: PreTrainedTokenizerBase, max_length: int, max_bad_rows: float
) -> tuple[list[PreferenceRow], list[RowCounts]]:
    """Return the rows that TRL's trainers read, and what was counted of each source.

    Args:
        sources: opened files of preferences.
        method: ``dpo`` (rows of `prompt_ids`, `chosen_ids`, `rejected_ids`) or ``kto`` (`prompt_ids`, `completion_ids`,
            `completion_masks`, `label`).
        tokenizer: with its chat template.
        max_length: tokens of prompt and answer; longer rows are left out and counted.
        max_bad_rows: share of unreadable rows that is let pass.

    Raises:
        UserError: a source has no preferences.
        CheckRefused: too many unreadable rows, or a source of which no row is left.
    """
    wanted = "preference" if method == "dpo" else "kto"
    rows: list[PreferenceRow] = []
    tallies = []
    for source in sources:
        if source.adapter_name != wanted:
            needs = "chosen and rejected answers" if method == "dpo" else "a label, true or false, for each answer"
            raise UserError(
                f"train.preferences: the rows of {source.name} are read as {source.adapter_name}, but {method} needs "
                f"{needs}; name columns with `columns:`, or `adapter: {wanted}`"
            )
        tally = RowCounts()
        before = len(rows)
        rows += _rows_of(source, method, tokenizer, max_length, max_bad_rows, tally)
        tallies.append(tally)
        if len(rows) == before:
            reasons = tally.describe_rejected(source.files, 3) or "it has no rows"
            raise CheckRefused(f"{source.name}: none of {tally.read} rows can be trained on ({reasons})")
    return rows, tallies


def _rows_of(
    source: OpenSource,
    method: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_bad_rows: float,
    tally: RowCounts,
) -> Iterator[PreferenceRow]:
    read: Callable[[Any, SourceOptions], Any] = read_pair if method == "dpo" else read_labelled
    counts = source.new_counts()
    for raw in watched(islice(source.raw_rows(counts), source.max_rows), f"reading {source.name}", "rows"):
        tally.read += 1
        row = WatchedRow(clean(raw))
        reason = source.row_filter.reject_raw(raw)
        try:
            made: Any = Rejected(reason) if reason else read(row, source.options)
            if not isinstance(made, Rejected):
                left_out = Counter(made.left_out) + Counter(row.unread())
                made = _tokenised(made, tokenizer, source.system)
        except BadRow as error:
            made = Rejected(error.reason)
        if not isinstance(made, Rejected) and _length(made) > max_length:
            made = Rejected(TOO_LONG)
        if isinstance(made, Rejected):
            tally.rejected[made.reason] += 1
            tally.first_places.setdefault(made.reason, NOWHERE if source.joiner else place(counts.file, counts.line))
        else:
            tally.left_out.update(left_out)
            yield made
    counts.check(source.name, max_bad_rows)
    tally.unreadable, tally.unreadable_lines = counts.bad, counts.describe_bad()


def _tokenised(made: Pair | Labelled, tokenizer: PreTrainedTokenizerBase, system: str | None) -> Any:
    if isinstance(made, Labelled):
        prompt, answer, mask = _answer(_begun(made.messages, system), made.tools, tokenizer)
        return {"prompt_ids": prompt, "completion_ids": answer, "completion_masks": mask, "label": made.liked}
    prompt, chosen, _ = _answer(_begun(made.chosen, system), made.tools, tokenizer)
    other, rejected, _ = _answer(_begun(made.rejected, system), made.tools, tokenizer)
    if prompt != other:
        return Rejected("the two answers have different prompts")
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _begun(messages: list[Message], system: str | None) -> list[Message]:
    has = not system or messages[0]["role"] == "system"
    return messages if has else [{"role": "system", "content": system}, *messages]


def _answer(
    messages: list[Message], tools: Tools, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens before the last assistant turn, those of that turn, and which of these are the model's."""
    last = messages[-1] | {"train": True}
    whole = encode_rows_of(tokenizer, [*messages[:-1], last], tools)[-1]
    prompt = encode_prompt(tokenizer, messages[:-1], tools)
    if whole.input_ids[: len(prompt)] != prompt:
        raise BadRow(
            "the prompt is no prefix", "the chat template writes the turns before an answer otherwise after it"
        )
    # What the template writes behind the turn belongs to nobody.
    end = len(whole.assistant_masks) - whole.assistant_masks[::-1].index(1)
    return prompt, whole.input_ids[len(prompt) : end], whole.assistant_masks[len(prompt) : end]


def _length(row: PreferenceRow) -> int:
    answers = [row[key] for key in ("chosen_ids", "rejected_ids", "completion_ids") if key in row]
    return len(row["prompt_ids"]) + max(map(len, answers))
