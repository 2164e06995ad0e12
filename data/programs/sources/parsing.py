"""Parsing: times, keys and values, expressions, small languages."""

from __future__ import annotations

from random import Random

from sources.problem import Line, problem, word


@problem(0, lambda r: [f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}"])
def minutes_of_clock() -> None:
    """A time is given as HH:MM. Print how many minutes have passed since midnight."""
    hours, minutes = input().split(":")
    print(60 * int(hours) + int(minutes))


@problem(0, lambda r: [",".join(str(r.randint(-20, 40)) for _ in range(r.randint(2, 7)))])
def sum_of_commas() -> None:
    """Whole numbers are given on one line with commas between them. Print their sum."""
    print(sum(map(int, input().split(","))))


@problem(0, lambda r: [f"{r.randint(1, 28):02d}.{r.randint(1, 12):02d}.{r.randint(1900, 2099)}"])
def date_turned() -> None:
    """A date is given as DD.MM.YYYY. Print it as YYYY-MM-DD."""
    day, month, year = input().strip().split(".")
    print(f"{year}-{month}-{day}")


@problem(0, lambda r: [f"{word(r, 2, 6)}.{word(r, 1, 4)}@{word(r, 3, 6)}.org"])
def user_and_host() -> None:
    """An e-mail address is given. Print what stands before its `@`, and on the next line what stands behind it."""
    print(*input().strip().split("@"), sep="\n")


@problem(0, lambda r: [f"{r.randint(-30, 90)} {r.choice('+-*')} {r.randint(-30, 90)}"])
def small_calculator() -> None:
    """One line holds a whole number, one of the signs + - *, and another whole number, with spaces between. Print the
    result."""
    a, sign, b = input().split()
    x, y = int(a), int(b)
    print(x + y if sign == "+" else x - y if sign == "-" else x * y)


@problem(0, lambda r: [f"{r.randint(0, 255):02x}{r.randint(0, 255):02x}{r.randint(0, 255):02x}"])
def colour_parts() -> None:
    """A colour is given as six hexadecimal digits, two each for red, green and blue. Print the three values as decimal
    numbers on one line."""
    s = input().strip()
    print(*[int(s[i : i + 2], 16) for i in (0, 2, 4)])


@problem(1, lambda r: [";".join(f"{word(r, 1, 3)}={r.randint(0, 50)}" for _ in range(r.randint(2, 5)))])
def keys_and_values() -> None:
    """Pairs `key=value` are given on one line with semicolons between them; the values are whole numbers. If a key
    occurs again its last value counts. Print the keys in alphabetical order, one a line, each followed by a space and
    its value."""
    values = dict(pair.split("=") for pair in input().strip().split(";"))
    for key in sorted(values):
        print(key, values[key])


@problem(1, lambda r: [",".join(ranged(r) for _ in range(r.randint(1, 4)))])
def page_ranges() -> None:
    """Pages are given as a list with commas, like `1-3,7,9-10`. Print how many pages these are, each counted once."""
    pages = set()
    for part in input().strip().split(","):
        first, _, last = part.partition("-")
        pages.update(range(int(first), int(last or first) + 1))
    print(len(pages))


def ranged(r: Random) -> str:
    first = r.randint(1, 40)
    return r.choice([str(first), f"{first}-{first + r.randint(1, 9)}"])


@problem(1, lambda r: [f"{r.randint(0, 5)}h{r.randint(0, 59)}m", f"{r.randint(0, 5)}h{r.randint(0, 59)}m"])
def add_durations() -> None:
    """Two lines hold durations like `2h35m`. Print their sum in the same form, with fewer than 60 minutes."""
    total = 0
    for _ in range(2):
        hours, minutes = input().strip().rstrip("m").split("h")
        total += 60 * int(hours) + int(minutes)
    print(f"{total // 60}h{total % 60}m")


@problem(1, lambda r: [".".join(str(r.choice([r.randint(0, 255), r.randint(0, 400)])) for _ in range(r.randint(3, 5)))])
def address_check() -> None:
    """A line of whole numbers with dots between them is given. If these are exactly four numbers from 0 to 255, print
    their sum, else `bad`."""
    parts = list(map(int, input().strip().split(".")))
    print(sum(parts) if len(parts) == 4 and max(parts) < 256 else "bad")


@problem(1, lambda r: ["_".join(word(r, 1, 5) for _ in range(r.randint(2, 4)))])
def camel_case() -> None:
    """A name like `first_second_third` is given. Print it as `firstSecondThird`."""
    first, *others = input().strip().split("_")
    print(first + "".join(w.capitalize() for w in others))


@problem(1, lambda r: ["".join(word(r, 0, 3) + str(r.randint(0, 60)) for _ in range(r.randint(1, 4))) + word(r, 0, 2)])
def numbers_in_text() -> None:
    """A text of small letters and digits is given. Every run of digits is a number. Print their sum."""
    total, digits = 0, ""
    for c in input().strip() + ".":
        if c.isdigit():
            digits += c
        elif digits:
            total += int(digits)
            digits = ""
    print(total)


@problem(1, lambda r: [f"/{'/'.join(r.choice(['a', 'b', 'cd', '..', '.']) for _ in range(r.randint(2, 7)))}"])
def tidy_path() -> None:
    """A path like `/a/../b/./c` is given. A `.` stands for nothing, and `..` takes the name before it away (at the top
    it does nothing). Print the path that is left, `/` if it is empty."""
    names = []
    for part in input().strip().split("/"):
        if part == "..":
            del names[-1:]
        elif part not in ("", "."):
            names.append(part)
    print("/" + "/".join(names))


@problem(1, lambda r: [s := word(r, 1, 4), [s[0] if i % 2 else "x" for i in range(r.randint(1, 4))]])
def count_tokens() -> None:
    """The first line holds a word, the second some words. Print how many of these are the beginning of the first."""
    s = input().strip()
    print(sum(s.startswith(w) for w in input().split()))


def postfix(r: Random) -> str:
    tokens, depth = [], 0
    for _ in range(r.randint(4, 8)):
        if depth >= 2 and r.random() < 0.5:
            tokens.append(r.choice("+-*"))
            depth -= 1
        else:
            tokens.append(str(r.randint(1, 9)))
            depth += 1
    return " ".join(tokens + [r.choice("+-") for _ in range(depth - 1)])


@problem(2, lambda r: [postfix(r)])
def reverse_polish() -> None:
    """An expression in postfix form is given: whole numbers and the signs + - *, with spaces between them; a sign is
    applied to the two values before it. Print its value."""
    stack = []
    for token in input().split():
        if token in "+-*":
            b, a = stack.pop(), stack.pop()
            stack.append(a + b if token == "+" else a - b if token == "-" else a * b)
        else:
            stack.append(int(token))
    print(stack[0])


def expression(r: Random, depth: int) -> str:
    if depth == 0 or r.random() < 0.3:
        return str(r.randint(1, 9))
    left, right = expression(r, depth - 1), expression(r, depth - 1)
    return r.choice([f"({left}{r.choice('+-')}{right})", f"{left}*{right}", f"({left}+{right})"])


@problem(3, lambda r: [expression(r, 3)])
def infix_value() -> None:
    """An expression of whole numbers, + - * and round brackets is given, without spaces. As usual * binds more strongly
    than + and -. Print its value."""
    rest = list(input().strip())

    def total() -> int:
        value = product()
        while rest and rest[0] in "+-":
            sign = rest.pop(0)
            value += product() if sign == "+" else -product()
        return value

    def product() -> int:
        value = atom()
        while rest and rest[0] == "*":
            rest.pop(0)
            value *= atom()
        return value

    def atom() -> int:
        if rest[0] == "(":
            rest.pop(0)
            value = total()
            rest.pop(0)
            return value
        digits = ""
        while rest and rest[0].isdigit():
            digits += rest.pop(0)
        return int(digits)

    print(total())


def brackets(r: Random) -> str:
    pairs = [r.choice(["()", "[]", "{}"]) for _ in range(r.randint(1, 4))]
    s = ""
    for pair in pairs:
        s = r.choice([pair[0] + s + pair[1], s + pair])
    return s if r.random() < 0.6 else s[:-1] + r.choice(")]}([{")


@problem(2, lambda r: [brackets(r)])
def kinds_of_brackets() -> None:
    """A line of brackets ( ) [ ] { } is given. Print `ok` if each is closed by its own kind in the right order. Else
    print the place, counted from 1, of the first closing bracket that does not fit, or, if all fit but some stay open,
    the length of the line plus 1."""
    stack, s = [], input().strip()
    pairs = {")": "(", "]": "[", "}": "{"}
    for i, c in enumerate(s, 1):
        if c not in pairs:
            stack.append(c)
        elif not stack or stack.pop() != pairs[c]:
            print(i)
            break
    else:
        print(len(s) + 1 if stack else "ok")


@problem(
    2, lambda r: [r.randint(2, 4), *(f"{word(r, 2, 4)},{r.randint(1, 9)},{r.randint(1, 30)}" for _ in range(4))][:6]
)
def bill_from_lines() -> None:
    """The first line says how many lines to read after it (there may be more, which do not count), each as
    `name,quantity,price` with whole numbers. Print the name of the line that costs most, the first of several, and on
    the next line the total."""
    items = [input().strip().split(",") for _ in range(int(input()))]
    costs = [int(quantity) * int(price) for _, quantity, price in items]
    print(items[costs.index(max(costs))][0])
    print(sum(costs))


def polynomial(r: Random) -> str:
    terms = [f"{r.choice('+-')}{r.randint(1, 9)}{r.choice(['', 'x', 'x^2', 'x^3'])}" for _ in range(r.randint(1, 4))]
    return "".join(terms).removeprefix("+")


@problem(3, lambda r: [polynomial(r), r.randint(-5, 6)])
def polynomial_value() -> None:
    """The first line holds a polynomial like `3x^2-2x+7`: whole numbers, each alone, with `x`, or with `x^` and an
    exponent; a kind of term may occur more than once. The second line holds a whole number x. Print the value."""
    terms = input().strip().replace("-", "+-").split("+")
    x = int(input())
    total = 0
    for term in terms:
        if term:
            factor, variable, exponent = term.partition("x")
            power = int(exponent[1:]) if exponent else len(variable)
            total += int(factor) * x**power
    print(total)


@problem(
    2, lambda r: ["".join(r.choice(["3[a]", "2[bc]", "x", "2[a2[b]]", "yz", "4[q]"]) for _ in range(r.randint(1, 4)))]
)
def repeated_groups() -> None:
    """A text is given in which `3[ab]` stands for `ababab`; such groups may stand inside others. Print it written
    out."""
    stack, number, here = [], 0, ""
    for c in input().strip():
        if c.isdigit():
            number = 10 * number + int(c)
        elif c == "[":
            stack.append((here, number))
            here, number = "", 0
        elif c == "]":
            before, times = stack.pop()
            here = before + here * times
        else:
            here += c
    print(here)


def small_program(r: Random) -> list[Line]:
    lines: list[Line] = [f"set {name} {r.randint(0, 9)}" for name in "ab"]
    for _ in range(r.randint(1, 5)):
        lines.append(f"{r.choice(['add', 'sub', 'mul'])} {r.choice('ab')} {r.choice(['a', 'b', '2', '5'])}")
    return [len(lines), *lines]


@problem(3, lambda r: small_program(r))
def two_registers() -> None:
    """The first line says how many commands follow, one a line: `set`, `add`, `sub` or `mul`, then a register (a or b,
    both 0 at first), then a register or a whole number not below 0. A command sets its register to that value, or adds,
    subtracts or multiplies it. Print both registers on one line, a first."""
    registers = {"a": 0, "b": 0}
    for _ in range(int(input())):
        command, target, source = input().split()
        value = registers[source] if source in registers else int(source)
        old = registers[target]
        results = {"set": value, "add": old + value, "sub": old - value, "mul": old * value}
        registers[target] = results[command]
    print(registers["a"], registers["b"])


@problem(2, lambda r: [r.randint(1, 2**31)])
def bytes_for_people() -> None:
    """A number of bytes is given. Print it as whole number and unit, `B`, `K`, `M` or `G`: divide by 1024, rounding
    down, as long as that leaves at least 1. Then print, behind a space, how many bytes the rounding has lost."""
    n = int(input())
    size, unit = n, 0
    while size >= 1024 and unit < 3:
        size //= 1024
        unit += 1
    print(f"{size}{'BKMG'[unit]}", n - size * 1024**unit)
