"""A text as SVG whose tokens are shaded by a number: how long a model thought about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from agentforge.evaluation.report.svg import colour, drawing, tag

COLUMNS = 92
CHARACTER, LINE_HEIGHT = 7.3, 22
"""Width of a character of the page's fixed-width font at 12 pixels, and height of a line."""


def shaded_text(title: str, tokens: Sequence[str], values: Sequence[float], most: float, unit: str) -> Markup:
    """Draw tokens one after the other, darker where their value is higher; hovering says the value.

    Args:
        title: read out in place of the picture.
        tokens: text of each; a newline ends a line.
        values: one for each token, from 1 to ``most``.
        most: the value of the darkest shade.
        unit: what a value counts: ``steps``.
    """
    parts, lines = [], 0
    for text, value, line, column in _laid_out(tokens, values):
        x, y = 4 + column * CHARACTER, 4 + line * LINE_HEIGHT
        # 1 is the least there is and stays nearly white, so that what differs is what catches the eye.
        share = (value - 1) / (most - 1) if most > 1 else 0.0
        shade = f"fill:{colour(1)};fill-opacity:{0.06 + 0.7 * share:.2f}"
        hover = tag("title", f"{text.strip() or 'white space'}: {value:g} {unit}")
        width = max(len(text), 1) * CHARACTER - 1
        parts.append(tag("rect", hover, x=x, y=y, width=width, height=LINE_HEIGHT - 4, rx=2, style=shade))
        # `pre` keeps the leading space that most tokens begin with.
        style = "font:12px ui-monospace,monospace;white-space:pre;pointer-events:none"
        parts.append(tag("text", text, x=x, y=y + 13, class_="name", style=style))
        lines = max(lines, line + 1)
    return drawing(8 + COLUMNS * CHARACTER, 8 + lines * LINE_HEIGHT, parts, title)


def _laid_out(tokens: Sequence[str], values: Sequence[float]) -> Iterator[tuple[str, float, int, int]]:
    """Yield text, value, line and column of each token; a line is broken where a token does not fit."""
    line = column = 0
    for token, value in zip(tokens, values, strict=True):
        text = " ".join(token.splitlines()) if token.strip("\n") else "↵"
        if column and column + len(text) > COLUMNS:
            line, column = line + 1, 0
        yield text[:COLUMNS], value, line, column
        column += len(text)
        if token.endswith("\n"):
            line, column = line + 1, 0
