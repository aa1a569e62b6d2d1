"""Laws of charts: round ticks, names that do not overlap, files that stand alone."""

import itertools
import xml.etree.ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.drawing import charts
from chainrule.drawing.charts import Axis, Box

NUMBERS = st.floats(1e-3, 1e6)
BOX = Box(left=40, top=20, right=500, bottom=300)


@given(NUMBERS, NUMBERS)
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    step = charts.round_step(span)
    assert f"{step:e}"[0] in "125" and float(f"{step:.0e}") == pytest.approx(step)
    assert span / step <= 8 + 1e-6 and span / step > 3
    ticks = charts.round_ticks(low, low + span, step)
    assert 1 <= len(ticks) <= 9
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    outer = charts.rounded_outwards(low, low + span, step)
    assert outer[0] <= low + 1e-6 * step and low + span <= outer[1] + 1e-6 * step


@given(NUMBERS, st.floats(1.5, 1e9))
def test_logarithmic_ticks_are_few_and_inside(low: float, times: float) -> None:
    ticks = charts.logarithmic_ticks(low, low * times, most=10)
    assert len(ticks) <= 10 and ticks == sorted(ticks)
    assert all(low <= tick <= low * times for tick in ticks)


def test_an_axis_maps_its_ends_to_its_ends_and_a_range_of_one_value_to_its_start() -> None:
    for logarithmic in (False, True):
        axis = Axis(2.0, 50.0, 100.0, 300.0, logarithmic)
        assert (axis(2.0), axis(50.0)) == (100.0, 300.0) and 100 < axis(10.0) < 300
        assert Axis(2.0, 2.0, 100.0, 300.0, logarithmic)(2.0) == 100.0
    assert Axis(2.0, 50.0, 100.0, 300.0, logarithmic=True)(10.0) == pytest.approx(200.0)


@given(st.lists(st.floats(20, 300), min_size=1, max_size=12))
def test_names_at_the_ends_of_lines_never_overlap_and_stay_beside_the_chart(ends: list[float]) -> None:
    named = dict(charts.end_names(BOX, {str(number): end for number, end in enumerate(ends)}))
    texts = [xml.etree.ElementTree.fromstring(f"<g>{drawn}</g>").find("text") for drawn in named.values()]
    heights = [float(text.get("y")) for text in texts]
    assert set(named) == {str(number) for number in range(len(ends))}
    assert all(high - low >= 17.9 for low, high in itertools.pairwise(heights))
    assert all(BOX.top <= height <= BOX.bottom + 10 for height in heights)


def test_a_drawing_that_stands_alone_is_well_formed_has_its_colours_and_keeps_words_as_words() -> None:
    alone = charts.svg_file(charts.svg(10, 10, "a < b & c", [charts.dot("point", (1, 2), 3, "<i>")]))
    read = xml.etree.ElementTree.fromstring(alone)
    assert "prefers-color-scheme: dark" in "".join(read.itertext()) and "a < b & c" in "".join(read.itertext())
    assert "<i>" in "".join(read.itertext())
