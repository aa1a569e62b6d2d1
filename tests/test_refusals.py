"""A refused command leaves the folder as it was, and the corrected one then succeeds: every command that writes."""

import csv
import json
import random
from pathlib import Path

import pytest

from chainrule.cli import main

TINY = "--depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 1 --compile off --dtype float32"
BYTES = f"--tokenizer byte {TINY}"
FROM = "--from run --out new --steps 1 --batch-tokens 64 --compile off --dtype float32"
DAYS = "days.csv --text day --label mood"
OWLS = " ".join(random.Random(0).choices("the owl sees a mouse and night falls".split(), k=300))
LONG = "a very long text about a day that has no end in this world"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad inputs, and runs made of them."""
    folder = tmp_path_factory.mktemp("world")
    for name, content in {
        "owls.txt": OWLS.encode(),
        "empty.txt": b"",
        "short.txt": b"owl",
        "latin.txt": OWLS.replace("owl", "h\xfclot").encode("latin-1"),
        "broken.jsonl": b"".join(json.dumps({"text": OWLS}).encode() + b"\n" for _ in range(9)) + b'{"text":\n',
        "bodies.jsonl": json.dumps({"body": OWLS}).encode() + b"\n",
        "other/thesis.tex": b"years of work",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "there").mkdir()
    rows = [(f"a {('fine', 'grim')[row % 2]} day {row}", ("good", "bad")[row % 2]) for row in range(40)]
    texts = {
        "days": rows,
        "long": [(LONG, "good"), *rows],
        "odd": [*rows[:39], ("a grim day \u03c9", "bad")],
        "gap": [*rows[:3], (" ", "bad")],
    }
    for name, table in texts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("day", "mood"), *table])
    (folder / "free.jsonl").write_text("".join(json.dumps({"day": day, "mood": f"{day} x"}) + "\n" for day, _ in rows))
    with pytest.MonkeyPatch.context() as inside:
        inside.chdir(folder)
        main(f"pretrain owls.txt --out run {BYTES}".split())
        (folder / "letters.txt").write_text("\n".join(day for day, _ in rows) * 3)
        main(f"pretrain letters.txt --out letters --tokenizer char {TINY}".split())
        main("tokenize owls.txt --out characters --tokenizer char".split())
        main(f"finetune run {DAYS} --train head --out moods".split())
        main("task free.jsonl --text day --label mood --kind free --out free.toml".split())
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every folder and every file with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


REFUSED = [  # a command, and how it reads when it is corrected
    ("tokenize empty.txt --out new --tokenizer byte", "tokenize owls.txt --out new --tokenizer byte"),
    ("tokenize owls.txt empty.txt --out there --vocabulary-size 100", "tokenize owls.txt --out there"),
    ("tokenize latin.txt --out new --tokenizer byte", "tokenize latin.txt --out new --encoding latin-1"),
    ("tokenize broken.jsonl --out a/b/new", "tokenize broken.jsonl --out a/b/new --tokenizer byte --on-error skip"),
    ("tokenize bodies.jsonl --out new --tokenizer char", "tokenize bodies.jsonl --out new --field body"),
    ("tokenize owls.txt --out new --tokenizer nowhere", "tokenize owls.txt --out new --tokenizer char"),
    ("tokenize owls.txt --out other --tokenizer byte", "tokenize owls.txt --out new --tokenizer byte"),
    ("tokenize owls.txt --out short.txt", "tokenize owls.txt --out new --tokenizer byte"),
    (f"pretrain short.txt --out new {TINY}", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain empty.txt --out new {BYTES}", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain latin.txt --out there {BYTES}", f"pretrain latin.txt --out there {BYTES} --encoding latin-1"),
    (f"pretrain broken.jsonl --out a/new {BYTES}", f"pretrain broken.jsonl --out a/new {BYTES} --on-error skip"),
    (f"pretrain owls.txt --out new {BYTES} --validation 0", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain owls.txt --out new {BYTES} --context 1", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain owls.txt --out new {BYTES} --context 9999 --batch-tokens 9999", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain owls.txt --out new {TINY} --batch-tokens 8", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain owls.txt --out new {BYTES} --heads 3", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain owls.txt --out new {BYTES} --device mps", f"pretrain owls.txt --out new {BYTES}"),
    (f"pretrain characters --out new {TINY} --objective masked", f"pretrain characters --out new {TINY}"),
    (
        "pretrain owls.txt --from run --out new --objective masked --steps 1",
        "pretrain owls.txt --from run --out new --steps 1",
    ),
    ("pretrain characters --from run --out new --steps 1", "pretrain owls.txt --from run --out new --steps 1"),
    ("pretrain owls.txt --from nowhere --out new --steps 1", "pretrain owls.txt --from run --out new --steps 1"),
    (f"pretrain owls.txt --out other {BYTES}", f"pretrain owls.txt --out new {BYTES}"),
    (f"finetune run {DAYS} --out new --labels 1", f"finetune run {DAYS} --out new --train head"),
    (f"finetune run {DAYS} --out new --limit 0", f"finetune run {DAYS} --out new --limit 4 --epochs 1"),
    (f"finetune run {DAYS} --out new --epochs 0", f"finetune run {DAYS} --out new --epochs 1"),
    (f"finetune run {DAYS} --out a/new --seed -1", f"finetune run {DAYS} --out a/new --train head"),
    (f"finetune run {DAYS} --out new --learning-rate -1", f"finetune run {DAYS} --out new --train head"),
    ("finetune run free.toml --out new", f"finetune run {DAYS} --out new --train head"),
    (
        "finetune run long.csv --text day --label mood --out new --longer refuse --epochs 1",
        "finetune run long.csv --text day --label mood --out new --epochs 1",
    ),
    (
        "finetune letters odd.csv --text day --label mood --out there --train head",
        f"finetune letters {DAYS} --out there --train head",
    ),
    (f"compare run {DAYS} --out new --methods magic", f"compare run {DAYS} --out new --methods majority --sizes 4"),
    (f"compare run {DAYS} --out new --limit 1", f"compare run {DAYS} --out new --methods majority --sizes 4"),
    (f"compare run {DAYS} --out new --sizes 999", f"compare run {DAYS} --out new --methods majority --sizes 4"),
    (f"compare run {DAYS} --out new --seeds 0", f"compare run {DAYS} --out new --methods majority --sizes 4"),
    ("compare run free.toml --out a/new --methods head", f"compare run {DAYS} --out a/new --methods head --sizes 4"),
    (f"compare run {DAYS} --out other", f"compare run {DAYS} --out new --methods majority --sizes 4"),
    (f"task {DAYS} --out new.csv", f"task {DAYS} --out new.toml"),
    (f"task {DAYS} --out nowhere/new.toml", f"task {DAYS} --out new.toml"),
    (f"task {DAYS} --out new.toml --model nowhere", f"task {DAYS} --out new.toml --model run"),
    ("task days.csv --text night --label mood --out new.toml", f"task {DAYS} --out new.toml"),
    ("predict moods --input days.csv --out new.txt", "predict moods --input days.csv --out new.csv"),
    ("predict moods --input gap.csv --out new.csv", "predict moods --input days.csv --out new.csv"),
    ("predict moods --input bodies.jsonl --out new.jsonl", "predict moods --input days.csv --out new.jsonl"),
    ("predict moods --input days.csv --out nowhere/new.csv", "predict moods --input days.csv --out new.csv"),
    (f"predict run --input days.csv --out new.csv --task {DAYS} --shots 999", f"predict run fine --task {DAYS}"),
    ("evaluate run empty.txt", "evaluate run owls.txt"),
    ("evaluate run latin.txt", "evaluate run latin.txt --encoding latin-1"),
    ("demo --out other", None),
    ("demo --out short.txt", None),
]


@pytest.mark.parametrize(
    ("refused", "corrected"), REFUSED, ids=[" ".join(refused.split()[:2]) for refused, _ in REFUSED]
)
def test_a_refused_command_leaves_the_folder_as_it_was_and_the_corrected_one_succeeds(
    refused: str,
    corrected: str | None,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    before = tree(world)
    try:
        with pytest.raises(SystemExit) as end:
            main(refused.split())
        assert end.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("chainrule: ")
        assert tree(world) == before
        if corrected is not None:
            main(corrected.split())
            assert tree(world).keys() > before.keys() or "--out" not in corrected
    finally:
        for path in sorted(world.rglob("*"), reverse=True):
            if str(path.relative_to(world)) not in before:
                path.rmdir() if path.is_dir() else path.unlink()
