"""Laws of loss.svg: thinned without being falsified, small however long the run."""

import itertools
import math
import xml.etree.ElementTree
from pathlib import Path

import pytest

from chainrule.pretraining.curve import MOST, draw_losses, losses, thinned


def test_thinning_keeps_few_points_their_order_and_both_ends() -> None:
    points = [(512 * step, 1 + 6 / step) for step in range(1, 50_001)]
    few = thinned(points)
    assert MOST / 2 < len(few) <= MOST
    assert few[0] == points[0] and few[-1][0] == points[-1][0]
    assert few == sorted(few) and all(a[1] > b[1] for a, b in itertools.pairwise(few))
    assert thinned(points[:MOST]) == points[:MOST]


def test_a_thinned_point_is_the_mean_of_what_it_stands_for() -> None:
    points = [(1, 5.0), (1000, 1.0), (1001, 2.0), (1002, 3.0), (2_000_000, 0.5)]
    assert thinned(points, most=3) == [(1, 5.0), (1002, 2.0), (2_000_000, 0.5)]


def test_the_curve_of_a_long_run_is_a_small_file_with_both_losses(tmp_path: Path) -> None:
    lines = [{"tokens": 512 * step, "loss": 1 + 6 / step} for step in range(1, 100_001)]
    lines += [{"tokens": 512 * 100_001, "loss": math.nan}]
    for line in lines[999::1000]:
        line["validation_loss"] = line["loss"] + 0.1
    draw_losses(lines, tmp_path / "loss.svg")
    assert (tmp_path / "loss.svg").stat().st_size < 30_000
    text = "".join(xml.etree.ElementTree.parse(tmp_path / "loss.svg").getroot().itertext())
    assert "training 1.000" in text and "validation 1.100" in text and "tokens read" in text and "nan" not in text


@pytest.mark.parametrize("lines", [[], [{"tokens": 64, "loss": 4.1}], [{"tokens": 64, "loss": 4.1}] * 2])
def test_a_log_of_hardly_any_lines_can_be_drawn(lines: list, tmp_path: Path) -> None:
    draw_losses(lines, tmp_path / "loss.svg")
    assert xml.etree.ElementTree.parse(tmp_path / "loss.svg").getroot().tag.endswith("svg")
    assert losses(lines)[1] == []
