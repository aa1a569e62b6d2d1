"""Documents to shards: what is in them, and that neither workers nor a kill change a byte of it."""

import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from chainrule.corpus import documents
from chainrule.corpus import write as corpus
from chainrule.corpus.documents import Documents, Part
from chainrule.corpus.encode import Encoding, Tokens
from chainrule.corpus.splitmix import uniform
from chainrule.corpus.write import CorpusOptions, Shards, write_shards
from chainrule.errors import WorkerKilledError
from chainrule.storage import lines
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe

SHAKESPEARE = Path(__file__).parents[2] / "../shared/data/tinyshakespeare.txt"
WORDS = ["the", "cat,", "a", "dog.", "15", "2048", "it's", "über\n", "naïve", "漢字", "", "\n\n", "who?", "said"]


def prose(characters: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, k=characters // 3))[:characters]


def rows(path: Path, count: int, characters: int = 60) -> list[str]:
    texts = [prose(characters, seed=number) for number in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def documents_in(out: Path, split: str) -> list[str]:
    """The texts of a split, told apart by its ⊥."""
    shards = Shards(out)
    tokens = shards.split(split).read(0, len(shards.split(split)))
    starts = np.flatnonzero(tokens == shards.tokenizer.bos_id)
    assert len(tokens) == 0 or starts[0] == 0
    return [shards.tokenizer.decode(part) for part in np.split(tokens, starts[1:]) if len(part)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that happens to a large corpus happens to a small one."""
    monkeypatch.setattr(lines, "BLOCK", 500)
    monkeypatch.setattr(documents, "BATCH", 2000)
    monkeypatch.setattr(corpus, "SHARD", 1500)
    monkeypatch.setattr(corpus, "SMALL", 0)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_the_first_characters_train_and_the_tail_validates(kind: str, tmp_path: Path):
    text = prose(20_000)
    (tmp_path / "a.txt").write_text(text)
    summary = write_shards([str(tmp_path / "a.txt")], tmp_path / "out", CorpusOptions(kind, 300))
    assert documents_in(tmp_path / "out", "train") == [text[:18_000]]
    assert documents_in(tmp_path / "out", "validation") == [text[18_000:]]
    shards = Shards(tmp_path / "out")
    shards.verify()
    assert (summary.documents, summary.bytes, summary.skipped) == (1, len(text.encode()), 0)
    assert summary.tokens == len(shards.split("train")) + len(shards.split("validation"))
    assert (
        summary.tokens == len(shards.tokenizer.encode(text[:18_000])) + len(shards.tokenizer.encode(text[18_000:])) + 2
    )


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the shared data are not here")
def test_shakespeare_is_cut_where_nanogpt_cuts_it(tmp_path: Path):
    summary = write_shards([str(SHAKESPEARE)], tmp_path / "out", CorpusOptions("char"))
    shards = Shards(tmp_path / "out")
    assert len(shards.split("train")) == 1_003_854 + 1
    assert len(shards.split("validation")) == 111_540 + 1
    assert (summary.tokens, shards.tokenizer.vocabulary_size) == (1_115_396, 66)


def test_where_there_are_many_documents_whole_ones_validate(tmp_path: Path):
    texts = rows(tmp_path / "a.jsonl", 1000)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte", validation=0.1))
    chosen = [uniform(number) < 0.1 for number in range(1000)]
    assert 70 < sum(chosen) < 130
    for split, validates in (("train", False), ("validation", True)):
        assert documents_in(tmp_path / "out", split) == [
            text for text, this in zip(texts, chosen, strict=True) if this == validates
        ]


def test_with_ten_validating_documents_expected_there_is_one_at_least():
    for share in (0.01, 0.05, 0.1, 0.2, 0.5, 0.9):
        assert any(uniform(number) < share for number in range(int(10 / share)))


@pytest.mark.parametrize("count", [1, 3, 99])
def test_where_there_are_few_documents_the_tail_of_the_text_validates(count: int, tmp_path: Path):
    texts = rows(tmp_path / "a.jsonl", count, characters=101)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte", validation=0.1))
    border = int(101 * count * 0.9)
    train, validation = documents_in(tmp_path / "out", "train"), documents_in(tmp_path / "out", "validation")
    assert "".join(train) == "".join(texts)[:border] and "".join(validation) == "".join(texts)[border:]
    assert train[:-1] == texts[: len(train) - 1] and texts[-1].endswith(validation[-1])


def test_without_validation_all_trains(tmp_path: Path):
    texts = rows(tmp_path / "a.jsonl", 20)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte", validation=0))
    assert documents_in(tmp_path / "out", "train") == texts
    assert len(Shards(tmp_path / "out").split("validation")) == 0


def test_the_offsets_say_where_documents_begin(small: None, tmp_path: Path):
    rows(tmp_path / "a.jsonl", 300)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("bpe", 300))
    shards = Shards(tmp_path / "out")
    for shard in shards.manifest["shards"]:
        path = tmp_path / "out" / shard["file"]
        tokens = np.fromfile(path, "<u2")
        offsets = np.fromfile(path.with_suffix(".offsets"), "<i8")
        assert offsets.tolist() == np.flatnonzero(tokens == shards.tokenizer.bos_id).tolist()
        assert len(offsets) == shard["documents"]
    assert sum(shard["split"] == "train" for shard in shards.manifest["shards"]) > 2


def test_any_number_of_workers_gives_the_same_bytes(small: None, tmp_path: Path):
    (tmp_path / "a.txt").write_text(prose(9000))
    rows(tmp_path / "b.jsonl", 300)
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        write_shards(
            [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], out, CorpusOptions("bpe", 300, workers=workers)
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def unknown_to_us(directory: Path) -> Path:
    """A tokenizer for which no place to cut is known: a token may span spaces."""
    directory.mkdir()
    tokens = {character: id for id, character in enumerate(sorted(set(prose(9000))))}
    pairs = [("a", " "), ("a ", "d")]
    tokens |= {left + right: len(tokens) + number for number, (left, right) in enumerate(pairs)}
    tokenizer = Tokenizer(models.BPE(tokens, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("@", "isolated")
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.mark.parametrize("kind", ["bpe", "char", "unknown"])
def test_a_text_read_in_pieces_has_the_ids_of_the_whole(kind: str, small: None, tmp_path: Path):
    text = prose(9000)
    (tmp_path / "a.txt").write_text(text)
    if kind == "unknown":
        options = CorpusOptions(str(unknown_to_us(tmp_path / "tokenizer")), validation=0)
    else:
        tokenizer = train_bpe([text], 400) if kind == "bpe" else character_tokenizer([text])
        tokenizer.save(tmp_path / "tokenizer")
        options = CorpusOptions(str(tmp_path / "tokenizer"), validation=0)
    write_shards([str(tmp_path / "a.txt")], tmp_path / "out", options)
    shards = Shards(tmp_path / "out")
    tokens = shards.split("train").read(0, len(shards.split("train"))).tolist()
    assert tokens == [shards.tokenizer.bos_id, *shards.tokenizer.encode(text)]
    assert (len(shards.manifest["shards"]) == 1) == (kind == "unknown")


def test_a_split_reads_across_its_shards(small: None, tmp_path: Path):
    (tmp_path / "a.txt").write_text(prose(9000))
    write_shards([str(tmp_path / "a.txt")], tmp_path / "out", CorpusOptions("byte", validation=0))
    shards = Shards(tmp_path / "out")
    files = [np.fromfile(tmp_path / "out" / shard["file"], "<u2") for shard in shards.manifest["shards"]]
    whole, split = np.concatenate(files), shards.split("train")
    assert len(files) > 2 and len(split) == len(whole)
    draw = random.Random(0)
    for _ in range(50):
        start, stop = sorted(draw.choices(range(len(whole) + 1), k=2))
        assert split.read(start, stop).tolist() == whole[start:stop].tolist()


class Stop(BaseException):
    """What a kill is to this process."""


@pytest.mark.parametrize("after", range(7))
def test_stopped_and_done_again_equals_never_stopped(
    after: int, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a.txt").write_text(prose(4000))
    rows(tmp_path / "b.jsonl", 200)
    inputs, options = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], CorpusOptions("bpe", 300, workers=1)
    write_shards(inputs, tmp_path / "whole", options)
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop

    with pytest.raises(Stop):
        write_shards(inputs, tmp_path / "out", options, stop)
    left = len(json.loads((tmp_path / "out" / "state.json").read_text())["shards"])
    written = Mock(wraps=corpus._write_arrays)
    monkeypatch.setattr(corpus, "_write_arrays", written)
    write_shards(inputs, tmp_path / "out", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert written.call_count == 2 * (len(Shards(tmp_path / "whole").manifest["shards"]) - left), (
        "no whole shard is made again"
    )


def test_killed_and_done_again_equals_never_killed(tmp_path: Path):
    rows(tmp_path / "a.jsonl", 400)
    script = f"""
import os, signal, sys
from pathlib import Path
from unittest.mock import Mock
from chainrule.corpus import documents, write as corpus
if __name__ == "__main__":
    documents.BATCH, corpus.SHARD, corpus.SMALL = 2000, 3000, 0
    calls = []
    def kill(done, total):
        calls.append(done)
        if len(calls) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    options = corpus.CorpusOptions("bpe", 300, workers=2)
    corpus.write_shards([{str(tmp_path / "a.jsonl")!r}], Path(sys.argv[2]), options, kill)
"""

    def run(at: int, out: str) -> int:
        command = [sys.executable, "-c", script, str(at), str(tmp_path / out)]
        return subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60).returncode

    assert run(0, "whole") == 0
    assert run(5, "out") == -signal.SIGKILL
    assert "manifest.json" not in contents(tmp_path / "out")
    assert run(0, "out") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_where_workers_are_killed_the_finished_shards_are_kept(small: None, tmp_path: Path):
    rows(tmp_path / "a.jsonl", 200)
    inputs, options, out = [str(tmp_path / "a.jsonl")], CorpusOptions("byte"), tmp_path / "out"

    def killed(begin: Encoding, todo: Iterable[list[Part]]) -> Iterator[tuple[Tokens, Tokens]]:
        for batch in todo:
            if list(out.glob("train-00001.bin")):
                raise WorkerKilledError("too little memory?")
            yield begin()(batch)

    with pytest.raises(WorkerKilledError):
        write_shards(inputs, out, options, share=killed)
    assert len(json.loads((out / "state.json").read_text())["shards"]) >= 2
    write_shards(inputs, out, options)
    write_shards(inputs, tmp_path / "whole", options)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_finished_folder_answers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows(tmp_path / "a.jsonl", 20)
    first = write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("bpe", 300))
    before = contents(tmp_path / "out")
    monkeypatch.delattr(corpus, "Documents")
    again = write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("bpe", 300, workers=3))
    assert (again.documents, again.tokens, again.bytes) == (first.documents, first.tokens, first.bytes)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary_size": 301}, "--vocabulary-size: wanted 300, as when .* was begun, got 301"),
        ({"tokenizer": "byte"}, "--tokenizer: wanted bpe, as when .* was begun, got byte"),
        ({"validation": 0.2}, "--validation: wanted 0.1, as when .* was begun, got 0.2"),
        ({"on_error": "skip"}, "--on-error: wanted stop, as when .* was begun, got skip"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_made_with_other_options_is_refused(change: dict, message: str, finished: bool, tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    made = {"tokenizer": "bpe", "vocabulary_size": 300}
    inputs, out = [str(tmp_path / "a.jsonl")], tmp_path / "out"

    def stop(*_: object) -> None:
        if not finished:
            raise Stop

    with pytest.raises(Stop) if not finished else pytest.MonkeyPatch.context():
        write_shards(inputs, out, CorpusOptions(**made), stop)
    before = contents(out)
    with pytest.raises(ValueError, match=message):
        write_shards(inputs, out, CorpusOptions(**made | change))
    assert contents(out) == before


def test_a_folder_made_from_other_input_is_refused(tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte"))
    rows(tmp_path / "a.jsonl", 21)
    with pytest.raises(ValueError, match=r"other input \(.*a\.jsonl is new or has changed"):
        write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte"))


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"holds something else \(thesis\.txt\)"):
            write_shards([str(tmp_path / "a.jsonl")], out, CorpusOptions("byte"))
        assert contents(out) == {"thesis.txt": b"years of work"}
    (out / "thesis.txt").rename(out / "manifest.json")
    with pytest.raises(ValueError, match="cannot be read"):
        write_shards([str(tmp_path / "a.jsonl")], out, CorpusOptions("byte"))
    with pytest.raises(ValueError, match="wanted a folder, got a file"):
        write_shards([str(tmp_path / "a.jsonl")], tmp_path / "a.jsonl", CorpusOptions("byte"))


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\n{"text": ""}\n{"body": "no text"}\n', r"a\.jsonl:3: no column 'text'"),
        ('{"text": ""}\n', "have none|got none"),
        ("", "empty"),
    ],
)
def test_bad_input_leaves_nothing_behind(kind: str, content: str, message: str, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions(kind))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=message):
        write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions(kind))
    assert contents(tmp_path / "out") == {}


def test_what_cannot_be_read_can_be_skipped_and_is_counted(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "\xff"}\n{"body": 1}\n{"text": "two"}\n')
    (tmp_path / "b.txt").write_bytes(b"three\xff")
    inputs = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")]
    summary = write_shards(inputs, tmp_path / "out", CorpusOptions("byte", validation=0, on_error="skip"))
    assert (summary.documents, summary.skipped, summary.bytes) == (2, 3, 6)
    assert documents_in(tmp_path / "out", "train") == ["one", "two"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unseen_character_is_named_with_its_file_and_line(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    character_tokenizer(["abc\n"]).save(tmp_path / "tokenizer")
    monkeypatch.setattr(corpus, "SMALL", 0)
    monkeypatch.setattr("chainrule.tokens.tokenizer.Tokenizer.is_table", False)
    options = CorpusOptions(str(tmp_path / "tokenizer"), workers=workers)
    (tmp_path / "a.txt").write_text("abc\nabé\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: 'é' \(U\+00E9\) is not among"):
        write_shards([str(tmp_path / "a.txt")], tmp_path / "out", options)
    (tmp_path / "b.jsonl").write_text('{"text": "abc"}\n\n{"text": "a\\n\\nz"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:3: 'z' \(U\+007A\) is not among"):
        write_shards([str(tmp_path / "b.jsonl")], tmp_path / "out", options)


def test_standard_input_is_tokenized_and_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        write_shards(["-"], tmp_path / "out", CorpusOptions("byte", validation=0.5))

    run("one two!")
    assert documents_in(tmp_path / "out", "train") == ["one "]
    assert documents_in(tmp_path / "out", "validation") == ["two!"]
    before = contents(tmp_path / "out")
    run("one two!")
    with pytest.raises(ValueError, match="other input"):
        run("one two?")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.0}, "--validation: wanted from 0 to below 1"),
        ({"validation": -0.1}, "--validation: wanted from 0 to below 1"),
        ({"validation": float("nan")}, "--validation: wanted from 0 to below 1"),
        ({"workers": 0}, "--workers: wanted 1 or more"),
        ({"on_error": "ignore"}, "stop or skip"),
        ({"vocabulary_size": 256}, "257"),
        ({"tokenizer": "nowhere"}, "bpe, char, byte, a path or .*, got nowhere"),
        ({"encoding": "klingon"}, "encoding"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str, tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(ValueError, match=message):
        write_shards([str(tmp_path / "b.txt")], tmp_path / "out", CorpusOptions(**options))
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_found(tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    out = tmp_path / "out"
    write_shards([str(tmp_path / "a.jsonl")], out, CorpusOptions("byte"))
    for name in ("train-00000.bin", "validation-00000.bin", "train-00000.offsets"):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=name):
            Shards(out).verify()
        (out / name).write_bytes(content)
        Shards(out).verify()
    before = Shards(out).sizes_and_times()
    damaged, times = out / "train-00000.bin", (out / "train-00000.bin").stat()
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        Shards(out).verify(before)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    Shards(out).verify(before)  # a file whose size and time are as they were is not read
    with pytest.raises(ValueError, match="SHA-256 differs"):
        Shards(out).verify()
    damaged.with_suffix(".offsets").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"train-00000\.offsets: .*missing or cut"):
        Shards(out)
    (out / "train-00000.bin").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"train-00000\.bin: .*missing or cut"):
        Shards(out)


def test_a_token_beyond_the_vocabulary_is_refused_where_it_is_read(tmp_path: Path):
    rows(tmp_path / "a.jsonl", 20)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte"))
    altered = tmp_path / "out" / "train-00000.bin"
    altered.write_bytes(b"\xff\xff" + altered.read_bytes()[2:])
    split = Shards(tmp_path / "out").split("train")
    assert len(split.read(1, len(split))) == len(split) - 1
    with pytest.raises(ValueError, match=r"train-00000\.bin: wanted tokens below \d+, .* got 65535"):
        split.read(0, 8)


def test_what_is_no_folder_of_shards_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"found no manifest\.json"):
        Shards(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="something else"):
        Shards(tmp_path)
    rows(tmp_path / "a.jsonl", 20)
    write_shards([str(tmp_path / "a.jsonl")], tmp_path / "out", CorpusOptions("byte"))
    character_tokenizer(["ab"]).save(tmp_path / "out")
    with pytest.raises(ValueError, match="tokenizer is not the one"):
        Shards(tmp_path / "out")


def test_a_vocabulary_beyond_two_bytes_takes_four(tmp_path: Path):
    characters = "".join(map(chr, range(0x4E00, 0x9FFF))) + "".join(map(chr, range(0x10000, 0x1D000)))
    (tmp_path / "a.txt").write_text(characters)
    write_shards([str(tmp_path / "a.txt")], tmp_path / "out", CorpusOptions("char"))
    shards = Shards(tmp_path / "out")
    assert shards.manifest["dtype"] == "uint32" and shards.tokenizer.vocabulary_size > 1 << 16
    assert documents_in(tmp_path / "out", "train")[0] + documents_in(tmp_path / "out", "validation")[0] == characters


def test_a_tokenizer_is_trained_on_a_bounded_sample_of_what_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "SLICE", 100)
    texts = rows(tmp_path / "a.jsonl", 2000, characters=300)
    source = Documents([str(tmp_path / "a.jsonl")], CorpusOptions())
    train = [text for number, text in enumerate(texts) if uniform(number) >= 0.1]
    assert "".join(source.sample(1 << 30)) == "".join(train), "all of it, where that is little"
    sample = list(source.sample(100_000))
    assert 60_000 < sum(map(len, sample)) < 120_000
    assert sample == list(source.sample(100_000))
    assert sample[-1] in "".join(train[-100:]), "spread over the whole"


def test_progress_tells_bytes_done_of_all(small: None, tmp_path: Path):
    (tmp_path / "a.txt").write_text(prose(9000))
    size = (tmp_path / "a.txt").stat().st_size
    told: list[tuple[int, int]] = []
    write_shards([str(tmp_path / "a.txt")], tmp_path / "out", CorpusOptions("byte"), lambda *now: told.append(now))
    assert told == sorted(told) and told[-1] == (size, size) and len(told) > 3


def test_byte_tokens_are_two_bytes_each_in_the_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("ab")
    write_shards([str(tmp_path / "a.txt")], tmp_path / "out", CorpusOptions("byte", validation=0))
    assert (tmp_path / "out" / "train-00000.bin").read_bytes() == b"\x00\x01a\x00b\x00"
    assert byte_tokenizer().bos_id == 0x100
