"""Simulation: things that move, wait, grow and are traded, step by step."""

from __future__ import annotations

from random import Random

from sources.problem import Line, counted, grid, ints, problem, word


@problem(0, lambda r: [word(r, 3, 12, "UDLR")])
def robot_end() -> None:
    """A robot stands at 0 0. A line of letters moves it: U adds 1 to y, D takes 1 away, R adds 1 to x, L takes 1 away.
    Print where it ends, x and y."""
    s = input()
    print(s.count("R") - s.count("L"), s.count("U") - s.count("D"))


@problem(0, lambda r: [r.randint(0, 50), ints(r, 2, 7, -20, 30)])
def account_balance() -> None:
    """The first line holds the balance of an account, the second payments into it (positive) and out of it (negative).
    Print the balance at the end."""
    print(int(input()) + sum(map(int, input().split())))


@problem(0, lambda r: [[r.randint(1, 12), r.randint(0, 60)]])
def hours_later() -> None:
    """One line holds the hour on a clock of 12 hours (1 to 12) and a number of hours. Print what the clock shows so
    many hours later."""
    hour, later = map(int, input().split())
    print((hour - 1 + later) % 12 + 1)


@problem(0, lambda r: [[r.randint(5, 60), r.randint(1, 9), r.randint(1, 8)]])
def melting() -> None:
    """One line holds the height of a candle, how much of it burns in an hour, and a number of hours, whole numbers.
    Print the height that is left, which is never below 0."""
    height, rate, hours = map(int, input().split())
    print(max(0, height - rate * hours))


@problem(1, lambda r: [word(r, 4, 14, "LRF")])
def turtle() -> None:
    """A turtle stands at 0 0 and looks to the north. L turns it left by a quarter, R right, F moves it one ahead (north
    is larger y, east larger x). Print where a line of such letters brings it, x and y, and where it looks: N, E, S or
    W."""
    x = y = direction = 0
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    for c in input().strip():
        if c == "F":
            x, y = x + moves[direction][0], y + moves[direction][1]
        else:
            direction = (direction + (1 if c == "R" else -1)) % 4
    print(x, y, "NESW"[direction])


@problem(1, lambda r: [[r.randint(5, 30), r.randint(3, 6), r.randint(1, 2)]])
def snail_in_well() -> None:
    """One line holds the depth of a well, how far a snail climbs by day, and how far it slips back by night, which is
    less. Print on which day it gets out."""
    depth, up, down = map(int, input().split())
    height, day = 0, 1
    while height + up < depth:
        height += up - down
        day += 1
    print(day)


@problem(1, lambda r: [r.randint(3, 12), ints(r, 3, 8, -6, 6)])
def lift_trips() -> None:
    """The first line holds the highest floor of a house whose lowest is 0; a lift stands at 0. The second line says how
    many floors it shall go up (or down, if negative), trip by trip; a trip that would leave the house ends at its edge.
    Print the last floor and how many floors it went in total."""
    top, floor, total = int(input()), 0, 0
    for trip in map(int, input().split()):
        new = min(top, max(0, floor + trip))
        total += abs(new - floor)
        floor = new
    print(floor, total)


@problem(1, lambda r: [r.randint(1, 4), counted(ints(r, 3, 8, 1, 9))[1]])
def checkout_queues() -> None:
    """The first line holds a number of tills, the second how many minutes each customer in a queue needs. The next
    customer goes to the till that is free first. Print after how many minutes all are done."""
    tills = [0] * int(input())
    for minutes in map(int, input().split()):
        first = tills.index(min(tills))
        tills[first] += minutes
    print(max(tills))


@problem(1, lambda r: [r.randint(2, 6), word(r, 4, 12, "+-")])
def bus_seats() -> None:
    """The first line holds the number of seats of an empty bus, the second signs: + is a person who wants to get in,
    and is turned away if all seats are taken; - is one who gets out, if any is in. Print how many are in at the end and
    how many were turned away."""
    seats, inside, away = int(input()), 0, 0
    for c in input().strip():
        if c == "-":
            inside = max(0, inside - 1)
        elif inside < seats:
            inside += 1
        else:
            away += 1
    print(inside, away)


@problem(1, lambda r: [ints(r, 4, 8, 1, 6), ints(r, 4, 8, 1, 6)])
def dice_match() -> None:
    """Two lines hold the throws of two players, whole numbers; only as many rounds count as both have thrown. The
    larger throw wins its round. Print the rounds won by the first and by the second player, with a colon between."""
    first, second = input().split(), input().split()
    rounds = list(zip(map(int, first), map(int, second), strict=False))
    print(f"{sum(a > b for a, b in rounds)}:{sum(a < b for a, b in rounds)}")


@problem(1, lambda r: [[r.randint(10, 90), r.randint(2, 9), r.randint(3, 12)]])
def rabbits() -> None:
    """One line holds a number of rabbits, how many a fox eats each month, and a number of months. Each month first the
    fox eats (never more than there are), then every two rabbits left get one young. Print how many there are after so
    many months."""
    rabbits, eaten, months = map(int, input().split())
    for _ in range(months):
        rabbits = max(0, rabbits - eaten)
        rabbits += rabbits // 2
    print(rabbits)


@problem(1, lambda r: [counted(ints(r, 3, 8, 1, 9))[1], r.randint(1, 20)])
def sharing_sweets() -> None:
    """The first line says how many sweets each of some children in a row has. The second holds a number of rounds: in
    each the child with most sweets (of several the first) gives one to the child with fewest (of several the first); if
    all have equally many nothing happens. Print the row at the end."""
    row = list(map(int, input().split()))
    for _ in range(int(input())):
        if max(row) > min(row):
            row[row.index(max(row))] -= 1
            row[row.index(min(row))] += 1
    print(*row)


@problem(2, lambda r: [[r.randint(2, 20), r.randint(0, 255)]])
def line_automaton() -> None:
    """One line holds a number of steps and a rule from 0 to 255. A row of 15 cells is dead (`.`) but for its middle one
    (`#`). In each step a cell becomes what bit b of the rule says (1 is alive), b being 4 if its left neighbour lives,
    plus 2 if it lives itself, plus 1 if its right neighbour lives; beyond the ends all is dead. Print the last row."""
    steps, rule = map(int, input().split())
    cells = [0] * 15
    cells[7] = 1
    for _ in range(steps):
        padded = [0, *cells, 0]
        cells = [rule >> (4 * padded[i] + 2 * padded[i + 1] + padded[i + 2]) & 1 for i in range(15)]
    print("".join(".#"[c] for c in cells))


@problem(2, lambda r: [*grid(r, ".#"), r.randint(1, 3)])
def game_of_life() -> None:
    """The first line holds the rows and columns of a field, which follows line by line with `#` for living cells and
    `.` for dead ones; then comes a number of steps. In each step a living cell lives on with two or three living ones
    among its eight neighbours, and a dead one comes to life with three. Beyond the edges all is dead. Print the field
    at the end."""
    rows, columns = map(int, input().split())
    field = [input().strip() for _ in range(rows)]
    for _ in range(int(input())):
        alive = {(i, j) for i in range(rows) for j in range(columns) if field[i][j] == "#"}
        new = []
        for i in range(rows):
            line = ""
            for j in range(columns):
                around = sum((i + a, j + b) in alive for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b)
                line += "#" if around == 3 or (around == 2 and (i, j) in alive) else "."
            new.append(line)
        field = new
    print(*field, sep="\n")


@problem(2, lambda r: [[r.randint(3, 7), r.randint(3, 7), r.randint(1, 40)]])
def bouncing_ball() -> None:
    """One line holds the width and the height of a table and a number of steps. A ball begins at 0 0 and moves by one
    in both directions in each step, first to larger values; at 0 and at width - 1 it turns round in x, at 0 and at
    height - 1 in y. Print where it is after so many steps."""
    width, height, steps = map(int, input().split())
    x = y = 0
    dx = dy = 1
    for _ in range(steps):
        if not 0 <= x + dx < width:
            dx = -dx
        if not 0 <= y + dy < height:
            dy = -dy
        x, y = x + dx, y + dy
    print(x, y)


@problem(2, lambda r: [r.randint(2, 4), ints(r, 5, 12, 1, 6)])
def small_cache() -> None:
    """The first line holds the size of a cache, the second the pages that are asked for. A page that is not in the
    cache is a miss and is put there; if there is no room, the page that was asked for longest ago goes. Print the
    number of misses, and the pages in the cache from the oldest use to the newest, on the next line."""
    size = int(input())
    cache, misses = [], 0
    for page in input().split():
        if page in cache:
            cache.remove(page)
        else:
            misses += 1
            cache = cache[-(size - 1) :] if len(cache) == size else cache
        cache.append(page)
    print(misses)
    print(*cache)


@problem(2, lambda r: [r.randint(2, 4), ints(r, 2, 5, 1, 9)])
def round_robin() -> None:
    """The first line holds a slice of time, the second how long each of some jobs takes. The jobs stand in a queue: the
    first works for a slice, or until it is done, and then goes to the end, if it is not done. Print when each job is
    done, in the order of the input, on one line."""
    length = int(input())
    left = list(map(int, input().split()))
    queue, done, now = list(range(len(left))), [0] * len(left), 0
    while queue:
        job = queue.pop(0)
        work = min(length, left[job])
        now += work
        left[job] -= work
        if left[job]:
            queue.append(job)
        else:
            done[job] = now
    print(*done)


def hands(r: Random) -> list[Line]:
    deck = list(range(1, 9))
    r.shuffle(deck)
    cut = r.randint(3, 5)
    return [list(deck[:cut]), list(deck[cut:])]


@problem(2, lambda r: hands(r))
def card_war() -> None:
    """Two lines hold the hands of two players, all cards different. In each round both play their first card; the
    larger takes both, and puts them at the end of its owner's hand, the larger one first. It ends when a hand is empty
    or after 50 rounds. Print the number of rounds and how many cards the first player has."""
    first = list(map(int, input().split()))
    second = list(map(int, input().split()))
    rounds = 0
    while first and second and rounds < 50:
        a, b = first.pop(0), second.pop(0)
        (first if a > b else second).extend([max(a, b), min(a, b)])
        rounds += 1
    print(rounds, len(first))


@problem(2, lambda r: [ints(r, 3, 7, 0, 9), r.randint(1, 5)])
def sandpile() -> None:
    """The first line holds the heights of heaps of sand in a row, the second a number of steps. In each step, all at
    the same time, every heap of at least 2 gives one grain to each side; what leaves the row is lost. Print the heaps
    at the end on one line."""
    heaps = list(map(int, input().split()))
    for _ in range(int(input())):
        gives = [h >= 2 for h in heaps]
        new = []
        for i, h in enumerate(heaps):
            left = gives[i - 1] if i > 0 else False
            right = gives[i + 1] if i + 1 < len(heaps) else False
            new.append(h - 2 * gives[i] + left + right)
        heaps = new
    print(*heaps)


@problem(2, lambda r: [word(r, 5, 9, "ABC"), [f"{r.choice('ABC')}{r.choice('ABC')}" for _ in range(r.randint(2, 5))]])
def moving_crates() -> None:
    """Three stacks A, B and C are empty. The first line says crate by crate onto which stack it is put; the crates are
    numbered from 1. The second line holds moves like `AB`: the top crate of A goes onto B; from an empty stack nothing
    moves. Print the stacks A, B and C, one a line, from the bottom to the top, or `empty`."""
    stacks = {"A": [], "B": [], "C": []}
    for number, name in enumerate(input().strip(), 1):
        stacks[name].append(number)
    for source, target in input().split():
        if stacks[source]:
            stacks[target].append(stacks[source].pop())
    for stack in stacks.values():
        print(*stack or ["empty"])


@problem(3, lambda r: [[r.randint(3, 6), r.randint(3, 6)], word(r, 6, 16, "UDLR")])
def snake_game() -> None:
    """One line holds the columns and rows of a field. A snake of length 1 begins at its top left, 0 0. The next line
    moves its head: U, D (rows), L, R (columns). Every second move (the 2nd, 4th ...) it grows by one, else its tail end
    follows. If it leaves the field, or its head meets its body as it is after the tail has followed, it dies. Print the
    number of moves that it survived and its length then."""
    columns, rows = map(int, input().split())
    body = [(0, 0)]
    steps = {"U": (0, -1), "D": (0, 1), "L": (-1, 0), "R": (1, 0)}
    survived = 0
    for number, c in enumerate(input().strip(), 1):
        x, y = body[0][0] + steps[c][0], body[0][1] + steps[c][1]
        kept = body if number % 2 == 0 else body[:-1]
        if not (0 <= x < columns and 0 <= y < rows) or (x, y) in kept:
            break
        body = [(x, y), *kept]
        survived = number
    print(survived, len(body))


@problem(3, lambda r: [[r.randint(2, 5), r.randint(2, 9)], ints(r, 4, 8, 0, 3)])
def parcel_belt() -> None:
    """One line holds the number of places of a belt and a number of steps; the next says how many parcels wait at each
    step, one number a step (further steps have none). In each step the belt moves: what stood at its last place is
    delivered and all others move on by one. Then, if any parcel waits, one is put onto the first place. Print how many
    were delivered, and how many wait, after all steps."""
    places, steps = map(int, input().split())
    arrivals = list(map(int, input().split()))
    belt, waiting, delivered = [0] * places, 0, 0
    for step in range(steps):
        delivered += belt.pop()
        waiting += arrivals[step] if step < len(arrivals) else 0
        belt.insert(0, int(waiting > 0))
        waiting -= belt[0]
    print(delivered, waiting)


@problem(3, lambda r: [*grid(r, "..~#", 3, 5), r.randint(1, 4)])
def spreading_water() -> None:
    """The first line holds the rows and columns of a field, which follows line by line: `~` is water, `.` dry ground
    and `#` rock; then comes a number of hours. In each hour water spreads to dry ground beside it (not across corners).
    Print how many fields are under water after so many hours, and how many dry ones will never be, on one line."""
    rows, columns = map(int, input().split())
    field = [input().strip() for _ in range(rows)]
    hours = int(input())
    wet = {(i, j) for i in range(rows) for j in range(columns) if field[i][j] == "~"}
    counts = [len(wet)]
    while True:
        new = set(wet)
        for i, j in wet:
            for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if 0 <= a < rows and 0 <= b < columns and field[a][b] == ".":
                    new.add((a, b))
        if new == wet:
            break
        wet = new
        counts.append(len(wet))
    dry = sum(line.count(".") + line.count("~") for line in field)
    print(counts[min(hours, len(counts) - 1)], dry - len(wet))
