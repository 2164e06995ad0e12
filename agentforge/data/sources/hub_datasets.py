"""Data sets of the Hub that have no card here: which of their files a configuration and a split mean."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from agentforge.data.sources.dataset_cards import DatasetCard
from agentforge.data.sources.readers import is_data_name
from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.schema import Source

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PAGE = "README.md"
"""A repository's page, whose metadata say which files are which configuration and split."""
DEFAULT_SPLIT = "train"
EVALUATION = ("test", "validation", "valid", "val", "dev", "eval")
_PREFERRED = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".xml", ".txt", ".md")
"""Of rows that a repository has in several kinds of files, the first of these is read."""


class HubDataset(DatasetCard):
    """What a line of the mix says of a data set of the Hub, in the form of a card."""

    config: str | None = None


def hub_dataset(source: Source) -> HubDataset:
    """Return the card of a line that names a repository of the Hub."""
    split = source.split or DEFAULT_SPLIT
    return HubDataset(
        id=source.dataset,
        title=source.dataset,
        hub_id=source.dataset,
        revision=source.revision,
        pin_note="none in the recipe; the first download records its own",
        files={split: ["*"]},
        default_split=split,
        licence="see its page on the Hub",
        config=source.config,
    )


def choose_hub_files(card: HubDataset, names: Iterable[str], split: str | None, page: str | None) -> list[str]:
    """Return the files of a configuration and a split, sorted; none if there are none.

    What the repository's page states goes first. Else the names decide, as the Hub has it: ``train-00000.parquet``,
    ``data/train.jsonl``, ``CONFIG/train/0000.parquet``; without a split it is `train`, or what is not for evaluation.

    Args:
        card: its `config` may be None.
        names: of all files of the repository.
        split: None for the default.
        page: the text of its `README.md`, if it has one.

    Raises:
        UserError: the page states other configurations or splits, or several of which none is the default.
    """
    data = sorted(name for name in names if is_data_name(name))
    if (patterns := _stated(card, split, page)) is not None:
        return [name for name in data if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if card.config is not None:
        config = re.escape(card.config)
        data = [name for name in data if re.search(rf"(^|/){config}[/._-]", name)]
    return _one_kind(files_of_split(data, split))


def files_of_split(names: Sequence[str], split: str | None) -> list[str]:
    """Return the names that stand for a split; without one, those of `train`, or all that are not for evaluation."""
    if split is not None:
        return [name for name in names if names_split(name, (split,))]
    if found := [name for name in names if names_split(name, (DEFAULT_SPLIT,))]:
        return found
    return [name for name in names if not names_split(name, EVALUATION)]


def names_split(name: str, splits: Sequence[str]) -> bool:
    """Tell whether one of the splits is a part of a file's name or of its folders'."""
    return re.search(rf"(^|[/._-])({'|'.join(map(re.escape, splits))})([/._-]|$)", name) is not None


def _one_kind(names: Sequence[str]) -> list[str]:
    def rank(name: str) -> int:
        plain = name.removesuffix(".gz").removesuffix(".zst")
        return next(place for place, suffix in enumerate(_PREFERRED) if plain.endswith(suffix))

    best = min(map(rank, names), default=0)
    return [name for name in names if rank(name) == best]


def _stated(card: HubDataset, split: str | None, page: str | None) -> list[str] | None:
    """Return the patterns that the page states, None if it states no files for the configuration."""
    configs = _configs(page)
    if not configs:
        return None
    by_name = {str(config.get("config_name", "default")): config for config in configs}
    chosen = card.config or next((name for name, config in by_name.items() if config.get("default")), None)
    if chosen is None:
        if len(by_name) > 1 and "default" not in by_name:
            raise UserError(f"{card.id} has the configurations {', '.join(by_name)}; name one with `config:`")
        chosen = "default" if "default" in by_name else next(iter(by_name))
    if chosen not in by_name:
        raise UserError(
            f"{card.id} has no configuration '{chosen}'{did_you_mean(chosen, list(by_name))}; "
            f"it has: {', '.join(by_name)}"
        )
    stated = by_name[chosen].get("data_files")
    splits = _patterns(stated)
    if not splits:
        return None
    wanted = split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits or len(splits) > 1 else next(iter(splits)))
    if wanted not in splits:
        raise UserError(
            f"{card.id} has no split '{wanted}'{did_you_mean(wanted, list(splits))}; it has: {', '.join(splits)}; "
            "name one with `split:`"
        )
    return splits[wanted]


def _configs(page: str | None) -> list[Mapping[str, Any]]:
    """Return the list `configs` of the metadata between the two lines of dashes at the page's beginning."""
    found = re.match(r"\s*---\n(.*?)\n---\s*(\n|$)", page or "", re.DOTALL)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:  # a page that the Hub could not read either: the names decide
        return []
    configs = metadata.get("configs") if isinstance(metadata, Mapping) else None
    return [config for config in configs if isinstance(config, Mapping)] if isinstance(configs, list) else []


def _patterns(stated: Any) -> dict[str, list[str]]:
    """Return split to patterns, of any form that `data_files` may have on a page."""
    if isinstance(stated, str):
        return {DEFAULT_SPLIT: [stated]}
    splits: dict[str, list[str]] = {}
    for entry in stated if isinstance(stated, list) else []:
        path: Any = entry.get("path", []) if isinstance(entry, Mapping) else entry
        split = str(entry.get("split", DEFAULT_SPLIT)) if isinstance(entry, Mapping) else DEFAULT_SPLIT
        splits.setdefault(split, []).extend(path if isinstance(path, list) else [path])
    return splits
