"""Lists of numbers: searching, sorting, counting, two at a time."""

from __future__ import annotations

from sources.problem import counted, ints, problem


@problem(0, lambda r: counted(ints(r, 2, 8, -20, 20)))
def sum_of_list() -> None:
    """The first line says how many whole numbers follow on the second. Print their sum."""
    input()
    print(sum(map(int, input().split())))


@problem(0, lambda r: counted(ints(r, 2, 8, -50, 50)))
def spread() -> None:
    """The first line says how many whole numbers follow on the second. Print the largest minus the smallest."""
    input()
    values = list(map(int, input().split()))
    print(max(values) - min(values))


@problem(0, lambda r: counted(ints(r, 3, 9, 0, 30)))
def even_ones() -> None:
    """The first line says how many whole numbers follow on the second. Print how many of them are even, and on the next
    line the sum of those."""
    input()
    even = [v for v in map(int, input().split()) if v % 2 == 0]
    print(len(even))
    print(sum(even))


@problem(0, lambda r: counted(ints(r, 3, 8, -9, 9)))
def turned_round() -> None:
    """The first line says how many whole numbers follow on the second. Print them in reverse order on one line."""
    input()
    print(*input().split()[::-1])


@problem(0, lambda r: counted(ints(r, 3, 8, -30, 30)))
def place_of_largest() -> None:
    """The first line says how many whole numbers follow on the second. Print the place of the largest, counted from 1;
    of several the last."""
    input()
    values = list(map(int, input().split()))
    print(max(range(len(values)), key=lambda i: (values[i], i)) + 1)


@problem(0, lambda r: counted(ints(r, 2, 7, -12, 12)))
def squares_of_list() -> None:
    """The first line says how many whole numbers follow on the second. Print their squares in the same order on one
    line."""
    input()
    print(*[int(v) ** 2 for v in input().split()])


@problem(1, lambda r: counted(ints(r, 3, 9, -10, 20)))
def running_sums() -> None:
    """The first line says how many whole numbers follow on the second. Print on one line the sums of the first, the
    first two, the first three of them, and so on."""
    input()
    total, sums = 0, []
    for value in map(int, input().split()):
        total += value
        sums.append(total)
    print(*sums)


@problem(1, lambda r: counted(ints(r, 4, 10, 0, 6)))
def without_repeats() -> None:
    """The first line says how many whole numbers follow on the second. Print each different one once, in the order in
    which they occur first, on one line."""
    input()
    print(*dict.fromkeys(input().split()))


@problem(1, lambda r: counted(ints(r, 3, 9, -20, 20)))
def second_largest() -> None:
    """The first line says how many whole numbers follow on the second. Print the second largest of the different
    values, or `none`."""
    input()
    values = sorted(set(map(int, input().split())))
    print(values[-2] if len(values) > 1 else "none")


@problem(1, lambda r: [*counted(ints(r, 3, 8, 0, 9)), r.randint(0, 12)])
def rotated() -> None:
    """The first line says how many whole numbers follow on the second; the third holds a number k. Move the list k
    places to the right, what falls off its end coming back at its beginning, and print it on one line."""
    n = int(input())
    values = input().split()
    k = int(input()) % n
    print(*values[n - k :], *values[: n - k])


@problem(1, lambda r: [*counted(ints(r, 4, 9, 1, 15)), r.randint(4, 24)])
def pairs_with_sum() -> None:
    """The first line says how many whole numbers follow on the second; the third holds a target. Print how many pairs
    of places in the list hold numbers that add up to the target."""
    n = int(input())
    v = list(map(int, input().split()))
    target = int(input())
    print(sum(v[i] + v[j] == target for i in range(n) for j in range(i)))


@problem(1, lambda r: counted(ints(r, 3, 9, 1, 30)))
def neighbours_apart() -> None:
    """The first line says how many whole numbers follow on the second, at least two. Print the largest difference,
    without sign, between numbers that stand side by side, and the place (from 1) of the first of the two; of several
    the earliest."""
    n = int(input())
    v = list(map(int, input().split()))
    best = max(range(n - 1), key=lambda i: (abs(v[i] - v[i + 1]), -i))
    print(abs(v[best] - v[best + 1]), best + 1)


@problem(1, lambda r: counted(sorted(ints(r, 3, 9, -20, 20))))
def median_doubled() -> None:
    """The first line says how many whole numbers follow on the second, in ascending order. Print twice their median:
    the median is the middle number, or the mean of the two in the middle."""
    n = int(input())
    v = list(map(int, input().split()))
    print(v[n // 2] + v[(n - 1) // 2])


@problem(1, lambda r: [*counted(ints(r, 3, 6, 0, 12)), *counted(ints(r, 3, 6, 0, 12))])
def in_both() -> None:
    """Two lists of whole numbers are given, each as a line with their number and a line with the numbers. Print the
    different numbers that are in both, in ascending order on one line, or `none`."""
    input()
    first = set(map(int, input().split()))
    input()
    both = sorted(first & set(map(int, input().split())))
    print(*both or ["none"])


@problem(1, lambda r: counted(ints(r, 4, 11, -9, 9)))
def sign_changes() -> None:
    """The first line says how many whole numbers follow on the second. Leave out the zeros and print how often a number
    has another sign than the one before it."""
    from itertools import pairwise

    input()
    v = [int(x) for x in input().split() if x != "0"]
    print(sum(a * b < 0 for a, b in pairwise(v)))


@problem(2, lambda r: counted(ints(r, 4, 9, 1, 20)))
def longest_ascent() -> None:
    """The first line says how many whole numbers follow on the second. Print the length of the longest stretch of
    numbers side by side in which each is larger than the one before."""
    from itertools import pairwise

    input()
    v = list(map(int, input().split()))
    best = length = 1
    for a, b in pairwise(v):
        length = length + 1 if b > a else 1
        best = max(best, length)
    print(best)


@problem(2, lambda r: counted(ints(r, 3, 8, 1, 20)))
def inversions() -> None:
    """The first line says how many whole numbers follow on the second. Print how many pairs of places there are of
    which the earlier holds the larger number."""
    n = int(input())
    v = list(map(int, input().split()))
    print(sum(v[i] > v[j] for j in range(n) for i in range(j)))


@problem(2, lambda r: counted([r.randint(-9, 9) for _ in range(r.randint(3, 9))]))
def best_stretch() -> None:
    """The first line says how many whole numbers follow on the second. Print the largest sum that numbers side by side
    have, at least one of them."""
    input()
    best = here = None
    for value in map(int, input().split()):
        here = value if here is None else max(value, here + value)
        best = here if best is None else max(best, here)
    print(best)


@problem(2, lambda r: counted(ints(r, 3, 8, 0, 25)))
def bubble_passes() -> None:
    """The first line says how many whole numbers follow on the second. Sort them in ascending order by exchanging
    neighbours: go through the list from its beginning and exchange two neighbours whenever the first is larger; repeat
    until a whole pass exchanges nothing. Print the number of exchanges and the number of passes, the last one included,
    on one line."""
    n = int(input())
    v = list(map(int, input().split()))
    swaps = passes = 0
    moved = True
    while moved:
        moved = False
        passes += 1
        for i in range(n - 1):
            if v[i] > v[i + 1]:
                v[i], v[i + 1] = v[i + 1], v[i]
                swaps += 1
                moved = True
    print(swaps, passes)


@problem(2, lambda r: [n := r.randint(2, 5), *([a := r.randint(0, 30), a + r.randint(1, 12)] for _ in range(n))])
def merged_intervals() -> None:
    """The first line says how many lines follow, each with the begin and the larger end of an interval, whole numbers.
    Unite intervals that overlap or touch. Print what is left, ordered by begin, one interval a line."""
    intervals = sorted(tuple(map(int, input().split())) for _ in range(int(input())))
    begin, end = intervals[0]
    for b, e in intervals[1:]:
        if b > end:
            print(begin, end)
            begin, end = b, e
        end = max(end, e)
    print(begin, end)


@problem(2, lambda r: [*counted(ints(r, 4, 9, 0, 20)), r.randint(2, 4)])
def window_maxima() -> None:
    """The first line says how many whole numbers follow on the second; the third holds a width that is no larger. Print
    on one line the largest number of each stretch of that width, from left to right."""
    n = int(input())
    v = list(map(int, input().split()))
    k = int(input())
    print(*[max(v[i : i + k]) for i in range(n - k + 1)])


@problem(2, lambda r: counted(ints(r, 3, 8, 1, 15)))
def next_larger() -> None:
    """The first line says how many whole numbers follow on the second. For each of them print the first later number
    that is larger, or -1 if there is none; all on one line."""
    n = int(input())
    v = list(map(int, input().split()))
    print(*[next((x for x in v[i + 1 :] if x > v[i]), -1) for i in range(n)])


@problem(3, lambda r: counted(ints(r, 4, 8, 0, 9)))
def rain_between_walls() -> None:
    """The first line says how many whole numbers, not negative, follow on the second: the heights of walls that stand
    side by side, each one wide. Print how much water stays between them after rain."""
    n = int(input())
    h = list(map(int, input().split()))
    print(sum(min(max(h[: i + 1]), max(h[i:])) - h[i] for i in range(n)))


@problem(3, lambda r: [n := r.randint(2, 4), *(ints(r, n, n, 0, 9) for _ in range(n))])
def spiral() -> None:
    """The first line holds a number n; n lines with n whole numbers each follow. Print all numbers on one line in the
    order of a spiral that begins at the top left, goes to the right first, and ends inside."""
    rows = [input().split() for _ in range(int(input()))]
    out = []
    while rows:
        out += rows.pop(0)
        rows = [list(row) for row in zip(*rows, strict=True)][::-1]
    print(*out)


@problem(3, lambda r: [*counted(ints(r, 3, 7, 1, 12)), r.randint(5, 25)])
def shortest_stretch() -> None:
    """The first line says how many positive whole numbers follow on the second; the third holds a target. Print how
    many numbers side by side are needed at least for a sum that reaches the target, or 0 if all together do not."""
    n = int(input())
    v = list(map(int, input().split()))
    target = int(input())
    lengths = [j - i for i in range(n) for j in range(i + 1, n + 1) if sum(v[i:j]) >= target]
    print(min(lengths, default=0))
