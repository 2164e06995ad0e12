"""Which task comes next: the train split, evenly, harder ones when the present ones are mastered."""

from __future__ import annotations

import json
from collections import Counter

from agentforge.environments.splits import split_of
from agentforge.recipe.schema import Curriculum
from agentforge.trainers.rl.curriculum import TaskStream
from tests.trainers.toys import Colours


def stream(curriculum: Curriculum | None = None, seed: int = 0) -> TaskStream:
    environments = {"few": Colours(colours=3, size=60), "many": Colours(colours=4, size=10**9)}
    return TaskStream(environments, seed=seed, slots=200, curriculum=curriculum)


def seeded(seed: int) -> TaskStream:
    return stream(seed=seed)


def test_no_reserved_task_is_ever_played_and_the_environments_take_turns() -> None:
    for curriculum in (None, Curriculum(start=3)):
        played = stream(curriculum)
        tasks = [played.task(slot) for slot in range(200)]
        assert {split_of(Colours.id, task.task_id) for task in tasks} == {"train"}
        assert Counter(task.environment for task in tasks) == {"few": 100, "many": 100}
        assert len({(task.task_id, task.seed) for task in tasks}) == 200


def test_a_slot_is_the_same_task_for_everyone_and_another_with_another_seed() -> None:
    tasks = [[played.task(slot) for slot in range(50)] for played in map(seeded, (0, 0, 1))]
    assert tasks[0] == tasks[1] != tasks[2]


def test_all_tasks_are_played_before_one_comes_again() -> None:
    played = stream()
    ids = [played.task(slot).task_id for slot in range(0, 200, 2)]
    distinct = len(set(ids))
    assert 40 < distinct < 60 and ids[:distinct] == list(dict.fromkeys(ids))


def test_the_next_difficulty_comes_when_the_newest_is_mastered() -> None:
    tasks = stream(Curriculum(start=0, threshold=0.75, window=8))
    assert tasks.levels() == {"few": 0, "many": 0}
    assert {tasks.task(slot).task_id % 3 for slot in range(0, 100, 2)} == {0}
    easy = tasks.task(0).task_id
    tasks.record([("few", easy, i % 2 == 0) for i in range(20)])
    assert tasks.levels()["few"] == 0, "half of them is not enough"
    tasks.record([("few", easy, True)] * 7)
    assert tasks.levels() == {"few": 1, "many": 0}
    played = Counter(tasks.task(slot).task_id % 3 for slot in range(0, 200, 2))
    assert set(played) == {0, 1} and 30 < played[1] < 70, "half of the newest, half of those before"
    tasks.record([("few", easy, True)] * 20)
    assert tasks.levels()["few"] == 1, "only tasks of the newest level count"


def test_the_last_level_is_the_last() -> None:
    tasks = stream(Curriculum(start=5, window=1))
    assert tasks.levels() == {"few": 2, "many": 3}
    tasks.record([("few", task, True) for task in range(60)])
    assert tasks.levels()["few"] == 2


def test_a_start_below_all_levels_is_the_easiest() -> None:
    environment = Colours(colours=4, size=40)
    environment.difficulty = lambda task_id: 1 + task_id % 4  # type: ignore[method-assign]
    tasks = TaskStream({"late": environment}, seed=0, slots=10, curriculum=Curriculum(start=0))
    assert tasks.levels() == {"late": 1}


def test_its_state_survives_a_restart_as_json() -> None:
    before = stream(Curriculum(window=4, threshold=0.5))
    before.record([("few", before.task(0).task_id, True)] * 6)
    after = stream(Curriculum(window=4, threshold=0.5))
    after.restore(json.loads(json.dumps(before.state())))
    assert after.levels() == before.levels() == {"few": 1, "many": 0}
    assert [after.task(slot) for slot in range(40)] == [before.task(slot) for slot in range(40)]
