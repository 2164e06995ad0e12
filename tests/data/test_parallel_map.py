"""The parallel map: ordered, bounded, and its errors arrive."""

import os
import time

import pytest

from agentforge.data.parallel_map import ordered_map


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_order_is_that_of_the_tasks(workers):
    def slow_square(number):
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(ordered_map(slow_square, range(30), workers)) == [number * number for number in range(30)]


def test_tasks_are_read_as_they_are_needed():
    read = []

    def tasks():
        for number in range(100):
            read.append(number)
            yield number

    results = ordered_map(lambda number: number, tasks(), 2)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(read) <= 14
    results.close()


def test_work_is_done_in_other_processes():
    assert os.getpid() not in set(ordered_map(lambda _: os.getpid(), range(8), 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_tasks_and_of_the_worker_arrive(workers):
    def tasks():
        yield 1
        raise KeyError("tasks")

    with pytest.raises(KeyError, match="tasks"):
        list(ordered_map(lambda number: number, tasks(), workers))
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // number, [1, 0, 2], workers))
