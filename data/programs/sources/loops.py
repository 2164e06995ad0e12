"""Loops: sequences, tables and patterns."""

from __future__ import annotations

from sources.problem import Line, ints, problem


@problem(0, lambda r: [r.randint(1, 40)])
def count_down() -> None:
    """A positive whole number is given. Print the numbers from it down to 1 on one line."""
    print(*range(int(input()), 0, -1))


@problem(0, lambda r: [r.randint(1, 12)])
def times_table() -> None:
    """A whole number is given. Print its products with 1 to 10 on one line."""
    n = int(input())
    print(*[n * i for i in range(1, 11)])


@problem(0, lambda r: [r.randint(1, 9)])
def staircase() -> None:
    """A positive whole number n is given. Print n lines: the first with one `#`, each later one with one more."""
    for i in range(1, int(input()) + 1):
        print("#" * i)


@problem(0, lambda r: [r.randint(1, 200)])
def gauss_sum() -> None:
    """A positive whole number n is given. Print the sum of the whole numbers from 1 to n."""
    print(sum(range(int(input()) + 1)))


@problem(0, lambda r: [r.randint(1, 15)])
def factorial() -> None:
    """A positive whole number n is given. Print the product of the whole numbers from 1 to n."""
    product = 1
    for i in range(2, int(input()) + 1):
        product *= i
    print(product)


@problem(0, lambda r: [[r.randint(1, 6), r.randint(1, 9)]])
def block_of_stars() -> None:
    """One line holds a number of rows and a number of columns. Print so many rows of so many `*`."""
    rows, columns = map(int, input().split())
    for _ in range(rows):
        print("*" * columns)


@problem(0, lambda r: [[a := r.randint(-20, 20), a + r.randint(3, 40), r.randint(1, 6)]])
def stepping() -> None:
    """One line holds three whole numbers: a begin, a larger end and a positive step. Print the begin and what follows
    it step by step, as long as it is below the end, on one line."""
    begin, end, step = map(int, input().split())
    print(*range(begin, end, step))


@problem(1, lambda r: [r.randint(1, 30)])
def fizz_words() -> None:
    """A positive whole number n is given. For each number from 1 to n print a line: `fizz` if 3 divides it, `buzz` if 5
    does, `fizzbuzz` if both do, else the number."""
    for i in range(1, int(input()) + 1):
        print("fizz" * (i % 3 == 0) + "buzz" * (i % 5 == 0) or i)


@problem(1, lambda r: [r.randint(1, 40)])
def fibonacci() -> None:
    """A positive whole number n is given. In the sequence 1, 1, 2, 3, 5 ... every number is the sum of the two before
    it. Print its n-th number."""
    a, b = 0, 1
    for _ in range(int(input())):
        a, b = b, a + b
    print(a)


@problem(1, lambda r: [r.randint(1, 6)])
def pyramid() -> None:
    """A positive whole number n is given. Print a pyramid of n lines: 1, 3, 5 ... signs `*`, each line with as many
    spaces before them as bring its middle below the top."""
    n = int(input())
    for i in range(n):
        print(" " * (n - 1 - i) + "*" * (2 * i + 1))


@problem(1, lambda r: [r.randint(2, 7)])
def checkerboard() -> None:
    """A positive whole number n is given. Print n lines of n signs, `#` and `.` in turn in both directions, with `#` at
    the top left."""
    n = int(input())
    for row in range(n):
        print("".join("#."[(row + column) % 2] for column in range(n)))


@problem(1, lambda r: [r.randint(1, 9)])
def number_triangle() -> None:
    """A whole number n from 1 to 9 is given. Print n lines: line i holds the digits from 1 to i and back to 1, without
    spaces."""
    for i in range(1, int(input()) + 1):
        up = "".join(str(j) for j in range(1, i + 1))
        print(up + up[-2::-1] if i > 1 else up)


@problem(1, lambda r: [[r.randint(100, 2000), r.randint(1, 20), r.randint(1, 12)]])
def yearly_interest() -> None:
    """One line holds an amount, a rate in percent and a number of years, whole numbers. Each year the interest, rounded
    down to a whole number, is added to the amount. Print the amount after every year, one a line."""
    amount, rate, years = map(int, input().split())
    for _ in range(years):
        amount += amount * rate // 100
        print(amount)


@problem(1, lambda r: [[r.randint(2, 60), r.randint(1, 9), r.randint(100, 900)]])
def first_above() -> None:
    """One line holds a begin, a positive addend and a limit, whole numbers. Begin with the first; in each step double
    it and then add the addend, until it is above the limit. Print the last value and the number of steps."""
    value, addend, limit = map(int, input().split())
    steps = 0
    while value <= limit:
        value = 2 * value + addend
        steps += 1
    print(value, steps)


def until_zero(values: list[int]) -> list[Line]:
    return [*values, 0]


@problem(1, lambda r: until_zero(ints(r, 1, 7, 1, 60)))
def read_until_zero() -> None:
    """Positive whole numbers are given, one a line; a 0 ends them. Print how many there are and their largest, on one
    line."""
    values = []
    while (value := int(input())) != 0:
        values.append(value)
    print(len(values), max(values))


@problem(1, lambda r: [r.randint(3, 8), ints(r, 2, 2, 1, 9)])
def own_sequence() -> None:
    """The first line holds a number n of at least 3, the second the first two numbers of a sequence. Every further one
    is twice the one before it minus the one before that, plus 1. Print the first n numbers on one line."""
    n = int(input())
    s = list(map(int, input().split()))
    while len(s) < n:
        s.append(2 * s[-1] - s[-2] + 1)
    print(*s)


@problem(2, lambda r: [r.randint(1, 7)])
def pascal_row() -> None:
    """A positive whole number n is given. Print the first n rows of Pascal's triangle, one a line: each row begins and
    ends with 1, and every other number is the sum of the two above it."""
    from itertools import pairwise

    row = [1]
    for _ in range(int(input())):
        print(*row)
        row = [1, *(a + b for a, b in pairwise(row)), 1]


@problem(2, lambda r: [r.choice(["1", "2", "3", "21", "112", "13"]), r.randint(1, 6)])
def look_and_say() -> None:
    """The first line holds a number, the second says how often to do this: read the digits aloud, run by run, and write
    down what you say (1211 is one 1, one 2, two 1s: 111221). Print the result."""
    s = input().strip()
    for _ in range(int(input())):
        out, i = "", 0
        while i < len(s):
            j = i
            while j < len(s) and s[j] == s[i]:
                j += 1
            out += str(j - i) + s[i]
            i = j
        s = out
    print(s)


@problem(2, lambda r: [[r.randint(1, 60), r.randint(1, 9), r.randint(11, 60)]])
def cycle_of_map() -> None:
    """One line holds a begin, a number c and a modulus m above 10. In each step replace x by (x times x + c) modulo m.
    Print how many steps are done before the first value occurs that comes back, and the length of the circle."""
    x, c, m = map(int, input().split())
    x %= m
    seen = {}
    while x not in seen:
        seen[x] = len(seen)
        x = (x * x + c) % m
    print(seen[x], len(seen) - seen[x])


@problem(2, lambda r: [r.randint(1, 4)])
def hanoi_moves() -> None:
    """A whole number n is given. A tower of n discs, the largest at the bottom, stands on peg A and is moved to peg C
    with the help of B; one disc at a time, never onto a smaller one, in as few moves as possible. Print each move as
    two letters, from and to, one a line."""

    def move(n: int, source: str, target: str, helper: str) -> None:
        if n:
            move(n - 1, source, helper, target)
            print(source + target)
            move(n - 1, helper, target, source)

    move(int(input()), "A", "C", "B")


@problem(2, lambda r: [r.randint(2, 6)])
def snake_table() -> None:
    """A whole number n is given. Write the numbers from 1 to n times n into a square of n rows, the first row from left
    to right, the next from right to left, and so on in turn. Print the sums of its columns on one line."""
    n = int(input())
    rows = [list(range(i * n + 1, i * n + n + 1))[:: 1 if i % 2 == 0 else -1] for i in range(n)]
    print(*[sum(column) for column in zip(*rows, strict=True)])


@problem(2, lambda r: [[a := r.randint(1, 400), a + r.randint(20, 400)]])
def digits_rising() -> None:
    """One line holds two whole numbers, the smaller first. Print how many numbers between them, both ends included,
    have digits that rise strictly from left to right."""
    from itertools import pairwise

    low, high = map(int, input().split())
    count = 0
    for n in range(low, high + 1):
        s = str(n)
        count += all(a < b for a, b in pairwise(s))
    print(count)


@problem(3, lambda r: [[r.randint(2, 40), r.randint(2, 5)]])
def josephus() -> None:
    """One line holds n and k. The people 1 to n stand in a circle; beginning at 1 every k-th one leaves until one is
    left. Print who is left, and on the next line the first three who left (or fewer, if fewer did)."""
    n, k = map(int, input().split())
    circle = list(range(1, n + 1))
    gone, place = [], 0
    while len(circle) > 1:
        place = (place + k - 1) % len(circle)
        gone.append(circle.pop(place))
    print(circle[0])
    print(*gone[:3])


@problem(3, lambda r: [[r.randint(5, 90), r.randint(2, 4)]])
def power_sums() -> None:
    """One line holds a number n and an exponent k. Print in how many ways n is a sum of different positive k-th powers;
    the order does not count."""
    n, k = map(int, input().split())

    def ways(left: int, base: int) -> int:
        if left == 0:
            return 1
        if base**k > left:
            return 0
        return ways(left - base**k, base + 1) + ways(left, base + 1)

    print(ways(n, 1))


@problem(3, lambda r: [r.choice([3, 5, 7])])
def magic_square() -> None:
    """An odd number n of at least 3 is given. Fill a square of n rows: 1 stands in the middle of the top row, each next
    number one row up and one column to the right, over the edges to the other side; where that place is taken it stands
    right below the last one. Print the rows, one a line."""
    n = int(input())
    square = [[0] * n for _ in range(n)]
    row, column = 0, n // 2
    for value in range(1, n * n + 1):
        square[row][column] = value
        up, right = (row - 1) % n, (column + 1) % n
        if square[up][right]:
            row = (row + 1) % n
        else:
            row, column = up, right
    for line in square:
        print(*line)
