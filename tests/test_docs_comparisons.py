"""The commands of docs/sst2.md and docs/trec.md run as they are printed, on a few made-up texts and small models."""

import runpy
from pathlib import Path

import pytest

from chainrule.cli import main

DOCS = Path(__file__).parent.parent / "docs"
SHORTER = (
    ("--steps 400 --batch-tokens 4096", "--steps 3 --batch-tokens 256 --compile off"),
    ("--width 128", "--width 16"),
    ("--vocabulary-size 4096", "--vocabulary-size 300"),
    ("--sizes 16 64 256 1024 6920 --seeds 5", "--sizes 8 --seeds 1"),
    ("--sizes 16 64 256 --seeds 5", "--sizes 8 --seeds 1"),
    ("--sizes 16 64 --seeds 5", "--sizes 8 --seeds 1"),
    ("--dtype bfloat16", "--dtype float32"),
    ("SmolLM2.gguf", "tiny"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a text and a model that stands for SmolLM2."""
    monkeypatch.chdir(tmp_path)
    Path("shakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    options = "--depth 1 --width 16 --heads 2 --context 128 --tokenizer byte --steps 2 --batch-tokens 256 --compile off"
    main(["pretrain", "shakespeare.txt", *options.split(), "--out", "tiny"])
    return tmp_path


def retold(name: str) -> str:
    page = (DOCS / name).read_text(encoding="utf-8")
    for long, short in SHORTER:
        page = page.replace(long, short)
    assert "--seeds 1" in page and "--seeds 3" not in page and "--seeds 5" not in page
    return str(runpy.run_path(str(DOCS / "retell.py"))["retold"](page))


def test_the_page_on_sst2_can_be_retold(folder: Path) -> None:
    Path("sst2").mkdir()
    for name, count in (("train", 60), ("dev", 20)):
        rows = [f"a {('grim', 'warm')[row % 2]} film , {name} number {row}\t{row % 2}" for row in range(count)]
        Path("sst2", f"{name}.tsv").write_text("\n".join(rows) + "\n")
    told = retold("sst2.md")
    assert told.count("On 20 test items (1 seed") == 2
    assert Path("compared", "report.html").is_file() and Path("small", "report.html").is_file()


def test_the_page_on_kinds_of_questions_can_be_retold(folder: Path) -> None:
    kinds = ("ABBR:exp", "DESC:def", "ENTY:animal", "HUM:ind", "LOC:city", "NUM:date")
    for name, count in (("train", 60), ("test", 18)):
        rows = [f"{kinds[row % 6]} What is the {name} caf\xe9 number {row} ?" for row in range(count)]
        Path(f"TREC.{name}").write_text("\n".join(rows) + "\n", encoding="latin-1")
    page = (DOCS / "trec.md").read_text(encoding="utf-8")
    script = page.split("$ cat make_dates.py\n")[1].split("$ python make_dates.py")[0]
    Path("make_dates.py").write_text(script.replace("range(600)", "range(60)"))
    told = retold("trec.md")
    assert "On 18 test items (1 seed" in told and "On 12 test items (1 seed" in told
    assert Path("kinds", "report.html").is_file() and Path("dates", "report.html").is_file()
