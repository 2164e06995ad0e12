"""Bytes on disk and over the wire: the base, the data, the checkpoints and what is exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentforge.data.sources.source_files import MissingData, locate, registered
from agentforge.errors import UserError
from agentforge.planning.memory import DTYPE_BYTES
from agentforge.planning.optimizer_states import state_bytes
from agentforge.planning.parameters import count_parameters, trained_parameters
from agentforge.planning.shapes import cached_config, maker_of
from agentforge.planning.sizes import Shape
from agentforge.recipe.schema import Recipe, Source

# Bits a weight of the published files of Qwen2.5-32B; small models keep more in the wide types of their embeddings.
GGUF_BITS = {"f16": 16.0, "q8": 8.5, "q5km": 5.68, "q4km": 4.85}
DEFAULT_CHECKPOINTS = 2  # what the trainer keeps if `save_total_limit` is not given


@dataclass(frozen=True)
class Item:
    """Something that needs space.

    Attributes:
        what: as the plan calls it.
        size: bytes, None if nobody knows before the download.
        here: it is on this machine already.
    """

    what: str
    size: float | None
    here: bool = False


def base_item(recipe: Recipe, shape: Shape) -> Item | None:
    """Return the base's weights in 16 bits, as they lie on the Hub; None for a model from scratch."""
    model = recipe.model
    if model.path is None or maker_of(model.path) is not None:
        return None
    here = Path(model.path).is_dir() or cached_config(model) is not None
    return Item(f"base {model.path}", 2.0 * count_parameters(shape).total, here)


def data_items(recipe: Recipe) -> list[Item]:
    """Return the sources of the mix that are downloaded.

    Raises:
        UserError: a source is neither registered nor a path.
    """
    return [item for source in recipe.data.mix if (item := _data_item(source, recipe)) is not None]


def _data_item(source: Source, recipe: Recipe) -> Item | None:
    card = registered(source)
    if card is None or card.generator is not None or source.stream:
        return None
    try:
        return Item(f"data {card.id}", float(sum(file.stat().st_size for file in locate(source, recipe.data))), True)
    except MissingData:
        return Item(f"data {card.id}", None if card.megabytes is None else card.megabytes * 1e6)
    except UserError:  # switched off: it is neither downloaded nor trained on, and `prepare` says why
        return None


def made_items(recipe: Recipe, shape: Shape) -> list[Item]:
    """Return what training and export write."""
    total = count_parameters(shape).total
    trained = trained_parameters(recipe, shape)
    kept = recipe.train.args.get("save_total_limit", DEFAULT_CHECKPOINTS) + 1  # one more while the next is written
    each = 4.0 * trained + state_bytes(recipe, shape)
    items = [Item(f"{kept} checkpoints", kept * each), Item("result", 4.0 * trained)]
    if (models := _kept_models(recipe)) > 0:
        items.append(Item(f"{models} kept models", models * DTYPE_BYTES[recipe.model.dtype] * trained))
    if recipe.train.lora is not None:
        items.append(Item("merged", float(DTYPE_BYTES[recipe.export.dtype] * total)))
    # The f16 file is made first, kept or not: the others are quantised from it.
    kinds = (
        list(dict.fromkeys(["f16", *recipe.export.gguf]))
        if recipe.export.gguf and recipe.train.lora is not None
        else []
    )
    return items + [Item(f"gguf {kind}", GGUF_BITS[kind] / 8 * total) for kind in kinds]


def _kept_models(recipe: Recipe) -> int:
    """Return how many models `train.keep` leaves at most; of a run that is given in steps, the epochs are not known."""
    keep = recipe.train.keep
    if keep is None:
        return 0
    # One more best while the next is written.
    best = 2 if keep.best else 0
    if keep.epochs is None or recipe.train.args.get("max_steps", 0) > 0:
        return best
    return best + int(recipe.train.args.get("num_train_epochs", 3)) // keep.epochs


def total(items: list[Item], *, missing_only: bool = False) -> float:
    """Return the bytes of all items whose size is known."""
    return sum(item.size or 0.0 for item in items if not (missing_only and item.here))
