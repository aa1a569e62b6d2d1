"""Work shared by a Ray cluster of two nodes on this machine: the same bytes, a killed worker, mistakes in one line."""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chainrule.cli import main
from chainrule.corpus import documents, write
from chainrule.errors import ChainruleError, DataError, MissingPackageError, OptionError
from chainrule.tasks import row_file
from chainrule.workers import ray_connection
from chainrule.workers.ray_cluster import Cluster, _Workers
from chainrule.workers.ray_connection import cluster

ray: Any = pytest.importorskip("ray")
TINY = "--depth 1 --width 16 --heads 2 --context 64 --batch-tokens 128 --steps 1 --compile off --dtype float32"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """Two nodes of a core each; this process is connected to them."""
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers find functions by their module's name: those of this file too.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        nodes = Nodes(initialize_head=True, head_node_args=node)
        nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
        ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
        try:
            yield Cluster(ray)
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, and texts; commands run in it, and pieces are small."""
    folder, draw = tmp_path_factory.mktemp("world"), random.Random(0)
    (folder / "owls.txt").write_text(" ".join(draw.choices("the owl sees a mouse and night falls".split(), k=900)))
    days = [(f"a {('fine', 'grim')[row % 2]} day {row}", ("good", "bad")[row % 2]) for row in range(40)]
    (folder / "days.jsonl").write_text("\n".join(json.dumps({"text": day, "mood": mood}) for day, mood in days))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(row_file, "ROWS_AT_ONCE", 7)
        patch.setattr(documents, "BATCH", 500)
        patch.setattr(write, "SHARD", 700)
        patch.setattr("chainrule.language_model._TOKENS_OF_A_SECTION", 100)
        patch.setattr("chainrule.scoring.documents._TOKENS_IN_MEMORY", 300)
        main(f"pretrain owls.txt --out run --tokenizer byte {TINY}".split())
        yield folder


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def warnings(printed: str) -> list[str]:
    """Without the lines of progress, which slow machines have."""
    doing = ("tokenizing", "predicting", "evaluating", "scoring")
    return [line for line in printed.splitlines() if not line.startswith(doing)]


def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that loads a model takes seconds to import torch."""
    monkeypatch.setattr(Cluster, "_shares", lambda self, whole_nodes, device: [{"num_cpus": 1}])


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("tokenize owls.txt days.jsonl --tokenizer bpe --vocabulary-size 280 --out {}", "shards"),
        ("predict run --task days.jsonl --text text --label mood --shots 3 --input days.jsonl --out {}", "shown.jsonl"),
        ("evaluate run owls.txt days.jsonl --out {}", "evaluated.json"),
        ("score run --input days.jsonl --out {}", "scored.csv"),
    ],
)
def test_with_ray_or_without_the_bytes_are_the_same(
    command: str,
    name: str,
    two_nodes: Cluster,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if command.startswith(("evaluate", "score")):
        one_worker(monkeypatch)
    main(command.format(f"alone-{name}").split())
    alone = capsys.readouterr()
    main([*command.format(f"shared-{name}").split(), "--cluster", "auto"])
    shared = capsys.readouterr()
    assert content(world / f"shared-{name}") == content(world / f"alone-{name}")
    assert warnings(shared.err) == warnings(alone.err)
    if command.startswith("predict"):
        assert "demonstrations fitted" in shared.err


def test_compare_finds_the_same_with_ray_or_without(
    two_nodes: Cluster, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_worker(monkeypatch)
    command = "compare run days.jsonl --text text --label mood --sizes 4 --seeds 2 --methods majority centroid --out"
    main([*command.split(), "compared"])
    main([*command.split(), "shared", "--cluster", "auto"])
    found = []
    for out in ("compared", "shared"):
        results = json.loads((world / out / "results.json").read_text())
        for row in [*results["rows"], *results["cells"]]:
            del row["seconds_to_adapt"], row["milliseconds_per_text"]
        found.append({**results, "advice": None})
    assert found[0] == found[1]


def slow_squares(folder: str) -> Callable[[int], int]:
    """Notes its process, and that of each piece."""

    def square(number: int) -> int:
        (Path(folder) / f"{number}-{os.getpid()}").touch()
        time.sleep(0.2)
        return number**2

    return square


def test_a_worker_that_is_killed_costs_only_its_piece(
    two_nodes: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        while not (begun := list(tmp_path.glob("3-*"))):
            time.sleep(0.01)
        os.kill(int(begun[0].name.partition("-")[2]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = list(two_nodes.map(partial(slow_squares, str(tmp_path)), iter(range(9))))
    killer.join()
    assert found == [number**2 for number in range(9)]
    assert "a worker of the cluster was killed" in capsys.readouterr().err
    begun = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert begun.count("3") == 2
    assert len(begun) == 10, "every other piece was done once"


def fatal() -> Callable[[int], None]:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL)


def test_a_piece_that_kills_every_worker_is_told(two_nodes: Cluster) -> None:
    with pytest.raises(ChainruleError, match="3 workers were killed at the same piece"):
        list(two_nodes.map(fatal, [1]))


def test_a_worker_that_is_killed_as_it_loads_is_told_and_missed_only_where_it_was_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_large(reference: str) -> None:
        raise ray.exceptions.OutOfMemoryError("Task was killed\ndue to the node running low on memory\n")

    workers = _Workers(starting={"first": ("actor", {})}, resources={"actor": {}, "other": {}})
    made = Cluster(SimpleNamespace(exceptions=ray.exceptions, get=too_large))
    assert made._started(workers, "first")
    assert workers.actors == ["other"]
    assert capsys.readouterr().err == (
        "a worker of the cluster ended before it could work (due to the node running low on memory)\n"
    )
    assert "low on memory" in str(made._no_worker())


def mistaken(when: str) -> Callable[[int], int]:
    if when == "begin":
        raise DataError("the model is not here")

    def refuse(number: int) -> int:
        raise (DataError if when == "piece" else KeyError)("row 7 is wrong")

    return refuse


@pytest.mark.parametrize(
    ("when", "kind", "said"),
    [("begin", DataError, "on .*: the model is not here"), ("piece", DataError, "^row 7"), ("bug", KeyError, "row 7")],
)
def test_what_a_worker_raises_is_raised_here(when: str, kind: type[Exception], said: str, two_nodes: Cluster) -> None:
    with pytest.raises(kind, match=said):
        list(two_nodes.map(partial(mistaken, when), range(5)))


def test_pieces_are_read_as_they_are_needed(two_nodes: Cluster, tmp_path: Path) -> None:
    read: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = two_nodes.map(partial(slow_squares, str(tmp_path)), pieces(), ahead=2)
    assert next(results) == 0
    assert len(read) <= 6
    del results


@pytest.fixture
def other_server() -> Iterator[int]:
    """The port of a server that accepts, and is no Ray."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "got connection refused"),
        ("127.0.0.1:{port}", "got something else there"),
        ("localhost", "wanted auto or HOST:PORT"),
        ("ray://head:10001", "give the command to ray job submit"),
    ],
)
def test_an_address_where_no_ray_answers_is_told_at_once(
    address: str, said: str, other_server: int, unconnected: None, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(SystemExit) as exit:
        main(["tokenize", "owls.txt", "--out", "new", "--cluster", address.format(port=other_server)])
    printed = capsys.readouterr().err
    assert exit.value.code == 2
    assert printed.count("\n") == 1
    assert said in printed
    assert time.monotonic() - started < 60
    assert not (world / "new").exists()


def test_an_address_that_is_silent_is_given_up(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_connection, "ANSWER_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OptionError, match="got no answer"),
        cluster(f"127.0.0.1:{server.getsockname()[1]}"),
    ):
        pass


def test_a_head_that_greets_and_then_is_silent_is_given_up(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose gRPC server still runs, and whose process hangs."""
    pytest.importorskip("ray._private.authentication.authentication_token_setup")
    monkeypatch.setattr(ray_connection, "ANSWER_SECONDS", 0.5)
    held = []

    def greet() -> None:
        with suppress(OSError):  # closed at the end
            while True:
                held.append(server.accept()[0])
                held[-1].sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # empty settings

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(OptionError, match="got no answer"), cluster(f"127.0.0.1:{server.getsockname()[1]}"):
            pass
    for connection in held:
        connection.close()


def test_an_address_that_is_typed_is_asked_whatever_the_environment_says(
    other_server: int, unconnected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{other_server}")
    with pytest.raises(OptionError, match=r"--cluster 127.0.0.1:1: .* got connection refused"), cluster("127.0.0.1:1"):
        pass
    with pytest.raises(OptionError, match=r"--cluster auto: .* got something else there"), cluster("auto"):
        pass


def test_without_ray_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'chainrule\[ray\]'"), cluster("auto"):
        pass


class Guarded:
    """In the place of Ray's client of a cluster: one that lets in whoever shows a token, or needs none."""

    token_needed = True

    def __init__(self, address: str, cluster_id: str) -> None:
        pass

    def check_alive(self, nodes: list[Any], timeout: float) -> None:
        said = "WrongClusterID: Perhaps the client is accessing GCS after it has restarted"
        if self.token_needed and os.environ.get("RAY_AUTH_MODE") != "token":
            said = "InvalidAuthToken: Authentication token is missing or incorrect"
        raise ray.exceptions.AuthenticationError(said)


@pytest.mark.parametrize(
    ("address", "there", "mode", "needed", "said"),
    [
        ("127.0.0.1:1", True, None, True, "got none; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what ray get"),
        ("127.0.0.1:1", True, "token", True, None),
        ("127.0.0.1:1", False, "token", True, "got none or another one; set RAY_AUTH_MODE=token"),
        ("127.0.0.1:1", True, None, False, None),
        ("auto", True, None, True, None),  # as Ray itself: a cluster of this machine is shown this machine's token
        ("auto", False, None, True, "got none; set RAY_AUTH_MODE=token"),
        ("auto", True, None, False, None),
    ],
)
def test_a_cluster_that_wants_a_token_is_told_in_one_line_and_at_once(
    address: str, there: bool, mode: str | None, needed: bool, said: str | None, unconnected: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokens = pytest.importorskip("ray._private.authentication.authentication_token_setup")
    connected: list[str] = []

    def enable() -> bool:
        if there and "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
        return there

    def ensure(create_token_if_missing: bool) -> None:
        if os.environ.get("RAY_AUTH_MODE") == "token" and not there:
            raise ray.exceptions.AuthenticationError("token is enabled but no authentication token was found")

    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_MODE")
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(Guarded, "token_needed", needed)
    monkeypatch.setattr("ray._raylet.GcsClient", Guarded)
    monkeypatch.setattr(tokens, "maybe_enable_token_auth_if_token_available", enable)
    monkeypatch.setattr(tokens, "ensure_token_if_auth_enabled", ensure)
    monkeypatch.setattr(ray_connection, "_require_answer", lambda asked: "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda address, **options: connected.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if said is None:
        with cluster(address):
            assert connected == [address]
            assert os.environ.get("RAY_AUTH_MODE") in (
                (None, "token") if needed or address != "auto" else ("disabled",)
            )
        assert os.environ.get("RAY_AUTH_MODE") == mode
        return
    with pytest.raises(OptionError, match=f"wanted the token of this cluster, {said}"), cluster(address):
        pass
    assert not connected
    assert os.environ.get("RAY_AUTH_MODE") == mode
