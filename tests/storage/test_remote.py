"""Files by URL: read as streams, listed, written, refused in one line. No network: memory:// and a loopback server."""

import gzip
import http.server
import json
import random
import re
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from chainrule.cli import main
from chainrule.corpus.read import read_texts
from chainrule.corpus.write import CorpusOptions, write_shards
from chainrule.errors import ChainruleError, DataError, MissingPackageError
from chainrule.storage import remote
from chainrule.storage.inputs import find_files, source_of
from chainrule.storage.lines import read_blocks
from chainrule.storage.records import format_of, read_records
from chainrule.storage.remote import is_remote, opened_remote, without_secrets, written_output
from chainrule.tasks.examples import Task

ROWS = [{"text": f"the owl {number} sees", "label": ("good", "bad")[number % 2]} for number in range(40)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of memory:// with a file of each kind."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/rows.jsonl", JSONL)
    memory.pipe("/bucket/rows.jsonl.gz", gzip.compress(JSONL))
    memory.pipe("/bucket/deep/owls.txt", b"the owl sees " * 300)
    memory.pipe("/bucket/.hidden.txt", b"no")
    memory.pipe("/bucket/picture.png", b"no")
    with memory.open("/bucket/rows.parquet", "wb") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server of tmp_path/served."""
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with it")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(JSONL)
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_rows_elsewhere_are_the_rows_here(name: str, bucket: str) -> None:
    found = [record.values for record in read_records(f"{bucket}/{name}") if not isinstance(record, DataError)]
    assert found == ROWS


def test_folders_and_patterns_elsewhere_name_their_texts(bucket: str) -> None:
    every = find_files([bucket])
    assert [name.removeprefix("memory:///bucket/").removeprefix("memory://bucket/") for name in every] == [
        "deep/owls.txt", "rows.jsonl", "rows.jsonl.gz", "rows.parquet",
    ]  # fmt: skip
    assert find_files([f"{bucket}/*.jsonl"]) == [name for name in every if name.endswith(".jsonl")]
    assert list(read_texts(find_files([f"{bucket}/deep"]))) == ["the owl sees " * 300]


def test_shards_of_a_web_server_are_those_of_the_file(server: str, tmp_path: Path) -> None:
    options = CorpusOptions("bpe", 280)
    write_shards([f"{server}/rows.jsonl?token=1"], tmp_path / "there", options)
    write_shards([str(tmp_path / "served/rows.jsonl")], tmp_path / "here", options)
    names = sorted(path.name for path in (tmp_path / "here").glob("*.*") if path.suffix in (".bin", ".offsets"))
    assert names
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    manifest = (tmp_path / "there/manifest.json").read_text()
    assert "token=1" not in manifest, "a query may hold a secret"
    (tmp_path / "served/rows.jsonl").write_bytes(JSONL + b'{"text": "more"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl is new or has changed"):
        write_shards([f"{server}/rows.jsonl?token=1"], tmp_path / "there", options)


def test_a_web_server_that_sends_files_only_whole_is_read_as_a_stream(server: str, tmp_path: Path) -> None:
    text = "the owl sees a mouse\n" * 400_000  # 8 MB: more than what is asked for at once where parts are sent
    (tmp_path / "served/large.txt").write_text(text)
    assert "".join(read_blocks(f"{server}/large.txt")) == text
    (tmp_path / "served/large.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert "".join(read_blocks(f"{server}/large.txt.gz")) == text
    numbers = pyarrow.Table.from_pylist([{"text": f"{random.getrandbits(160_000):x}"} for _ in range(200)])
    pyarrow.parquet.write_table(numbers, tmp_path / "served/large.parquet", compression="none")
    with pytest.raises(DataError, match=r"large\.parquet: cannot be read|large\.parquet: not a whole parquet file"):
        list(read_records(f"{server}/large.parquet"))


def test_a_file_elsewhere_is_never_in_memory_as_a_whole(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/large.txt", b"the owl sees a mouse\n" * 500_000)  # 10 MB
    tracemalloc.start()
    try:
        assert sum(map(len, read_blocks(f"{bucket}/large.txt"))) == 21 * 500_000
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_task_reads_its_examples_elsewhere(bucket: str, tmp_path: Path) -> None:
    alone = Task.load(f"{bucket}/rows.jsonl", text="text", label="label")
    assert (len(alone.train), len(alone.test), alone.labels) == (32, 8, ("bad", "good"))
    (tmp_path / "owls.toml").write_text(f'train = "{bucket}/rows.jsonl"\ntext = "text"\nlabel = "label"\n')
    assert Task.load(tmp_path / "owls.toml").train.rows == alone.train.rows
    with pytest.raises(DataError, match="wanted a data file with --text and --label"):
        Task.load(f"{bucket}/rows.jsonl")


def test_an_output_elsewhere_is_whole_or_not_there(bucket: str) -> None:
    with pytest.raises(KeyError), written_output(f"{bucket}/out.csv") as beside:
        beside.write_text("half")
        raise KeyError
    memory = fsspec.filesystem("memory")
    assert not memory.exists("/bucket/out.csv")
    with written_output(f"{bucket}/out.csv") as beside:
        beside.write_text("whole")
    assert memory.cat("/bucket/out.csv") == b"whole"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://bucket/none.txt", "no such file there: check the name"),
        ("nonsense://bucket/a.txt", "Protocol not known: nonsense"),
        ("{server}/none.jsonl", "no such file there"),
        ("http://127.0.0.1:9/a.txt", "cannot be read .* check the address, the network and the credentials"),
    ],
)
def test_what_cannot_be_read_elsewhere_is_one_line(
    url: str, said: str, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["tokenize", url.format(server=server), "--out", str(tmp_path / "new"), "--tokenizer", "byte"])
    printed = capsys.readouterr().err
    assert exit.value.code == 2
    assert printed.count("\n") == 1
    assert re.search(said, printed)
    assert not (tmp_path / "new").exists()


def test_googles_storage_is_given_up_at_once_where_it_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs itself tries for a minute and a half."""
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: None)  # as if gcsfs were installed
    monkeypatch.setattr(remote, "getproxies", dict)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    with pytest.raises(DataError, match=r"gs://owls/c\.jsonl: cannot be read \(127\.0\.0\.1:1: Connection refused\)"):
        remote.remote_files("gs://owls/c.jsonl")


def test_a_scheme_without_its_library_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"s3://bucket/a\.txt: .*pip install 'chainrule\[remote\]'"):
        find_files(["s3://bucket/a.txt"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("Forbidden"), "wanted permission to read it, got Forbidden"),
        (TimeoutError(), "TimeoutError"),
        (type("ConnectError", (Exception,), {"__module__": "httpx2"})("no such host"), "cannot be read .no such host."),
    ],
)
def test_a_bucket_that_may_not_be_read_is_told(
    error: Exception, said: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "open", refuse)
    with pytest.raises(DataError, match=said), opened_remote(f"{bucket}/rows.jsonl"):
        pass


SECRET = "rows.jsonl?X-Amz-Signature=hidden"


@pytest.mark.parametrize("name", [SECRET, "none.jsonl?key=hidden", "refused.jsonl?key=hidden", "bad.csv?key=hidden"])
def test_no_message_shows_what_a_url_is_signed_with(
    name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def send(handler: Quiet) -> object:
        if "refused" in handler.path:
            handler.send_error(403)
            return None
        return http.server.SimpleHTTPRequestHandler.send_head(handler)

    monkeypatch.setattr(Quiet, "send_head", send, raising=False)
    (tmp_path / "served/rows.jsonl").write_bytes(b'{"text": "an owl"}\n{"text": \n')
    (tmp_path / "served/bad.csv").write_bytes(b"text;label\nan owl;good;more\n")
    for url in (f"{server}/{name}", f"{server}/{name}".replace("//", "//user:hidden@")):
        with pytest.raises(SystemExit):
            main(["tokenize", url, "--out", str(tmp_path / "new"), "--tokenizer", "byte"])
        printed = "".join(capsys.readouterr())
        assert f"/{name.partition('?')[0]}" in printed
        assert "hidden" not in printed
    with pytest.raises(DataError) as refused:
        Task.load(f"{server}/{name}", text="text", label="label")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("https://me:hidden@host/a.csv?sig=hidden#top", "https://host/a.csv"),
        ("sftp://me:hidden@host/a?b.csv", "sftp://host/a?b.csv"),
        ("s3://bucket/a@b?c.csv", "s3://bucket/a@b?c.csv"),
        ("hf://datasets/owls/day@v1/a.csv", "hf://datasets/owls/day@v1/a.csv"),
        ("abfs://container@account/a.csv", "abfs://container@account/a.csv"),
        ("folder/a?b#c.csv", "folder/a?b#c.csv"),
    ],
)
def test_a_name_is_shown_without_what_is_secret_alone(name: str, shown: str) -> None:
    assert without_secrets(name) == shown


def test_a_run_keeps_no_signature_and_goes_on_with_another(server: str, tmp_path: Path) -> None:
    (tmp_path / "served/owls.txt").write_text("the owl sees a mouse " * 60)
    tiny = "--tokenizer byte --depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 1 --compile off"
    for signature in ("sesame", "tahini"):
        url = f"{server}/owls.txt?signature={signature}"
        main(["pretrain", url, "--out", str(tmp_path / "run"), *tiny.split(), "--dtype", "float32"])
    kept = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"sesame" in content or b"tahini" in content for content in kept)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for out, said in (
        ("https://host/out.csv?key=hidden", r"--out https://host/out\.csv: wanted a bucket or a path"),
        ("s3://bucket/out.csv", "wanted the library for s3://"),
        ("no/such/out.csv", "wanted a file in a folder that is there"),
    ):
        with pytest.raises(ChainruleError, match=said), written_output(out):
            pytest.fail("the work began")


def test_a_url_is_no_path_and_its_query_no_suffix() -> None:
    assert is_remote("s3://a/b") and not is_remote("a/b") and not is_remote(r"C:\a")
    assert format_of("https://host/rows.jsonl.gz?download=a.txt#top") == ".jsonl"
    assert source_of(__file__)["bytes"] == Path(__file__).stat().st_size


def test_scores_are_written_from_url_to_url(bucket: str, tmp_path: Path) -> None:
    text = " ".join(random.Random(0).choices("the owl sees a mouse".split(), k=200))
    (tmp_path / "owls.txt").write_text(text)
    tiny = "--tokenizer byte --depth 1 --width 16 --heads 2 --context 16 --batch-tokens 64 --steps 1 --compile off"
    main(["pretrain", str(tmp_path / "owls.txt"), "--out", str(tmp_path / "run"), *tiny.split(), "--dtype", "float32"])
    rows = ["--input", f"{bucket}/rows.jsonl", "--out"]
    main(["score", str(tmp_path / "run"), *rows, str(tmp_path / "here.csv")])
    main(["score", str(tmp_path / "run"), *rows, f"{bucket}/there.csv"])
    assert fsspec.filesystem("memory").cat("/bucket/there.csv") == (tmp_path / "here.csv").read_bytes()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a local server that speaks S3's protocol."""
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAOWL")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="owls")
        client.put_object(Bucket="owls", Key="rows.jsonl", Body=JSONL)
        client.put_object(Bucket="owls", Key="deep/owls.txt", Body=b"the owl sees " * 300)
        yield "s3://owls"
    server.stop()


def test_a_bucket_is_read_and_written_as_a_folder_is(s3: str, tmp_path: Path) -> None:
    assert find_files([s3]) == [f"{s3}/deep/owls.txt", f"{s3}/rows.jsonl"]
    assert find_files([f"{s3}/*.jsonl"]) == [f"{s3}/rows.jsonl"]
    assert [record.values for record in read_records(f"{s3}/rows.jsonl") if not isinstance(record, DataError)] == ROWS
    assert "".join(read_blocks(f"{s3}/deep/owls.txt")) == "the owl sees " * 300
    assert source_of(f"{s3}/rows.jsonl")["modified"]
    with written_output(f"{s3}/new/out.csv") as beside:
        beside.write_text("whole")
    assert "".join(read_blocks(f"{s3}/new/out.csv")) == "whole"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s3://owls/none.jsonl", "no such file there: check the name"),
        ("s3://nobody/rows.jsonl", "The specified bucket does not exist"),
    ],
)
def test_what_a_bucket_lacks_is_one_line(name: str, said: str, s3: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        find_files([name])
    assert "\n" not in str(refused.value) and "hidden" not in str(refused.value)
    with pytest.raises(DataError, match=r"--out s3://nobody/out\.csv: wanted a bucket that is there"):
        written_output("s3://nobody/out.csv").__enter__()


def test_keys_that_the_bucket_does_not_know_are_one_line_without_them(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core, settings = pytest.importorskip("moto.core.responses"), pytest.importorskip("moto.settings")
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    monkeypatch.setattr(core.ActionAuthenticatorMixin, "request_count", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAMOUSE")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DataError, match=r"wanted permission to read it, .*; set the credentials for s3://") as refused:
        find_files([f"{s3}/rows.jsonl"])
    assert "hidden" not in str(refused.value) and "AKIA" not in str(refused.value)
