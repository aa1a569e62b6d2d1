"""The story can be told: quickly on a small world here, whole under `make test-slow`."""

import io
import json
import re
import runpy
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from chainrule.demo import story
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


SMALL = Scale(
    characters=200_000, steps=4, width=32, depth=1, check_every=4, items=8, sizes={"colours": (8,), "polarity": (4, 16)}
)


class Story(NamedTuple):
    out: Path
    results: dict
    printed: str


@pytest.fixture(scope="module")
def small_story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Told once for all tests that only read it."""
    out, printed = tmp_path_factory.mktemp("story") / "demo", io.StringIO()
    with redirect_stdout(printed):
        results = tell(out, scale=SMALL)
    return Story(out, results, printed.getvalue())


def test_the_story_is_told_and_its_figures_are_written(small_story: Story) -> None:
    out, results, told = small_story
    check(results, out)
    assert "log V" in told and "The chain rule on" in told and "format known" in told
    assert results["open_questions"]["accuracy"] < 0.5  # four steps teach nothing: the figures are measured
    assert "<html" in Path(results["report"]).read_text() and told.rstrip().endswith(results["report"])
    assert "<svg" in (out / "puzzles.svg").read_text()
    methods = {(entry["task"], entry["adaptation"]) for entry in results["grid"]}
    for method in ("zero-shot", "head", "full", "bag-of-words", "random-weights"):
        assert {("colours", method), ("polarity", method)} <= methods
    assert len(results["puzzle_curve"]) == 9 and ("puzzles", "in-context, 8 shown") in methods
    for entry in results["grid"]:
        assert entry["n"] > 0 and entry["ceiling"] >= entry["chance"] and entry["interval"][0] <= entry["accuracy"]


def test_the_page_that_tells_the_section_can_be_retold_on_it(
    small_story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_story.out, "demo")
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "story.md").read_text(encoding="utf-8")
    few = page.replace("--steps 600", "--steps 3 --compile off").replace(
        "--sizes 4 16 64 --seeds 8", "--sizes 4 --seeds 1"
    )
    assert few.count("--compile off") == few.count("--seeds 1 ") == 1
    told = runpy.run_path(str(docs / "retell.py"))["retold"](few)
    prompts = re.compile(r"^(?:\$|>>>) .*", re.MULTILINE)
    assert prompts.findall(told) == prompts.findall(few) and len(prompts.findall(told)) > 20
    for output in re.findall(r"^\$ chainrule .*\n((?:(?!\$ |```).*\n)*)", told, re.MULTILINE):
        assert output.strip()
    assert Path("demo/compared/report.html").is_file() and Path("demo/masked-full/config.json").is_file()


def test_the_same_demo_again_makes_no_step_more_and_says_the_same(small_story: Story) -> None:
    log = (small_story.out / "run" / "log.jsonl").read_bytes()
    again = tell(small_story.out, quiet=True, scale=SMALL)
    assert (small_story.out / "run" / "log.jsonl").read_bytes() == log
    assert {**again, "seconds": 0} == {**small_story.results, "seconds": 0}


def test_what_has_met_its_targets_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(SMALL, steps=40)
    monkeypatch.setattr(story, "TARGETS", {"open_questions": 0.0})
    first = tell(tmp_path / "demo", quiet=True, scale=long)
    assert first["steps"] == 4  # met at the first look
    monkeypatch.setattr(story, "TARGETS", {"open_questions": 1.1})
    assert tell(tmp_path / "demo", quiet=True, scale=long)["steps"] == 4


def test_the_full_demo_has_five_seeds_and_the_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(SMALL, sizes={"colours": (8,), "polarity": (4,)})
    results = tell(tmp_path / "demo", full=True, scale=few)
    assert "whose reviews mix the polarities" in capsys.readouterr().out
    control = {(entry["adaptation"], entry["labels"]) for entry in results["mixed_polarities"]}
    assert control == {("zero-shot", 0), ("head", 4), ("full", 4)}
    rows = json.loads((tmp_path / "demo" / "polarity" / "results.json").read_text())["rows"]
    assert {row["seed"] for row in rows if row["method"] == "head"} == set(range(5))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        tell(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_corpus_of_somebody_elses_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"text": "mine"}\n')
    with pytest.raises(ValueError, match=r"got one whose corpus\.jsonl is another"):
        tell(tmp_path, quiet=True, scale=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
    assert (tmp_path / "corpus.jsonl").read_text() == '{"text": "mine"}\n'


@pytest.mark.slow
def test_the_whole_demo_shows_what_it_says(tmp_path: Path) -> None:
    results = tell(tmp_path / "demo", quiet=True)
    check(results, tmp_path / "demo")
    assert results["open_questions"]["accuracy"] >= 0.95
    assert results["addition_after_3"]["accuracy"] >= 0.95
    assert results["notes_prompt"].strip() == "A: 17"
    assert results["unmentioned_open_questions"]["accuracy"] < 0.25
    assert results["seconds"] < 300
