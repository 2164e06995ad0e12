"""The section `data` of a recipe: sources and their shares, filters, and the stages of a curriculum."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from agentforge.errors import did_you_mean
from agentforge.recipe.section import Section
from agentforge.recipe.template_names import template_file
from agentforge.systems.registry import with_system_keys


class Filters(Section):
    """What `prepare` rejects. It counts every rejection by reason."""

    languages: list[str] = Field(default_factory=list, description="allowed values of the row's language column")
    min_characters: int = Field(1, ge=0, description="minimum for all assistant turns together")
    max_turns: int | None = Field(None, ge=1)
    where: dict[str, Any] = Field(default_factory=dict, description="column: the value (or list of values) to keep")
    max_ngram_repetition: float = Field(
        0.5, gt=0, le=1, description="largest share of a row's 10-grams that may be repeats"
    )
    identities: list[str] = Field(
        default_factory=list, description="names of other assistants; reject rows whose assistant uses one for itself"
    )


class Source(Section):
    """One line of `data.mix`: an id of the registry (configs/datasets), a path or glob of local files, or ORG/NAME of
    the Hub."""

    dataset: str
    stream: bool = Field(
        False, description="of the Hub: fetch each file when it is read and delete it then; for what fits on no disk"
    )
    weight: float = Field(1.0, gt=0)
    split: str | None = Field(None, description="of a folder: only its files of this split")
    config: str | None = Field(None, description="configuration of a data set of the Hub that has no card")
    revision: str | None = Field(None, description="commit, tag or branch of a data set of the Hub that has no card")
    adapter: str | None = Field(None, description="how a raw row becomes messages; none: chosen by the columns")
    columns: dict[str, str] = Field(
        default_factory=dict, description="the adapter's column name: the file's column name"
    )
    max_repeats: float | None = Field(None, gt=0, description="overrides data.max_repeats")
    max_rows: int | None = Field(None, ge=1)
    part: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[from, to], shares of each file (bytes of a text, else rows): [0, 0.9] is its first nine tenths",
    )
    held_out: bool = Field(False, description="all of it is for evaluation; it has no share in the mix")
    split_key: str | None = Field(
        None, description="rows with equal values in this column stay together in train or eval"
    )
    filters: Filters | None = Field(None, description="override the filters of the registry's card")
    system: str | None = Field(None, description="system turn for rows without one")
    enabled: bool | None = Field(None, description="true: use a data set that is off in the registry")

    @field_validator("part")
    @classmethod
    def _rising(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("must be two shares of a file, as in [0, 0.9]")
        return value


class MinHash(Section):
    """Near-duplicate removal: 14 bands of 8 rows find a pair with Jaccard similarity 0.8 with probability 0.92."""

    enabled: bool = True
    ngram: int = Field(5, ge=1, description="words")
    bands: int = Field(14, ge=1)
    rows: int = Field(8, ge=1)
    threshold: float = Field(
        0.8, gt=0, le=1, description="above this estimated Jaccard similarity the later row is dropped"
    )


class Decontaminate(Section):
    against: list[str] = Field(default_factory=list, description="registry ids or files that must not be trained on")
    # Thirteen words of English are hardly ever equal by chance; fewer would throw out rows that merely quote an idiom.
    ngram: int = Field(13, ge=3, description="words")


class DataStage(Section):
    """A part of the training in which other sources are drawn. Training goes on; only the draws change."""

    name: str
    until: float | None = Field(None, gt=0, description="the stage ends after this epoch; none: with the training")
    sources: list[str] = Field(
        default_factory=list,
        description="names in data.mix, each drawn as often as the prepared data have rows of it; none: all",
    )
    shares: dict[str, float] = Field(
        default_factory=dict, description="instead of `sources`: name in data.mix: share of the rows that are drawn"
    )

    @property
    def named(self) -> list[str]:
        """Sources that the stage names; empty: it takes all."""
        return [*self.sources, *self.shares]


@with_system_keys("data")
class Data(Section):
    max_length: int = Field(2048, ge=16, description="tokens")
    mix: list[Source] = Field(default_factory=list)
    weights: Literal["rows", "tokens"] = "rows"
    size: int | None = Field(
        None, ge=1, description="rows or tokens of the mix; none: as many as weights and max_repeats allow"
    )
    max_repeats: float = Field(4.0, gt=0)
    prepared: str | None = Field(
        None, description="directory of another recipe's prepared data, read instead of this recipe's own"
    )
    hub_mirror: str | None = Field(None, description="directory with the Hub's layout: ORG/NAME/files")
    allow_missing: bool = False
    max_bad_rows: float = Field(
        0.01, ge=0, le=1, description="above this share of unreadable rows in a source `prepare` stops"
    )
    filters: Filters = Filters()
    minhash: MinHash = MinHash()
    decontaminate: Decontaminate = Decontaminate()
    eval_fraction: float = Field(0.01, ge=0, lt=1)
    # Of conversations only: a document is always split, because each of its parts can be trained on.
    overflow: Literal["truncate", "split", "drop"] = "truncate"
    template: str = Field(
        "auto",
        description="auto: the base's own, or chatml where it has none; chatml, deepseek_r1: agentforge's with those "
        "turn markers; a family (llama3_1, qwen3 ...) or a Jinja file",
    )
    template_options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="variables that the chat template reads, such as enable_thinking"
    )
    add_tokens: list[str] = Field(
        default_factory=list,
        description="tokens that the base's tokenizer lacks, such as markers of `template`: added to it, and trained",
    )
    curriculum: list[DataStage] = Field(
        default_factory=list, description="stages of the training with their sources; none: all sources all the time"
    )
    tools: str | None = Field(None, description="tools (configs/tools/NAME.yaml) for rows that have none")
    system: str | None = Field(None, description="system turn for rows without one")
    workers: int | None = Field(None, ge=1, description="processes; none: one per core")
    ray: str | None = Field(
        None,
        description="address of a Ray cluster that does the work: auto, HOST:PORT, local (a new one); none: no cluster",
    )

    @property
    def source_names(self) -> list[str]:
        """Name of each line of the mix: its data set, with a number if that stands there more than once."""
        names = [source.dataset for source in self.mix]
        return [
            f"{name}#{names[:position].count(name) + 1}" if names.count(name) > 1 else name
            for position, name in enumerate(names)
        ]

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        template_file(value)
        return value

    @field_validator("add_tokens")
    @classmethod
    def _are_words(cls, value: list[str]) -> list[str]:
        for token in value:
            if not token.strip() or value.count(token) > 1:
                raise ValueError(f"'{token}' is {'blank' if not token.strip() else 'listed twice'}; take it out")
        return value

    @field_validator("curriculum")
    @classmethod
    def _in_order(cls, value: list[DataStage]) -> list[DataStage]:
        for stage, following in pairwise(value):
            if stage.until is None:
                raise ValueError(f"only the last stage may lack `until`, but '{stage.name}' has none")
            if following.until is not None and following.until <= stage.until:
                raise ValueError(f"'{following.name}' must end after epoch {stage.until:g}, where '{stage.name}' ends")
        for stage in value:
            if stage.sources and stage.shares:
                raise ValueError(f"'{stage.name}' has both `sources` and `shares`; leave one out")
            if any(share <= 0 for share in stage.shares.values()):
                raise ValueError(f"the shares of '{stage.name}' must be above 0; leave out what is not drawn")
            if len({other.name for other in value}) < len(value):
                raise ValueError("each stage needs a name of its own")
        return value

    @model_validator(mode="after")
    def _names_sources_of_the_mix(self) -> Data:
        for stage in self.curriculum:
            for name in stage.named:
                if name not in (known := self.source_names):
                    near = did_you_mean(name, known) or f"; it has: {', '.join(known) or 'nothing'}"
                    raise ValueError(f"curriculum, stage '{stage.name}': data.mix has no source '{name}'{near}")
        return self
