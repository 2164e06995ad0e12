"""Where a benchmark's rows come from: `data.hub_mirror` first, then the Hub's cache and the Hub.

lm-eval asks `datasets.load_dataset` for a Hub id. While its tasks are loaded, `data_sets` stands in between: an id
whose files lie in the mirror is read from there, everything else goes on to the library; and what cannot be had is said
in one sentence instead of a page of traceback.

The mirror has a directory ORG/NAME for each repository. Three layouts of it are read:

* the files that a card of configs/datasets names (``openai/gsm8k/gsm8k_test.jsonl``), as for training;
* a copy of the repository with its README.md, whose header says which files each configuration has;
* a copy without it, whose configurations are folders (``allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentforge.data.sources.adapters.questions import MBPP_SPLITS
from agentforge.data.sources.dataset_cards import DatasetCard, card_ids, load_card
from agentforge.data.sources.source_files import match
from agentforge.errors import UserError, first_line

SINGLE_FILE = {"google-research-datasets/mbpp": MBPP_SPLITS}
"""Sets whose original is one file with all splits in it: Hub id to the first and last `task_id` of each."""


@contextmanager
def data_sets(mirror: str | None) -> Iterator[None]:
    """Let `datasets.load_dataset` look into the mirror first.

    Args:
        mirror: directory with the Hub's layout.

    Raises:
        UserError: (by what is asked for inside) a data set cannot be had.
    """
    import datasets

    original = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        try:
            if mirror is not None and (Path(mirror) / path).is_dir():
                return _from_mirror(original, Path(mirror), path, name, options)
            return original(path, name=name, **options)
        # Whatever the library or its HTTP client raises (offline, no such repository, a loading script): the answer to
        # all of them is the same.
        except Exception as error:
            raise _missing(path, name, mirror, error) from error

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = original


def _missing(path: str, name: str | None, mirror: str | None, error: Exception) -> UserError:
    what = f"{path} ({name})" if name else path
    if path in ("json", "csv", "parquet", "text", "arrow"):  # a task file that names local files
        return UserError(f"the rows of the benchmark cannot be read: {first_line(error)}")
    put = f"put its files into {mirror}/{path}" if mirror else "set data.hub_mirror to a directory that has it"
    return UserError(
        f"the benchmark's data set {what} cannot be read ({first_line(error)}); run `agentforge download` where the "
        f"Hub is reachable, or {put}"
    )


def _from_mirror(load: Any, mirror: Path, path: str, name: str | None, options: dict[str, Any]) -> Any:
    root = mirror / path
    if (card := _card_of(path, name)) is not None and (files := _files_of(card, root)):
        return _with_splits(path, _load_files(load, files))
    if (root / "README.md").is_file() or name is None:
        return load(str(root), name=name, **options)
    if (root / name).is_dir():
        return load(str(root), data_dir=name, **options)
    raise FileNotFoundError(f"{root} has neither a README.md nor a folder {name}")


def _card_of(hub_id: str, name: str | None) -> DatasetCard | None:
    cards = [card for card in map(load_card, card_ids()) if card.hub_id == hub_id]
    # A card is of one configuration, whose folder its globs begin with: gsm8k's is `main`, and not `socratic`.
    return next((card for card in cards if name is None or name in _folders(card) or not _folders(card)), None)


def _folders(card: DatasetCard) -> set[str]:
    return {glob.partition("/")[0] for globs in card.files.values() for glob in globs if "/" in glob} - {"data"}


def _files_of(card: DatasetCard, root: Path) -> dict[str, list[str]]:
    found = {split: [str(file) for file in match(root, globs)] for split, globs in card.files.items()}
    return {split: files for split, files in found.items() if files}


def _load_files(load: Any, files: dict[str, list[str]]) -> Any:
    suffix = Path(next(iter(files.values()))[0]).suffix
    return load("parquet" if suffix == ".parquet" else "json", data_files=files)


def _with_splits(path: str, loaded: Any) -> Any:
    """Cut the splits out of a single file that has them all."""
    ranges = SINGLE_FILE.get(path, {})
    for split, (first, last) in ranges.items():
        if split in loaded and not first <= loaded[split][0]["task_id"] <= loaded[split][-1]["task_id"] <= last:
            ids = loaded[split]["task_id"]
            loaded[split] = loaded[split].select([row for row, task in enumerate(ids) if first <= task <= last])
    return loaded
