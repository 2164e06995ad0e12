"""Numbers: formulas, digits, divisors."""

from __future__ import annotations

from sources.problem import ints, problem


@problem(0, lambda r: [ints(r, 2, 2, -500, 500)])
def sum_of_two() -> None:
    """Two whole numbers stand on one line. Print their sum."""
    a, b = map(int, input().split())
    print(a + b)


@problem(0, lambda r: [r.randint(1, 60), r.randint(1, 60)])
def rectangle() -> None:
    """The two lines hold the width and the height of a rectangle, whole numbers. Print its area and its circumference
    on one line."""
    w = int(input())
    h = int(input())
    print(w * h, 2 * (w + h))


@problem(0, lambda r: [r.randint(0, 5000)])
def clock_minutes() -> None:
    """A number of minutes since midnight is given, possibly more than a day's. Print the time as HH:MM on a clock of 24
    hours."""
    m = int(input()) % 1440
    print(f"{m // 60:02d}:{m % 60:02d}")


@problem(0, lambda r: [r.randint(-300, 300)])
def affine_map() -> None:
    """A whole number x is given. Print 3x + 7."""
    print(3 * int(input()) + 7)


@problem(0, lambda r: [r.randint(0, 9999)])
def last_digit_of_square() -> None:
    """A whole number n, not negative, is given. Print the last two digits of its square as a number."""
    n = int(input())
    print(n * n % 100)


@problem(0, lambda r: [r.randint(0, 10**9)])
def digit_sum() -> None:
    """A whole number, not negative, is given. Print the sum of its decimal digits."""
    print(sum(int(d) for d in input().strip()))


@problem(0, lambda r: [ints(r, 3, 3, -100, 100)])
def average_floor() -> None:
    """Three whole numbers stand on one line. Print their mean, rounded down to a whole number."""
    a, b, c = map(int, input().split())
    print((a + b + c) // 3)


@problem(1, lambda r: [r.randint(1, 500)])
def change_in_coins() -> None:
    """An amount in cents is given. Pay it with as few coins as possible out of 50, 20, 10, 5, 2 and 1. Print how many
    coins of each kind are needed, in this order, on one line."""
    n = int(input())
    counts = []
    for coin in (50, 20, 10, 5, 2, 1):
        counts.append(n // coin)
        n %= coin
    print(*counts)


@problem(1, lambda r: [ints(r, 2, 2, 1, 400)])
def gcd_and_lcm() -> None:
    """Two positive whole numbers stand on one line. Print their greatest common divisor and their least common multiple
    on one line."""
    a, b = map(int, input().split())
    x, y = a, b
    while y:
        x, y = y, x % y
    print(x, a * b // x)


@problem(1, lambda r: [r.randint(1, 2000)])
def count_divisors() -> None:
    """A positive whole number is given. Print how many divisors it has, 1 and itself included."""
    n = int(input())
    print(sum(1 for d in range(1, n + 1) if n % d == 0))


@problem(1, lambda r: [r.randint(2, 3000)])
def prime_factors() -> None:
    """A whole number of at least 2 is given. Print its prime factors in ascending order on one line, each as often as
    it divides the number."""
    n = int(input())
    factors = []
    p = 2
    while n > 1:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1
    print(*factors)


@problem(1, lambda r: [r.randint(1, 200)])
def collatz_length() -> None:
    """Begin with the positive whole number given. As long as it is not 1, halve it if it is even, else triple it and
    add 1. Print how many such steps lead to 1."""
    n = int(input())
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    print(steps)


@problem(1, lambda r: [r.choice([r.randint(1, 50), r.randint(50, 10**12)])])
def digital_root() -> None:
    """A positive whole number is given. Replace it by the sum of its digits until one digit is left. Print that digit
    and the number of replacements on one line."""
    n = int(input())
    steps = 0
    while n > 9:
        n = sum(map(int, str(n)))
        steps += 1
    print(n, steps)


@problem(1, lambda r: [[r.randint(1, 5000), r.randint(2, 9)]])
def to_base() -> None:
    """One line holds a positive whole number and a base from 2 to 9. Print the number in that base."""
    n, b = map(int, input().split())
    digits = ""
    while n:
        digits = str(n % b) + digits
        n //= b
    print(digits)


@problem(1, lambda r: [[r.choice([3, 4, 5, 9]) for _ in range(3)]])
def triangle_kind() -> None:
    """Three positive whole numbers stand on one line. Print `none` if no triangle has sides of these lengths (one that
    is flat is none), else `equilateral`, `isosceles` or `scalene`."""
    a, b, c = sorted(map(int, input().split()))
    if a + b <= c:
        print("none")
    elif a == c:
        print("equilateral")
    elif a == b or b == c:
        print("isosceles")
    else:
        print("scalene")


@problem(1, lambda r: [[r.randint(2, 50), r.randint(0, 10**9), r.randint(2, 1000)]])
def power_modulo() -> None:
    """One line holds three whole numbers: a base, an exponent that is not negative, and a modulus above 1. Print the
    power modulo the modulus."""
    a, n, m = map(int, input().split())
    result = 1 % m
    while n:
        if n % 2:
            result = result * a % m
        a = a * a % m
        n //= 2
    print(result)


@problem(2, lambda r: [sorted(ints(r, 2, 2, 1, 400))])
def primes_between() -> None:
    """One line holds two whole numbers, the smaller first, both at least 1. Print the number of primes between them,
    both ends included, and on the next line their sum."""
    low, high = map(int, input().split())
    primes = [n for n in range(max(2, low), high + 1) if all(n % d for d in range(2, int(n**0.5) + 1))]
    print(len(primes))
    print(sum(primes))


@problem(2, lambda r: [f"{r.randint(1, 12)}/{r.randint(1, 12)}", f"{r.randint(1, 12)}/{r.randint(1, 12)}"])
def reduce_fraction_sum() -> None:
    """Two lines hold one fraction each, as `a/b` with positive whole numbers. Print their sum in lowest terms in the
    same form; where the denominator is 1 print the whole number alone."""
    from fractions import Fraction

    total = Fraction(input().strip()) + Fraction(input().strip())
    print(total)


@problem(2, lambda r: [r.choice([6, 28, 496, r.randint(2, 300), r.randint(2, 50) * 12])])
def perfect_kind() -> None:
    """A whole number of at least 2 is given. Add up its divisors that are smaller than itself. Print `deficient`,
    `perfect` or `abundant`, as the sum is smaller than the number, equal or larger, and behind it the sum."""
    n = int(input())
    s = sum(d for d in range(1, n) if n % d == 0)
    kind = "deficient" if s < n else "perfect" if s == n else "abundant"
    print(kind, s)


@problem(2, lambda r: [r.randint(1, 3999)])
def to_roman() -> None:
    """A whole number from 1 to 3999 is given. Print it as a Roman numeral."""
    n = int(input())
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    signs = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    written = ""
    for value, sign in zip(values, signs, strict=True):
        written += sign * (n // value)
        n %= value
    print(written)


@problem(2, lambda r: [[r.randint(1, 60), r.randint(2, 60)]])
def modular_inverse() -> None:
    """One line holds two whole numbers a and m with m above 1. Print the smallest positive x for which a times x is 1
    modulo m, or `none`."""
    a, m = map(int, input().split())
    for x in range(1, m):
        if a * x % m == 1:
            print(x)
            break
    else:
        print("none")


@problem(2, lambda r: [2 * r.randint(2, 500)])
def goldbach() -> None:
    """An even whole number of at least 4 is given. Write it as a sum of two primes whose smaller one is as small as
    possible. Print both, the smaller first, on one line."""

    def prime(n):
        return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))

    n = int(input())
    p = next(p for p in range(2, n) if prime(p) and prime(n - p))
    print(p, n - p)


@problem(3, lambda r: [ints(r, 2, 2, 1, 300)])
def continued_fraction() -> None:
    """One line holds two positive whole numbers a and b. Print the terms of the continued fraction of a/b on one line:
    the whole part, then those of the inverse of what is left, until nothing is left."""
    a, b = map(int, input().split())
    terms = []
    while b:
        terms.append(a // b)
        a, b = b, a % b
    print(*terms)


@problem(3, lambda r: [[r.randint(0, m - 1), m] for m in ints(r, 2, 2, 2, 30)])
def chinese_remainder() -> None:
    """Two lines hold two whole numbers each: a remainder r and a modulus m above r. Print the smallest x that is not
    negative and leaves both remainders, or `none` if there is no such x."""
    r1, m1 = map(int, input().split())
    r2, m2 = map(int, input().split())
    x = r1
    while x < m1 * m2:
        if x % m2 == r2:
            print(x)
            break
        x += m1
    else:
        print("none")
