"""The story can be told: quickly on a small world here, whole under `make test-slow`."""

import io
import json
import os
import re
import runpy
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from chainrule.cli import main
from chainrule.demo import figures, grid, page, pretrain, printout, story
from chainrule.demo.ask import Figure, ask, ask_all
from chainrule.demo.figures import QUESTIONS, after
from chainrule.demo.pretrain import Scale
from chainrule.demo.puzzles import MEANINGS, puzzle_items
from chainrule.demo.story import run_demo
from chainrule.demo.world import make_world
from chainrule.finetuning import recipes
from chainrule.language_model import load

SMALL = Scale(
    characters=200_000,
    steps=4,
    width=32,
    depth=1,
    heads=2,
    check_every=4,
    items=8,
    sizes={"colours": (8,), "polarity": (4, 8)},
    rounds=1,
)
KEYS = ("puzzle_answer", "open_questions", "yes_no_questions", "addition_after_3")


def check(results: dict, out: Path) -> None:
    assert json.loads((out / "results.json").read_text())["steps"] == results["steps"]
    for key in KEYS:
        assert set(results[key]) >= {"accuracy", "n", "chance"}
        assert results[key]["n"] > 0 and 0 < results[key]["chance"] < 1
        low, high = results[key]["interval"]
        assert 0 <= low <= results[key]["accuracy"] <= high <= 1
    assert results["seconds"] > 0


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """No law here is about how well a classifier of the grid learns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "_LEAST_STEPS", 10)
        yield


class Told(NamedTuple):
    """A demo's folder, and what it returned and printed."""

    out: Path
    results: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    out, printed = tmp_path_factory.mktemp("told") / "demo", io.StringIO()
    with redirect_stdout(printed):
        results = run_demo(out, scale=SMALL)
    return Told(out, results, printed.getvalue())


@pytest.fixture
def grid_of_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is about pretraining: the grid, most of a demo's time, is the one that was made already."""
    entries = [
        grid.Entry(task, adaptation, labels, Figure(**figure))
        for entry in told.results["grid"]
        for task, adaptation, labels, figure in [_split(**entry)]
        if task != "puzzles"
    ]
    monkeypatch.setattr(grid, "compare_tasks", lambda *_, **__: entries)


def _split(task: str, adaptation: str, labels: int, **figure: Any) -> tuple[str, str, int, dict[str, Any]]:
    return task, adaptation, labels, figure


def test_the_story_is_told_and_its_figures_are_written(told: Told) -> None:
    results, printed = told.results, told.printed
    check(results, told.out)
    assert "log V" in printed and "The chain rule on" in printed and "format known" in printed
    assert results["open_questions"]["accuracy"] < 0.5  # four steps teach nothing: the figures are measured
    assert "<html" in Path(results["report"]).read_text() and printed.rstrip().endswith(results["report"])
    assert "<svg" in (told.out / "puzzles.svg").read_text()
    methods = {(entry["task"], entry["adaptation"]) for entry in results["grid"]}
    for method in ("zero-shot", "head", "full", "bag-of-words", "random-weights"):
        assert {("colours", method), ("polarity", method)} <= methods
    assert len(results["puzzle_curve"]) == 9 and ("puzzles", "in-context, 8 shown") in methods
    for entry in results["grid"]:
        assert entry["n"] > 0 and entry["ceiling"] >= entry["chance"] and entry["interval"][0] <= entry["accuracy"]


def test_the_page_that_tells_the_section_can_be_retold_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(told.out, "demo")
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "story.md").read_text(encoding="utf-8")
    few = page.replace("--steps 600", "--steps 3 --compile off").replace(
        "--sizes 4 16 64 --seeds 3", "--sizes 4 --seeds 1"
    )
    assert few.count("--compile off") == few.count("--seeds 1 ") == 1
    retold = runpy.run_path(str(docs / "retell.py"))["retold"](few)
    prompts = re.compile(r"^(?:\$|>>>) .*", re.MULTILINE)
    assert prompts.findall(retold) == prompts.findall(few) and len(prompts.findall(retold)) > 20
    for output in re.findall(r"^\$ chainrule .*\n((?:(?!\$ |```).*\n)*)", retold, re.MULTILINE):
        assert output.strip()
    assert Path("demo/compared/report.html").is_file() and Path("demo/masked-full/config.json").is_file()


def test_the_same_demo_again_makes_no_step_more_and_says_the_same_on_one_screen(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    log, page = (told.out / "run" / "log.jsonl").read_bytes(), (told.out / "index.html").read_bytes()
    again = run_demo(told.out, scale=SMALL)
    assert (told.out / "run" / "log.jsonl").read_bytes() == log
    assert {**again, "seconds": 0} == {**told.results, "seconds": 0}
    assert (told.out / "index.html").read_bytes() == page
    lines = capsys.readouterr().out.replace(str(told.out), "demo").split("\n")[:-1]
    assert len(lines) <= 45 and max(len(line.rstrip()) for line in lines) <= 100


class Elements(HTMLParser):
    """A page's text, links and kinds of elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.kinds: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.kinds.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_network_and_no_script_and_its_links_are_there(told: Told) -> None:
    html = (told.out / "index.html").read_text(encoding="utf-8")
    elements = Elements(html)
    assert "script" not in elements.kinds and "url(" not in html and "@import" not in html
    assert {"colours/report.html", "polarity/report.html", "run/"} <= set(elements.links)
    assert all((told.out / link).exists() for link in elements.links)
    assert html.count("<svg") == 1 + len(MEANINGS) and len(html) < 200_000


def test_the_page_is_made_from_the_results_alone(told: Told, tmp_path: Path) -> None:
    shutil.copy(told.out / "results.json", tmp_path)
    page.write(tmp_path)
    for name in ("index.html", "puzzles.svg"):
        assert (tmp_path / name).read_bytes() == (told.out / name).read_bytes()


def test_the_page_shows_every_sample_token_answer_target_and_cell(told: Told) -> None:
    results = json.loads((told.out / "results.json").read_text(encoding="utf-8"))
    results["samples"][0]["text"] = "<script>alert('&')</script> {{ text }}"
    results["mixed_polarities"] = [{**entry, "accuracy": 0.123} for entry in results["grid"]]
    elements = Elements(page.page(results))
    assert "script" not in elements.kinds
    for sample in results["samples"]:
        assert sample["text"] in elements.text
    for token in results["chain_rule"]["tokens"]:
        assert f"{token['log_prob']:.3f}" in elements.text
    for name in QUESTIONS:
        assert f"{100 * results[name]['accuracy']:.1f}" in elements.text
    for name in results["targets"]:
        assert name.replace("_", " ") in elements.text
    assert elements.text.count("12.3 ") == 2 * sum(entry["task"] != "puzzles" for entry in results["grid"]) / 2
    for meaning in MEANINGS:
        assert f"after 8: {_percent(results[after(meaning, 8)]['accuracy'])}" in elements.text


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def test_what_was_not_learned_is_told_plainly_and_what_was_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(soft_wrap=True)
    targets = {"open_questions": {"reached": 0.98, "wanted": 0.97}, "yes_no_questions": {"reached": 0.5, "wanted": 0.9}}
    printout.show_targets(targets, console)
    missed = capsys.readouterr().out
    assert missed.startswith("NOT learned") and "questions 50% (wanted 90%)" in " ".join(missed.split())
    assert "open" not in missed
    printout.show_targets({"open_questions": targets["open_questions"]}, console)
    assert capsys.readouterr().out == "All targets on the validation animals and puzzles are met.\n"


def test_items_asked_together_are_answered_as_each_alone(told: Told) -> None:
    language_model, puzzles = load(told.out / "run"), make_world(0).puzzles
    asked = {meaning: puzzle_items(puzzles, meaning, shots, count=5) for shots, meaning in enumerate(MEANINGS)}
    asked["all"] = [item for items in asked.values() for item in items]
    figures = ask_all(language_model, asked)
    assert figures == {name: ask(language_model, items) for name, items in asked.items()}
    assert figures["all"].n == 5 * len(MEANINGS)


def test_json_alone_is_on_standard_output(
    told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(story.run_demo, "__kwdefaults__", dict(story.run_demo.__kwdefaults__ or {}, scale=SMALL))
    main(["demo", "--out", str(told.out), "--json"])
    held = json.loads((told.out / "results.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == held and held["steps"] == told.results["steps"]


def reaching(*values: float) -> Any:
    """A look at the targets that finds all of them at each value in turn, and then at the last."""
    left = list(values)

    def look(language_model: Any, world: Any, *, every: bool = False) -> dict[str, float]:
        return dict.fromkeys(pretrain.TARGETS, left.pop(0) if len(left) > 1 else left[0])

    return look


@pytest.mark.usefixtures("grid_of_told")
def test_training_stops_at_the_look_that_finds_the_targets_met_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = replace(SMALL, steps=40)
    monkeypatch.setattr(pretrain, "targets_reached", reaching(0.5, 1.0))
    first = run_demo(tmp_path / "demo", quiet=True, scale=long)
    assert first["steps"] == 8 and first["rounds"] == 1
    monkeypatch.setattr(pretrain, "targets_reached", reaching(0.0))
    assert run_demo(tmp_path / "demo", quiet=True, scale=long)["steps"] == 8


@pytest.mark.usefixtures("grid_of_told")
def test_a_round_that_ends_short_of_its_targets_is_followed_by_another_from_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "targets_reached", reaching(0.5, 0.5, 1.0))
    results = run_demo(tmp_path / "demo", quiet=True, scale=replace(SMALL, rounds=None))
    assert (results["rounds"], results["steps"]) == (3, 12)
    assert [(tmp_path / "demo" / name / "config.json").is_file() for name in ("run", "run-2", "run-3")] == [True] * 3
    assert f"{tmp_path}/demo/run-2" in (tmp_path / "demo" / "run-3" / "run.toml").read_text()


@pytest.mark.usefixtures("grid_of_told")
def test_nothing_that_is_learned_depends_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(out: Path, pace: float) -> bytes:
        begun = time.monotonic(), time.perf_counter()
        real = time.monotonic, time.perf_counter
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: begun[0] + pace * (real[0]() - begun[0]))
            patched.setattr(time, "perf_counter", lambda: begun[1] + pace * (real[1]() - begun[1]))
            run_demo(out, quiet=True, scale=SMALL)
        return (out / "run" / "model.safetensors").read_bytes()

    assert weights(tmp_path / "slow", 0.1) == weights(tmp_path / "fast", 10.0)


class Stopped(BaseException):
    """As a signal would."""


def test_stopped_at_any_stage_the_same_demo_goes_on_and_ends_with_the_same_results(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **named: Any) -> None:
        raise Stopped

    falling = printout.falling

    def terminate(start: float, step: int, loss: float, tokens_per_second: float) -> str:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return falling(start, step, loss, tokens_per_second)

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr(printout, "falling", terminate)
        run_demo(tmp_path / "demo", quiet=True, scale=SMALL)
    assert end.value.code == 128 + signal.SIGTERM
    for module, stage in ((figures, "figures"), (grid, "compare_tasks"), (page, "write")):
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(module, stage, stop)
            run_demo(tmp_path / "demo", quiet=True, scale=SMALL)
    again = run_demo(tmp_path / "demo", quiet=True, scale=SMALL)
    of_time_and_place = dict.fromkeys(("seconds", "pretraining_seconds", "report"))
    assert {**again, **of_time_and_place} == {**told.results, **of_time_and_place}


@pytest.mark.usefixtures("grid_of_told")
def test_after_the_minutes_what_was_not_learned_is_told_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hurried = replace(SMALL, minutes=0.0, rounds=None)
    stopped = run_demo(tmp_path / "demo", scale=hurried)
    assert stopped["steps"] == 1 and "NOT learned" in capsys.readouterr().out
    # Of a control that made as many steps as the model had then, and of comparisons with that model.
    stale = [tmp_path / "demo" / name for name in (pretrain.CONTROL, *grid.SIZES)]
    for folder in stale:
        folder.mkdir()
    again = run_demo(tmp_path / "demo", quiet=True, scale=SMALL)
    assert again["steps"] == SMALL.steps and not any(folder.exists() for folder in stale)


def test_the_full_demo_has_five_seeds_and_the_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(SMALL, sizes={"colours": (8,), "polarity": (4,)})
    results = run_demo(tmp_path / "demo", full=True, scale=few)
    assert "polarity (control: mixed reviews)" in capsys.readouterr().out
    assert "reviews that mix adjectives of both polarities" in (tmp_path / "demo" / "index.html").read_text()
    control = {(entry["adaptation"], entry["labels"]) for entry in results["mixed_polarities"]}
    assert control == {("zero-shot", 0), ("head", 4), ("full", 4)}
    rows = json.loads((tmp_path / "demo" / "polarity" / "results.json").read_text())["rows"]
    assert {row["seed"] for row in rows if row["method"] == "head"} == set(range(5))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        run_demo(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_corpus_of_somebody_elses_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"text": "mine"}\n')
    with pytest.raises(ValueError, match=r"got one whose corpus\.jsonl is another"):
        run_demo(tmp_path, quiet=True, scale=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
    assert (tmp_path / "corpus.jsonl").read_text() == '{"text": "mine"}\n'


@pytest.mark.slow
def test_the_whole_demo_shows_what_it_says(tmp_path: Path) -> None:
    results = run_demo(tmp_path / "demo", quiet=True)
    check(results, tmp_path / "demo")
    assert results["open_questions"]["accuracy"] >= 0.95
    assert results["addition_after_3"]["accuracy"] >= 0.95
    assert results["notes_prompt"].strip() == "A: 17"
    assert results["unmentioned_open_questions"]["accuracy"] < 0.25
    assert results["seconds"] < 300
