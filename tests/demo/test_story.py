"""The story can be told: quickly on a small world here, whole under `make test-slow`."""

import json
from pathlib import Path

import pytest

from chainrule.demo.story import Scale, tell

KEYS = ("puzzle_answer", "open_questions", "yes_no_questions", "addition_after_3")


def check(results: dict, out: Path) -> None:
    assert json.loads((out / "results.json").read_text())["steps"] == results["steps"]
    for key in KEYS:
        assert set(results[key]) >= {"accuracy", "n", "chance"}
        assert results[key]["n"] > 0 and 0 < results[key]["chance"] < 1
        low, high = results[key]["interval"]
        assert 0 <= low <= results[key]["accuracy"] <= high <= 1
    assert results["seconds"] > 0


def test_the_story_is_told_and_its_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale = Scale(characters=200_000, steps=4, width=32, depth=1, check_every=4, items=8)
    results = tell(tmp_path / "demo", scale=scale)
    check(results, tmp_path / "demo")
    told = capsys.readouterr().out
    assert "log V" in told and "The chain rule on" in told and "format known" in told
    assert results["open_questions"]["accuracy"] < 0.5  # four steps teach nothing: the figures are measured


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        tell(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.slow
def test_the_whole_demo_shows_what_it_says(tmp_path: Path) -> None:
    results = tell(tmp_path / "demo", quiet=True)
    check(results, tmp_path / "demo")
    assert results["open_questions"]["accuracy"] >= 0.95
    assert results["addition_after_3"]["accuracy"] >= 0.95
    assert results["notes_prompt"].strip() == "A: 17"
    assert results["unmentioned_open_questions"]["accuracy"] < 0.25
    assert results["seconds"] < 240
