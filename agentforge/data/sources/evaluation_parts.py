"""What must not be trained on: the part of a data set that benchmarks score, named by its split or by its path."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path

from agentforge.data.sources.dataset_cards import DatasetCard, card_ids, load_card
from agentforge.data.sources.hub_datasets import DEFAULT_SPLIT, EVALUATION, names_split
from agentforge.data.sources.readers import is_data_name
from agentforge.data.sources.source_files import MissingData, locate, registered
from agentforge.errors import UserError
from agentforge.recipe.schema import Data, Source

ALLOW = "set `enabled: true` on its line and never report a score on it"


def refuse_evaluation_part(source: Source, data: Data) -> None:
    """Refuse to train on what benchmarks score, unless the line of the mix says ``enabled: true`` or ``held_out``.

    A file is known by its path: that of a registered data set's scored split, one of `data.decontaminate.against`, or
    one that is called `test` beside another that is called `train`.

    Raises:
        UserError: what to take instead.
    """
    if source.enabled or source.held_out:
        return
    card = registered(source)
    if card is not None:
        _refuse_split(source, card)
        return
    try:
        files = locate(source, data)
    except MissingData:
        return  # whoever reads it says so
    held_out = set(_held_out_files(data))
    for file in files:
        if why := _scored(file, source.split, held_out):
            raise UserError(f"{file} {why}, or {ALLOW}")


def _refuse_split(source: Source, card: DatasetCard) -> None:
    split = source.split or card.default_split
    if split not in card.evaluation_splits:
        return
    others = [name for name in card.files if name not in card.evaluation_splits]
    instead = f"set `split: {others[0]}`" if others else "take it out"
    raise UserError(
        f"benchmarks score the split '{split}' of {card.id}, so it is not trained on; {instead}, or {ALLOW}"
    )


def _scored(file: Path, wanted: str | None, held_out: set[Path]) -> str | None:
    """Return why a file is not to be trained on, as the middle of a sentence; None: nothing speaks against it."""
    if file.resolve() in held_out:
        return "is in data.decontaminate.against too, so every row of it would be left out; take it out of data.mix"
    # Whoever keeps a copy of a data set names it after that; to read all cards would take most of a `show`.
    for card in map(load_card, (id for id in card_ids() if id in str(file.resolve()))):
        if split := _scored_split(file, wanted, card):
            return (
                f"is the split '{split}' of {card.id}, which benchmarks score, so it is not trained on; "
                f"use `dataset: {card.id}`"
            )
    if names_split(file.name, EVALUATION) and (train := _training_twin(file)):
        return f"is by its name for evaluation and stands beside {train.name}; train on that"
    return None


def _held_out_files(data: Data) -> Iterator[Path]:
    for entry in data.decontaminate.against:
        if is_data_name(entry):
            yield from (Path(name).resolve() for name in glob(entry, recursive=True))


def _scored_split(file: Path, wanted: str | None, card: DatasetCard) -> str | None:
    """Return the scored split of a card that a file is, by its name and folders; a file of all splits has `split`."""
    if wanted in card.files and wanted not in card.evaluation_splits:
        return None
    parts = file.resolve().parts
    owner = {card.id, *str(card.hub_id).split("/")[1:]}
    for split in card.evaluation_splits:
        for pattern in card.files[split]:
            names = pattern.split("/")
            fits = len(names) < len(parts) and all(map(fnmatchcase, parts[-len(names) :], names))
            # `test.jsonl` is anybody's; `gsm8k_test.jsonl`, or `gsm8k/test.jsonl`, is this data set's
            if fits and (card.id in names[-1] or owner & set(parts[:-1])):
                return split
    return None


def _training_twin(file: Path) -> Path | None:
    """Return the file of the train split that stands beside one whose name says that it is for evaluation."""
    for other in sorted(file.parent.iterdir()):
        if other.suffix == file.suffix and names_split(other.name, (DEFAULT_SPLIT,)):
            return other
    return None
