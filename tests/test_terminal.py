"""What is told where nobody's terminal can be drawn on."""

import time

import pytest

from chainrule import terminal


def test_progress_is_a_plain_line_now_and_then_with_its_part_of_the_whole_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.progress_bar(4.0, "training") as bar:
        bar(1.0, "too soon")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(terminal, "QUIET_SECONDS", -1.0)
    with terminal.progress_bar(4.0, "training") as bar:
        bar(1.0, "loss 2.0")
    with terminal.progress_bar(None, "predicting") as bar:
        bar(5000.0, "5,000 rows")
    assert capsys.readouterr().err == "training 25%  loss 2.0\npredicting  5,000 rows\n"


def test_a_table_that_goes_to_no_terminal_folds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a cell of many words " * 12
    terminal.print_table(("name", "n"), [(long.strip(), "12")])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()][1] == f"{long.strip()}  12"


def test_a_sparing_bar_says_at_most_five_plain_lines_in_a_quarter_of_an_hour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter(range(901))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    with terminal.progress_bar(900.0, "pretraining", sparing=True) as bar:
        for done in range(1, 901):
            bar(done, "loss 2.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pretraining 3%  loss 2.0" and 2 <= len(lines) <= 5
