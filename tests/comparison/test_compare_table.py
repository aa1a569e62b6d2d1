"""What a table says of predictors whose skill is known."""

import json
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_fakes import SKILLS, Fakes, made_task, run_fakes

from chainrule.comparison.advice import NEAR, bracket, choices
from chainrule.comparison.comparison import Comparison
from chainrule.comparison.grid import Bounds
from chainrule.comparison.methods import METHODS
from chainrule.comparison.methods.method import Role
from chainrule.comparison.printed_table import COLUMNS, printed_rows
from chainrule.comparison.table import LEVEL, Table
from chainrule.uncertainty import SwitchPoint, accuracy, difference, sum_of

Skill = Callable[[float], float]
NAMES = [method.name for method in METHODS]


def compared(task=None, bounds: Bounds = Bounds(), **skills: Skill) -> Comparison:
    task = task or made_task(tests=300, trains=1024)
    named = {name.replace("_", "-"): skill for name, skill in skills.items()}
    return run_fakes(Fakes(task, skills={**SKILLS, **named}), bounds)


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return compared(bounds=Bounds(seeds=3))


@pytest.fixture(scope="module")
def table(whole: Comparison) -> Table:
    return whole.table


def test_a_cell_is_its_rows_over_the_seeds(table: Table) -> None:
    for cell in table.cells:
        assert cell.correct.mean() == pytest.approx(np.mean([row.accuracy for row in cell.outcomes]))
        assert cell.accuracy == accuracy(cell.right, seed_variance=cell.seed_variance)
        assert cell.accuracy.low <= cell.accuracy.value <= cell.accuracy.high


def test_prompts_that_do_not_change_any_more_stand_for_larger_sizes_too(table: Table) -> None:
    there = table.with_labels(1024)
    assert there["zero-shot"].labels == 0 and there["in-context"].labels == 16
    assert there["in-context-nearest"].labels == there["head"].labels == 1024
    assert set(table.with_labels(0)) == {"zero-shot"}


def test_the_family_is_what_is_said_each_method_against_the_strongest_baseline_and_the_best_against_the_next(
    table: Table,
) -> None:
    keys = [(one.labels, frozenset((one.a, one.b))) for one in table.contrasts]
    assert len(keys) == len(set(keys))
    for size in table.sizes:
        baseline, hardest = table.strongest_baseline(size), table.hardest_rival(size)
        assert baseline is not None and hardest is not None and hardest.adjusted is not None
        assert hardest.a == table.best(size).name and hardest.difference.value >= 0
        for cell in table.with_labels(size).values():
            contrast = table.to_strongest_baseline(cell, size)
            assert (contrast is None) == (cell is baseline)
            assert contrast is None or contrast.adjusted is not None
    assert len(keys) <= len(METHODS) * len(table.sizes)
    for one in table.contrasts:
        assert one.adjusted is not None and one.adjusted >= one.p_value >= one.difference.p_value


def test_a_pair_of_which_nothing_is_said_is_not_significant(table: Table) -> None:
    family = {frozenset((one.a, one.b)) for one in table.contrasts if one.labels == 1024}
    outside = [(a, b) for a in NAMES for b in NAMES if a < b and frozenset((a, b)) not in family]
    assert outside
    for a, b in outside:
        contrast = table.contrast(1024, a, b)
        assert contrast is not None and contrast.adjusted is None and not contrast.significant


def test_a_method_behind_the_strongest_of_several_baselines_pays_for_the_choice_and_one_ahead_does_not(
    table: Table,
) -> None:
    claims = {(one.labels, one.a, one.b): (one, p) for size in table.sizes for one, p in table.claims(size)}
    baselines = sum(method.role.is_baseline for method in METHODS)
    for (size, _, than), (one, p_value) in claims.items():
        strongest = table.strongest_baseline(size)
        if strongest is not None and than == strongest.name:
            times = 1 if one.difference.value > 0 else baselines
            assert p_value == pytest.approx(min(1.0, times * one.p_value))


def test_differences_are_paired_by_seed_and_turn_round(table: Table) -> None:
    head, bag = table.with_labels(64)["head"], table.with_labels(64)["bag-of-words"]
    one, other = table.contrast(64, "head", "bag-of-words"), table.contrast(64, "bag-of-words", "head")
    assert one is not None and other is not None
    variance = sum_of(head.seed_variance, bag.seed_variance)
    assert one.difference == pytest.approx(difference(head.correct, bag.correct, seed_variance=variance))
    assert (one.difference.low, one.difference.value) == (-other.difference.high, -other.difference.value)
    assert table.contrast(1024, "zero-shot", "in-context") == table.contrast(16, "zero-shot", "in-context")
    assert table.contrast(0, "zero-shot", "head") is None


def test_the_strongest_baseline_is_found_at_each_size(whole: Comparison, table: Table) -> None:
    found = [table.strongest_baseline(size) for size in table.sizes]
    assert {cell.name for cell in found if cell is not None} == {"bag-of-words"}
    assert all(row["than"] == "bag-of-words" for row in whole.differences)
    assert {row["method"] for row in whole.differences} == set(NAMES) - {"bag-of-words"}


def test_advice_says_that_nothing_beats_the_bag_of_words_where_nothing_does() -> None:
    weak = dict.fromkeys(set(NAMES) - {"bag-of-words"}, lambda doublings: 0.55)
    found = compared(bag_of_words=lambda doublings: 0.8, **{name.replace("-", "_"): s for name, s in weak.items()})
    assert "take the bag of words" in found.advice
    assert "No method that uses the model is significantly better than the bag of words." in found.advice


def test_advice_says_where_nothing_is_better_than_the_most_frequent_label() -> None:
    found = compared(**{name.replace("-", "_"): lambda doublings: 0.5 for name in NAMES})
    assert "no method is significantly better than always answering the most frequent label" in found.advice


def test_advice_takes_the_best_where_it_is_ahead_of_all() -> None:
    found = compared(full=lambda doublings: 0.92, head=lambda doublings: 0.7)
    assert "take full finetuning" in found.advice and "significantly better than all others" in found.advice


def test_advice_names_the_switch_from_prompting_to_finetuning() -> None:
    flat = {
        "zero_shot": 0.7,
        "in_context": 0.7,
        "in_context_nearest": 0.71,
        "bag_of_words": 0.52,
        "random_weights": 0.5,
    }
    found = compared(
        **{name: (lambda doublings, level=level: level) for name, level in flat.items()},
        head=lambda doublings: 0.5,
        full=lambda doublings: 0.55 if doublings < 5 else 0.9,
    )
    assert "Full finetuning stays ahead of in-context with the nearest examples from 64 labels on" in found.advice
    (switch,) = [one for one in found.table.switches if (one.a, one.b) == ("in-context-nearest", "full")]
    assert switch.point.at == 64 and switch.point.never == 0


def test_the_cheapest_is_one_that_cannot_be_ruled_out_as_the_best(table: Table) -> None:
    for choice in choices(table):
        assert choice.cheapest(300).name in choice.equals and choice.best.name in choice.equals
        cells = table.with_labels(choice.labels)
        for method, cell in cells.items():
            contrast = table.contrast(choice.labels, choice.best.name, method)
            if contrast is not None and cell.method.role is not Role.CONSTANT:
                ruled_out = contrast.difference.p_value * (len(cells) - 1) <= LEVEL
                assert ruled_out != (method in choice.equals)


def test_what_is_far_behind_the_best_is_not_taken_though_the_difference_is_not_significant() -> None:
    few = made_task(tests=16, trains=16)
    found = compared(few, Bounds(methods=("head", "full"), seeds=2), head=lambda _: 0.65, full=lambda _: 0.75)
    for choice in choices(found.table):
        assert set(choice.equals) == {"head", "full"} and choice.best.name == "full"
        assert choice.best.accuracy.value - choice.equals["head"].accuracy.value > NEAR
        assert choice.cheapest(16).name == "full"
    assert "take full finetuning" in found.advice and "the linear head" not in found.advice
    assert "significantly better than all others" not in found.advice


@pytest.mark.parametrize(("seconds", "taken"), [(1.0, "full"), (19.0, "full"), (21.0, "head")])
def test_of_those_near_the_best_the_most_accurate_is_taken_that_takes_hardly_longer(seconds: float, taken: str) -> None:
    task = made_task(tests=40, trains=16)
    table = compared(task, Bounds(methods=("full",), seeds=2), full=lambda _: 0.7).table
    full = [replace(one, seconds_to_adapt=seconds) for one in table.outcomes]
    wrong = next(i for i, label in enumerate(task.test.labels) if all(one.predictions[i] == label for one in full))
    head = [
        replace(
            one,
            method="head",
            seconds_to_adapt=0.1,
            predictions=[*one.predictions[:wrong], "", *one.predictions[wrong + 1 :]],
        )
        for one in full
    ]
    for choice in choices(Table(table.setting, [*full, *head])):
        assert set(choice.near) == {"head", "full"} and choice.best.name == "full"
        assert choice.cheapest(40).name == taken


def test_two_seeds_find_forty_points_and_give_an_interval_of_use() -> None:
    """As on a task of six classes with 250 items: a head that is right on four fifths, others on half or a fifth."""
    flat = dict.fromkeys(("bag_of_words", "centroid", "zero_shot", "in_context", "in_context_nearest"), 0.4)
    task = made_task(tests=250, trains=256)
    names = tuple(name.replace("_", "-") for name in ("majority", *flat, "head"))
    found = compared(
        task,
        Bounds(methods=names, seeds=2),
        head=lambda _: 0.8,
        **{name: (lambda doublings, level=level: level) for name, level in flat.items()},
    )
    for size in found.table.sizes:
        head = found.table.with_labels(size)["head"]
        contrast = found.table.to_strongest_baseline(head, size)
        assert contrast is not None and contrast.significant
        assert head.accuracy.high - head.accuracy.low < 0.2
    assert "take the linear head" in found.advice and "significantly better than all others" in found.advice


def test_advice_never_says_that_a_method_is_no_better_than_chance_when_its_interval_excludes_chance() -> None:
    for level in np.linspace(0.5, 0.75, 11):
        found = compared(
            made_task(tests=60, trains=16),
            Bounds(methods=("majority", "bag-of-words", "head", "full"), seeds=2),
            **dict.fromkeys(("bag_of_words", "head", "full"), lambda _, level=level: level),
        )
        for choice in choices(found.table):
            cells = found.table.with_labels(choice.labels)
            chance = cells["majority"].accuracy.value
            excluded = any(cell.accuracy.low > chance for cell in cells.values())
            assert not (excluded and choice.constant is not None)
            assert not (excluded and "majority" in choice.equals)
        if all(choice.constant is None for choice in choices(found.table)):
            assert "always answering" not in found.advice


def test_a_method_whose_seeds_all_answer_alike_is_one_fixed_predictor(table: Table) -> None:
    cell = table.with_labels(64)["majority"]
    assert len(cell.seeds) == 3 and cell.unchanging and cell.seed_variance is None
    assert cell.accuracy == accuracy(cell.correct[0])


def test_one_method_alone_is_nothing_to_compare() -> None:
    assert compared(bounds=Bounds(methods=("head",), seeds=1)).advice.startswith("There is nothing to compare yet")


def test_intervals_of_switch_points_in_words() -> None:
    assert bracket(SwitchPoint(64, 64, 64, 0.0)) == ""
    assert bracket(SwitchPoint(64, 16, 256, 0.0)) == " (95 %: between 16 and 256)"
    assert bracket(SwitchPoint(64, 16, None, 0.2)) == " (95 %: from 16 on, or never)"
    assert bracket(SwitchPoint(None, None, None, 1.0)) == ""


def test_every_line_has_every_column(table: Table) -> None:
    assert all(len(line) == len(COLUMNS) for line in printed_rows(table))
    assert len(printed_rows(table, differences=False)) == len(table.cells)


def test_tables_of_unfinished_rows_can_be_drawn() -> None:
    task, seen = made_task(trains=16), []

    def show(comparison: Comparison) -> None:
        assert printed_rows(comparison.table) and comparison.advice
        seen.append(len(comparison.results()["rows"]))

    run_fakes(Fakes(task), Bounds(seeds=2), show=show)
    assert seen == list(range(1, len(seen) + 1))


class Page(HTMLParser):
    """The text of a page, and the elements that stand in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Any] = []
        self.text: list[Any] = []
        self.links: list[Any] = []
        self.open = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_is_one_file_without_links_and_shows_texts_as_texts(tmp_path: Path) -> None:
    hostile = compared(made_task(hostile=True), Bounds(seeds=2))
    hostile.save(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.links == [] and page.elements.count("script") == 1
    assert any("<script>alert('&')</script> {text}" in text for text in page.text)
    assert hostile.advice in page.text


def test_every_method_has_a_curve_and_every_drawing_is_well_formed(tmp_path: Path, whole: Comparison) -> None:
    whole.save(tmp_path)
    svg = xml.etree.ElementTree.fromstring((tmp_path / "curves.svg").read_text(encoding="utf-8"))
    drawn = {one.get("data-method") for one in svg.iter("{http://www.w3.org/2000/svg}g")}
    assert drawn >= set(NAMES)
    numbers = [float(one.get(name)) for one in svg.iter("{http://www.w3.org/2000/svg}circle") for name in ("cx", "cy")]
    assert numbers and all(0 <= number <= 960 for number in numbers)


def test_results_are_json_that_can_be_read_again(tmp_path: Path, whole: Comparison) -> None:
    whole.save(tmp_path)
    read = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(whole.results()))
    wanted = "method labels shots seed accuracy interval seconds_to_adapt milliseconds_per_text".split()
    assert all(set(wanted) <= set(row) for row in read["rows"])
    assert {"rows", "differences", "advice"} <= set(read) and read["comparisons"] == len(read["pairs"])
