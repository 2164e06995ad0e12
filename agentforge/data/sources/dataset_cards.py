"""The registered data sets: one card per file in ``configs/datasets``, with what to know before training on one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from agentforge.artifacts import hash_json
from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.schema import Filters, Section
from agentforge.recipe.yaml_files import config_roots, find_config, read_yaml

if TYPE_CHECKING:
    from rich.table import Table


_SAYS_NOTHING_OF_ROWS = {"title", "pin_note", "caveats", "reason", "rows", "megabytes", "evaluation_splits"}


class UrlFile(Section):
    """A file that is not on the Hub, and by what it is known to be the right one."""

    url: str
    member: str | None = Field(None, description="the address is a zip archive; this file of it is taken")
    size: int | None = Field(None, ge=1, description="bytes of the file")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="of the file, as its publisher states it")


class DatasetCard(Section):
    """What is known of a data set. `enabled: false` needs a `reason`; so does a missing pin a `pin_note`."""

    id: str
    title: str
    hub_id: str | None = Field(None, description="ORG/NAME of a Hub data set")
    generator: Literal["python_docs", "drill_sums", "drill_recall", "drill_swaps"] | None = Field(
        None, description="made on this machine instead of downloaded"
    )
    urls: dict[str, UrlFile] = Field(
        default_factory=dict, description="file name to address (and checks), of what is not on the Hub"
    )
    revision: str | None = Field(
        None, description="commit that is downloaded; none: the first download records its own"
    )
    pin_note: str | None = Field(None, description="why there is no pin")
    files: dict[str, list[str]] = Field(
        default_factory=dict, description="split to globs; the first glob that matches anything is taken"
    )
    default_split: str = "train"
    evaluation_splits: list[str] = Field(
        default_factory=list, description="splits that benchmarks score; data.mix may not train on them"
    )
    columns: list[str] = Field(default_factory=list, description="columns of a raw row")
    rows: int | None = Field(None, ge=1, description="approximate, of the default split")
    megabytes: float | None = Field(None, gt=0, description="approximate download of the default split")
    licence: str = Field(description="SPDX where there is one; as stated by the publisher")
    adapter: str | None = Field(None, description="none: found by the shape of the first row")
    adapter_columns: dict[str, str] = Field(default_factory=dict, description="adapter's name: the file's name")
    filters: Filters = Filters()
    split_key: str | None = Field(None, description="column whose equal values stay on one side of train | eval")
    caveats: list[str] = Field(default_factory=list)
    fallbacks: list[str] = Field(default_factory=list, description="ids to use instead")
    enabled: bool = True
    reason: str | None = Field(None, description="why it is off")

    @field_validator("urls", mode="before")
    @classmethod
    def _plain_addresses(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {"url": one} if isinstance(one, str) else one for name, one in value.items()}

    @property
    def identity(self) -> str:
        """Hash of what decides which rows come out; a sentence about them, or a size, may be reworded."""
        return hash_json(self.model_dump(exclude=_SAYS_NOTHING_OF_ROWS))

    @model_validator(mode="after")
    def _complete(self) -> DatasetCard:
        if not self.enabled and not self.reason:
            raise ValueError("a data set with `enabled: false` needs a `reason`")
        if self.enabled and sum(map(bool, (self.hub_id, self.generator, self.urls))) != 1:
            raise ValueError("set exactly one of hub_id, generator and urls")
        if self.hub_id and self.enabled and not self.revision and not self.pin_note:
            raise ValueError("without a `revision` it needs a `pin_note`")
        if self.enabled and self.hub_id and self.default_split not in self.files:
            raise ValueError(f"files has no split '{self.default_split}'")
        if unknown := [split for split in self.evaluation_splits if split not in self.files]:
            raise ValueError(f"evaluation_splits names '{unknown[0]}', which files does not have")
        return self

    def globs(self, split: str | None) -> list[str]:
        """Return the file patterns of a split.

        Raises:
            UserError: there is no such split.
        """
        wanted = split or self.default_split
        if wanted not in self.files:
            known = list(self.files)
            raise UserError(
                f"data set {self.id} has no split '{wanted}'{did_you_mean(wanted, known)}; it has: {', '.join(known)}"
            )
        return self.files[wanted]


def load_card(id: str) -> DatasetCard:
    """Return the card of a registered data set.

    Raises:
        UserError: there is none, or its file is wrong.
    """
    path = find_config("datasets", id)
    try:
        card = DatasetCard.model_validate({"id": id} | read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            key = str(first["loc"][0])
            near = did_you_mean(key, list(DatasetCard.model_fields))
            raise UserError(f"{path}: there is no key '{key}'{near}") from None
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}{f', key {where}' if where else ''}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
    if card.id != id:
        raise UserError(f"{path}: the id must be the file's name, '{id}'")
    return card


def card_ids() -> list[str]:
    """Return the ids of all registered data sets, sorted."""
    return sorted({path.stem for root in config_roots() for path in (root / "datasets").glob("*.yaml")})


def list_cards() -> list[DatasetCard]:
    """Return all registered data sets, sorted by id."""
    return [load_card(id) for id in card_ids()]


TABLE_START, TABLE_END = "<!-- cards -->", "<!-- /cards -->"
HEADINGS = ("id", "from", "rows", "MB", "licence", "state")


def card_rows() -> list[tuple[str, ...]]:
    """Return a line of cells for each registered data set, under `HEADINGS`."""
    return [_cells(card) for card in list_cards()]


def _cells(card: DatasetCard) -> tuple[str, ...]:
    made = f"made here ({card.generator})" if card.generator else "no public copy"
    origin = card.hub_id or ", ".join(file.url for file in card.urls.values()) or made
    instead = f"; instead: {', '.join(card.fallbacks)}" if card.fallbacks else ""
    state = "on" if card.enabled else f"off: {card.reason}{instead}"
    return (card.id, origin, _number(card.rows), _number(card.megabytes), card.licence, state)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.0f}"


def cards_table() -> Table:
    """Return all registered data sets with licence and state, to print."""
    from rich.table import Table

    table = Table(*HEADINGS, title="Registered data sets (configs/datasets)", show_lines=False)
    for row in card_rows():
        table.add_row(*row)
    return table


def cards_markdown() -> str:
    """Return the registered data sets as the Markdown of docs/datasets.md."""
    lines = ["| id | from | split | rows | licence | state | traps |", "|---|---|---|---|---|---|---|"]
    for card in list_cards():
        id, origin, rows, _, licence, state = _cells(card)
        source = f"[{card.hub_id}](https://huggingface.co/datasets/{card.hub_id})" if card.hub_id else origin
        traps = " ".join([*card.caveats, *([card.pin_note] if card.pin_note else [])])
        lines.append(f"| `{id}` | {source} | {card.default_split} | {rows} | {licence} | {state} | {traps} |")
    return "\n".join(lines) + "\n"


def update_page(path: Path) -> None:
    """Write the table of the registered data sets into a Markdown page, between its two marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    path.write_text(f"{before}{TABLE_START}\n{cards_markdown()}{TABLE_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    update_page(Path(sys.argv[1]))
