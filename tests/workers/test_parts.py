"""Work in parts, joined: the bytes of one command alone; missing, other, cut and foreign parts are refused."""

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from chainrule.cli import main
from chainrule.corpus import documents, write
from chainrule.corpus.parts import join_shards, tokenize_part
from chainrule.errors import ChainruleError, DataError, FolderError, ModelError, OptionError, WorkerKilledError
from chainrule.model.formats.same_model import ForWorkers, model_fingerprint
from chainrule.model_source import ModelSource
from chainrule.storage.locks import only_writer
from chainrule.tasks import row_file
from chainrule.workers.options import Part, Sharing
from chainrule.workers.parts import Joined, identity, write_part

TINY = "--depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 1 --compile off --dtype float32"
MADE_WITH = identity("squares", limit=3)


def squares(numbers: Iterable[int]) -> Iterator[int]:
    return (number**2 for number in numbers)


def noting(done: list[Any], pieces: Iterable[Any]) -> Iterator[Any]:
    """The pieces, each written down in `done` as it is taken."""
    for piece in pieces:
        done.append(piece)
        yield piece


def all_parts(out: Path, count: int, numbers: range) -> None:
    for number in range(1, count + 1):
        write_part(out, Part(number, count), MADE_WITH, squares, numbers)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_parts_joined_are_the_whole_in_order(count: int, tmp_path: Path) -> None:
    all_parts(tmp_path / "out", count, range(7))
    joined = Joined(tmp_path / "out", MADE_WITH)
    assert list(joined.work(range(7))) == [number**2 for number in range(7)]
    joined.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_part_does_its_own_pieces_alone(tmp_path: Path) -> None:
    done: list[int] = []

    assert write_part(tmp_path / "out", Part(2, 3), MADE_WITH, partial(noting, done), range(8)) == 3
    assert done == [1, 4, 7]
    assert write_part(tmp_path / "out", Part(2, 3), MADE_WITH, partial(noting, done), range(8)) == 3
    assert done == [1, 4, 7], "a part that is done is not done again"


def test_a_part_that_was_killed_goes_on_after_its_last_whole_piece(tmp_path: Path) -> None:
    def killed(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            if number == 5:
                raise KeyboardInterrupt
            yield number**2

    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path / "out", Part(2, 2), MADE_WITH, killed, range(9))
    (partial,) = tmp_path.iterdir()
    with partial.open("ab") as file:
        file.write(b"\x07\x00\x00")  # the beginning of a piece
    done: list[int] = []

    write_part(tmp_path / "out", Part(2, 2), MADE_WITH, lambda left: squares(noting(done, left)), range(9))
    write_part(tmp_path / "out", Part(1, 2), MADE_WITH, squares, range(9))
    assert done == [5, 7]
    assert list(Joined(tmp_path / "out", MADE_WITH).work(range(9))) == [number**2 for number in range(9)]


def test_a_part_whose_workers_are_killed_goes_on_too(tmp_path: Path) -> None:
    done: list[int] = []

    def two(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            if len(done) == 2:
                raise WorkerKilledError("too little memory?")
            done.append(number)
            yield number**2

    with pytest.raises(WorkerKilledError):
        write_part(tmp_path / "out", Part(1, 1), MADE_WITH, two, range(4))
    write_part(tmp_path / "out", Part(1, 1), MADE_WITH, lambda numbers: map(done.append, numbers), range(4))
    assert done == [0, 1, 2, 3]


def test_a_mistake_leaves_nothing(tmp_path: Path) -> None:
    def refused(numbers: Iterable[int]) -> Iterator[int]:
        yield 1
        raise DataError("a row is wrong")

    with pytest.raises(DataError, match="a row is wrong"):
        write_part(tmp_path / "out", Part(1, 2), MADE_WITH, refused, range(5))
    assert list(tmp_path.iterdir()) == []


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="found none; do them first"):
        Joined(tmp_path / "out", MADE_WITH)
    all_parts(tmp_path / "out", 4, range(7))
    for number in (2, 4):
        Part(number, 4).path(tmp_path / "out").unlink()
    with pytest.raises(FolderError, match=r"wanted 4 parts .* part 2, 4 is missing; do it with --part 2/4"):
        Joined(tmp_path / "out", MADE_WITH)
    all_parts(tmp_path / "out", 3, range(7))
    with pytest.raises(FolderError, match="some of 3 and some of 4"):
        Joined(tmp_path / "out", MADE_WITH)


@pytest.mark.parametrize(
    ("made_with", "said"),
    [
        (identity("squares", limit=4), "with --limit 4, got one made with 3"),
        (identity("cubes", limit=3), "with the command cubes, got one made with squares"),
        ({**MADE_WITH, "version": "9.9"}, "with the version 9.9"),
        (identity("squares", limit=3, input={"bytes": 7}), "with the input"),
    ],
)
def test_parts_made_with_something_else_are_refused(made_with: dict[str, Any], said: str, tmp_path: Path) -> None:
    all_parts(tmp_path / "out", 2, range(4))
    with pytest.raises(FolderError, match=said):
        Joined(tmp_path / "out", made_with)
    with pytest.raises(FolderError, match=said):
        write_part(tmp_path / "out", Part(1, 2), made_with, squares, range(4))


def test_a_part_that_was_cut_or_is_of_other_input_is_refused(tmp_path: Path) -> None:
    all_parts(tmp_path / "out", 2, range(6))
    for numbers in (range(5), range(7), range(8)):
        with pytest.raises(DataError, match="got those of another number of pieces"):
            list(Joined(tmp_path / "out", MADE_WITH).work(numbers))
    first = Part(1, 2).path(tmp_path / "out")
    content = first.read_bytes()
    for length in (10, len(content) - 30, len(content) - 1):
        first.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"out\.part-1-of-2: wanted a whole part"):
            list(Joined(tmp_path / "out", MADE_WITH).work(range(6)))
    first.write_bytes(content.replace(b"16", b"17"))  # 4 * 4, the second of its results
    with pytest.raises(DataError, match=r"out\.part-1-of-2: wanted a whole part, got one that was cut or altered"):
        list(Joined(tmp_path / "out", MADE_WITH).work(range(6)))


@pytest.mark.parametrize("typed", ["3/2", "0/2", "1", "1/0", "-1/2", "a/b", "1/2/3", "1.5/2"])
def test_what_is_no_part_is_refused(typed: str) -> None:
    with pytest.raises(OptionError, match=rf"--part: wanted I/N.*got {typed}"):
        Sharing(part=typed)


def test_join_stands_alone() -> None:
    with pytest.raises(OptionError, match="--join: wanted it alone, got --part"):
        Sharing(part="1/2", join=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, a classifier and texts, in which commands are run; pieces are small."""
    folder, draw = tmp_path_factory.mktemp("world"), random.Random(0)
    text = " ".join(draw.choices("the owl sees a mouse and night falls".split(), k=900))
    (folder / "owls.txt").write_text(text)
    days = [(f"a {('fine', 'grim')[row % 2]} day {row}", ("good", "bad")[row % 2]) for row in range(40)]
    lines = [json.dumps({"text": day, "mood": mood}) for day, mood in days]
    (folder / "days.jsonl").write_text("\n".join([*lines, '{"text": ""}']))
    (folder / "train.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(row_file, "ROWS_AT_ONCE", 7)
        patch.setattr(documents, "BATCH", 500)
        patch.setattr(write, "SHARD", 700)
        patch.setattr("chainrule.language_model._TOKENS_OF_A_SECTION", 100)
        patch.setattr("chainrule.scoring.documents._TOKENS_IN_MEMORY", 300)
        main(f"pretrain owls.txt --out run --tokenizer byte {TINY}".split())
        main("finetune run train.jsonl --text text --label mood --train head --out moods".split())
        yield folder


COMMANDS = [
    ("tokenize owls.txt days.jsonl --tokenizer bpe --vocabulary-size 280 --out {}", "shards"),
    ("predict moods --input days.jsonl --on-error skip --out {}", "labelled.jsonl"),
    ("evaluate run owls.txt days.jsonl --out {}", "evaluated.json"),
    ("score run --input days.jsonl --on-error skip --given a --out {}", "scored.csv"),
]


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.mark.parametrize(("command", "name"), COMMANDS, ids=lambda value: str(value).partition(" ")[0])
def test_each_command_in_parts_gives_the_bytes_of_the_whole(
    command: str, name: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command.format(f"whole-{name}").split())
    printed = capsys.readouterr()
    for number in (3, 1, 2):
        main([*command.format(f"parts-{name}").split(), "--part", f"{number}/3"])
        assert not (world / f"parts-{name}").exists()
    assert f"parts-{name}.part-2-of-3: part 2/3 (" in capsys.readouterr().out
    main([*command.format(f"parts-{name}").split(), "--join"])
    joined = capsys.readouterr()
    assert content(world / f"parts-{name}") == content(world / f"whole-{name}")
    assert list(world.glob("*.part-*")) == []
    skipped = [[line for line in one.err.splitlines() if "because of" in line] for one in (printed, joined)]
    assert skipped[0] == skipped[1], "what was skipped is told by the join too"
    if command.startswith("evaluate"):
        assert joined.out == printed.out


def test_a_join_that_was_killed_goes_on_after_its_last_shard(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, options = ["owls.txt", "days.jsonl"], write.CorpusOptions("byte")
    write.write_shards(inputs, Path("never-killed"), options)
    for name, number in (("killed", 1), ("killed", 2), ("waited", 1), ("waited", 2)):
        tokenize_part(inputs, Path(name), options, Part(number, 2))

    def killed(out: Path) -> None:
        def stop(done: int, total: int) -> None:
            if list(out.glob("train-00000.bin")):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            join_shards(inputs, out, options, stop)
        assert json.loads((out / "state.json").read_text())["batches"] > 0

    killed(Path("killed"))
    join_shards(inputs, Path("killed"), options)
    assert content(world / "killed") == content(world / "never-killed")

    def after_another(out: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr(write, "only_writer", only_writer)
        killed(out)
        return only_writer(out)

    monkeypatch.setattr(write, "only_writer", after_another)
    join_shards(inputs, Path("waited"), options)
    assert content(world / "waited") == content(world / "never-killed"), "another was killed after this one began"


def test_the_parts_of_evaluate_stay_until_its_file_is_written(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "evaluate run owls.txt --out kept.json".split()
    main([*command, "--part", "1/1"])

    def full(path: Path, value: str, **_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SystemExit):
            main([*command, "--join"])
    assert (world / "kept.json.part-1-of-1").is_file()
    main([*command, "--join"])
    assert (world / "kept.json").is_file()
    (world / "kept.json").unlink()


def test_a_part_of_compare_is_run_by_the_cluster_where_one_is_named(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    @contextmanager
    def one_worker(*_: object, **__: object) -> Iterator[Any]:
        def share(begin: Any, keys: Iterable[Any], ahead: int) -> Iterator[Any]:
            return map(begin(), noting(asked, keys))

        yield share

    monkeypatch.setattr("chainrule.commands.compare.shared", one_worker)
    command = "compare run train.jsonl --text text --label mood --sizes 4 --seeds 2 --methods majority --out by-cluster"
    main([*command.split(), "--part", "1/1", "--cluster", "auto"])
    assert len(asked) == 2
    Part(1, 1).path(world / "by-cluster").unlink()


def test_an_adapter_beside_another_base_is_another_model(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    save_file({"weight": np.zeros(2, np.float32)}, adapter / "adapter_model.safetensors")
    before = model_fingerprint(str(adapter))
    named = ForWorkers.of(ModelSource(str(adapter), "cpu", "auto", None))
    assert named.checked() is named.source
    (base / "config.json").write_text('{"other": 1}')
    assert model_fingerprint(str(adapter)) != before
    with pytest.raises(ModelError, match="adapter: wanted the same model on every machine, got another one"):
        named.checked()


def test_compare_in_parts_finds_what_one_command_finds(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "compare run train.jsonl --text text --label mood --sizes 4 --seeds 2 --methods majority centroid head --out"
    )
    main([*command.split(), "whole"])
    for number in (1, 2):
        main([*command.split(), "parts", "--part", f"{number}/2"])
    main([*command.split(), "parts", "--join"])
    found = []
    for out in ("whole", "parts"):
        results = json.loads((world / out / "results.json").read_text())
        for row in [*results["rows"], *results["cells"]]:
            del row["seconds_to_adapt"], row["milliseconds_per_text"]
        found.append({**results, "advice": None})
    assert found[0] == found[1]
    assert len(found[1]["rows"]) == 6
    with pytest.raises(SystemExit):
        main([*command.split(), "parts", "--part", "1/2", "--minutes", "1"])
    assert "--minutes: wanted none with --part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict moods --input - --out new.csv --part 1/2", "wanted a file, which every part reads, got -"),
        ("tokenize - --out new --part 1/2", "wanted files, which every part reads, got -"),
        ("predict moods hello --part 1/2", "wanted --input and --out beside it"),
        ("evaluate run owls.txt --part 1/2", "wanted --out FILE, beside which parts are written"),
        ("evaluate run owls.txt --out no/such.json", "wanted a file in a folder that is there"),
        ("evaluate run --tasks arc_easy --part 1/2", "--part: wanted files of text"),
        ("score run hello --part 1/2", "--part: wanted --input and --out"),
        ("score run hello --input days.jsonl --out new.csv", "wanted a text, or --input and --out together"),
        ("score run --input days.jsonl --out new.xlsx", "wanted a file ending in .csv"),
        ("score run --input train.jsonl --out no/such.csv --part 1/2", "wanted a name in a folder that is there"),
        ("predict moods --input days.jsonl --out memory://a/b.csv --part 1/2", "wanted a path for --part"),
        ("predict moods --input days.jsonl --out new.csv --part 1/2", "wanted a text"),
        ("tokenize owls.txt --out new --part 3/2", "--part: wanted I/N with I from 1 to N, got 3/2"),
        ("tokenize owls.txt --out new --join", "wanted parts beside new"),
        ("score run --input days.jsonl --out days.jsonl", "wanted another file than --input"),
        ("evaluate run owls.txt --out owls.txt", "wanted another file than the texts"),
        ("evaluate run owls.txt --out run", "wanted the name of a file, got a folder"),
        ("tokenize owls.txt --tokenizer byte --out . --part 1/2", "--out .: wanted a name in a folder"),
        ("predict moods --input days.jsonl --out new.csv --join --cluster auto", "--join: wanted it alone"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    command: str, said: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in world.iterdir())
    with pytest.raises(SystemExit) as exit:
        main(command.split())
    printed = capsys.readouterr().err
    assert exit.value.code == 2
    assert printed.count("\n") == 1
    assert said in printed
    assert sorted(path.name for path in world.iterdir()) == before


def test_the_join_is_refused_with_other_options_and_other_text(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "tokenize owls.txt --tokenizer byte --out changed".split()
    main([*command, "--part", "1/1"])
    with pytest.raises(SystemExit):
        main([*command, "--join", "--validation", "0.5"])
    assert "with --validation 0.5, got one made with 0.1" in capsys.readouterr().err
    with (world / "owls.txt").open("a") as file:
        file.write(" more")
    with pytest.raises(SystemExit):
        main([*command, "--join"])
    assert "wanted a part with the input" in capsys.readouterr().err
    assert not (world / "changed").exists()
    assert issubclass(FolderError, ChainruleError)


def test_a_part_that_another_command_does_is_refused_and_left_alone(tmp_path: Path) -> None:
    left: list[list[Path]] = []

    def meanwhile(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            yield number**2
            with pytest.raises(
                FolderError, match=r"--part 1/2: wanted a part that no other command does, got one that"
            ):
                write_part(tmp_path / "out", Part(1, 2), MADE_WITH, squares, range(7))
            write_part(tmp_path / "out", Part(2, 2), MADE_WITH, squares, range(7))
            left.append(sorted(tmp_path.iterdir()))

    write_part(tmp_path / "out", Part(1, 2), MADE_WITH, meanwhile, range(7))
    assert [path.name for path in left[0]] == [
        ".out.part-1-of-2.lock", ".out.part-1-of-2.partial", "out.part-2-of-2",
    ]  # fmt: skip
    assert list(Joined(tmp_path / "out", MADE_WITH).work(range(7))) == [number**2 for number in range(7)]
    assert len(list(tmp_path.iterdir())) == 2, "no lock stays"
