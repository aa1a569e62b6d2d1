"""Charts as SVG text: axes with round ticks, lines, bands, dots, names at the ends of lines. Knows numbers, not what
they mean.

Colours are CSS variables and follow the reader's light or dark scheme; a group's class gives --colour.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { --ink: #1d2129; --quiet: #69707d; --line: #dfe2e7; --paper: #ffffff; --colour: #2467d1; }
.first { --colour: #2467d1; } .second { --colour: #c77700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --quiet: #9aa2b0; --line: #323843; --paper: #14171c; --colour: #6ea4ff; }
  .first { --colour: #6ea4ff; } .second { --colour: #f0a93a; }
}
svg text { font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--quiet);
  font-variant-numeric: tabular-nums; }
svg .name { fill: var(--colour); font-weight: 600; }
svg .grid { stroke: var(--line); fill: none; }
svg .chance { stroke: var(--quiet); stroke-dasharray: 2 4; fill: none; }
svg .ceiling { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 6 4; fill: none; opacity: .6; }
svg .band { fill: var(--colour); opacity: .11; }
svg .curve { stroke: var(--colour); stroke-width: 2.25; fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .thin { stroke-width: 1.25; opacity: .75; }
svg .leader { stroke: var(--colour); opacity: .4; fill: none; }
svg .point { fill: var(--colour); stroke: var(--paper); stroke-width: 1.5; }
svg .bar { stroke: var(--colour); stroke-width: 1.5; opacity: .7; }
"""

Point = tuple[float, float]  # x to the right, y downwards, in the drawing's units
_NAME_STEP = 18  # from one name at the right to the next


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along the drawing from `start` to `end`; called with a value it gives
    its coordinate."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return self.start if high == low else self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True)
class Box:
    """The part of a drawing that has the curves; ticks and names are around it."""

    left: float
    top: float
    right: float
    bottom: float


def round_step(span: float, most: int = 8, least: float = 0.0) -> float:
    """A tick step of 1, 2 or 5 times a power of ten: the smallest that fits at most `most` times into the span, and at
    least `least`."""
    if span <= 0:
        return least or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    rough = next(times for times in (1, 2, 5, 10, 20) if span <= most * times * power * (1 + 1e-9))
    return max(least, rough * power)


def round_ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` from `low` to `high`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def rounded_outwards(low: float, high: float, step: float) -> tuple[float, float]:
    """The range widened to multiples of `step`."""
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def logarithmic_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`; the powers alone where that would be too many."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for times in ((1, 2, 5), (1, 3), (1,)):
        ticks = [one * power for power in powers for one in times if low <= one * power <= high]
        if len(ticks) <= most:
            break
    return ticks


def short_count(value: float) -> str:
    """A count as a tick shows it: 500, 20k, 5M.

    >>> short_count(20_000), short_count(1_500_000)
    ('20k', '1.5M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def rows(box: Box, y: Axis, ticks: Mapping[float, str], title: str = "") -> Iterator[str]:
    """A line across the box at each tick, its name at the left; the axis's title above them."""
    for value, name in ticks.items():
        yield f'<path class="grid" d="M{box.left},{y(value):.1f}H{box.right}"/>'
        yield text((box.left - 10, y(value) + 4), name, "end")
    if title:
        yield text((0, box.top - 14), title, "start")


def columns(box: Box, x: Axis, ticks: Mapping[float, str], title: str = "") -> Iterator[str]:
    """The name of each tick under the box, and the axis's title under them."""
    for value, name in ticks.items():
        yield text((x(value), box.bottom + 20), name, "middle")
    if title:
        yield text(((box.left + box.right) / 2, box.bottom + 44), title, "middle")


def text(point: Point, words: str, anchor: str) -> str:
    x, y = point
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(points: Iterable[Point], kind: str = "curve") -> str:
    return f'<polyline class="{kind}" points="{_coordinates(points)}"/>'


def band(above: Sequence[Point], below: Sequence[Point]) -> str:
    """The area between two lines, both from left to right."""
    return f'<polygon class="band" points="{_coordinates([*above, *reversed(below)])}"/>'


def dot(kind: str, point: Point, radius: float, tooltip: str) -> str:
    x, y = point
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(tooltip)}</title></circle>'


def end_names(box: Box, ends: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Each line's name and its drawing at the right of the box, near the height of the line's end; moved apart where
    lines end close together."""
    order = sorted(ends, key=lambda name: ends[name])
    heights = _apart([ends[name] for name in order], box.top + 6, box.bottom)
    for name, height in zip(order, heights, strict=True):
        yield (
            name,
            (
                f'<path class="leader" d="M{box.right - 16},{ends[name]:.1f}L{box.right + 12},{height:.1f}"/>'
                f'<text class="name" x="{box.right + 17}" y="{height + 4:.1f}">{escape(name)}</text>'
            ),
        )


def svg(width: float, height: float, title: str, drawn: Iterable[str]) -> str:
    """A drawing for a page that has STYLE."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )


def svg_file(drawing: str, style: str = STYLE) -> str:
    """The drawing as a file of its own, its style included."""
    begin = drawing.index(">") + 1
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f"{drawing[:begin]}<style>{style}</style>{paper}{drawing[begin:]}\n"


def _coordinates(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _apart(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Rising heights, moved so that names at them do not overlap: downwards first, then up again from the bottom."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _NAME_STEP if moved else top))
    lowest = bottom
    for rank in reversed(range(len(moved))):
        moved[rank] = min(moved[rank], lowest)
        lowest = moved[rank] - _NAME_STEP
    return moved
