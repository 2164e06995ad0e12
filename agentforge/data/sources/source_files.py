"""Where the files of a source are on this machine: local paths, a mirror laid out like the Hub, or the Hub's cache."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentforge.artifacts import write_json
from agentforge.cache import cache_directory
from agentforge.data.sources.dataset_cards import DatasetCard, card_ids, load_card
from agentforge.data.sources.hub_datasets import (
    DEFAULT_SPLIT,
    EVALUATION,
    HUB_ID,
    PAGE,
    HubDataset,
    choose_hub_files,
    files_of_split,
    hub_dataset,
    names_split,
)
from agentforge.data.sources.readers import SUFFIXES, is_data_name
from agentforge.errors import UserError, did_you_mean, seen_from
from agentforge.installation import find_paths
from agentforge.recipe.schema import Data, Source

log = logging.getLogger(__name__)


class MissingData(UserError):
    """The files of a source are not on this machine; with `data.allow_missing` the mix goes on without it."""


class SwitchedOff(MissingData):
    """A source is off in the registry; with `data.allow_missing` the mix goes on without it, too."""


def evaluation_source(entry: str) -> Source:
    """Return an entry of `data.decontaminate.against` as a source: an id, ``id:split`` or a path."""
    dataset, _, split = entry.partition(":")
    return Source(dataset=dataset, split=split or None, enabled=True)


def registered(source: Source) -> DatasetCard | None:
    """Return the card of a source that names a data set of the registry or of the Hub; None for local files.

    Raises:
        UserError: the name is none of these.
    """
    name = source.dataset
    if HUB_ID.fullmatch(name) and not is_data_name(name) and not Path(name).exists():
        return hub_dataset(source)
    if key := next((key for key in ("config", "revision") if getattr(source, key) is not None), None):
        raise UserError(f"{name}: `{key}` is for data sets of the Hub (ORG/NAME), and this is none; leave it out")
    # Whatever looks like a path, or exists here as one, is local: a directory `wildchat` hides the card of that name.
    if "/" in name or "\\" in name or "*" in name or is_data_name(name) or Path(name).exists():
        return None
    if name in (known := card_ids()):
        return load_card(name)
    raise UserError(
        f"there is no data set '{name}'{did_you_mean(name, known)}; give a path, or an id of "
        "`agentforge download --list`"
    )


def locate(source: Source, data: Data) -> list[Path]:
    """Return the files of a source, sorted.

    Args:
        source: a registry id, a path, a directory or a glob.
        data: for its `hub_mirror`.

    Raises:
        MissingData: they are not here, or off; the sentence says what is missing and how to get it.
        UserError: the data set is unknown.
    """
    card = registered(source)
    if source.stream and (card is None or card.hub_id is None):
        raise UserError(f"{source.dataset}: `stream` is for data sets of the Hub, and this is none; leave it out")
    if card is None:
        return _local_files(source.dataset, source.split)
    refuse_disabled(card, source)
    if card.generator is not None:
        from agentforge.data.sources.stdlib_corpus import generated_file

        return [generated_file(card.generator)]
    if card.urls:
        return _fetched(card)
    if data.hub_mirror is not None and (found := _in_mirror(card, source.split, Path(data.hub_mirror))):
        return found
    if found := in_cache(card, source.split, source.stream):
        return found
    where = f"{data.hub_mirror} and the Hub's cache" if data.hub_mirror else "the Hub's cache"
    if isinstance(card, HubDataset):
        raise MissingData(
            f"there is no file or folder {card.id} here, and the data set of this name on the Hub is not in {where}; "
            "correct the path, or run `agentforge download` where the Hub is reachable"
        )
    globs = card.globs(source.split)
    raise MissingData(
        f"data set {card.id} ({card.hub_id}: {' or '.join(globs)}) is not in {where}; run `agentforge download` where "
        "the Hub is reachable"
    )


def refuse_disabled(card: DatasetCard, source: Source) -> None:
    """Refuse a data set that is off in the registry, unless the source says ``enabled: true``.

    Raises:
        SwitchedOff: with the reason, and what to use instead.
        UserError: the line itself says that it is off.
    """
    if card.enabled and source.enabled is not False:
        return
    if card.enabled:
        raise UserError(f"data set {card.id} has `enabled: false` in data.mix; remove the line")
    if source.enabled and card.hub_id and card.files:
        return
    instead = f"; use {' or '.join(card.fallbacks)} instead" if card.fallbacks else ""
    switch = ", or set `enabled: true` on its line if you may use it" if card.hub_id and card.files else ""
    raise SwitchedOff(f"data set {card.id} is off: {card.reason}{instead}{switch}")


def _local_files(pattern: str, split: str | None) -> list[Path]:
    paths = find_paths(pattern)
    if len(paths) == 1 and (path := paths[0]).is_dir():
        found = sorted(p for p in path.rglob("*") if _is_data(p))
        if not found:
            raise MissingData(f"the directory {pattern} holds no data files ({', '.join(SUFFIXES)})")
        return _of_split(path, found, split)
    if found := [path for path in paths if path.is_file()]:
        return found
    raise MissingData(f"there is no file {pattern}{seen_from(pattern)}")


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    """Return a folder's files of a split; without one all, except that what is for evaluation stays beside `train`."""
    names = {str(path.relative_to(folder)): path for path in files}
    if split is not None:
        if not (chosen := files_of_split(list(names), split)):
            some = ", ".join(list(names)[:5])
            raise MissingData(f"the directory {folder} has no files of the split '{split}' (it has {some} ...)")
        return [names[name] for name in chosen]
    evaluation = [name for name in names if names_split(name, EVALUATION)]
    if not evaluation or not any(names_split(name, (DEFAULT_SPLIT,)) for name in names):
        return files
    log.warning("%s: read without %s, which by its name is for evaluation", folder, ", ".join(evaluation))
    return [path for name, path in names.items() if name not in evaluation]


def _is_data(path: Path) -> bool:
    return path.is_file() and is_data_name(path.name)


def url_file(card: DatasetCard, name: str) -> Path:
    """Return where `download` puts a file that is not on the Hub."""
    return cache_directory() / "files" / card.id / name


def _fetched(card: DatasetCard) -> list[Path]:
    files = [url_file(card, name) for name in card.urls]
    if absent := [file.url for file, path in zip(card.urls.values(), files, strict=True) if not path.is_file()]:
        raise MissingData(
            f"data set {card.id} ({', '.join(absent)}) is not here; run `agentforge download` where that address is "
            "reachable"
        )
    return files


def _in_mirror(card: DatasetCard, split: str | None, mirror: Path) -> list[Path]:
    if not mirror.is_dir():
        raise UserError(f"data.hub_mirror: there is no directory {mirror}; it must hold ORG/NAME/files like the Hub")
    root = mirror / str(card.hub_id)
    if not isinstance(card, HubDataset):
        return match(root, card.globs(split))
    names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return [root / name for name in choose_hub_files(card, names, split, _page(root))]


def _page(root: Path) -> str | None:
    page = root / PAGE
    return page.read_text(encoding="utf-8", errors="replace") if page.is_file() else None


def match(root: Path, globs: list[str]) -> list[Path]:
    """Return the files below a directory that the first glob with any picks, sorted."""
    for pattern in globs:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    return []


def choose_files(names: Iterable[str], globs: list[str]) -> list[str]:
    """Return the names that the first matching glob picks, sorted; ``*`` does not cross a ``/``."""
    named = [(name, name.split("/")) for name in names]
    for pattern in globs:
        wanted = pattern.split("/")
        found = [
            name for name, parts in named if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
        ]
        if found:
            return sorted(found)
    return []


@dataclass(frozen=True)
class LockedFile:
    """A file as it was checked when it was downloaded."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Lock:
    """What a download fixed: the commit, so that the next one gets the same data, and the hashes of its files.

    Attributes:
        listed: names of all files of the repository, of which a configuration and a split are chosen.
    """

    hub_id: str
    revision: str
    files: dict[str, LockedFile]
    listed: tuple[str, ...] = ()


def lock_path(hub_id: str, revision: str | None, kind: str = "dataset") -> Path:
    """Return the lock file of a repository at a pin (None: no pin)."""
    return (
        cache_directory()
        / "locks"
        / f"{kind}--{hub_id.replace('/', '--')}@{(revision or 'unpinned').replace('/', '--')}.json"
    )


def read_lock(hub_id: str, revision: str | None, kind: str = "dataset") -> Lock | None:
    """Return what a download of this repository fixed, None if there was none."""
    try:
        raw: dict[str, Any] = json.loads(lock_path(hub_id, revision, kind).read_text(encoding="utf-8"))
        files = {name: LockedFile(**entry) for name, entry in raw["files"].items()}
        return Lock(raw["hub_id"], raw["revision"], files, tuple(raw.get("listed", ())))
    # A damaged lock is no lock: the next download writes it again.
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_lock(lock: Lock, revision: str | None, kind: str = "dataset") -> None:
    """Record a download."""
    path = lock_path(lock.hub_id, revision, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(lock))


def snapshot(hub_id: str, revision: str, kind: str = "dataset") -> Path:
    """Return the directory of a commit in the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{hub_id.replace('/', '--')}" / "snapshots" / revision


def resolved_revision(card: DatasetCard) -> str | None:
    """Return the commit of a card's files in the cache: its pin, or what the first download recorded."""
    lock = read_lock(card.hub_id, card.revision) if card.hub_id else None
    return lock.revision if lock else card.revision


def in_cache(card: DatasetCard, split: str | None, stream: bool = False) -> list[Path]:
    """Return the files of a card that the Hub's cache holds completely, else an empty list.

    Complete means: all that our own download recorded for the split, with the recorded sizes; or, in a cache that
    other programs filled, all that matches at the pinned commit (there is no record to compare with).

    Args:
        stream: the files that were recorded are enough; each is fetched when it is read.
    """
    # Sizes, not hashes: each file was hashed when it arrived, and hashing 100 GB at every start would take minutes.
    if (lock := read_lock(str(card.hub_id), card.revision)) is not None:
        root = snapshot(lock.hub_id, lock.revision)
        names = choose(card, split, lock.listed or lock.files, root)
        sizes = {name: (root / name).stat().st_size for name in names if (root / name).is_file()}
        if all(name in lock.files and (stream or sizes.get(name) == lock.files[name].size) for name in names):
            return [root / name for name in names]
        return []
    # Of a set without a card nobody says which files there are beside those that happen to be in the cache.
    if card.revision is None or isinstance(card, HubDataset):
        return []
    return match(snapshot(str(card.hub_id), card.revision), card.globs(split))


def choose(card: DatasetCard, split: str | None, names: Iterable[str], root: Path | None) -> list[str]:
    """Return which of a repository's files a split of it is.

    Args:
        card: of the registry, or made of a line that names the repository.
        split: None for the default.
        names: of all its files.
        root: directory with its page, if that was fetched.
    """
    if isinstance(card, HubDataset):
        return choose_hub_files(card, names, split, None if root is None else _page(root))
    return choose_files(names, card.globs(split))
