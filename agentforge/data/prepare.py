"""`prepare`: from the recipe's sources to the mixed, deduplicated, decontaminated, split, tokenised set.

    read -> clean -> filter -> exact and near duplicates -> decontaminate -> tokenise -> split -> mix -> Arrow files

Rows go through in chunks and lie on disk between the steps; memory holds hashes and lengths, some 400 bytes a row.
Chunks are worked on by several processes and joined in order, so the files are the same whatever their number.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agentforge.artifacts import Workspace, hash_json, stage_directory
from agentforge.data.chat_template import install_template, template_hash
from agentforge.data.cleaning.decontaminate import EvaluationSet, collect_evaluation
from agentforge.data.cleaning.dedup import first_occurrences, near_duplicates
from agentforge.data.cleaning.ingest import Ingestor, Raws, RowCounts, Rows, collect
from agentforge.data.disk_buffer import DiskBuffer
from agentforge.data.mixing.curriculum import stages_without
from agentforge.data.mixing.mix_tokens import mix_tokens
from agentforge.data.mixing.quotas import allocate, select
from agentforge.data.parallel_map import default_workers, ordered_map
from agentforge.data.prepare_metrics import evaluation_metrics, mix_metrics
from agentforge.data.row_text import tokenizer_text
from agentforge.data.sources.open_sources import OpenSource, open_evaluation, open_sources
from agentforge.data.store import TokenisedRow, load_prepared, write_rows
from agentforge.data.tokenise import TokenisedPieces, Tokeniser, collect_tokens
from agentforge.data.tokenizer import load_tokenizer, tokenizer_files_hash, train_tokenizer
from agentforge.data.tools import load_tools
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Data, Recipe, TokenizerTraining
from agentforge.systems.registry import named, system_keys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_prepared", "prepare"]

log = logging.getLogger(__name__)
Item = TypeVar("Item")

FORMAT = 2
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
    target = recipe.artifact("data")
    sources, missing = open_sources(recipe.data)
    changed = stages_without(recipe.data.curriculum, missing)
    evaluation = open_evaluation(recipe.data)
    tools = load_tools(recipe.data.tools).schemas if recipe.data.tools else None
    inputs = _inputs(recipe, [*sources, *evaluation], tools)
    with stage_directory(target, stage="prepare", recipe=_identity(recipe), inputs=inputs, replace=replace) as work:
        if not work.done:
            work.metrics = _make(recipe, sources, evaluation, tools, work) | {
                "missing": missing,
                **({"curriculum_without": changed} if changed else {}),
            }
    return target


def _identity(recipe: Recipe) -> dict[str, Any]:
    return {
        "format": FORMAT,
        # a system's keys and the curriculum say how the rows are trained on, not what they are
        # The number of processes and the mirror change no row; what `allow_missing` leaves out shows in the inputs.
        "data": recipe.data.model_dump(
            exclude={"workers", "hub_mirror", "allow_missing", "curriculum", "prepared", *system_keys("data")}
        ),
        # A recipe with a tokenizer of its own may change its base model and keep its prepared data.
        "tokenizer": recipe.model.model_dump(include={"tokenizer"} if recipe.model.tokenizer else {"path", "revision"}),
        "documents": _documents(recipe),
        "seed": recipe.seed,
    }


def _documents(recipe: Recipe) -> bool:
    return METHODS[recipe.train.method].reads == "documents"


def _inputs(recipe: Recipe, sources: Sequence[OpenSource], tools: list[dict[str, Any]] | None) -> dict[str, Path | str]:
    files = [(f"{source.dataset} {file.name}", file) for source in sources for file in source.files]
    # named without their directories: the same data in a mirror or in the Hub's cache are the same input
    inputs: dict[str, Path | str] = {}
    for position, (name, file) in enumerate(files):
        repeated = [known for known, _ in files[:position]].count(name)
        inputs[f"{name} #{repeated + 1}" if repeated else name] = file
    inputs |= {f"card {source.dataset}": source.card_hash for source in sources if source.card_hash}
    if tools is not None:
        inputs["tools"] = hash_json(tools)
    if isinstance(where := recipe.model.tokenizer or recipe.model.path, str):
        local = Path(where) / "tokenizer.json"
        inputs["tokenizer"] = local if local.is_file() else f"{where}@{recipe.model.revision or 'main'}"
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
    data, workers = recipe.data, recipe.data.workers or default_workers()
    held_out = _read_evaluation(data, evaluation)
    ingestor = Ingestor(sources, data.minhash, held_out, _documents(recipe), tools)
    tallies = [RowCounts() for _ in sources]
    results = ordered_map(ingestor, _raw_chunks(sources, tallies, data.max_bad_rows), workers)
    rows = collect(_progress(results, "reading", lambda r: r.read), DiskBuffer(work.path / ".rows"), tallies)
    # A source that gives nothing is a mistake in the recipe. Going on would silently hand its weight to the others.
    _refuse_empty_sources(sources, rows, tallies)
    keep = _keep(data, rows, tallies)

    # Only now: a tokenizer that is trained here must see no row twice, and none of an evaluation set's.
    tokenizer = _open_tokenizer(recipe, sources, rows, keep)
    tokenizer.save_pretrained(work.path / "tokenizer")
    tokens = _tokenise(recipe, rows, keep, tokenizer, len(sources), work.path, workers)
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


def _raw_chunks(sources: Sequence[OpenSource], tallies: Sequence[RowCounts], max_bad_rows: float) -> Iterator[Raws]:
    """Yield the raw rows of all sources in order, in chunks that fit in memory several times."""
    for index, source in enumerate(sources):
        counts = source.new_counts()
        chunk: list[dict[str, Any]] = []
        characters = 0
        for raw in islice(source.raw_rows(counts), source.max_rows):
            chunk.append(raw)
            characters += sum(len(value) for value in raw.values() if isinstance(value, str))
            if len(chunk) == CHUNK_ROWS or characters > CHUNK_CHARACTERS:
                yield Raws(index, chunk)
                chunk, characters = [], 0
        # A source without rows sends one empty chunk, so that `collect` has something to join and the source is refused
        # by name.
        if chunk or not counts.rows:
            yield Raws(index, chunk)
        # The share of unreadable rows is known only at the end of a source.
        counts.check(source.name, max_bad_rows)
        tallies[index].unreadable = counts.bad


def _read_evaluation(data: Data, sources: Sequence[OpenSource]) -> EvaluationSet | None:
    if not sources:
        return None
    return collect_evaluation((row for source in sources for row in source.all_rows()), data.decontaminate.ngram)


def _refuse_empty_sources(sources: Sequence[OpenSource], rows: Rows, tallies: Sequence[RowCounts]) -> None:
    left = np.bincount(rows.sources, minlength=len(sources))
    for source, tally, count in zip(sources, tallies, left, strict=True):
        if not count:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in tally.rejected.most_common(3))
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
        tokenizer = train_tokenizer(_progress(texts, "tokenizer"), wanted.vocab_size)
    elif isinstance(wanted, str) and (make := named("tokenizers", wanted)) is not None:
        tokenizer = make()
    elif path := wanted or recipe.model.path:
        # `model.revision` pins `model.path`; it says nothing about a tokenizer from elsewhere.
        tokenizer = load_tokenizer(path, recipe.model.revision if path == recipe.model.path else None)
    else:
        raise UserError(
            "the recipe has no tokenizer: set model.path, or model.tokenizer to a path, to {vocab_size: ...} or to "
            "the name of a system's tokenizer"
        )
    try:
        install_template(tokenizer, recipe.data.template)
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
    workers: int,
) -> TokenisedPieces:
    worker = Tokeniser(rows, tokenizer, recipe.data.max_length, recipe.data.overflow)
    # A chunk with nothing to keep is not even read.
    tasks = ((chunk, keep[chunk.first : chunk.end]) for chunk in rows.chunks if keep[chunk.first : chunk.end].any())
    results = _progress(
        ordered_map(worker, tasks, workers), "tokenising", lambda r: len(r.full_lengths), int(keep.sum())
    )
    return collect_tokens(
        results, DiskBuffer(directory / ".ids"), DiskBuffer(directory / ".masks"), rows.content, sources
    )


def _batches(
    tokens: TokenisedPieces, rows: Rows, names: Sequence[str], pieces: NDArray[np.int64], split: str
) -> Iterator[list[TokenisedRow]]:
    starts = range(0, len(pieces), ROWS_PER_BATCH)
    for start in _progress(starts, f"writing {split}", lambda _: ROWS_PER_BATCH, len(pieces)):
        batch = pieces[start : start + ROWS_PER_BATCH]
        yield [(*tokens.read(piece), names[rows.sources[tokens.rows[piece]]]) for piece in batch.tolist()]


def _progress(
    items: Iterable[Item], what: str, amount: Callable[[Item], int] = lambda _: 1, total: int | None = None
) -> Iterator[Item]:
    """Yield the items, with a bar on stderr if that is a terminal."""
    with tqdm(total=total, desc=what, unit=" rows", disable=None, leave=False) as bar:
        for item in items:
            yield item
            bar.update(amount(item))
