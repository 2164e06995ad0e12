"""Rows follow the schedule, a resumed run draws what the whole one would have drawn, and no row mixes sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerState

from agentforge.errors import UserError
from agentforge.trainers.supervised.source_schedule import EpochOfSampler, ScheduledSampler, rows_by_source

SOURCES = ["a"] * 6 + ["b"] * 4


class Shift:
    """From a to b, linearly."""

    def shares(self, progress: float) -> Mapping[str, float]:
        return {"a": 1 - progress, "b": progress}


class Only:
    def __init__(self, name: str) -> None:
        self.name = name

    def shares(self, progress: float) -> Mapping[str, float]:
        return {self.name: 2.0}


def of_run(sampler: ScheduledSampler, epochs: int) -> list[int]:
    """Return what the sampler draws in all epochs, one after the other."""
    drawn = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    return drawn


def test_the_shares_are_kept_as_they_change() -> None:
    drawn = of_run(ScheduledSampler(Shift(), SOURCES * 100, 4, seed=0), 4)
    counts = [Counter(SOURCES[row % 10] for row in drawn[start : start + 1000]) for start in range(0, 4000, 1000)]
    assert [count["b"] / 1000 for count in counts] == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.05)


def test_an_epoch_is_as_long_as_without_a_schedule() -> None:
    sampler = ScheduledSampler(Shift(), SOURCES, 3, seed=0)
    assert len(sampler) == len(list(sampler)) == len(SOURCES)


def test_a_source_is_gone_through_before_it_starts_over_also_across_epochs() -> None:
    drawn = of_run(ScheduledSampler(Only("b"), SOURCES, 2, seed=3), 2)
    rounds = [drawn[start : start + 4] for start in range(0, 20, 4)]
    assert all(sorted(one) == [6, 7, 8, 9] for one in rounds) and len({tuple(one) for one in rounds}) > 1


def test_what_is_skipped_on_resume_changes_nothing_after_it() -> None:
    whole = of_run(ScheduledSampler(Shift(), SOURCES, 10, seed=1), 10)
    resumed = ScheduledSampler(Shift(), SOURCES, 10, seed=1)
    resumed.set_epoch(4)
    assert list(islice(iter(resumed), 3, None)) == whole[43:50], "the middle of an epoch, by a sampler that saw nothing"
    batches = [row for batch in DataLoader(list(range(10)), 5, sampler=resumed) for row in batch.tolist()]
    assert batches == whole[40:50], "the loader asks the sampler once"
    assert of_run(ScheduledSampler(Shift(), SOURCES, 10, seed=2), 10) != whole


def test_a_resumed_run_tells_the_sampler_its_epoch_itself() -> None:
    sampler = ScheduledSampler(Shift(), SOURCES, 10, seed=1)
    callback = EpochOfSampler(sampler)
    for inside, epoch in ((None, 0), (2.4, 2), (3.0, 3), (6.999999999, 7)):
        callback.on_epoch_begin(None, TrainerState(epoch=inside), None)  # type: ignore[arg-type]
        assert sampler.epoch == epoch


@pytest.mark.parametrize(("name", "said"), [("c", "wants rows of 'c', but the prepared data have: a, b")])
def test_a_source_without_rows_is_refused_before_the_training(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ScheduledSampler(Only(name), SOURCES, 1, seed=0)


def test_a_source_without_rows_that_is_wanted_for_a_moment_only_is_refused_too() -> None:
    class Moment:
        def shares(self, progress: float) -> Mapping[str, float]:
            return {"c": 1.0} if 0.30 <= progress < 0.31 else {"a": 1.0}

    with pytest.raises(UserError, match="wants rows of 'c'"):
        ScheduledSampler(Moment(), SOURCES, 500, seed=0)


def test_rows_are_made_of_one_source_each() -> None:
    dataset = Dataset.from_list([{"source": name, "input_ids": [n]} for n, name in enumerate("abab")])
    made, sources = rows_by_source(dataset, lambda part, name: part.remove_columns("source"))
    assert sources == ["a", "a", "b", "b"] and [row["input_ids"] for row in made] == [[0], [2], [1], [3]]
