"""The commands of docs/sst2.md run as they are printed, on a few made-up sentences and with a few steps."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_on_sst2_can_be_retold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sst2").mkdir()
    for name, count in (("train", 60), ("dev", 20)):
        rows = [f"a {('grim', 'warm')[row % 2]} film , {name} number {row}\t{row % 2}" for row in range(count)]
        Path("sst2", f"{name}.tsv").write_text("\n".join(rows) + "\n")
    Path("shakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    page = (DOCS / "sst2.md").read_text(encoding="utf-8")
    for long, short in (
        ("--steps 400 --batch-tokens 4096", "--steps 3 --batch-tokens 256 --compile off"),
        ("--width 128", "--width 16"),
        ("--vocabulary-size 4096", "--vocabulary-size 300"),
        ("--sizes 16 64 256 1024 6920 --seeds 5", "--sizes 8 --seeds 1"),
    ):
        assert page.count(long) == 1, long
        page = page.replace(long, short)
    told = runpy.run_path(str(DOCS / "retell.py"))["retold"](page)
    assert "On 20 test items (1 seed" in told and Path("compared", "report.html").is_file()
