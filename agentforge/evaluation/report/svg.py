"""Small charts as SVG: lines over steps, values with intervals, points in two dimensions.

Colours are CSS variables of the page (``--s0`` ... by series), so that one drawing serves light and dark. All text is
escaped; a hover text is a ``<title>``, so no script is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES = 8
"""Number of colours; further series start over."""
LINE = (420, 210)
PLANE = (560, 340)
SCATTER = (330, 310)
ROW = 22
LABEL_WIDTH = 150
POINTS = 400
"""With more points than this, neighbours are averaged: a chart has no more pixels."""
# The page's colours, for a picture that stands alone: in a README, or opened by itself.
ALONE = """
text { font: 12px system-ui, sans-serif; fill: #1b2330 } .tick, .axis { font-size: 11px; fill: #66707f }
.mid { text-anchor: middle } .end { text-anchor: end } .grid { stroke: #dfe3e9 }
.chance { stroke: #66707f; stroke-dasharray: 2 3 } .trivial { stroke: #66707f; stroke-dasharray: 7 4 }
.line { fill: none; stroke-width: 2 } 
.interval { stroke-width: 3; opacity: .55 } .cross { stroke-width: 1.5; opacity: .5 }
.key { font-size: 11px }
svg { --s0: #8a94a3; --s1: #2f6fde; --s2: #d9730d; --s3: #17935f; --s4: #8b4fd1; --s5: #c2356e; --s6: #0e8fa6;
  --s7: #8f6a1c; --surface: #ffffff; --accent: #2f5bd3 }
"""


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour by number, and its points."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A value with its interval, in [0, 1]; `hollow` ones are marked as dominated."""

    name: str
    colour: int
    value: float
    low: float
    high: float
    note: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class PlanePoint:
    """A point of a plane with the interval of its height; `hollow` ones are of another kind than the rest."""

    name: str
    x: float
    y: float
    low: float
    high: float
    hollow: bool = False


def colour(number: int) -> str:
    """Return the CSS colour of a series."""
    return f"var(--s{number % SERIES})"


def tag(name: str, content: Markup | str = "", **attributes: object) -> Markup:
    """Return an element; attribute names have ``_`` for ``-``, numbers are rounded to a tenth of a pixel."""
    # `class_` becomes `class`, a reserved word in Python.
    pairs = "".join(f' {key.strip("_").replace("_", "-")}="{_plain(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{pairs}>{escape(content)}</{name}>")


def joined(parts: Sequence[Markup]) -> Markup:
    """Return elements one after the other."""
    return Markup("").join(parts)


def _plain(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(value))


def drawing(width: float, height: float, parts: Sequence[Markup], label: str) -> Markup:
    """Return an SVG of so many pixels, with a label for those who cannot see it."""
    return tag(
        "svg",
        joined([tag("title", label), *parts]),
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        xmlns="http://www.w3.org/2000/svg",
    )


def alone(picture: Markup) -> str:
    """Return a picture as a file of its own, on white."""
    opening, rest = str(picture).split(">", 1)
    return f'{opening}><style>{ALONE}</style><rect width="100%" height="100%" fill="#ffffff"/>{rest}'


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that cut [low, high] into about ``count`` parts."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    # With a tolerance, since 0.3 / 0.1 is 2.9999999999999996.
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Return an axis label of at most about five characters."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def line_chart(title: str, series: Sequence[Series]) -> Markup:
    """Draw values over steps; those that are not finite are left out."""
    # A NaN has no place on an axis, and one would make the axis's limits NaN too.
    drawn = [Series(s.name, s.colour, _thinned([p for p in s.points if math.isfinite(p[1])])) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return Markup("")
    width, height = LINE
    left, right, top, bottom = 46, 10, 10, 22
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    # A single step has no width to divide by.
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = _padded(min(ys), max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        # SVG counts downwards.
        return across, top + (y_high - y) / (y_high - y_low) * (height - top - bottom)

    parts = [_horizontal(at(x_low, y)[1], left, width - right, number(y)) for y in ticks(y_low, y_high)]
    parts += [tag("text", number(x), x=at(x, y_low)[0], y=height - 6, class_="tick mid") for x in ticks(x_low, x_high)]
    for one in drawn:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in one.points))
        parts.append(tag("polyline", points=path, class_="line", style=f"stroke:{colour(one.colour)}"))
        last = one.points[-1]
        end = tag("title", f"{one.name}: {last[1]:.4g} at step {last[0]:g}")
        parts.append(tag("circle", end, cx=at(*last)[0], cy=at(*last)[1], r=3.5, style=f"fill:{colour(one.colour)}"))
    return drawing(width, height, parts, title)


def interval_chart(title: str, dots: Sequence[Dot], chance: float | None, trivial: float | None) -> Markup:
    """Draw one row for each model: its value, its interval, and where chance and the best trivial strategy lie."""
    width, height = 560, ROW * len(dots) + 30
    left, right = LABEL_WIDTH, 60

    def at(value: float) -> float:
        return left + value * (width - left - right)

    bottom = height - 22
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(tag("line", x1=at(share), x2=at(share), y1=4, y2=bottom, class_="grid"))
        parts.append(tag("text", f"{share:.0%}", x=at(share), y=height - 7, class_="tick mid"))
    for value, kind, words in ((chance, "chance", "chance"), (trivial, "trivial", "best trivial strategy")):
        if value is not None:
            hover = tag("title", f"{words}: {value:.1%}")
            parts.append(tag("line", hover, x1=at(value), x2=at(value), y1=4, y2=bottom, class_=kind))
    for row, dot in enumerate(dots):
        y = 4 + ROW * (row + 0.5)
        style = f"stroke:{colour(dot.colour)};fill:{colour(dot.colour)}"
        hover = tag("title", f"{dot.name}: {dot.value:.1%} [{dot.low:.1%}, {dot.high:.1%}] {dot.note}")
        bar = tag("line", x1=at(dot.low), x2=at(dot.high), y1=y, y2=y, class_="interval")
        mark = tag("circle", cx=at(dot.value), cy=y, r=5, class_="mark")
        parts.append(tag("text", _short(dot.name), x=left - 10, y=y + 4, class_="name end"))
        parts.append(tag("g", joined([hover, bar, mark]), style=style))
        parts.append(tag("text", f"{dot.value:.1%}", x=width - right + 10, y=y + 4, class_="value"))
    return drawing(width, height, parts, title)


def scatter(title: str, x_name: str, y_name: str, pairs: Sequence[tuple[Dot, Dot]]) -> Markup:
    """Draw models in two environments with both intervals; dominated ones are hollow."""
    width, height = SCATTER
    left, right, top, bottom = 48, 12, 10, 40

    def across(value: float) -> float:
        return left + value * (width - left - right)

    def down(value: float) -> float:
        return top + (1 - value) * (height - top - bottom)

    parts = [_horizontal(down(share), left, width - right, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    for share in (0, 0.5, 1):
        parts.append(tag("text", f"{share:.0%}", x=across(share), y=height - 24, class_="tick mid"))
    parts.append(tag("text", _short(x_name, 40), x=across(0.5), y=height - 6, class_="axis mid"))
    turned = f"rotate(-90 10 {down(0.5):.0f})"
    parts.append(tag("text", _short(y_name, 40), x=10, y=down(0.5), class_="axis mid", transform=turned))
    for x, y in pairs:
        shades = f"stroke:{colour(x.colour)};fill:{'var(--surface)' if x.hollow else colour(x.colour)}"
        hover = tag("title", f"{x.name}: {x_name} {x.value:.1%}, {y_name} {y.value:.1%} {x.note}")
        level = tag("line", x1=across(x.low), x2=across(x.high), y1=down(y.value), y2=down(y.value), class_="cross")
        upright = tag("line", x1=across(x.value), x2=across(x.value), y1=down(y.low), y2=down(y.high), class_="cross")
        mark = tag("circle", cx=across(x.value), cy=down(y.value), r=5.5, class_="point")
        parts.append(tag("g", joined([hover, level, upright, mark]), style=shades))
    return drawing(width, height, parts, title)


def plane(title: str, x_name: str, y_name: str, series: Sequence[tuple[str, int, Sequence[PlanePoint]]]) -> Markup:
    """Draw points with the intervals of their heights; a line joins the filled ones of a series.

    Args:
        series: name, number of the colour, and points.
    """
    width, height = PLANE[0], PLANE[1] + 18 * len(series)
    left, right, top, bottom = 52, 40, 12, 44 + 18 * len(series)
    places = [place for _, _, own in series for place in own]
    x_low, x_high = _padded(min(p.x for p in places), max(p.x for p in places))
    y_low, y_high = _padded(min(p.low for p in places), max(p.high for p in places))

    def across(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def down(y: float) -> float:
        return top + (y_high - y) / (y_high - y_low) * (height - top - bottom)

    floor = height - bottom
    parts = [_horizontal(down(y), left, width - right, number(y)) for y in ticks(y_low, y_high)]
    parts += [tag("text", number(x), x=across(x), y=floor + 16, class_="tick mid") for x in ticks(x_low, x_high, 6)]
    parts.append(tag("text", x_name, x=(left + width - right) / 2, y=floor + 34, class_="axis mid"))
    turned = f"rotate(-90 10 {(top + floor) / 2:.0f})"
    parts.append(tag("text", y_name, x=10, y=(top + floor) / 2, class_="axis mid", transform=turned))
    for row, (name, shade, own) in enumerate(series):
        style = f"stroke:{colour(shade)}"
        # The line joins points of one kind; a hollow one (exits) is not on it.
        joined_up = " ".join(f"{across(p.x):.1f},{down(p.y):.1f}" for p in own if not p.hollow)
        parts.append(tag("polyline", points=joined_up, class_="line", style=style))
        for p in own:
            hover = tag(
                "title", f"{name}, {p.name}: {x_name} {p.x:.4g}, {y_name} {p.y:.4g} [{p.low:.4g}, {p.high:.4g}]"
            )
            bar = tag("line", x1=across(p.x), x2=across(p.x), y1=down(p.low), y2=down(p.high), class_="cross")
            mark = tag("circle", cx=across(p.x), cy=down(p.y), r=4.5, class_="point")
            fill = "var(--surface)" if p.hollow else colour(shade)
            parts.append(tag("g", joined([hover, bar, mark]), style=f"{style};fill:{fill}"))
            parts.append(tag("text", p.name, x=across(p.x) + 8, y=down(p.y) - 6, class_="tick"))
        y = floor + 54 + 18 * row
        parts.append(tag("rect", x=left, y=y - 9, width=10, height=10, rx=3, style=f"fill:{colour(shade)}"))
        parts.append(tag("text", name, x=left + 18, y=y, class_="name"))
    return drawing(width, height, parts, title)


def _horizontal(y: float, left: float, right: float, text: str) -> Markup:
    line = tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid")
    return joined([line, tag("text", text, x=left - 6, y=y + 4, class_="tick end")])


def _padded(low: float, high: float) -> tuple[float, float]:
    # A flat line needs some height too: a tenth of its value, or 1 around zero.
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // POINTS)
    # Averaged, not picked: with every nth point a spike in between would vanish, and a lucky point would stand for all.
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _short(text: str, width: int = 22) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
