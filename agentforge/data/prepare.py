"""`prepare`: from the recipe's sources to the mixed, deduplicated, decontaminated, split, tokenised set.

    read -> clean -> filter -> exact and near duplicates -> decontaminate -> tokenise -> split -> mix -> Arrow files

Rows go through in chunks and lie on disk between the steps; memory holds hashes and lengths, some 400 bytes a row.
Chunks are worked on by several processes and joined in order, so the files are the same whatever their number.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agentforge.artifacts import Workspace, hash_json, stage_directory
from agentforge.data.chat_template import install_template, template_hash
from agentforge.data.cleaning.decontaminate import EvaluationSet, collect_evaluation
from agentforge.data.cleaning.dedup import first_occurrences, near_duplicates
from agentforge.data.cleaning.ingest import NOWHERE, Ingestor, Raws, RowCounts, Rows, collect, place
from agentforge.data.dialects.compare import say_differences
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.executors import Executor, remove_journals, worth_keeping
from agentforge.data.mixing.curriculum import stages_without
from agentforge.data.mixing.mix_tokens import mix_tokens
from agentforge.data.mixing.quotas import allocate, select
from agentforge.data.preference_rows import base_tokenizer, read_preferences
from agentforge.data.prepare_metrics import evaluation_metrics, mix_metrics
from agentforge.data.row_text import tokenizer_text
from agentforge.data.sources.open_sources import OpenSource, open_evaluation, open_sources
from agentforge.data.store import TokenisedRow, load_prepared, write_rows
from agentforge.data.tokenise import NOT_RENDERED, TokenisedPieces, Tokeniser, collect_tokens
from agentforge.data.tokenizer import model_tokenizer, tokenizer_files_hash, train_tokenizer
from agentforge.data.tools import load_tools
from agentforge.errors import CheckRefused, UserError
from agentforge.progress import watched
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Data, Recipe, TokenizerTraining
from agentforge.systems.registry import system_keys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_prepared", "prepare"]

log = logging.getLogger(__name__)

FORMAT = 3
"""Incremented when the same recipe and inputs give other rows, so that older artefacts do not pass as up to date."""

CHUNK_ROWS = 500
CHUNK_CHARACTERS = 1_000_000
ROWS_PER_BATCH = 1000


def prepare(recipe: Recipe, replace: bool = False) -> Path:
    """Make the recipe's `-data` artefact: ``tokenizer/``, ``train-*.arrow``, ``eval-*.arrow``, counts in the manifest.

    Args:
        recipe: its sections `data`, `model` (the tokenizer), `train.method` and `seed` decide the result.
        replace: make it again if it is there from another recipe.

    Raises:
        UserError: the recipe or an input is wrong, or the disk is full.
        CheckRefused: too many unreadable rows, a source of which every row is rejected, or nothing is left to train on.
    """
    if recipe.data.prepared is not None:
        raise UserError(f"data.prepared: this recipe reads {recipe.data.prepared}; prepare the recipe that makes it")
    if not recipe.data.mix:
        raise UserError("data.mix is empty: name at least one data set (`agentforge download --list`) or file")
    if recipe.train.preferences:  # `train` reads them itself; what is wrong with them is told now
        read_preferences(recipe, base_tokenizer(recipe))
    target = recipe.artifact("data")
    sources, missing = open_sources(recipe.data)
    changed = stages_without(recipe.data.curriculum, missing)
    evaluation = open_evaluation(recipe.data)
    tools = load_tools(recipe.data.tools).schemas if recipe.data.tools else None
    inputs = _inputs(recipe, [*sources, *evaluation], tools)
    with stage_directory(
        target,
        stage="prepare",
        recipe=_identity(recipe),
        inputs=inputs,
        resumable=True,
        worth_keeping=worth_keeping,
        replace=replace,
    ) as work:
        if not work.done:
            try:
                work.metrics = _make(recipe, sources, evaluation, tools, work) | {
                    "missing": missing,
                    **({"curriculum_without": changed} if changed else {}),
                }
            except UserError:  # another recipe or other rows are needed, for which all is made again
                remove_journals(work.path)
                raise
            remove_journals(work.path)
    return target


def _identity(recipe: Recipe) -> dict[str, Any]:
    return {
        "format": FORMAT,
        # a system's keys and the curriculum say how the rows are trained on, not what they are
        # Who does the work and the mirror change no row; what `allow_missing` leaves out shows in the inputs.
        "data": recipe.data.model_dump(
            exclude={
                *("workers", "ray", "hub_mirror", "allow_missing", "curriculum", "prepared"),
                *(() if recipe.data.add_tokens else ("add_tokens",)),
                *system_keys("data"),
            }
        ),
        "tokenizer": _tokenizer(recipe),
        "documents": _documents(recipe),
        "seed": recipe.seed,
    }


def _tokenizer(recipe: Recipe) -> dict[str, Any]:
    # A recipe with a tokenizer of its own may change its base model and keep its prepared data. A directory is known by
    # its file, which is among the inputs: it may be moved.
    model = recipe.model
    chosen = model.model_dump(include={"tokenizer"} if model.tokenizer else {"path", "revision"})
    return {} if _tokenizer_file(recipe) else chosen


def _tokenizer_file(recipe: Recipe) -> Path | None:
    where = recipe.model.tokenizer or recipe.model.path
    file = Path(where) / "tokenizer.json" if isinstance(where, str) else None
    return file if file is not None and file.is_file() else None


def _documents(recipe: Recipe) -> bool:
    return METHODS[recipe.train.method].reads == "documents"


def _inputs(recipe: Recipe, sources: Sequence[OpenSource], tools: list[dict[str, Any]] | None) -> dict[str, Path | str]:
    kept = [source for source in sources if source.remote is None]
    files = [(f"{source.dataset} {file.name}", file) for source in kept for file in source.files]
    # named without their directories: the same data in a mirror or in the Hub's cache are the same input
    inputs: dict[str, Path | str] = {}
    for position, (name, file) in enumerate(files):
        repeated = [known for known, _ in files[:position]].count(name)
        inputs[f"{name} #{repeated + 1}" if repeated else name] = file
    for source in sources:
        if source.remote is not None:
            inputs |= source.remote.inputs(source.dataset)
    inputs |= {f"card {source.dataset}": source.card_hash for source in sources if source.card_hash}
    if tools is not None:
        inputs["tools"] = hash_json(tools)
    if isinstance(where := recipe.model.tokenizer or recipe.model.path, str):
        inputs["tokenizer"] = _tokenizer_file(recipe) or f"{where}@{recipe.model.revision or 'main'}"
    return inputs


def _make(
    recipe: Recipe,
    sources: Sequence[OpenSource],
    evaluation: Sequence[OpenSource],
    tools: list[dict[str, Any]] | None,
    work: Workspace,
) -> dict[str, Any]:
    # The life of a row. A worker gets the raw row in a chunk, adapts it to messages, cleans and filters it, and returns
    # it as a line of JSON with its hashes and MinHash signature. The line goes to the spool `.rows`, the hashes into
    # arrays with one entry a row; from here on a row is its number. Duplicates and contaminated rows are found in the
    # arrays alone. Those that are kept are read back once, tokenised, and cut into pieces of at most `max_length`
    # tokens (spools `.ids` and `.masks`). The mix chooses and orders numbers of pieces, and a piece that is repeated
    # stands in that order more than once. Only when the files are written are the tokens read again, a batch at a time.
    data = recipe.data
    executor = Executor(data, work.path, f"{CHUNK_ROWS}-{CHUNK_CHARACTERS}")
    held_out = _read_evaluation(data, evaluation)
    ingestor = Ingestor(sources, data.minhash, held_out, _documents(recipe), tools)
    tallies = [RowCounts() for _ in sources]
    chunks = _raw_chunks(sources, tallies, data.max_bad_rows)
    results = executor.map(ingestor, chunks, "read")
    rows = collect(
        watched(results, "reading", "rows", amount=lambda r: r.read), DiskBuffer(work.path / ".rows"), tallies
    )
    # A source that gives nothing is a mistake in the recipe. Going on would silently hand its weight to the others.
    _refuse_empty_sources(sources, rows, tallies)
    keep = _keep(data, rows, tallies)

    # Only now: a tokenizer that is trained here must see no row twice, and none of an evaluation set's.
    tokenizer = _open_tokenizer(recipe, sources, rows, keep)
    tokenizer.save_pretrained(work.path / "tokenizer")
    tokens = _tokenise(recipe, rows, keep, tokenizer, len(sources), work.path, executor)
    _say_template_losses(sources, tokens)
    mixture = mix_tokens(data, recipe.seed, sources, rows, tokens)
    if not len(mixture.train):
        raise CheckRefused(
            f"no rows are left to train on ({_reasons(tallies, tokens)}); look at data.filters and data.max_length"
        )
    if data.eval_fraction and not len(mixture.eval):
        log.warning(
            "data.eval_fraction is %g, but no row was held out for eval: there is too little data", data.eval_fraction
        )
    names = [source.name for source in sources]
    for split, pieces in (("train", mixture.train), ("eval", mixture.eval)):
        write_rows(work.path, split, _batches(tokens, rows, names, pieces, split))
    # They are in the artefact's own directory, so they must be gone before it is committed.
    for spool in (rows.spool, tokens.ids, tokens.masks):
        spool.remove()
    return {
        **mix_metrics(data, sources, tallies, rows, keep, tokens, mixture),
        "decontaminated_against": evaluation_metrics(held_out),
        "template_hash": template_hash(tokenizer) if tokenizer.chat_template else None,
        "tokenizer_hash": tokenizer_files_hash(work.path / "tokenizer"),
        "vocab_size": len(tokenizer),
    }


def _say_template_losses(sources: Sequence[OpenSource], tokens: TokenisedPieces) -> None:
    """Say what the chat template could not write, and what it made several rows of."""
    for source, counts in zip(sources, tokens.counts, strict=True):
        for what, count in sorted(counts.items()):
            if what.startswith(NOT_RENDERED):
                log.warning("%s: %d rows are left out (%s)", source.name, count, what.removeprefix(NOT_RENDERED))
        if cut := counts["conversations_cut_into_rows"]:
            log.warning(
                "%s: the chat template changes earlier turns when others follow, so %d conversations became several "
                "rows each; data.template: chatml keeps each in one",
                source.name,
                cut,
            )


def _raw_chunks(sources: Sequence[OpenSource], tallies: Sequence[RowCounts], max_bad_rows: float) -> Iterator[Raws]:
    """Yield the raw rows of all sources in order, in chunks that fit in memory several times."""
    for index, source in enumerate(sources):
        counts = source.new_counts()
        chunk, places = list[dict[str, Any]](), list[int]()
        characters = 0
        for raw in islice(source.raw_rows(counts), source.max_rows):
            chunk.append(raw)
            places.append(NOWHERE if source.joiner else place(counts.file, counts.line))
            characters += sum(len(value) for value in raw.values() if isinstance(value, str))
            if len(chunk) == CHUNK_ROWS or characters > CHUNK_CHARACTERS:
                yield Raws(index, chunk, places)
                chunk, places, characters = [], [], 0
        # A source without rows sends one empty chunk, so that `collect` has something to join and the source is refused
        # by name.
        if chunk or not counts.rows:
            yield Raws(index, chunk, places)
        # The share of unreadable rows is known only at the end of a source.
        counts.check(source.name, max_bad_rows)
        tallies[index].unreadable, tallies[index].unreadable_lines = counts.bad, counts.describe_bad()
        tallies[index].repaired = counts.repaired


def _read_evaluation(data: Data, sources: Sequence[OpenSource]) -> EvaluationSet | None:
    if not sources:
        return None
    return collect_evaluation((row for source in sources for row in source.all_rows()), data.decontaminate.ngram)


def _refuse_empty_sources(sources: Sequence[OpenSource], rows: Rows, tallies: Sequence[RowCounts]) -> None:
    left = np.bincount(rows.sources, minlength=len(sources))
    for source, tally, count in zip(sources, tallies, left, strict=True):
        if not count:
            reasons = tally.describe_rejected(source.files, 3)
            what = f"all {tally.read} rows were rejected ({reasons})" if tally.read else "it has no rows"
            raise CheckRefused(
                f"{source.name}: {what}; look at its adapter, columns and filters, or take it out of data.mix"
            )


def _reasons(tallies: Sequence[RowCounts], tokens: TokenisedPieces) -> str:
    counts = sum((tally.rejected for tally in tallies), Counter())
    counts += Counter({key: n for part in tokens.counts for key, n in part.items() if key.startswith("rows")})
    return (
        ", ".join(f"{reason.replace('_', ' ')}: {count}" for reason, count in counts.most_common(4))
        or "all are held out"
    )


def _keep(data: Data, rows: Rows, tallies: Sequence[RowCounts]) -> NDArray[np.bool_]:
    """Tell which rows are neither duplicates nor contaminated; count the others."""

    def reject(which: NDArray[np.bool_], reason: str) -> None:
        for source, count in enumerate(np.bincount(rows.sources[which], minlength=len(tallies)).tolist()):
            if count:
                tallies[source].rejected[reason] += count
                first = np.flatnonzero(which & (rows.sources == source))[0]
                tallies[source].first_places.setdefault(reason, int(rows.places[first]))

    # Exact copies go first, so that the costlier search compares
    # only rows that differ. Each row is counted under one reason.
    keep = first_occurrences(rows.content)
    reject(~keep, "exact duplicate")
    if rows.signatures is not None:
        near = near_duplicates(rows.signatures, data.minhash.threshold, among=keep) >= 0
        # The largest of the arrays (`bands * rows` bytes a row), and nothing needs it any more.
        rows.signatures = None
        reject(near, "near duplicate")
        keep &= ~near
    reject(keep & rows.contaminated, "contaminated")
    return keep & ~rows.contaminated


def _open_tokenizer(
    recipe: Recipe, sources: Sequence[OpenSource], rows: Rows, keep: NDArray[np.bool_]
) -> PreTrainedTokenizerBase:
    wanted = recipe.model.tokenizer
    if isinstance(wanted, TokenizerTraining):
        texts = _tokenizer_texts(sources, rows, keep, wanted.max_characters, recipe.seed)
        texts = watched(texts, "reading for the tokenizer", "texts")
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(texts, wanted.vocab_size)
    else:
        tokenizer = model_tokenizer(recipe.model)
    try:
        own = install_template(tokenizer, recipe.data.template, recipe.data.template_options, recipe.data.add_tokens)
        say_differences(own, tokenizer)
    except UserError as error:
        if not _documents(recipe) or recipe.data.template != "auto":
            raise
        log.warning("no chat template is stored; documents do not need one: %s", error)
    return tokenizer


def _tokenizer_texts(
    sources: Sequence[OpenSource], rows: Rows, keep: NDArray[np.bool_], max_characters: int, seed: int
) -> Iterator[str]:
    """Yield texts of all sources, in proportion to their weights, up to ``max_characters`` together."""
    numbers = [np.flatnonzero(keep & (rows.sources == source)) for source in range(len(sources))]
    characters = [rows.characters[own].astype(np.int64) for own in numbers]
    available = [int(own.sum()) for own in characters]
    weights = [source.weight for source in sources]
    # Shared out like the mix, but in characters, since there are no tokens yet; and no text twice, however small its
    # source.
    quotas = allocate(available, weights, [1.0] * len(sources), max_characters).quotas
    chosen = np.zeros(len(rows), dtype=bool)
    for own, amounts, quota in zip(numbers, characters, quotas, strict=True):
        chosen[own[select(rows.content[own], amounts, quota, seed).rows]] = True
    for chunk in rows.chunks:
        if chosen[chunk.first : chunk.end].any():
            for row, wanted in zip(rows.read(chunk), chosen[chunk.first : chunk.end], strict=True):
                if wanted:
                    yield tokenizer_text(row)


def _tokenise(
    recipe: Recipe,
    rows: Rows,
    keep: NDArray[np.bool_],
    tokenizer: PreTrainedTokenizerBase,
    sources: int,
    directory: Path,
    executor: Executor,
) -> TokenisedPieces:
    worker = Tokeniser(tokenizer, recipe.data.max_length, recipe.data.overflow)
    # A chunk with nothing to keep is not even read.
    kept = ((chunk, keep[chunk.first : chunk.end]) for chunk in rows.chunks if keep[chunk.first : chunk.end].any())
    # The rows' lines go with the task: they are on this machine's disk only.
    tasks = ((chunk, wanted, rows.lines(chunk)) for chunk, wanted in kept)
    mapped = executor.map(worker, tasks, "tokenise")
    results = watched(mapped, "tokenising", "rows", int(keep.sum()), lambda r: len(r.full_lengths))
    return collect_tokens(
        results, DiskBuffer(directory / ".ids"), DiskBuffer(directory / ".masks"), rows.content, sources
    )


def _batches(
    tokens: TokenisedPieces, rows: Rows, names: Sequence[str], pieces: NDArray[np.int64], split: str
) -> Iterator[list[TokenisedRow]]:
    starts = range(0, len(pieces), ROWS_PER_BATCH)
    for start in watched(starts, f"writing {split}", "rows", len(pieces), lambda _: ROWS_PER_BATCH):
        batch = pieces[start : start + ROWS_PER_BATCH]
        yield [(*tokens.read(piece), names[rows.sources[tokens.rows[piece]]], piece) for piece in batch.tolist()]
