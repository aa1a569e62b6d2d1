"""Draws the losses of a log. Knows its lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.files import whole_file


def draw_losses(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """An SVG of loss and validation loss, in nats a token, against tokens read."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="tokens read", ylabel="nats a token")
    axes.plot([line["tokens"] for line in lines], [line["loss"] for line in lines], lw=0.8, alpha=0.6, label="training")
    validated = [line for line in lines if "validation_loss" in line]
    axes.plot(
        [line["tokens"] for line in validated],
        [line["validation_loss"] for line in validated],
        marker="o",
        markersize=3,
        label="validation",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with whole_file(path) as beside:
        figure.savefig(beside, format="svg")
