"""Draws the losses of a run's log as SVG. Knows its lines, not how they were made."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.drawing import charts
from chainrule.storage.files import write_text

MOST = 200  # points of a line, so that a long run's drawing stays small

Losses = Sequence[tuple[int, float]]  # tokens read, nats a token


def draw_losses(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write an SVG of training and validation loss, in nats a token, against the tokens read."""
    write_text(path, charts.svg_file(losses_drawing(*losses(lines))))


def losses(lines: Sequence[Mapping[str, Any]]) -> tuple[Losses, Losses]:
    """The training and validation losses of a log's lines, thinned to what a drawing shows."""
    training, validation = (
        [(line["tokens"], line[kind]) for line in lines if math.isfinite(line.get(kind, math.nan))]
        for kind in ("loss", "validation_loss")
    )
    return thinned(training), thinned(validation)


def thinned(points: Losses, most: int = MOST) -> Losses:
    """At most `most` points, evenly spread over log tokens; each is the mean of the losses between it and the last."""
    if len(points) <= most:
        return points
    first, last = math.log(points[0][0]), math.log(points[-1][0])
    groups: dict[int, list[tuple[int, float]]] = {}
    for tokens, loss in points:
        groups.setdefault(round((math.log(tokens) - first) / (last - first) * (most - 1)), []).append((tokens, loss))
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups.values()]


def losses_drawing(training: Losses, validation: Losses) -> str:
    """Both losses against tokens on a logarithmic axis, for a page."""
    width, height = 960, 400
    box = charts.Box(left=46, top=34, right=width - 150, bottom=height - 54)
    shown = [*training, *validation] or [(1, 0.0)]
    step = charts.round_step(max(loss for _, loss in shown) - min(loss for _, loss in shown), 7)
    low, high = charts.rounded_outwards(min(loss for _, loss in shown), max(loss for _, loss in shown), step)
    x = charts.Axis(min(shown)[0], max(shown)[0], box.left + 12, box.right - 20, logarithmic=True)
    y = charts.Axis(low, high, box.bottom, box.top)
    tokens = {tick: charts.short_count(tick) for tick in charts.logarithmic_ticks(x.low, x.high, 10)}
    heights = {tick: f"{tick:.6g}" for tick in charts.round_ticks(low, high, step)}
    drawn = [*charts.rows(box, y, heights, "nats a token"), *charts.columns(box, x, tokens, "tokens read")]
    ends, kinds = {}, {}
    for name, kind, points in (("training", "second", training), ("validation", "first", validation)):
        if not points:
            continue
        name = f"{name} {points[-1][1]:.3f}"
        positions = [(x(tokens), y(loss)) for tokens, loss in points]
        ends[name], kinds[name] = positions[-1][1], kind
        drawn.append(f'<g class="{kind}">{charts.line(positions, "curve thin" if kind == "second" else "curve")}')
        if kind == "first":
            titles = [f"after {tokens:,} tokens: {loss:.4f}" for tokens, loss in points]
            drawn += [
                charts.dot("point", position, 4, title) for position, title in zip(positions, titles, strict=True)
            ]
        drawn.append("</g>")
    drawn += [f'<g class="{kinds[name]}">{words}</g>' for name, words in charts.end_names(box, ends)]
    return charts.svg(width, height, "Loss against tokens read", drawn)
