"""Dynamic programming, search and graphs: the best of many ways, or how many there are."""

from __future__ import annotations

from random import Random

from sources.problem import Line, counted, grid, ints, problem, word


@problem(0, lambda r: [r.randint(1, 35)])
def stairs() -> None:
    """A number of stairs is given. Print in how many ways they can be climbed with steps of one or two stairs."""
    a, b = 1, 1
    for _ in range(int(input())):
        a, b = b, a + b
    print(a)


@problem(0, lambda r: [[r.randint(1, 8), r.randint(1, 8)]])
def lattice_paths() -> None:
    """One line holds a number of rows and of columns of a street map's blocks. Print how many ways lead from one corner
    to the opposite one, going only to the right and down."""
    rows, columns = map(int, input().split())
    ways = [1] * (columns + 1)
    for _ in range(rows):
        for j in range(1, columns + 1):
            ways[j] += ways[j - 1]
    print(ways[columns])


@problem(1, lambda r: [sorted({1, *ints(r, 1, 3, 2, 12)}), r.randint(5, 60)])
def fewest_coins() -> None:
    """The first line holds the values of coins, 1 among them, each there without end; the second an amount. Print how
    few coins pay it."""
    coins = list(map(int, input().split()))
    best = [0]
    for amount in range(1, int(input()) + 1):
        best.append(1 + min(best[amount - c] for c in coins if c <= amount))
    print(best[-1])


@problem(1, lambda r: [sorted(set(ints(r, 1, 4, 1, 9))), r.randint(4, 40)])
def ways_to_pay() -> None:
    """The first line holds the different values of coins, each there without end; the second an amount. Print in how
    many ways it can be paid; the order of the coins does not count."""
    coins = list(map(int, input().split()))
    amount = int(input())
    ways = [1] + [0] * amount
    for c in coins:
        for a in range(c, amount + 1):
            ways[a] += ways[a - c]
    print(ways[amount])


@problem(1, lambda r: counted(ints(r, 3, 8, 1, 20)))
def no_neighbours() -> None:
    """The first line says how many whole numbers, none negative, follow on the second. Print the largest sum of numbers
    of which no two stand side by side."""
    input()
    taken = left = 0
    for value in map(int, input().split()):
        taken, left = left + value, max(taken, left)
    print(max(taken, left))


@problem(1, lambda r: counted(ints(r, 3, 8, 1, 30)))
def one_trade() -> None:
    """The first line says for how many days prices follow on the second. Print the largest gain of buying on one day
    and selling on a later one, or 0 if there is none."""
    input()
    lowest, gain = None, 0
    for price in map(int, input().split()):
        lowest = price if lowest is None else min(lowest, price)
        gain = max(gain, price - lowest)
    print(gain)


@problem(1, lambda r: [n := r.randint(2, 5), *(ints(r, i, i, 1, 9) for i in range(1, n + 1))])
def triangle_path() -> None:
    """The first line holds a number of rows; row i of the i-th line after it holds i whole numbers. Begin at the top;
    in each row go to the number right below or to the next one after it. Print the largest sum on such a way to the
    bottom."""
    rows = [list(map(int, input().split())) for _ in range(int(input()))]
    best = rows.pop()
    while rows:
        row = rows.pop()
        best = [value + max(best[i], best[i + 1]) for i, value in enumerate(row)]
    print(best[0])


@problem(1, lambda r: [r.randint(1, 8)])
def bracket_ways() -> None:
    """A number n is given. Print in how many ways n pairs of round brackets can be written in a correct order."""
    ways = [1]
    for n in range(1, int(input()) + 1):
        ways.append(sum(ways[i] * ways[n - 1 - i] for i in range(n)))
    print(ways[-1])


@problem(2, lambda r: [word(r, 2, 8, "abcd"), word(r, 2, 8, "abcd")])
def edit_distance() -> None:
    """Two lines hold two words. Print how many letters must be inserted, deleted or replaced at least to turn the first
    into the second."""
    a, b = input().strip(), input().strip()
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (x != y)))
        row = new
    print(row[-1])


@problem(2, lambda r: [word(r, 3, 9, "abc"), word(r, 3, 9, "abc")])
def common_subsequence() -> None:
    """Two lines hold two words. Print the length of the longest word that is left of both when letters are taken
    out."""
    a, b = input().strip(), input().strip()
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a)):
        for j in range(len(b)):
            best[i + 1][j + 1] = best[i][j] + 1 if a[i] == b[j] else max(best[i][j + 1], best[i + 1][j])
    print(best[-1][-1])


@problem(2, lambda r: counted(ints(r, 4, 9, 1, 20)))
def rising_subsequence() -> None:
    """The first line says how many whole numbers follow on the second. Print the length of the longest choice of them,
    in their order, in which each is larger than the one before."""
    input()
    v = list(map(int, input().split()))
    best = []
    for i, value in enumerate(v):
        best.append(1 + max((best[j] for j in range(i) if v[j] < value), default=0))
    print(max(best))


@problem(2, lambda r: [[n := r.randint(2, 5), r.randint(4, 15)], *(ints(r, 2, 2, 1, 9) for _ in range(n))])
def knapsack() -> None:
    """One line holds a number of things and the weight that a bag can hold; a line for each thing follows with its
    weight and its value. Print the largest value that the bag can hold, each thing being there once."""
    n, capacity = map(int, input().split())
    best = [0] * (capacity + 1)
    for _ in range(n):
        weight, value = map(int, input().split())
        for c in range(capacity, weight - 1, -1):
            best[c] = max(best[c], best[c - weight] + value)
    print(best[capacity])


@problem(2, lambda r: counted(ints(r, 3, 7, 1, 12)))
def fair_halves() -> None:
    """The first line says how many positive whole numbers follow on the second. Split them into two groups whose sums
    differ as little as possible. Print that difference."""
    input()
    v = list(map(int, input().split()))
    sums = {0}
    for value in v:
        sums |= {s + value for s in sums}
    print(min(abs(sum(v) - 2 * s) for s in sums))


@problem(2, lambda r: grid(r, "...#", 3, 5))
def paths_past_walls() -> None:
    """The first line holds the rows and columns of a field, which follows line by line with `#` for walls and `.` for
    free places. Print how many ways lead from the top left to the bottom right, going only to the right and down over
    free places (both corners must be free as well)."""
    rows, columns = map(int, input().split())
    ways = [0] * columns
    for i in range(rows):
        for j, c in enumerate(input().strip()[:columns]):
            before = ways[j - 1] if j else int(i == 0)
            ways[j] = 0 if c == "#" else ways[j] + before
    print(ways[-1])


@problem(2, lambda r: grid(r, "...#", 3, 5))
def shortest_way_out() -> None:
    """The first line holds the rows and columns of a maze, which follows line by line with `#` for walls and `.` for
    free places. Print how few steps, up, down, left or right over free places, lead from the top left to the bottom
    right, or -1 if none do or one of the two is a wall."""
    rows, columns = map(int, input().split())
    maze = [input().strip() for _ in range(rows)]
    distance = {(0, 0): 0} if maze[0][0] == "." else {}
    queue = list(distance)
    for i, j in queue:
        for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= a < rows and 0 <= b < columns and maze[a][b] == "." and (a, b) not in distance:
                distance[a, b] = distance[i, j] + 1
                queue.append((a, b))
    print(distance.get((rows - 1, columns - 1), -1))


@problem(2, lambda r: grid(r, "..#", 3, 6))
def islands() -> None:
    """The first line holds the rows and columns of a map, which follows line by line with `#` for land and `.` for
    water. Land that lies side by side (not across corners) is one island. Print the number of islands and the size of
    the largest, 0 if there is none."""
    rows, _ = map(int, input().split())
    land = {(i, j) for i in range(rows) for j, c in enumerate(input().strip()) if c == "#"}
    sizes = [0]
    while land:
        queue = [land.pop()]
        for i, j in queue:
            for place in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if place in land:
                    land.remove(place)
                    queue.append(place)
        sizes.append(len(queue))
    print(len(sizes) - 1, max(sizes))


def roads(r: Random, weighted: bool) -> list[Line]:
    towns = r.randint(3, 6)
    pairs = [(a, b) for a in range(1, towns + 1) for b in range(1, a)]
    chosen = r.sample(pairs, r.randint(2, min(7, len(pairs))))
    return [[towns, len(chosen)], *([a, b, r.randint(1, 9)] if weighted else [a, b] for a, b in chosen)]


@problem(2, lambda r: roads(r, weighted=False))
def connected_towns() -> None:
    """One line holds a number of towns (1, 2 ...) and of roads; each road follows as a line with the two towns at its
    ends. Towns that roads connect, over others or not, belong together. Print how many groups there are, and the size
    of the one with town 1."""
    towns, count = map(int, input().split())
    group = list(range(towns + 1))
    for _ in range(count):
        a, b = map(int, input().split())
        old, new = group[a], group[b]
        group = [new if g == old else g for g in group]
    print(len(set(group[1:])), group[1:].count(group[1]))


@problem(3, lambda r: roads(r, weighted=True))
def shortest_road() -> None:
    """One line holds a number of towns (1, 2 ...) and of roads; each road follows as a line with the two towns at its
    ends and its length. Print the length of the shortest way from town 1 to the last town, or -1 if there is none."""
    towns, count = map(int, input().split())
    edges = [tuple(map(int, input().split())) for _ in range(count)]
    far = 10**9
    distance = [far] * (towns + 1)
    distance[1] = 0
    for _ in range(towns):
        for a, b, length in edges:
            distance[a] = min(distance[a], distance[b] + length)
            distance[b] = min(distance[b], distance[a] + length)
    print(distance[towns] if distance[towns] < far else -1)


@problem(3, lambda r: roads(r, weighted=True))
def cheapest_net() -> None:
    """One line holds a number of towns (1, 2 ...) and of possible roads; each follows as a line with the two towns at
    its ends and its cost. Print the lowest cost at which all towns can be connected, or `no` if they cannot."""
    towns, count = map(int, input().split())
    edges = sorted((cost, a, b) for a, b, cost in (map(int, input().split()) for _ in range(count)))
    group = list(range(towns + 1))
    total = 0
    for cost, a, b in edges:
        if group[a] != group[b]:
            total += cost
            old, new = group[a], group[b]
            group = [new if g == old else g for g in group]
    print(total if len(set(group[1:])) == 1 else "no")


@problem(3, lambda r: [r.randint(4, 7)])
def queens() -> None:
    """A number n is given. Print in how many ways n queens can stand on a board of n rows and columns so that no two
    are in the same row, column or diagonal."""
    n = int(input())

    def place(row: int, columns: tuple[int, ...]) -> int:
        if row == n:
            return 1
        free = [c for c in range(n) if all(c != d and abs(c - d) != row - i for i, d in enumerate(columns))]
        return sum(place(row + 1, (*columns, c)) for c in free)

    print(place(0, ()))


@problem(3, lambda r: [word(r, 3, 9, "abc")])
def palindrome_cuts() -> None:
    """A word is given. Print how few cuts divide it into pieces that each read the same backwards."""
    s = input().strip()
    best = [-1]
    for end in range(1, len(s) + 1):
        best.append(min(best[b] + 1 for b in range(end) if s[b:end] == s[b:end][::-1]))
    print(best[-1])


@problem(3, lambda r: [r.randint(1, 5), ints(r, 2, 7, 1, 9)])
def split_work() -> None:
    """The first line holds a number of workers, the second how long some jobs take. Every worker gets jobs that stand
    side by side, or none. Print the shortest time after which all can be done."""
    workers = int(input())
    jobs = list(map(int, input().split()))
    limit = max(jobs)
    while True:
        used, left = 1, limit
        for job in jobs:
            if job > left:
                used, left = used + 1, limit
            left -= job
        if used <= workers:
            break
        limit += 1
    print(limit)


@problem(3, lambda r: counted(ints(r, 2, 6, 1, 9)))
def matrix_chain() -> None:
    """The first line says how many whole numbers follow on the second, at least two: the sizes of a chain of matrices,
    each having as many rows as one number says and as many columns as the next one. Multiplying one of a rows and b
    columns by one of b rows and c columns takes a times b times c steps. Print the fewest steps that multiply them
    all."""
    n = int(input())
    size = list(map(int, input().split()))
    steps = {(i, i + 1): 0 for i in range(n - 1)}
    for length in range(2, n):
        for i in range(n - length):
            j = i + length
            ways = (steps[i, k] + steps[k, j] + size[i] * size[k] * size[j] for k in range(i + 1, j))
            steps[i, j] = min(ways)
    print(steps[0, n - 1])


@problem(2, lambda r: [word(r, 3, 8, "ab"), word(r, 1, 3, "ab")])
def hidden_word() -> None:
    """Two lines hold two words. Print in how many ways the second can be read out of the first by taking letters out of
    it (different places count as different ways)."""
    text, hidden = input().strip(), input().strip()
    ways = [1] + [0] * len(hidden)
    for c in text:
        for j in range(len(hidden), 0, -1):
            if hidden[j - 1] == c:
                ways[j] += ways[j - 1]
    print(ways[-1])


@problem(2, lambda r: [word(r, 1, 8, "123456")])
def letter_codes() -> None:
    """Letters are written as numbers, a as 1 to z as 26, without spaces. A line of such digits, none of them 0, is
    given. Print in how many ways it can be read as letters."""
    s = input().strip()
    ways = [1]
    for i in range(1, len(s) + 1):
        two = ways[i - 2] if i > 1 and int(s[i - 2 : i]) <= 26 else 0
        ways.append(ways[i - 1] + two)
    print(ways[-1])
