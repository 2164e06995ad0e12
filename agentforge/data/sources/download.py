"""`download`: the data sets and the base model of a recipe, pinned, checked, and resumable; offline it only looks."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentforge.data.sources import hub_files as hub
from agentforge.data.sources.dataset_cards import DatasetCard
from agentforge.data.sources.evaluation_parts import refuse_evaluation_part
from agentforge.data.sources.hub_datasets import PAGE, HubDataset
from agentforge.data.sources.source_files import (
    Lock,
    LockedFile,
    MissingData,
    SwitchedOff,
    choose,
    evaluation_source,
    locate,
    read_lock,
    registered,
    resolved_revision,
    snapshot,
    url_file,
    write_lock,
)
from agentforge.data.sources.url_files import fetch_checked
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Data, Recipe, Source

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["DownloadReport", "MissingData", "SourceReport", "download", "locate", "report_table"]

log = logging.getLogger(__name__)

CONVERTED = "refs/convert/parquet"
"""Branch on which the Hub keeps its own conversion of a data set: CONFIG/SPLIT/0000.parquet."""

Use = Literal["mix", "preferences", "evaluation", "model"]
Status = Literal["here", "downloaded", "missing"]
SPARE = 1 << 30
"""Bytes of the disk that stay free."""


@dataclass
class SourceReport:
    """One data set (or the base model) of a recipe.

    Attributes:
        use: the line it stands in.
        weight: of a line of `data.mix`, its share after the missing ones were left out; else None.
        problem: why it is missing.
    """

    dataset: str
    use: Use
    status: Status
    files: list[str] = field(default_factory=list)
    bytes: int = 0
    revision: str | None = None
    licence: str | None = None
    weight: float | None = None
    problem: str | None = None


@dataclass
class DownloadReport:
    """What a recipe's data are and where they come from; JSON by `dataclasses.asdict`."""

    sources: list[SourceReport] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Names of the data sets that are not here."""
        return [source.dataset for source in self.sources if source.status == "missing"]

    @property
    def weights(self) -> dict[str, float]:
        """Name to share of the mix, of the lines that are here; they add up to 1."""
        return {source.dataset: source.weight for source in self.sources if source.weight is not None}


@dataclass(frozen=True)
class DownloadPlan:
    """Files of one repository that are to be fetched, and the names of all that it has."""

    card: DatasetCard
    commit: str
    files: list[hub.RemoteFile]
    listed: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of the files that are not in the cache yet."""
        root = snapshot(str(self.card.hub_id), self.commit)
        return sum(file.size for file in self.files if not (root / file.name).is_file())


def download(recipe: Recipe) -> DownloadReport:
    """Bring everything that a recipe reads onto this machine.

    What is here already (local files, `data.hub_mirror`, the Hub's cache) is not asked for again, so that a second run
    needs no network, and one after a kill fetches only the files that were not finished. A connection that breaks is
    taken up where it broke; each finished file has its hash compared.

    Raises:
        UserError: something cannot be had, and `data.allow_missing` is false or nothing is left.
        CheckRefused: the disk is too small, or a file has the wrong hash.
    """
    data = recipe.data
    wanted: list[tuple[Source, Use]] = [(source, "mix") for source in data.mix]
    wanted += [(source, "preferences") for source in recipe.train.preferences]
    wanted += [(evaluation_source(entry), "evaluation") for entry in data.decontaminate.against]
    report = DownloadReport()
    plans: list[tuple[SourceReport, Source, DownloadPlan]] = []
    problems: list[UserError] = []
    for source in [*data.mix, *recipe.train.preferences]:
        refuse_evaluation_part(source, data)
    # Every source is looked at before the first is fetched, so that the disk is checked against the total and all that
    # is missing is reported at once.
    for source, use in wanted:
        entry = SourceReport(_name(source), use, "missing")
        report.sources.append(entry)
        with _noting(entry, problems):
            if (plan := _look(source, data, entry, problems)) is not None:
                plans.append((entry, source, plan))
    _check_disk([plan for _, source, plan in plans if not source.stream], _model_bytes(recipe))
    for entry, source, plan in plans:
        with _noting(entry, problems):
            _fetch(plan, source.stream)
            _describe(entry, source, data, "downloaded")
    _finish(report, recipe, problems)
    _download_model(recipe, report)
    return report


def _name(source: Source) -> str:
    return f"{source.dataset}:{source.split}" if source.split else source.dataset


@contextmanager
def _noting(entry: SourceReport, problems: list[UserError]) -> Iterator[None]:
    try:
        yield
    # A full disk or a wrong hash stops everything; a data set that cannot be had is noted, and the others go on.
    except CheckRefused:
        raise
    except UserError as error:
        entry.status, entry.problem = "missing", str(error)
        problems.append(error)


def _look(source: Source, data: Data, entry: SourceReport, problems: Sequence[UserError]) -> DownloadPlan | None:
    """Describe a source that is here; else return what is to be fetched for it."""
    try:
        _describe(entry, source, data, "here")
        return None
    except SwitchedOff:
        raise  # nothing to fetch
    except MissingData:
        card = registered(source)
        if card is None:
            raise
    if card.urls:
        for name, file in card.urls.items():
            fetch_checked(file, url_file(card, name))
        _describe(entry, source, data, "downloaded")
        return None
    if unreachable := next((p for p in problems if isinstance(p, hub.HubUnreachable)), None):
        raise unreachable  # one wait for the network is enough
    return _plan(card, source.split)


def _plan(card: DatasetCard, split: str | None) -> DownloadPlan:
    hub_id = str(card.hub_id)
    commit, listed = hub.list_files(hub_id, resolved_revision(card))
    by_name = {file.name: file for file in listed}
    page = [by_name[PAGE]] if isinstance(card, HubDataset) and PAGE in by_name else []
    for file in page:
        hub.fetch_file(hub_id, commit, file)
    chosen = choose(card, split, by_name, snapshot(hub_id, commit))
    # A repository that holds only a loading script. `datasets` runs none since its version 4, but the Hub keeps its
    # rows as Parquet on a branch of its own.
    scripts = any(name.endswith(".py") for name in by_name)
    found = None
    if not chosen and scripts:
        found = hub.list_files(hub_id, CONVERTED)
    elif not chosen and isinstance(card, HubDataset):
        # Most repositories have this branch; of one without, the error below says more.
        with suppress(UserError):
            found = hub.list_files(hub_id, CONVERTED)
    if found is not None:
        commit, listed = found
        by_name = {file.name: file for file in listed}
        chosen, page = choose(card, split, by_name, None), []
    if not chosen and isinstance(card, HubDataset):
        some = ", ".join(sorted(by_name)[:5]) or "nothing"
        raise UserError(
            f"{hub_id} has no files of the split '{card.default_split}'"
            + (f" and the configuration '{card.config}'" if card.config else "")
            + f" (it has {some} ...); name them with `split:` and `config:`"
        )
    if not chosen:
        globs = card.globs(split)
        some = ", ".join(sorted(by_name)[:5]) or "nothing"
        raise UserError(
            f"{hub_id} has no files {' or '.join(globs)} (it has {some} ...); correct `files` in the card {card.id}"
        )
    return DownloadPlan(card, commit, [*page, *(by_name[name] for name in chosen)], tuple(sorted(by_name)))


def _fetch(plan: DownloadPlan, stream: bool) -> None:
    """Fetch a plan's files, or only record them; what the cache has already is only hashed."""
    hub_id = str(plan.card.hub_id)
    old = read_lock(hub_id, plan.card.revision)
    # Files of other splits at the same commit stay in the lock.
    locked: dict[str, LockedFile] = dict(old.files) if old and old.revision == plan.commit else {}
    for number, file in enumerate(plan.files, 1):
        if stream:
            locked.setdefault(file.name, LockedFile(file.size, file.sha256 or ""))
            continue
        log.info("%s: %s (%d of %d)", hub_id, file.name, number, len(plan.files))
        locked[file.name] = hub.fetch_file(hub_id, plan.commit, file)
    write_lock(Lock(hub_id, plan.commit, locked, plan.listed), plan.card.revision)


def _describe(entry: SourceReport, source: Source, data: Data, status: Status) -> None:
    files = locate(source, data)
    card = registered(source)
    entry.status, entry.files = status, [str(path) for path in files]
    entry.bytes = sum(path.stat().st_size for path in files if path.is_file())
    if card is not None:
        entry.licence, entry.revision = card.licence, resolved_revision(card)


def _check_disk(plans: Sequence[DownloadPlan], model_bytes: int) -> None:
    """Refuse before the first byte, instead of filling the disk to the last."""
    from huggingface_hub import constants

    needed = sum(plan.bytes for plan in plans) + model_bytes
    place = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE > free:
        raise CheckRefused(
            f"the download needs {needed / 1e9:.1f} GB and 1 GB to spare, but the disk of {place} has "
            f"{free / 1e9:.1f} GB free; free some, or set HF_HOME to a larger disk"
        )


def _finish(report: DownloadReport, recipe: Recipe, problems: Sequence[UserError]) -> None:
    """Share the weight of what is missing among the rest, or say what is missing.

    An evaluation set may not be missing: training on it could not be ruled out, and nobody would see it.
    """
    # The mix's lines come first in the report; the evaluation sets behind them have no weight.
    mix = [(entry, source) for entry, source in zip(report.sources, recipe.data.mix, strict=False)]
    here = [(entry, source) for entry, source in mix if entry.status != "missing"]
    complete = all(entry.status != "missing" for entry in report.sources if entry.use in ("evaluation", "preferences"))
    if problems and not (recipe.data.allow_missing and here and complete):
        reasons = list(dict.fromkeys(str(problem) for problem in problems))
        raise UserError(f"missing: {', '.join(report.missing)}; {'; '.join(reasons)}")
    total = sum(source.weight for _, source in here)
    for entry, source in here:
        entry.weight = source.weight / total
    if report.missing:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in report.weights.items())
        log.warning("continuing without %s; the mix is now %s", ", ".join(report.missing), shares)


def _hub_model(recipe: Recipe) -> str | None:
    path = recipe.model.path
    is_id = path is not None and not Path(path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
    return path if is_id else None


def _model_bytes(recipe: Recipe) -> int:
    """Return the bytes of the base model that are still to be fetched."""
    if (model := _hub_model(recipe)) is None:
        return 0
    try:
        commit, files = hub.list_files(model, recipe.model.revision, "model")
    except UserError:
        return 0  # `_download_model` says what is wrong, if it is not in the cache
    root = snapshot(model, commit, "model")
    return sum(file.size for file in files if file.name.endswith(".safetensors") and not (root / file.name).is_file())


def _download_model(recipe: Recipe, report: DownloadReport) -> None:
    if (model := _hub_model(recipe)) is None:
        return
    from agentforge.models.checkpoint import checkpoint_directory

    directory = checkpoint_directory(model, recipe.model.revision)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    report.sources.append(
        SourceReport(
            model,
            "model",
            "here",
            files=[str(path) for path in files],
            bytes=sum(path.stat().st_size for path in files),
            revision=directory.name,
        )
    )


def report_table(report: DownloadReport) -> Table:
    """Return what `download` found and fetched, to print."""
    from rich.table import Table

    table = Table("data set", "use", "state", "files", "MB", "share", "licence", "revision", title="Data of the recipe")
    for entry in report.sources:
        share = f"{entry.weight:.1%}" if entry.weight is not None else ""
        table.add_row(
            entry.dataset,
            entry.use,
            f"missing: {entry.problem}" if entry.status == "missing" else entry.status,
            str(len(entry.files)),
            f"{entry.bytes / 1e6:,.1f}",
            share,
            entry.licence or "",
            (entry.revision or "")[:12],
        )
    return table
