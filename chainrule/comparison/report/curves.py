"""Accuracy against the number of labels, reliability diagrams and the spread of seeds, as SVG. Knows cells, no page.

A method's colour comes from the style's class of its name, and follows the reader's light or dark scheme.
"""

import math
from collections.abc import Callable, Sequence

from chainrule.comparison.cells import Cell
from chainrule.comparison.methods.method import Method
from chainrule.comparison.table import Table
from chainrule.drawing import charts
from chainrule.drawing.charts import Axis, Box

_WIDTH, _HEIGHT = 960, 480
_BOX = Box(left=58, top=16, right=_WIDTH - 178, bottom=_HEIGHT - 52)
_LEAST_R2 = -1.0  # one method that is far worse than the mean would leave no room for the others
_LEAST_STEP = 0.02  # of accuracy, between ticks, which are whole percents


def style(methods: Sequence[Method]) -> str:
    """The CSS of charts in which each method has its colour."""
    light, dark = (
        " ".join(f".{method.name} {{ --colour: {colour}; }}" for method, colour in zip(methods, colours, strict=True))
        for colours in zip(*(method.colour for method in methods), strict=True)
    )
    return f"""{charts.STYLE}
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
svg .unchanged {{ stroke-dasharray: 1 6; opacity: .8; }}
svg .seed {{ fill: var(--colour); opacity: .4; }}
"""


def limits(table: Table) -> tuple[float, float]:
    """The range of accuracies that holds all intervals and chance, in round numbers."""
    ends = [end for cell in table.cells for end in cell.accuracy] + [table.setting.chance]
    low, high = charts.rounded_outwards(min(ends), max(ends), _step(max(ends) - min(ends)))
    least = 0.0 if table.setting.measure != "r2" else _LEAST_R2
    return max(least, low), min(1.0, high)


def curves(table: Table) -> str:
    """Accuracy of each method against N with 95 % bands, faint dots for the seeds; dotted where nothing changes."""
    low, high = limits(table)
    y = Axis(low, high, _BOX.bottom, _BOX.top)
    sizes = sorted({cell.labels for cell in table.cells})
    x = _positions(sizes)
    by_method = {method.name: [cell for cell in table.cells if cell.method is method] for method in table.methods}
    ends = {name: y(cells[-1].accuracy.value) for name, cells in by_method.items()}
    chance = y(table.setting.chance)
    drawn = [
        *charts.rows(_BOX, y, _percents(low, high)),
        *(charts.text((x(size), _BOX.bottom + 20), f"{size:,}", "middle") for size in sizes),
        charts.text(((_BOX.left + _BOX.right) / 2, _HEIGHT - 8), "labels N", "middle"),
        f'<path class="chance" d="M{_BOX.left},{chance:.1f}H{_BOX.right}"/>',
        *(_series(cells, x, y, sizes) for cells in by_method.values()),
        *(_group(name, drawn_name) for name, drawn_name in charts.end_names(_BOX, ends)),
    ]
    return charts.svg(_WIDTH, _HEIGHT, f"{_title(table)} against the number of labels", drawn)


def _title(table: Table) -> str:
    title = table.setting.measure_title
    return title[0].upper() + title[1:]


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

    along, up = Axis(least, 1.0, edge, size - rim), Axis(least, 1.0, size - edge, rim)

    def point(confidence: float, accuracy: float) -> charts.Point:
        return along(confidence), up(accuracy)

    means = [point(one["confidence"], one["accuracy"]) for one in bins]
    bottom, right = size - edge, size - rim
    drawn = [
        f'<path class="grid" d="M{edge},{rim}V{bottom}H{right}"/>',
        charts.line([point(least, least), point(1, 1)], "chance"),
        *(
            charts.text((along(share), bottom + 17), f"{100 * share:.0f}", "middle")
            + charts.text((edge - 6, up(share) + 4), f"{100 * share:.0f}", "end")
            for share in (least, (1 + least) / 2, 1.0)
        ),
        *(
            charts.line([point(one["confidence"], one["low"]), point(one["confidence"], one["high"])], "bar")
            for one in bins
        ),
        charts.line(means),
        *(charts.dot("point", mean, 3.5, _bin_in_words(one)) for mean, one in zip(means, bins, strict=True)),
    ]
    return charts.svg(size, size, f"Reliability of {cell.name}", [f'<g class="{cell.name}">{"".join(drawn)}</g>'])


def spread(cells: Sequence[Cell], low: float, high: float) -> str:
    """A line for each cell with a dot for each seed's accuracy and a bar at their mean."""
    width, step, left = 760, 26, 230
    x = Axis(low, high, left, width - 30)
    drawn = []
    for share, percent in _percents(low, high).items():
        drawn.append(f'<path class="grid" d="M{x(share):.1f},4V{step * len(cells) + 4}"/>')
        drawn.append(charts.text((x(share), step * len(cells) + 22), percent, "middle"))
    for number, cell in enumerate(cells):
        y = step * number + step / 2 + 4
        dots = [
            charts.dot("point", (x(one.accuracy), y), 5, f"seed {one.seed}: {100 * one.accuracy:.1f} %")
            for one in cell.outcomes
        ]
        mean = charts.line([(x(cell.accuracy.value), y - 9), (x(cell.accuracy.value), y + 9)])
        name = f'<text class="name" x="0" y="{y + 4}">{cell.name}</text>'
        labels = charts.text((left - 14, y + 4), f"N {cell.labels:,}", "end")
        drawn.append(f'<g class="{cell.name}">{name}{labels}{"".join(dots)}{mean}</g>')
    return charts.svg(width, step * len(cells) + 30, "Accuracy of each seed", drawn)


def _positions(sizes: Sequence[int]) -> Callable[[float], float]:
    """N to its x: logarithmic, and 0 a little to the left of the others."""
    some = [size for size in sizes if size] or [1]
    first = _BOX.left + (90 if 0 in sizes and len(sizes) > 1 else 24)
    axis = Axis(some[0], some[-1], first, _BOX.right - 24, logarithmic=True)
    return lambda size: _BOX.left + 24 if size == 0 else axis(size)


def _series(cells: Sequence[Cell], x: Callable[[float], float], y: Axis, sizes: Sequence[int]) -> str:
    """One method: its band, its curve, the curve's dotted end where more labels change nothing, points and seeds."""
    method = cells[0].method
    points = [(x(cell.labels), y(cell.accuracy.value)) for cell in cells]
    above = [(x(cell.labels), y(cell.accuracy.high)) for cell in cells]
    below = [(x(cell.labels), y(cell.accuracy.low)) for cell in cells]
    alone = len(cells) == 1
    parts = [charts.line([*above, *below], "bar") if alone else charts.band(above, below), charts.line(points)]
    if method.ignores_more_labels and cells[-1].labels < sizes[-1]:
        parts.append(charts.line([points[-1], (x(sizes[-1]), points[-1][1])], "curve unchanged"))
    for cell, point in zip(cells, points, strict=True):
        for number, outcome in enumerate(cell.outcomes):
            beside = (point[0] + 4 * (number - (len(cell.outcomes) - 1) / 2), y(outcome.accuracy))
            tooltip = f"{method.name}, N = {cell.labels:,}, seed {outcome.seed}: {100 * outcome.accuracy:.1f} %"
            parts.append(charts.dot("seed", beside, 2, tooltip))
        value, low, high = (100 * end for end in cell.accuracy)
        tooltip = f"{method.name}, N = {cell.labels:,}: {value:.1f} % (95 %: {low:.1f} to {high:.1f})"
        parts.append(charts.dot("point", point, 4.5, tooltip))
    return _group(method.name, "".join(parts))


def _group(name: str, drawn: str) -> str:
    return f'<g class="series {name}" data-method="{name}">{drawn}</g>'


def _bin_in_words(one: object) -> str:
    assert isinstance(one, dict)
    share = f"accuracy {100 * one['accuracy']:.0f} % at a mean confidence of {100 * one['confidence']:.0f} %"
    return f"{share} ({one['n']} items; 95 %: {100 * one['low']:.0f} to {100 * one['high']:.0f})"


def _step(span: float) -> float:
    return charts.round_step(span, least=_LEAST_STEP)


def _percents(low: float, high: float) -> dict[float, str]:
    return {share: f"{100 * share:.0f} %" for share in charts.round_ticks(low, high, _step(high - low))}
