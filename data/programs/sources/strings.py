"""Text: letters, words, ciphers."""

from __future__ import annotations

from sources.problem import problem, word, words


@problem(0, lambda r: [word(r, 3, 12)])
def reverse_line() -> None:
    """A line of small letters is given. Print it backwards."""
    print(input().strip()[::-1])


@problem(0, lambda r: [words(r, 2, 6)])
def count_vowels() -> None:
    """A line of small letters and spaces is given. Print how many of its letters are vowels (a, e, i, o, u)."""
    print(sum(letter in "aeiou" for letter in input()))


@problem(0, lambda r: [words(r, 2, 7)])
def longest_word() -> None:
    """A line of words is given. Print the longest of them; of several equally long ones the first."""
    print(max(input().split(), key=len))


@problem(0, lambda r: [word(r, 2, 9)])
def double_letters() -> None:
    """A word is given. Print it with every letter written twice."""
    print("".join(letter * 2 for letter in input().strip()))


@problem(0, lambda r: [words(r, 2, 7)])
def initials() -> None:
    """A line of words in small letters is given. Print their first letters as capitals, without spaces."""
    print("".join(w[0].upper() for w in input().split()))


@problem(0, lambda r: [word(r, n, n) if (n := 2 * r.randint(1, 5) + 1) else ""])
def replace_middle() -> None:
    """A word of an odd number of letters is given. Print it with the letter in its middle replaced by `*`."""
    s = input().strip()
    m = len(s) // 2
    print(s[:m] + "*" + s[m + 1 :])


@problem(1, lambda r: [r.randint(1, 25), words(r, 2, 5)])
def caesar() -> None:
    """The first line holds a number from 1 to 25, the second a line of small letters and spaces. Move every letter so
    many places on in the alphabet, from z on to a, and print the line."""
    k = int(input())
    out = ""
    for c in input():
        out += chr((ord(c) - 97 + k) % 26 + 97) if c.isalpha() else c
    print(out)


@problem(1, lambda r: [word(r, 4, 14, "abc")])
def run_lengths() -> None:
    """A word is given. Write each run of equal letters as the letter and the length of the run, and print all without
    spaces: `aab` becomes `a2b1`."""
    from itertools import groupby

    print("".join(c + str(len(list(run))) for c, run in groupby(input().strip())))


@problem(1, lambda r: ["".join(word(r, 1, 1) + str(r.randint(1, 9)) for _ in range(r.randint(1, 5)))])
def expand_runs() -> None:
    """A text is given in which every letter is followed by one digit from 1 to 9. Print each letter as often as its
    digit says."""
    s = input().strip()
    print("".join(s[i] * int(s[i + 1]) for i in range(0, len(s), 2)))


@problem(1, lambda r: [word(r, 4, 16, "abcdef")])
def commonest_letter() -> None:
    """A word is given. Print its commonest letter and how often it occurs, on one line; of several the first in the
    alphabet."""
    s = input().strip()
    best = min(set(s), key=lambda c: (-s.count(c), c))
    print(best, s.count(best))


@problem(1, lambda r: [word(r, 3, 14, "abcd")])
def palindrome_distance() -> None:
    """A word is given. Print how many of its letters must be changed at least to make it read the same backwards."""
    s = input().strip()
    print(sum(a != b for a, b in zip(s, s[::-1], strict=True)) // 2)


@problem(1, lambda r: [word(r, 3, 12)])
def swap_case_by_place() -> None:
    """A word of small letters is given. Print it with capitals at every second place, beginning with a capital."""
    s = input().strip()
    print("".join(c.upper() if i % 2 == 0 else c for i, c in enumerate(s)))


@problem(1, lambda r: [[s + word(r, 1, 4) for s in [word(r, 0, 5)] for _ in range(r.randint(2, 4))]])
def common_prefix() -> None:
    """A line of words is given. Print the longest beginning that all of them share, in square brackets."""
    ws = input().split()
    n = 0
    while n < min(map(len, ws)) and len({w[: n + 1] for w in ws}) == 1:
        n += 1
    print("[" + ws[0][:n] + "]")


@problem(1, lambda r: [words(r, 3, 8)])
def sort_by_length() -> None:
    """A line of words is given. Print them by length, the shortest first; equally long ones by the alphabet."""
    print(*sorted(input().split(), key=lambda w: (len(w), w)))


@problem(2, lambda r: [[word(r, 2, 3, "abc") for _ in range(r.randint(3, 12))]])
def anagram_groups() -> None:
    """A line of words is given. Words that consist of the same letters belong together. Print how many groups there
    are, and on the next line the size of the largest."""
    from collections import Counter

    groups = Counter("".join(sorted(w)) for w in input().split())
    print(len(groups))
    print(max(groups.values()))


@problem(2, lambda r: [word(r, 2, 4), word(r, 5, 12)])
def vigenere() -> None:
    """The first line holds a key word, the second a text of small letters. Move each letter of the text on by the place
    of the key's letter in the alphabet (a by 0, b by 1 ...), from z on to a; the key is repeated as often as needed.
    Print the text."""
    key, text = input().strip(), input().strip()
    out = ""
    for i, c in enumerate(text):
        k = ord(key[i % len(key)]) - 97
        out += chr((ord(c) - 97 + k) % 26 + 97)
    print(out)


@problem(2, lambda r: [[word(r, 2, 6, "aeioubcdst") for _ in range(r.randint(2, 5))]])
def pig_latin() -> None:
    """A line of words in small letters is given. A word that begins with a vowel (a, e, i, o, u) gets `way` at its end.
    Of any other the letters before its first vowel (all, if it has none) move to the end, followed by `ay`. Print the
    line."""

    def turned(w):
        if w[0] in "aeiou":
            return w + "way"
        i = next((i for i, c in enumerate(w) if c in "aeiou"), len(w))
        return w[i:] + w[:i] + "ay"

    print(*map(turned, input().split()))


@problem(2, lambda r: [word(r, 4, 16, "abc")])
def longest_palindrome_inside() -> None:
    """A word is given. Print the longest part of it, letters that stand side by side, that reads the same backwards; of
    several equally long ones the first."""
    s = input().strip()
    parts = [s[i:j] for i in range(len(s)) for j in range(i + 1, len(s) + 1)]
    print(max((p for p in parts if p == p[::-1]), key=len))


@problem(2, lambda r: [r.randint(2, 4), word(r, 6, 15)])
def rail_fence() -> None:
    """The first line holds a number of rails from 2 to 4, the second a word. Write the word down and up across the
    rails in zigzag, then read rail by rail from the top. Print what you read."""
    k, s = int(input()), input().strip()
    rails = [""] * k
    for i, c in enumerate(s):
        j = i % (2 * k - 2)
        rails[min(j, 2 * k - 2 - j)] += c
    print("".join(rails))


@problem(
    2, lambda r: [r.choice(["()", "(())", "((()))", "(()())", "(", "())"]) + r.choice(["()", "(())", "(((())))", ""])]
)
def balanced_depth() -> None:
    """A line of round brackets is given. Print how deeply they are nested at most if they are balanced, else -1."""
    depth = deepest = 0
    for c in input().strip():
        depth += 1 if c == "(" else -1
        deepest = max(deepest, depth)
        if depth < 0:
            break
    print(deepest if depth == 0 else -1)


@problem(3, lambda r: [r.randint(6, 14), words(r, 4, 10)])
def wrap_text() -> None:
    """The first line holds a width, the second words of at most that width. Print the words with single spaces between
    them, in lines that are never longer than the width and hold as many words as fit."""
    width = int(input())
    line = ""
    for w in input().split():
        if line and len(line) + 1 + len(w) > width:
            print(line)
            line = w
        else:
            line = f"{line} {w}" if line else w
    print(line)


@problem(3, lambda r: [word(r, 2, 7, "abcde")])
def next_arrangement() -> None:
    """A word is given. Print the arrangement of all its letters that comes next after it in the alphabet's order, or
    `last` if there is none."""
    s = list(input().strip())
    i = len(s) - 2
    while i >= 0 and s[i] >= s[i + 1]:
        i -= 1
    if i < 0:
        print("last")
    else:
        j = max(j for j in range(i + 1, len(s)) if s[j] > s[i])
        s[i], s[j] = s[j], s[i]
        print("".join(s[: i + 1] + s[i + 1 :][::-1]))


@problem(3, lambda r: [word(r, 1, 4, "ab") * r.randint(1, 4)])
def shortest_period() -> None:
    """A word is given. Print the shortest piece of which it is a repetition, and how often it is repeated, on one
    line."""
    s = input().strip()
    n = next(n for n in range(1, len(s) + 1) if len(s) % n == 0 and s[:n] * (len(s) // n) == s)
    print(s[:n], len(s) // n)
