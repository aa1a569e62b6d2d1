"""Laws of a comparison, over predictors that are right as often as they are told to be."""

import json
from pathlib import Path

import pytest
from comparison_fakes import FAKE_METHODS, SKILLS, Fake, Fakes, made_task, run_fakes

from chainrule.comparison.comparison import Comparison
from chainrule.comparison.grid import Bounds, Key, Planned
from chainrule.comparison.plan_in_words import plan_in_words, too_late
from chainrule.comparison.run import planned
from chainrule.errors import NotEnoughMemoryError

FEW = Bounds(seeds=2)


def but_times(comparison: Comparison) -> str:
    results = comparison.results()
    for row in [*results["rows"], *results["cells"]]:
        del row["seconds_to_adapt"], row["milliseconds_per_text"]
    del results["advice"]  # names what is cheapest
    return json.dumps(results)


def test_compare_resumed_equals_compare_never_stopped(tmp_path: Path) -> None:
    task = made_task()
    whole = run_fakes(Fakes(task), FEW, out=tmp_path / "whole")
    for stop in (3, 17):
        with pytest.raises(KeyboardInterrupt):
            run_fakes(Fakes(task, stop_after=stop), FEW, out=tmp_path / "stopped")
    resumed = Fakes(task)
    again = run_fakes(resumed, FEW, out=tmp_path / "stopped")
    assert len(resumed.made) == len(whole.rows) - 20
    assert but_times(again) == but_times(whole)


def test_run_twice_the_table_is_the_same_but_for_times(tmp_path: Path) -> None:
    task = made_task()
    assert but_times(run_fakes(Fakes(task), FEW)) == but_times(run_fakes(Fakes(task), FEW, out=tmp_path))


def test_what_is_read_from_the_folder_is_what_was_run(tmp_path: Path) -> None:
    task = made_task(hostile=True)
    first = run_fakes(Fakes(task), FEW, out=tmp_path)
    nothing = Fakes(task, stop_after=0)
    assert run_fakes(nothing, FEW, out=tmp_path).results() == first.results()


def test_a_row_half_written_is_run_again(tmp_path: Path) -> None:
    task = made_task()
    bounds = Bounds(methods=("head", "majority"), seeds=2)
    whole = run_fakes(Fakes(task), bounds, out=tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-100])
    fakes = Fakes(task)
    assert but_times(run_fakes(fakes, bounds, out=tmp_path)) == but_times(whole)
    assert len(fakes.made) == 1


@pytest.mark.parametrize("broken", [b'"method": "head"}', b"{}", b"[1]"])
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, broken: bytes) -> None:
    task = made_task()
    bounds = Bounds(methods=("head",), seeds=2)
    run_fakes(Fakes(task), bounds, out=tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(broken + b"\n" + rows.read_bytes())
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: wanted a row"):
        run_fakes(Fakes(task), bounds, out=tmp_path)


@pytest.mark.parametrize(("named", "change"), [("the model", "model"), ("the task", "task"), ("--limit", "limit")])
def test_rows_made_with_something_else_are_refused_by_name(tmp_path: Path, named: str, change: str) -> None:
    task = made_task()
    run_fakes(Fakes(task), Bounds(methods=("head",), seeds=1), out=tmp_path)
    other = made_task(trains=60) if change == "task" else task
    fakes = Fakes(other)
    if change == "model":
        fakes.identity = {"model": "another"}
    limit = 50 if change == "limit" else None
    with pytest.raises(ValueError, match=f"^{named}: wanted .*, as when .* was begun, got "):
        run_fakes(fakes, Bounds(methods=("head",), seeds=1, limit=limit), out=tmp_path)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"something else \(thesis\.tex\)"):
        run_fakes(Fakes(made_task()), Bounds(), out=tmp_path)


def test_wider_bounds_go_on_from_the_rows_there_are(tmp_path: Path) -> None:
    task = made_task()
    run_fakes(Fakes(task), Bounds(methods=("head",), seeds=2), out=tmp_path)
    fakes = Fakes(task)
    run_fakes(fakes, Bounds(methods=("head", "majority"), seeds=2), out=tmp_path)
    assert {method for method, *_ in fakes.made} == {"majority"}


def test_rows_that_would_end_too_late_are_left_out_and_said() -> None:
    task = made_task()
    said: list[str] = []
    comparison = run_fakes(Fakes(task), Bounds(minutes=1e-4), log=said.append)
    assert comparison.table.left and all(row.seconds > 0 for row in comparison.table.left)
    assert "are left out: they would end after 0.0001 minutes (" in said[-1]


def made_plan(seconds: dict[tuple[str, int], float], seeds: int = 2) -> list[Planned]:
    methods = {method.name: method for method in FAKE_METHODS}
    rows = [
        Planned(Key(name, labels, seed), methods[name], each)
        for (name, labels), each in seconds.items()
        for seed in range(seeds)
    ]
    return sorted(rows, key=lambda row: row.seconds)


def test_the_plan_names_what_a_budget_leaves_out() -> None:
    rows = made_plan(
        {("head", 4): 1, ("head", 16): 2, ("full", 4): 100, ("full", 16): 300, ("random-weights", 16): 400}
    )
    said = plan_in_words(rows, rows, 10.0)
    assert said[0] == "10 rows: N = 4, 16 labels; about 27 min, cheapest first"
    assert said[1:] == ["--minutes 10 leaves out full with 16 (1 of 2 seeds) labels; random-weights"]
    assert plan_in_words(rows, rows, 30.0) == said[:1]
    assert plan_in_words(rows, rows[:4], None) == ["4 of 10 rows are left: N = 4, 16 labels; about 6 s, cheapest first"]
    of_budgets = plan_in_words(rows, rows, None)[1:]
    assert of_budgets == ["--minutes 5 would leave out full with 16 labels; random-weights"]


@pytest.mark.parametrize("minutes", [0.001, 0.004, 0.02])
def test_what_the_plan_leaves_out_are_the_rows_that_do_not_fit_one_after_another(minutes: float) -> None:
    rows = made_plan({(name, n): 0.01 * n for name in ("head", "full", "words") for n in (4, 16, 64)}, seeds=3)
    late = too_late(rows, 60 * minutes)
    run = [row for row in rows if row not in late]
    assert sum(row.seconds for row in run) <= 60 * minutes
    for row in late:
        before = sum(each.seconds for each in run if rows.index(each) < rows.index(row))
        assert before + row.seconds > 60 * minutes


def test_a_method_that_finds_no_memory_is_left_out_and_the_others_are_compared(tmp_path: Path) -> None:
    class Small(Fakes):
        def fit(self, name: str, labels: int, seed: int) -> Fake:
            if name == "full":
                raise NotEnoughMemoryError("finetune --train full: wanted about 9 GB of memory, got 1 GB free")
            return super().fit(name, labels, seed)

    said: list[str] = []
    task = made_task()
    comparison = run_fakes(Small(task), FEW, out=tmp_path, log=said.append)
    expected = run_fakes(Fakes(task), Bounds(tuple(name for name in SKILLS if name != "full"), seeds=2))
    assert "full" in comparison.table.left_out and not comparison.table.left
    assert [line for line in said if line.startswith("full is left out: ")] == [
        "full is left out: finetune --train full: wanted about 9 GB of memory, got 1 GB free"
    ]
    found = {outcome.key: outcome.accuracy for outcome in comparison.table.outcomes}
    assert all(found[outcome.key] == outcome.accuracy for outcome in expected.table.outcomes)
    assert "full</b> was left out" in (tmp_path / "report.html").read_text()
    with pytest.raises(NotEnoughMemoryError):
        run_fakes(Small(task), Bounds(methods=("full",)))


def test_ctrl_c_leaves_a_report_of_the_rows_there_are(tmp_path: Path) -> None:
    def stop(comparison: Comparison) -> None:
        if len(comparison.table.outcomes) == 2:
            raise KeyboardInterrupt

    task = made_task()
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_fakes(Fakes(task), FEW, out=tmp_path, show=stop, log=said.append)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 and (tmp_path / "report.html").is_file()
    assert said[-1].startswith("stopped after 2 of ")


def test_rows_are_run_in_the_order_of_the_plan() -> None:
    fakes = Fakes(made_task())
    run_fakes(fakes, FEW)
    rows, _ = planned(fakes, FEW, FAKE_METHODS, 10)
    assert [tuple(made) for made in fakes.made] == [tuple(row.key) for row in rows]


def test_the_table_is_shown_after_each_row_and_tells_what_is_left() -> None:
    task, left = made_task(), []
    run_fakes(
        Fakes(task),
        Bounds(methods=("head",), seeds=3),
        show=lambda comparison: left.append(len(comparison.table.left)),
    )
    assert left == list(range(len(left) - 1, -1, -1)) and len(left) == 9


def test_a_method_that_cannot_be_is_left_out_unless_it_was_named() -> None:
    task = made_task()
    said: list[str] = []
    fakes = Fakes(task)
    fakes.obstacles = {"zero-shot": "prompting wants words"}
    assert run_fakes(fakes, Bounds(), log=said.append).table.left_out == {"zero-shot": "prompting wants words"}
    assert said[0] == "zero-shot is left out: prompting wants words"
    with pytest.raises(ValueError, match="prompting wants words"):
        run_fakes(fakes, Bounds(methods=("zero-shot",)))


def test_free_answers_are_compared_without_classes(tmp_path: Path) -> None:
    task = made_task(kind="free")
    comparison = run_fakes(Fakes(task), Bounds(methods=("zero-shot", "in-context"), seeds=2), out=tmp_path)
    assert all(row["macro_f1"] is None and row["calibration"] is None for row in comparison.rows)
    assert "Where the methods disagree" in (tmp_path / "report.html").read_text()


def test_every_method_sees_the_same_test_items() -> None:
    task = made_task()
    comparison = run_fakes(Fakes(task), Bounds(limit=30, seeds=2))
    assert {len(outcome.predictions) for outcome in comparison.table.outcomes} == {30}
