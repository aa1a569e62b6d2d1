"""The command line: a mistake is one line and exit status 2 and leaves nothing half-written; --json is one document."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from chainrule import commands
from chainrule.cli import COMMANDS, main
from chainrule.corpus.write import Shards
from chainrule.errors import ModelError, OptionError
from chainrule.language_model import load
from chainrule.model.formats import checkpoint

TINY = "--depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --compile off --dtype float32".split()
OWLS = " ".join(random.Random(0).choices("the owl sees a mouse and night falls\n".split(" "), k=800))

Capture = pytest.CaptureFixture[str]
Answer = Callable[..., dict[str, Any]]
Mistake = Callable[..., str]


def pretrain(data: Path, out: Path, *options: str, steps: int = 6, tokenizer: str = "byte") -> list[str]:
    return ["pretrain", str(data), "--out", str(out), "--tokenizer", tokenizer, "--steps", str(steps), *TINY, *options]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "owls.txt"
    path.write_text(OWLS)
    return path


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "owls"
    main(pretrain(text, out))
    return out


@pytest.fixture(scope="module")
def trained_on_characters(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "characters"
    main(pretrain(text, out, tokenizer="char", steps=1))
    return out


@pytest.fixture
def run(trained: Path, text: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def answer(capsys: Capture) -> Answer:
    """Run a command with --json: the one JSON document on standard output."""

    def ask(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        main([*map(str, arguments), "--json"])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return ask


@pytest.fixture
def mistake(capsys: Capture) -> Mistake:
    """Run a command that must end with exit status 2 and one line: that line, without `chainrule: `."""

    def ask(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        assert end.value.code == 2
        assert told.out == ""
        assert told.err.startswith("chainrule: ")
        assert told.err.endswith("\n")
        assert told.err.count("\n") == 1
        return told.err.removeprefix("chainrule: ")

    return ask


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


# What goes well.


def test_tokenize_answers_with_its_counts(answer: Answer, text: Path, tmp_path: Path) -> None:
    made = answer("tokenize", text, "--out", tmp_path / "shards", "--tokenizer", "byte")
    assert made.keys() == {"documents", "tokens", "bytes", "skipped", "seconds"}
    assert (made["documents"], made["bytes"], made["skipped"]) == (1, len(OWLS), 0)
    shards = Shards(tmp_path / "shards")
    assert made["tokens"] == len(shards.split("train")) + len(shards.split("validation"))


def test_pretrain_reads_shards_and_answers_with_what_it_came_to(answer: Answer, text: Path, tmp_path: Path) -> None:
    main(["tokenize", str(text), "--out", str(tmp_path / "shards"), "--tokenizer", "byte"])
    made = answer(*pretrain(tmp_path / "shards", tmp_path / "run"))
    keys = {"steps", "tokens", "train_loss", "validation_loss", "seconds", "tokens_per_second"}
    assert made.keys() == keys
    assert (made["steps"], made["tokens"]) == (6, 6 * 64)
    assert 0 < made["validation_loss"] < 6


def test_generate_answers_with_its_completions(answer: Answer, trained: Path) -> None:
    options = ("--max-tokens", 5, "--samples", 2, "--seed", 1)
    (first, second) = answer("generate", trained, "the owl", *options)["completions"]
    assert first.keys() == second.keys() == {"text", "tokens", "log_prob", "finish_reason"}
    assert first["finish_reason"] in ("stop", "length")
    assert first["log_prob"] < 0
    assert first["tokens"] != second["tokens"]
    assert answer("generate", trained, "the owl", *options)["completions"] == [first, second]


def test_score_answers_with_the_factors_and_their_sum(answer: Answer, trained: Path) -> None:
    scored = answer("score", trained, "a mouse", "--given", "the owl sees ", "--top", 3)
    assert scored.keys() == {"tokens", "log_prob"}
    assert "".join(token["text"] for token in scored["tokens"]) == "a mouse"
    assert all(token.keys() == {"text", "log_prob", "alternatives"} for token in scored["tokens"])
    assert all(len(token["alternatives"]) == 3 for token in scored["tokens"])
    assert scored["log_prob"] == pytest.approx(sum(token["log_prob"] for token in scored["tokens"]))
    assert scored["log_prob"] == pytest.approx(load(trained).log_prob("a mouse", given="the owl sees "), rel=1e-5)


def test_evaluate_answers_with_loss_perplexity_and_bits(answer: Answer, trained: Path, text: Path) -> None:
    found = answer("evaluate", trained, text)
    assert found.keys() == {"tokens", "bytes", "loss", "perplexity", "bits_per_byte"}
    assert found["tokens"] == found["bytes"] == len(OWLS)


def test_info_answers_with_what_a_run_is(answer: Answer, trained: Path, text: Path) -> None:
    found = answer("info", trained)
    assert (found["family"], found["layers"], found["width"], found["context"]) == ("qwen3", 1, 16, 16)
    assert found["vocabulary_size"] == 257
    assert str(text) in found["trained_on"]


@pytest.mark.parametrize(
    "arguments",
    [["generate", "the", "--max-tokens", "3"], ["generate", "the", "--samples", "2"], ["score", "the"], ["info"]],
)
def test_without_json_something_is_shown_to_a_person(arguments: list[str], trained: Path, capsys: Capture) -> None:
    verb, *rest = arguments
    main([verb, str(trained), *rest])
    assert capsys.readouterr().out.strip()


def test_a_prompt_that_begins_with_dashes_stands_after_two_of_them(trained: Path, capsys: Capture) -> None:
    main(["generate", str(trained), "--max-tokens", "2", "--", "--the owl"])
    assert capsys.readouterr().out.startswith("--the owl")


def test_a_finished_run_says_so_and_names_the_way_to_extend_it(text: Path, run: Path, capsys: Capture) -> None:
    before = snapshot(run)
    main(pretrain(text, run))
    assert "finished (6 steps)" in (told := capsys.readouterr().err)
    assert f"--from {run} --out" in told
    assert {name: snapshot(run)[name] for name in before if name != "loss.svg"} == {
        name: content for name, content in before.items() if name != "loss.svg"
    }


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first_and_says_how_to_go_on(number: int, status: int, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = pretrain(text, out, "--validate-every", "5", steps=10**6)
    command = [sys.executable, "-m", "chainrule", *arguments]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / "model.safetensors").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    _, told = child.communicate(timeout=60)
    assert child.returncode == status
    assert "the same command continues from there" in told.splitlines()[-1]
    step = int(told.split("saved at step ")[1].split(";")[0])
    assert (out / "training" / str(step)).is_dir()


def test_from_goes_on_from_a_runs_weights_with_its_tokenizer(
    answer: Answer, trained: Path, text: Path, tmp_path: Path
) -> None:
    more = ["--from", trained, "--tokenizer", trained, "--steps", 1, "--batch-tokens", 64, "--compile", "off"]
    made = answer("pretrain", text, "--out", tmp_path / "more", *more)
    first = json.loads((tmp_path / "more" / "log.jsonl").read_text().splitlines()[0])
    assert made["steps"] == 1
    assert first["loss"] < 5.5 < 5.549  # log 257: not from nothing


HEAVY = {"torch", "numpy", "pyarrow", "scipy", "sklearn", "matplotlib", "tokenizers", "rich", "jinja2", "argparse"}


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["pretrain", "-h"], []])
def test_help_and_import_import_nothing_that_takes_time(arguments: list[str]) -> None:
    shown = f"from chainrule.cli import main\ntry: main({arguments})\nexcept SystemExit as end: assert not end.code"
    check = f"import sys\n{shown if arguments else 'import chainrule'}\nprint(*sys.modules, file=sys.stderr)"
    child = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    imported = {module.partition(".")[0] for module in child.stderr.split()}
    assert not imported & HEAVY
    if len(arguments) == 2:  # the command that was asked for, and no other
        beside = [module for module in child.stderr.split() if module.startswith("chainrule.commands.")]
        for_several = {"chainrule.commands.options", "chainrule.commands.sharing"}
        assert set(beside) - for_several == {f"chainrule.commands.{arguments[0]}"}


def test_the_help_lists_every_command_with_what_it_does(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in shown] == list(COMMANDS)
    assert {path.stem.replace("_", "-") for path in Path(commands.__path__[0]).glob("[a-z]*.py")} - {
        "options",
        "accuracy",
        "sharing",
        "model-work",
        "writing",
    } == set(COMMANDS)


# What is the user's mistake.


def write(path: Path, content: bytes | None) -> Path:
    """A file, or for None a folder without text."""
    if content is None:
        path.mkdir()
        (path / "picture.png").write_bytes(b"\x89PNG")
    else:
        path.write_bytes(content)
    return path


BAD_INPUT = {
    "an empty file": ("a.txt", b"", "a.txt"),
    "a folder without text": ("folder", None, "folder"),
    "a wrong encoding": ("a.txt", b"owl \xff mouse", "byte 4"),
    "a line without the field": ("a.jsonl", b'{"text": "owl"}\n{"other": "mouse"}\n', "a.jsonl:2"),
    "a line that is no JSON": ("a.jsonl", b'{"text": "owl"}\n{"text": \n', "a.jsonl:2"),
}


@pytest.mark.parametrize("verb", ["tokenize", "pretrain"])
@pytest.mark.parametrize("name", BAD_INPUT)
def test_text_that_cannot_be_read_is_one_line_and_leaves_nothing(
    verb: str, name: str, mistake: Mistake, tmp_path: Path
) -> None:
    file, content, place = BAD_INPUT[name]
    data = write(tmp_path / file, content)
    before = snapshot(tmp_path)
    told = mistake(verb, data, "--out", tmp_path / "out", "--tokenizer", "byte", *(TINY if verb == "pretrain" else ()))
    assert file in told
    assert place in told
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verb", ["tokenize", "pretrain"])
def test_a_missing_file_is_named(verb: str, mistake: Mistake, tmp_path: Path) -> None:
    assert "nowhere.txt" in mistake(verb, tmp_path / "nowhere.txt", "--out", tmp_path / "out")
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_evaluate_refuses_text_that_cannot_be_read(name: str, mistake: Mistake, trained: Path, tmp_path: Path) -> None:
    file, content, place = BAD_INPUT[name]
    data = write(tmp_path / file, content)
    told = mistake("evaluate", trained, data)
    assert name == "an empty file" or (file in told and place in told)


def test_evaluate_skips_what_cannot_be_read_when_asked(
    answer: Answer, trained: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write(tmp_path / "broken.txt", b"abc\xff")
    assert (
        answer("evaluate", trained, broken, text, "--on-error", "skip")["loss"]
        == answer("evaluate", trained, text)["loss"]
    )
    main(["evaluate", str(trained), str(broken), str(text), "--on-error", "skip"])
    assert "1 skipped, the first because of" in capsys.readouterr().err


def test_fewer_tokens_than_a_window_are_refused_and_no_run_is_begun(mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("owl")
    told = mistake(*pretrain(tmp_path / "short.txt", tmp_path / "run"))
    assert "17 tokens" in told
    assert "--context" in told
    assert not (tmp_path / "run" / "run.toml").exists()
    assert not list((tmp_path).rglob("*.partial"))


@pytest.mark.parametrize("verb", ["tokenize", "pretrain"])
def test_an_out_that_holds_something_else_is_refused_and_left_alone(
    verb: str, mistake: Mistake, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    told = mistake(verb, text, "--out", tmp_path, "--tokenizer", "byte")
    assert "thesis.tex" in told
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_out_that_is_a_file_is_refused(mistake: Mistake, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of others")
    for verb in ("tokenize", "pretrain"):
        mistake(verb, text, "--out", tmp_path / "file", "--tokenizer", "byte")
    assert snapshot(tmp_path) == {"file": b"of others"}


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--seed", "1"), "--seed"), (("--learning-rate", "0.5"), "--learning-rate"), (("--tied",), "--tied")],
)
def test_a_run_from_other_options_is_refused_by_their_name(
    options: tuple[str, ...], named: str, mistake: Mistake, text: Path, run: Path
) -> None:
    before = snapshot(run)
    assert mistake(*pretrain(text, run, *options)).startswith(f"{named}: ")
    assert snapshot(run) == before


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_an_altered_checkpoint_is_found_before_it_is_used(file: str, mistake: Mistake, text: Path, run: Path) -> None:
    damaged = run / "training" / "6" / file
    if file == "state.json":
        damaged.write_bytes(damaged.read_bytes()[:40])
    else:
        flip_a_byte(damaged)
    assert str(damaged) in mistake(*pretrain(text, run))


@pytest.mark.parametrize("file", ["train-00000.bin", "validation-00000.bin", "train-00000.offsets"])
def test_an_altered_shard_is_found_before_it_is_used(file: str, mistake: Mistake, text: Path, run: Path) -> None:
    flip_a_byte(run / "data" / file)
    assert file in mistake(*pretrain(text, run))


def test_verify_reads_shards_whose_size_and_time_are_as_they_were(mistake: Mistake, text: Path, run: Path) -> None:
    shard = run / "data" / "train-00000.bin"
    times = shard.stat()
    flip_a_byte(shard)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    main(pretrain(text, run))
    assert "SHA-256 differs" in mistake(*pretrain(text, run, "--verify"))


def test_a_truncated_shard_is_found(mistake: Mistake, text: Path, run: Path) -> None:
    shard = run / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert "train-00000.bin" in mistake(*pretrain(text, run))


@pytest.mark.parametrize("keep", [4, 60, -8])
@pytest.mark.parametrize("verb", ["generate", "info"])
def test_a_truncated_model_is_found(verb: str, keep: int, mistake: Mistake, run: Path) -> None:
    model = run / "model.safetensors"
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content[:keep])
    assert "model.safetensors" in mistake(verb, run)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "ω"],
        ["generate", "ω", "--json"],
        ["score", "ω"],
        ["score", "owl", "--given", "ω"],
    ],
)
def test_a_character_that_the_vocabulary_lacks_is_named(
    arguments: list[str], mistake: Mistake, trained_on_characters: Path
) -> None:
    verb, *rest = arguments
    assert "ω" in mistake(verb, trained_on_characters, *rest)


@pytest.mark.parametrize("arguments", [["generate"], ["score", "owl"], ["evaluate", "TEXT"], ["info"]])
def test_a_directory_without_a_model_is_refused(
    arguments: list[str], mistake: Mistake, text: Path, tmp_path: Path
) -> None:
    verb, *rest = (str(text) if argument == "TEXT" else argument for argument in arguments)
    assert str(tmp_path) in mistake(verb, tmp_path, *rest)
    assert "nowhere" in mistake(verb, tmp_path / "nowhere", *rest)


@pytest.mark.parametrize("options", [[], ["--json"], ["--samples", 2]])
def test_a_prompt_longer_than_the_context_is_refused(options: list[Any], mistake: Mistake, trained: Path) -> None:
    assert "16 tokens" in mistake("generate", trained, "the owl sees a mouse", *options)


def test_a_run_without_anything_to_validate_on_is_refused_before_it_begins(
    mistake: Mistake, text: Path, tmp_path: Path
) -> None:
    assert "--validation" in mistake(*pretrain(text, tmp_path / "run", "--validation", "0"))
    assert not (tmp_path / "run" / "run.toml").exists()


OUT_OF_RANGE = {
    "tokenize": [
        ("--vocabulary-size 200", "200"),
        ("--validation 1", "validation"),
        ("--workers 0", "worker"),
        ("--tokenizer nowhere", "nowhere"),
        ("--encoding klingon", "klingon"),
    ],
    "pretrain": [
        ("--depth -1", "--depth"),
        ("--depth 0", "--depth"),
        ("--context 0", "--context"),
        ("--steps 0", "--steps"),
        ("--minutes -1", "--minutes"),
        ("--minutes nan", "--minutes"),
        ("--learning-rate inf", "--learning-rate"),
        ("--width 48 --heads 5", "--heads"),
        ("--context 16 --batch-tokens 8", "--batch-tokens"),
        ("--from nowhere", "nowhere"),
        ("--from nowhere --depth 2", "--depth"),
        ("--optimizer sgd", "sgd"),
        ("--device cuda:9", "device"),
        ("--seed 1.5", "seed"),
    ],
    "generate": [
        ("--temperature -1", "temperature"),
        ("--temperature nan", "temperature"),
        ("--top-p 2", "top-p"),
        ("--top-k 0", "top-k"),
        ("--min-p -0.1", "min-p"),
        ("--repetition-penalty 0", "repetition"),
        ("--max-tokens 0", "max-tokens"),
        ("--samples 0", "samples"),
        ("--seed -1", "seed"),
        ("--dtype float8", "float8"),
        ("--tempera 1", "--tempera"),
    ],
    "score": [("--top -1", "top")],
    "evaluate": [("--stride 0", "stride"), ("--stride 17", "stride"), ("--encoding klingon", "klingon")],
}


@pytest.mark.parametrize(
    ("verb", "options", "named"), [(verb, *case) for verb, cases in OUT_OF_RANGE.items() for case in cases]
)
def test_an_option_out_of_range_or_unknown_is_named(
    verb: str, options: str, named: str, mistake: Mistake, trained: Path, text: Path, tmp_path: Path
) -> None:
    subjects: dict[str, list[str | Path]] = {
        "generate": [trained],
        "score": [trained, "owl"],
        "evaluate": [trained, text],
    }
    subject = subjects.get(verb, [text, "--out", tmp_path / "out"])
    assert named in mistake(verb, *subject, *options.split())
    assert not (tmp_path / "out" / "run.toml").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_an_option_behind_two_dashes_is_an_argument_and_one_too_many(mistake: Mistake, trained: Path) -> None:
    assert "'--json' is one argument too many" in mistake("generate", trained, "--", "owl", "--json")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["zeroshot"], "did you mean zero-shot?"),
        (["generate", "run", "--temprature", "1"], "did you mean --temperature?; see chainrule generate --help"),
    ],
)
def test_the_nearest_name_is_suggested(arguments: list[str], told: str, mistake: Mistake) -> None:
    assert told in mistake(*arguments)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["generate"], ["tokenize", "a.txt"], ["--nonsense"]])
def test_a_command_that_is_none_is_one_line_that_names_the_help(arguments: list[str], mistake: Mistake) -> None:
    assert "--help" in mistake(*arguments)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: disk full")])
def test_a_disk_full_during_a_save_leaves_the_checkpoint_before_and_the_run_goes_on(
    error: Exception, mistake: Mistake, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def on_a_small_disk(tensors: Any, path: Path, **named: Any) -> None:
        files.append(path)
        if len(files) == 4:  # the optimizer's, of the second checkpoint
            Path(path).write_bytes(b"half")
            raise error
        save_file(tensors, path, **named)

    command = pretrain(text, tmp_path / "run", "--validate-every", "3")
    monkeypatch.setattr(checkpoint, "save_file", on_a_small_disk)
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert [path.name for path in (tmp_path / "run" / "training").iterdir()] == ["3"]
    assert not list(tmp_path.rglob("*.partial"))
    assert load(tmp_path / "run").log_prob("owl") < 0

    monkeypatch.undo()
    main(command)
    main(pretrain(text, tmp_path / "whole", "--validate-every", "3"))
    for file in ("training/6/model.safetensors", "training/6/optimizer.safetensors", "model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_traceback_is_shown_on_purpose(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="wanted a model directory"):
        main(["info", str(tmp_path), "--traceback"])
    with pytest.raises(OptionError, match="no option --no-such"):
        main(["info", "--traceback", "--no-such"])


def test_what_is_no_mistake_of_the_user_shows_its_traceback_and_asks_for_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("chainrule.inspection.inspect_model", fail)
    with pytest.raises(ValueError, match="broadcast"):
        main(["info", str(tmp_path)])
    assert "this is a bug; please report" in capsys.readouterr().err


def test_an_error_of_the_operating_system_about_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("chainrule.inspection.inspect_model", fail)
    with pytest.raises(SystemExit) as end:
        main(["info", str(tmp_path)])
    assert end.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
