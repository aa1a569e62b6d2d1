"""Accuracy against the number of labels, reliability diagrams and the spread of seeds, as SVG. Knows cells, no page.

Colours come from the palette's classes and follow the reader's light or dark scheme.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from chainrule.comparison.cells import Cell
from chainrule.comparison.table import Comparison

PALETTE = """
:root { --ink: #1d2129; --quiet: #69707d; --line: #dfe2e7; --paper: #ffffff; }
.zero-shot { --colour: #0b8f87; } .in-context { --colour: #2467d1; } .in-context-nearest { --colour: #7a4bd0; }
.head { --colour: #c77700; } .full { --colour: #cf3a2f; }
.bag-of-words { --colour: #39414d; } .random-weights { --colour: #67707d; } .majority { --colour: #8f97a3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --quiet: #9aa2b0; --line: #323843; --paper: #14171c; }
  .zero-shot { --colour: #3ccabf; } .in-context { --colour: #6ea4ff; } .in-context-nearest { --colour: #b597ff; }
  .head { --colour: #f0a93a; } .full { --colour: #ff7a6e; }
  .bag-of-words { --colour: #c9d0db; } .random-weights { --colour: #98a1af; } .majority { --colour: #737c8a; }
}
svg text { font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--quiet);
  font-variant-numeric: tabular-nums; }
svg .name { fill: var(--colour); font-weight: 600; }
svg .grid { stroke: var(--line); } svg .chance { stroke: var(--quiet); stroke-dasharray: 2 4; }
svg .band { fill: var(--colour); opacity: .11; }
svg .curve { stroke: var(--colour); stroke-width: 2.25; fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .kept { stroke-dasharray: 1 6; opacity: .8; }
svg .leader { stroke: var(--colour); opacity: .4; }
svg .point { fill: var(--colour); stroke: var(--paper); stroke-width: 1.5; }
svg .seed { fill: var(--colour); opacity: .4; }
svg .bar { stroke: var(--colour); stroke-width: 1.5; opacity: .7; }
"""

_WIDTH, _HEIGHT = 960, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 178, 16, 52
_LABEL_STEP = 18  # between names at the right


def limits(comparison: Comparison) -> tuple[float, float]:
    """The range of accuracies that holds all intervals and chance, in round numbers."""
    ends = [end for cell in comparison.cells for end in cell.accuracy] + [comparison.setting.chance]
    step = _step(max(ends) - min(ends))
    return max(0.0, math.floor(min(ends) / step) * step), min(1.0, math.ceil(max(ends) / step) * step)


def curves(comparison: Comparison) -> str:
    """Accuracy of each method against N with 95 % bands, faint dots for the seeds; dotted where nothing changes."""
    low, high = limits(comparison)

    def y(accuracy: float) -> float:
        return _TOP + (high - accuracy) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    sizes = sorted({cell.labels for cell in comparison.cells})
    x = _positions(sizes)
    methods = list(dict.fromkeys(cell.method for cell in comparison.cells))
    drawn = [
        *_axes(sizes, x, y, (low, high), comparison.setting.chance),
        *(_series([cell for cell in comparison.cells if cell.method == method], x, y, sizes) for method in methods),
        *_names({method: y(_last(comparison, method).accuracy.value) for method in methods}),
    ]
    return _svg(_WIDTH, _HEIGHT, "Accuracy against the number of labels", drawn)


def standing_alone(svg: str) -> str:
    """An inline drawing as a file of its own."""
    begin = svg.index(">") + 1
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f"{svg[:begin]}<style>{PALETTE}</style>{paper}{svg[begin:]}\n"


def least_shown(cells: Sequence[Cell]) -> float:
    """Where the axes of reliability diagrams begin, so that one range holds all of them."""
    bins = [one for cell in cells if cell.calibration is not None for one in cell.calibration.bins]
    least = min(min(one["confidence"], one["low"]) for one in bins)
    return min(0.5, math.floor(least * 10) / 10)


def reliability(cell: Cell, least: float) -> str:
    """Accuracy against confidence in bins of as many items, each with its Wilson interval; the diagonal is perfect."""
    size, edge, rim = 210, 34, 16
    assert cell.calibration is not None
    bins = cell.calibration.bins

    def at(share: float) -> float:
        return (share - least) / (1 - least) * (size - edge - rim)

    def place(confidence: float, accuracy: float) -> str:
        return f"{edge + at(confidence):.1f},{size - edge - at(accuracy):.1f}"

    bottom, right = size - edge, size - rim
    drawn = [
        f'<path class="grid" fill="none" d="M{edge},{rim}V{bottom}H{right}"/>',
        f'<path class="chance" d="M{place(least, least)}L{place(1, 1)}"/>',
        *(
            f'<text x="{edge + at(share):.1f}" y="{bottom + 17}" text-anchor="middle">{100 * share:.0f}</text>'
            f'<text x="{edge - 6}" y="{bottom - at(share) + 4:.1f}" text-anchor="end">{100 * share:.0f}</text>'
            for share in (least, (1 + least) / 2, 1.0)
        ),
        *(
            f'<path class="bar" d="M{place(one["confidence"], one["low"])}L{place(one["confidence"], one["high"])}"/>'
            for one in bins
        ),
        f'<polyline class="curve" points="{" ".join(place(one["confidence"], one["accuracy"]) for one in bins)}"/>',
        *(_dot("point", place(one["confidence"], one["accuracy"]), 3.5, _bin_in_words(one)) for one in bins),
    ]
    return _svg(size, size, f"Reliability of {cell.method}", [f'<g class="{cell.method}">{"".join(drawn)}</g>'])


def spread(cells: Sequence[Cell], low: float, high: float) -> str:
    """A line for each cell with a dot for each seed's accuracy and a bar at their mean."""
    width, step, left = 760, 26, 230
    drawn = []
    for share in _ticks(low, high):
        at = left + (share - low) / (high - low) * (width - left - 30)
        drawn.append(f'<path class="grid" d="M{at:.1f},4V{step * len(cells) + 4}"/>')
        drawn.append(f'<text x="{at:.1f}" y="{step * len(cells) + 22}" text-anchor="middle">{100 * share:.0f} %</text>')
    for number, cell in enumerate(cells):
        y = step * number + step / 2 + 4
        dots = []
        for outcome in [*cell.outcomes, None]:
            share = cell.accuracy.value if outcome is None else outcome.accuracy
            at = left + (share - low) / (high - low) * (width - left - 30)
            if outcome is None:
                dots.append(f'<path class="curve" d="M{at:.1f},{y - 9}V{y + 9}"/>')
            else:
                dots.append(_dot("point", f"{at:.1f},{y}", 5, f"seed {outcome.seed}: {100 * share:.1f} %"))
        name = f'<text class="name" x="0" y="{y + 4}">{cell.method}</text>'
        labels = f'<text x="{left - 14}" y="{y + 4}" text-anchor="end">N {cell.labels:,}</text>'
        drawn.append(f'<g class="{cell.method}">{name}{labels}{"".join(dots)}</g>')
    return _svg(width, step * len(cells) + 30, "Accuracy of each seed", drawn)


def _positions(sizes: Sequence[int]) -> Callable[[int], float]:
    """N to its place: logarithmic, and 0 a little to the left of the others."""
    some = [size for size in sizes if size] or [1]
    first = _LEFT + (90 if 0 in sizes and len(sizes) > 1 else 24)
    span = _WIDTH - _RIGHT - 24 - first
    steps = math.log(some[-1] / some[0]) or 1.0
    return lambda size: _LEFT + 24 if size == 0 else first + span * math.log(size / some[0]) / steps


def _axes(
    sizes: Sequence[int],
    x: Callable[[int], float],
    y: Callable[[float], float],
    ends: tuple[float, float],
    chance: float,
) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for share in _ticks(*ends):
        yield f'<path class="grid" d="M{_LEFT},{y(share):.1f}H{right}"/>'
        yield f'<text x="{_LEFT - 10}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
    for size in sizes:
        yield f'<text x="{x(size):.1f}" y="{bottom + 20}" text-anchor="middle">{size:,}</text>'
    yield f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">labels N</text>'
    yield f'<path class="chance" d="M{_LEFT},{y(chance):.1f}H{right}"/>'


def _series(cells: Sequence[Cell], x: Callable[[int], float], y: Callable[[float], float], sizes: Sequence[int]) -> str:
    """One method: its band, its curve, the curve's dotted end where more labels change nothing, points and seeds."""
    method = cells[0].method
    places = [f"{x(cell.labels):.1f},{y(cell.accuracy.value):.1f}" for cell in cells]
    above = [f"{x(cell.labels):.1f},{y(cell.accuracy.high):.1f}" for cell in cells]
    below = [f"{x(cell.labels):.1f},{y(cell.accuracy.low):.1f}" for cell in reversed(cells)]
    parts = [f'<polygon class="band" points="{" ".join(above + below)}"/>']
    if len(cells) == 1:
        parts = [f'<path class="bar" d="M{above[0]}L{below[0]}"/>']
    parts.append(f'<polyline class="curve" points="{" ".join(places)}"/>')
    if method in ("zero-shot", "in-context") and cells[-1].labels < sizes[-1]:
        parts.append(f'<path class="curve kept" d="M{places[-1]}H{x(sizes[-1]):.1f}"/>')
    for cell, place in zip(cells, places, strict=True):
        for number, outcome in enumerate(cell.outcomes):
            shift = 4 * (number - (len(cell.outcomes) - 1) / 2)
            beside = f"{x(cell.labels) + shift:.1f},{y(outcome.accuracy):.1f}"
            parts.append(_dot("seed", beside, 2, f"{method}, N = {cell.labels:,}, seed {outcome.seed}: "
                              f"{100 * outcome.accuracy:.1f} %"))  # fmt: skip
        value, low, high = (100 * end for end in cell.accuracy)
        told = f"{method}, N = {cell.labels:,}: {value:.1f} % (95 %: {low:.1f} to {high:.1f})"
        parts.append(_dot("point", place, 4.5, told))
    return f'<g class="series {method}" data-method="{method}">{"".join(parts)}</g>'


def _names(heights: dict[str, float]) -> Iterator[str]:
    """The methods' names at the right, moved apart where curves end close together."""
    order = sorted(heights, key=lambda method: heights[method])
    places = [heights[method] for method in order]
    top, bottom = _TOP + 6.0, _HEIGHT - _BOTTOM
    for rank in range(1, len(places)):
        places[rank] = max(places[rank], places[rank - 1] + _LABEL_STEP)
    places[-1] = min(places[-1], bottom)
    for rank in range(len(places) - 2, -1, -1):
        places[rank] = max(top, min(places[rank], places[rank + 1] - _LABEL_STEP))
    right = _WIDTH - _RIGHT
    for method, place in zip(order, places, strict=True):
        yield (
            f'<g class="series {method}" data-method="{method}">'
            f'<path class="leader" fill="none" d="M{right - 16},{heights[method]:.1f}L{right + 12},{place:.1f}"/>'
            f'<text class="name" x="{right + 17}" y="{place + 4:.1f}">{method}</text></g>'
        )


def _last(comparison: Comparison, method: str) -> Cell:
    return max((cell for cell in comparison.cells if cell.method == method), key=lambda cell: cell.labels)


def _dot(kind: str, place: str, radius: float, told: str) -> str:
    x, y = place.split(",")
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(told)}</title></circle>'


def _bin_in_words(one: object) -> str:
    assert isinstance(one, dict)
    share = f"{100 * one['accuracy']:.0f} % right where {100 * one['confidence']:.0f} % was claimed"
    return f"{share} ({one['n']} items; 95 %: {100 * one['low']:.0f} to {100 * one['high']:.0f})"


def _step(span: float) -> float:
    return next((step for step in (0.02, 0.05, 0.1) if span <= 8 * step), 0.2)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _svg(width: float, height: float, title: str, drawn: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )
