"""A model by its name on the Hub: from a cache laid out as the Hub's, and over HTTP from a server of this test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
from conftest import random_model
from huggingface_hub import constants

import chainrule
from chainrule.cli import main
from chainrule.inspection import inspect_model
from chainrule.language_model import LanguageModel
from chainrule.storage.hub import model_directory
from chainrule.tokens.make import byte_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save_model(directory: Path) -> LanguageModel:
    lm = LanguageModel(random_model("llama", vocabulary_size=257, context=64), byte_tokenizer(), "llama")
    lm.save(directory)
    return lm


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def snapshot(cache: Path, name: str, revision: str = "main") -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_name_is_what_the_hubs_cache_holds_and_every_verb_takes_it(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = save_model(snapshot(cache, "owner/name"))
    assert chainrule.load("owner/name").log_prob("a text") == lm.log_prob("a text")
    assert chainrule.load(f"owner/name@{COMMIT}").log_prob("a text") == lm.log_prob("a text")
    main(["info", "owner/name", "--json"])
    assert json.loads(capsys.readouterr().out)["family"] == "llama"
    main(["score", "owner/name", "a text", "--json"])
    assert json.loads(capsys.readouterr().out)["log_prob"] == pytest.approx(lm.log_prob("a text"), abs=1e-4)
    Path("text.txt").write_text("some text " * 100)
    more = ["--steps", "1", "--batch-tokens", "64", "--compile", "off"]
    main(["pretrain", "text.txt", "--from", "owner/name", "--out", "more", *more])
    assert chainrule.load("more").family == "llama"


def test_an_existing_path_wins_over_the_hub(cache: Path) -> None:
    save_model(snapshot(cache, "owner/name"))
    mine = save_model(Path("owner/name"))
    assert model_directory("owner/name") == Path("owner/name")
    assert chainrule.load("owner/name").log_prob("a text") == mine.log_prob("a text")


def test_without_a_network_what_was_looked_for_and_where_is_said_in_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["generate", "owner/name"], ["info", "owner/name@v1.0"], ["predict", "owner/name", "a text"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and str(cache) in told and "owner/name" in told and "HF_HUB_OFFLINE" in told
        assert "no such directory" in told and constants.ENDPOINT in told


def test_a_slip_in_a_path_is_no_name_on_the_hub(cache: Path) -> None:
    Path("runs").mkdir()
    with pytest.raises(ValueError, match=r"runs/boks: wanted a model directory .*, found no config\.json"):
        chainrule.load("runs/boks")
    with pytest.raises(ValueError, match="found no config"):
        chainrule.load("../of/another kind")


def test_a_repository_with_a_pickle_only_is_refused(cache: Path) -> None:
    directory = snapshot(cache, "owner/pickled")
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"owner/pickled: wanted safetensors.*never fetched.*convert"):
        chainrule.load("owner/pickled")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download asks for."""

    def __init__(self, *given: object, files: dict[str, bytes], asked: list[str]) -> None:
        self.files, self.asked = files, asked
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.split(f"/{COMMIT}/")[-1]
        if self.path.startswith("/api/models/owner/name/tree/"):
            tree = [{"type": "file", "path": file, "size": len(self.files[file]), "oid": file} for file in self.files]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith("/api/models/owner/name/"):
            siblings = [{"rfilename": file} for file in self.files]
            self.answer(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/owner/name/resolve/") and name in self.files:
            content, part = self.files[name], self.headers.get("Range", "")
            self.asked.append(f"{name} {part}".strip())
            if part:
                first, last = map(int, part.removeprefix("bytes=").split("-"))
                content = content[first : last + 1]
            self.answer(content, ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

    do_HEAD = do_GET  # noqa: N815  (the library's name)

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for header, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server with a model, a pickle and code beside it; its address, and what it was asked for."""
    save_model(tmp_path / "served")
    files = {file.name: file.read_bytes() for file in (tmp_path / "served").iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "modeling_name.py": b"raise SystemExit", "onnx/config.json": b"{}"}
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files=files, asked=asked))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def command(hub: tuple[str, list[str]], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A process of chainrule that asks this server, with a cache of its own."""
    environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "chainrule", *arguments]
        return subprocess.run(call, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)

    return run


def test_info_reads_the_headers_of_the_weights_alone(
    hub: tuple[str, list[str]], command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("info", "owner/name", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == inspect_model(tmp_path / "served")
    assert {asked for asked in hub[1] if asked.startswith("model.")} == {
        "model.safetensors",  # whether it is there
        "model.safetensors bytes=0-100000",
    }
    assert not [*(tmp_path / "home").rglob("*.safetensors")]


def test_what_is_fetched_is_safetensors_and_settings_and_no_pickle_or_code(
    hub: tuple[str, list[str]], command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    done = command("score", "owner/name", "a text", "--json")
    assert done.returncode == 0, done.stderr
    expected = chainrule.load(tmp_path / "served").log_prob("a text")
    assert json.loads(done.stdout)["log_prob"] == pytest.approx(expected, abs=1e-4)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(asked)
    assert not {"pytorch_model.bin", "modeling_name.py", "onnx/config.json"} & set(asked)

    missing = command("score", "owner/other", "a text")
    assert missing.returncode == 2 and endpoint in missing.stderr and missing.stderr.count("\n") == 1
    assert "none of that name" in missing.stderr


@pytest.mark.parametrize("client", ["httpx", "httpx2", "requests"])
def test_a_connection_that_breaks_is_one_line_whatever_the_hub_is_asked_by(
    cache: Path, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = type("RemoteProtocolError", (Exception,), {"__module__": f"{client}._exceptions"})

    def hang_up(*_: object, **__: object) -> None:
        raise broken("peer closed connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hang_up)
    with pytest.raises(ValueError, match="could not be asked \\(peer closed connection\\); try again"):
        model_directory("owner/name")


def test_a_gguf_of_the_hub_is_named_by_its_file(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = save_model(Path("run"))
    repository = snapshot(cache, "owner/name")
    (repository / "small").mkdir(parents=True)
    main(["export", "run", "--out", str(repository / "small" / "model.gguf"), "--type", "f32"])
    for name in ("owner/name:small/model.gguf", f"owner/name@{COMMIT}:small/model.gguf"):
        assert model_directory(name) == repository / "small" / "model.gguf"
    back = chainrule.load("owner/name:small/model.gguf")
    assert back.tokenizer.encode("é") == lm.tokenizer.encode("é")
    capsys.readouterr()
    for name, message in (("owner/name:other.gguf", "has no owner/name"), ("owner/name", "owner/name:FILE.gguf")):
        with pytest.raises(SystemExit, match="2"):
            main(["score", name, "a"])
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and message in told.err, told.err
