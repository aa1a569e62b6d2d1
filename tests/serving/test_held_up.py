"""Clients that leave, stall or ask too much hold nobody up; faults end one request; signals end the process well."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from small_server import PROMPT, Running, language_model, one, running

from chainrule.generation.engine import Engine
from chainrule.serving import model_thread, safety, streaming
from chainrule.serving.load import Limits, serve_model
from chainrule.serving.model_thread import FullError, ModelThread
from chainrule.serving.served import Served

PATH = "/v1/completions"
LONG = {"prompt": PROMPT, "max_tokens": 80, "temperature": 0, "seed": 1}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Each step of an engine waits for it."""
    semaphore, step = threading.Semaphore(0), Engine.step
    monkeypatch.setattr(Engine, "step", lambda self: semaphore.acquire(timeout=60) and step(self))
    yield semaphore
    semaphore.release(10**6)


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; a test that waits a minute has failed."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def begin(server: Running, path: str = PATH, **fields: object) -> socket.socket:
    """A connection on which a request was sent and nothing is read."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": True},
        {"n": 3},
        {"n": 3, "stream": True},
        {"prompt": [PROMPT, "a"], "echo": True},
        {"prompt": "the owl " * 22},
    ],
)
@pytest.mark.parametrize("steps", [0, 5])  # while it waits, and while it runs
def test_a_client_that_leaves_cancels_its_work(gate: threading.Semaphore, fields: dict, steps: int) -> None:
    with one(language_model(), Limits(batch=2)) as server:
        thread = server.served.models["owl"].thread
        connection = begin(server, **{**LONG, **fields})
        until(lambda: thread.open > 0)
        if steps:
            gate.release(steps)
        until(lambda: gate._value == 0)
        connection.close()
        until(lambda: thread.open == 0)
        gate.release(10**4)
        found = server.made(PATH, prompt=PROMPT, max_tokens=3, temperature=0)
        assert found["usage"]["completion_tokens"] == 3
        until(lambda: thread.engine is not None and not thread.engine)
        assert thread.counts.new_tokens <= 3 * (steps + 2) + 3


def test_a_client_that_leaves_while_a_function_waits_cancels_it() -> None:
    with one(language_model()) as server:
        thread = server.served.models["owl"].thread
        hold = threading.Event()
        begun = ThreadPoolExecutor().submit(lambda: asyncio.run(thread.run(hold.wait)))
        until(lambda: not thread._jobs)
        connection = begin(server, "/v1/embeddings", input=[PROMPT] * 50)
        until(lambda: len(thread._jobs) == 1)
        (job,) = thread._jobs
        connection.close()
        until(lambda: job.left)
        hold.set()
        assert begun.result() is True
        assert server.made("/v1/embeddings", input=PROMPT)["data"] and job.parts is None


def test_one_that_does_not_read_holds_nobody_up_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "STALLED", 0.5)
    with one(language_model(), Limits(batch=128)) as server:
        thread = server.served.models["owl"].thread
        stalled = begin(server, **LONG, n=100, logprobs=20, stream=True)
        until(lambda: thread.open > 0)
        assert server.made(PATH, prompt=PROMPT, max_tokens=3)["choices"]
        until(lambda: thread.open == 0 and not server.server.server_state.connections)
        received = b""
        with suppress(ConnectionError):
            while part := stalled.recv(2**20):
                received = received[-9:] + part
        assert b"[DONE]" not in received
        assert server.made(PATH, prompt=PROMPT, max_tokens=3)["choices"]


def test_a_piece_of_a_stream_is_sent_without_waiting_for_an_acknowledgement(gate: threading.Semaphore) -> None:
    with one(language_model()) as server:
        connection = begin(server, **LONG, stream=True)
        until(lambda: server.served.models["owl"].thread.open > 0)
        (found,) = server.server.server_state.connections
        accepted = found.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        connection.close()
        gate.release(10**4)


def test_a_pause_of_a_stream_is_filled_with_comments(
    gate: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "KEEPALIVE", 0.05)
    with one(language_model()) as server, server.client as client:
        fields = {**LONG, "max_tokens": 3, "stream": True}
        with client.stream("POST", PATH, json=fields) as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(3)] == [": keepalive", "", ": keepalive"]
            gate.release(10**4)
            data = [line for line in lines if line.startswith("data: ")]
        assert data[-1] == "data: [DONE]" and len(data) >= 2


def test_threads_that_compute_are_released_while_there_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(model_thread, "_IDLE", 0.02)
    monkeypatch.setattr(model_thread, "release_threads", released.set)
    with one(language_model()) as server:
        assert released.wait(20)
        assert server.made(PATH, prompt=PROMPT, max_tokens=3)["choices"]


def test_a_full_queue_is_told_when_to_ask_again(gate: threading.Semaphore) -> None:
    openai = pytest.importorskip("openai")
    with one(language_model(), Limits(batch=1, queue=2)) as server, ThreadPoolExecutor() as pool:
        thread = server.served.models["owl"].thread
        asked = [pool.submit(server.made, PATH, **LONG) for _ in range(3)]
        until(lambda: thread.open == 3)
        answer = server.post(PATH, **LONG)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="-", max_retries=5)
        retried = pool.submit(client.completions.create, model="owl", **LONG)
        until(lambda: 429 in statuses(server) and statuses(server)[429] > 1)
        gate.release(10**6)
        texts = {one.result()["choices"][0]["text"] for one in asked} | {retried.result().choices[0].text}
        assert len(texts) == 1


def statuses(server: Running) -> dict[int, int]:
    """How many answers of completions had each status."""
    with server.client as client:
        lines = client.get("/metrics").text.splitlines()
    found = [line.split('status="')[1].split('"} ') for line in lines if line.startswith("chainrule_requests_total{")]
    return {int(status): int(count) for status, count in found}


def test_a_fault_of_the_engine_ends_one_request_alone() -> None:
    lm = language_model()
    wanted = lm.completions([PROMPT], max_tokens=60, seed=4)[0].text

    def fault(module: torch.nn.Module, positional: tuple, named: dict) -> None:
        if positional and (positional[0] == 299).any():
            raise RuntimeError("a fault")

    lm.model.register_forward_pre_hook(fault, with_kwargs=True)
    with one(lm) as server, ThreadPoolExecutor() as pool:
        well = pool.submit(server.made, PATH, prompt=PROMPT, max_tokens=60, seed=4)
        answers = [server.post(PATH, prompt=[5, 299, n], max_tokens=5, stream=n == 1) for n in range(3)]
        assert [answer.status_code for answer in answers] == [500] * 3
        assert all(answer.json()["error"]["type"] == "server_error" for answer in answers)
        assert well.result()["choices"][0]["text"] == wanted
        assert server.client.get("/health").status_code == 200
        assert server.made(PATH, prompt=PROMPT, max_tokens=60, seed=4)["choices"][0]["text"] == wanted


def test_a_dead_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with one(language_model()) as server:
        thread, died = server.served.models["owl"].thread, threading.Event()
        thread.died = died.set
        monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
        assert server.post(PATH, **LONG).status_code in (500, 503)
        died.wait(60)
        assert died.is_set() and server.client.get("/health").status_code == 503
        assert server.post(PATH, **LONG).status_code == 503
        assert server.post("/v1/embeddings", input="a").status_code == 503


def test_a_request_has_a_limit_of_time(gate: threading.Semaphore) -> None:
    served = Served({"owl": serve_model("owl", language_model())}, seconds=0.05)
    with running(served) as server:
        answer = server.post(PATH, **LONG)
        assert answer.status_code == 504 and answer.headers["x-should-retry"] == "false"
        until(lambda: served.models["owl"].thread.open == 0)
        gate.release(10**4)


def noted(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Puts in the place of the owner's method one that first calls `note` with the same arguments."""
    method = getattr(owner, name)

    def noting(*given: Any, **named: Any) -> Any:
        note(*given, **named)
        return method(*given, **named)

    setattr(owner, name, noting)


def test_a_long_prompt_and_functions_take_turns_with_those_that_run() -> None:
    lm = language_model(context=512)
    served = Served({"owl": replace(serve_model("owl", lm), at_once=4)})
    with running(served) as server:
        thread = served.models["owl"].thread
        assert thread.engine is not None
        order: list[str] = []
        noted(thread.engine, "step", lambda: order.append("step"))
        noted(lm.model, "features", lambda tokens, *_, **__: order.append(f"read {tokens.numel()}"))
        with ThreadPoolExecutor() as pool:
            runs = pool.submit(server.made, PATH, prompt=PROMPT, max_tokens=400, seed=1)
            until(lambda: "step" in order)
            echoed = pool.submit(server.made, PATH, prompt=[7] * 60, echo=True, logprobs=1, max_tokens=0)
            assert echoed.result()["choices"] and runs.result()["choices"]
        reads = [index for index, each in enumerate(order) if each.startswith("read ") and each != "read 1"]
        assert len(reads) >= 15 and all("step" in order[a:b] for a, b in pairwise(reads[1:]))


def test_many_clients_of_which_some_leave_and_some_stall_are_all_answered() -> None:
    lm = language_model()
    wanted = {n: lm.completions([f"{PROMPT} {n}"], max_tokens=6, seed=n)[0].text for n in range(40)}

    async def ask(server: Running) -> list[str | None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:

            async def one(n: int) -> str | None:
                fields = {"prompt": f"{PROMPT} {n}", "max_tokens": 6, "seed": n}
                if n % 10 == 3:  # leaves at once
                    waiting = asyncio.ensure_future(client.post(PATH, json=fields))
                    await asyncio.sleep(0.002 * n)
                    waiting.cancel()
                    return None
                answer = await client.post(PATH, json=fields)
                return answer.json()["choices"][0]["text"]

            return await asyncio.gather(*map(one, range(40)))

    with one(lm, Limits(batch=8, cache_tokens=300)) as server:
        stalled = [begin(server, **LONG, n=4, stream=True) for _ in range(6)]
        found = asyncio.run(ask(server))
        assert {n: text for n, text in enumerate(found) if text is not None} == {
            n: text for n, text in wanted.items() if n % 10 != 3
        }
        for connection in stalled:
            connection.close()
        until(lambda: server.served.models["owl"].thread.open == 0)


def test_a_function_fails_for_its_caller_alone_and_one_that_nobody_waits_for_is_not_begun() -> None:
    thread, called = ModelThread("functions", waiting=2), []

    async def ask() -> None:
        hold = threading.Event()
        first = asyncio.ensure_future(thread.run(hold.wait))
        await asyncio.sleep(0.05)
        left = asyncio.ensure_future(thread.run(lambda: called.append("left")))
        fails = asyncio.ensure_future(thread.run(lambda: 1 / 0))
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await thread.run(lambda: None)
        left.cancel()
        await asyncio.sleep(0)
        hold.set()
        assert await first is True
        with pytest.raises(ZeroDivisionError):
            await fails
        assert await thread.run(lambda: 5) == 5

    asyncio.run(ask())
    thread.stop()
    assert called == []


SERVE = "from chainrule.cli import main; main(['serve', '{model}', '--port', '0', '--dtype', 'float32'])"


def process(model: Path, before: str = "") -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and its address."""
    code = before + SERVE.format(model=model)
    started = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if "serving owl at " in line:
            return started, line.split(" at ")[1].strip()
    raise AssertionError("it does not serve")


def test_sigterm_ends_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    language_model().save(tmp_path / "owl")
    slow = (
        "import time; from chainrule.generation.engine import Engine; step = Engine.step\n"
        "Engine.step = lambda self: time.sleep(0.02) or step(self)\n"
    )
    started, url = process(tmp_path / "owl", slow)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, url + PATH, json=LONG, timeout=300)
        until(lambda: 'sequences_running{model="owl"} 1' in httpx.get(url + "/metrics", timeout=60).text)
        started.send_signal(signal.SIGTERM)
        until(lambda: refused(url))
        assert asked.result().json()["choices"][0]["finish_reason"] in ("stop", "length")
    assert started.wait(60) == 0


def refused(url: str) -> bool:
    try:
        return httpx.get(url + "/health", timeout=60).status_code == 503
    except httpx.TransportError:
        return True


def test_a_dead_engine_ends_the_process(tmp_path: Path) -> None:
    language_model().save(tmp_path / "owl")
    started, url = process(
        tmp_path / "owl", "from chainrule.generation.engine import Engine; Engine.step = lambda self: 1 / 0\n"
    )
    assert httpx.post(url + PATH, json=LONG, timeout=300).status_code in (500, 503)
    assert started.wait(60) == 1
