"""Tokens a second and the time to the first token of `chainrule serve`, beside other servers on the same machine.

    python benchmarks/serve.py [MODEL] --peer 'llama.cpp=COMMAND' --peer 'transformers=COMMAND'

MODEL is SmolLM2 (`make real` fetches it). COMMAND starts a server; in it {model} stands for MODEL, {port} for a port
and {directory} for a Hugging Face folder of the model:

    llama-server -m {model} --port {port} --parallel 32 -c 32768
    python benchmarks/llama_server.py {model} {port} 32
    python -m llama_cpp.server --model {model} --port {port} --n_ctx 8192 --interrupt_requests false
    transformers serve {directory} --port {port} --device cpu --dtype float32   (beside --ours '--quantize none')

Clients ask at once, each one request after another, for streams of at most --tokens tokens after prompts of their own,
then after prompts with a common beginning of 500 tokens. Each server is measured alone. --many N: then N clients at
once, of which a tenth leave and a tenth do not read; --memory N: the server's memory over N requests. Both of ours
alone, and with a tiny random model where they count no time:

    python benchmarks/serve.py --tiny --clients --many 1000 --memory 10000
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import asyncio
import json
import random
import shlex
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.record import record

MODEL = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
OURS = f"{shlex.quote(sys.executable)} -m chainrule serve {{model}} --port {{port}}"
WORDS = (
    "the of and to in a is that for it was on are as with his they at be this from have or by one had not but".split()
)
COMMON_KINDS = {"without": (False,), "with": (True,), "both": (False, True)}
COMMON = 490  # words in front of all prompts: one token each, 500 with what begins them


class Answer(NamedTuple):
    first: float  # seconds to the first token
    tokens: int
    failed: bool


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def started(command: str, model: Path, seconds: float) -> Iterator[tuple[str, int]]:
    """A server's address and process, once it answers."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        if "{directory}" in command:
            import chainrule

            chainrule.load(model).save(folder)
        words = shlex.split(command.format(model=model, port=port, directory=folder))
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + seconds
        try:
            while True:
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"serve: wanted a server, got none from {shlex.join(words)}")
                try:
                    if httpx.get(f"{url}/v1/models", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url, server.pid
        finally:
            server.terminate()
            server.wait()


async def ask(client: httpx.AsyncClient, name: str, prompt: str, tokens: int) -> Answer:
    """One streamed completion."""
    fields = {"model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    start, first, count = time.perf_counter(), 0.0, 0
    try:
        async with client.stream("POST", "/v1/completions", json=fields) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if chunk.get("choices") and chunk["choices"][0].get("text"):
                    first, count = first or time.perf_counter() - start, count + 1
    except httpx.HTTPError:
        return Answer(first, count, True)
    return Answer(first, count, False)


async def load(url: str, clients: int, each: int, common: str, tokens: int, seed: int) -> dict[str, float]:
    """Tokens a second of all clients together, and the median time to the first token."""
    limits, words = httpx.Limits(max_connections=None), random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        name = (await client.get("/v1/models")).json()["data"][0]["id"]
        prompts = [[common + " ".join(words.choices(WORDS, k=20)) for _ in range(each)] for _ in range(clients)]

        async def one(own: list[str]) -> list[Answer]:
            return [await ask(client, name, prompt, tokens) for prompt in own]

        start = time.perf_counter()
        answers = [answer for own in await asyncio.gather(*map(one, prompts)) for answer in own]
        seconds = time.perf_counter() - start
    return {
        "tokens_per_second": round(sum(answer.tokens for answer in answers) / seconds, 1),
        "first_token": round(statistics.median([answer.first for answer in answers if answer.tokens] or [0]), 3),
        "failed": sum(answer.failed for answer in answers),
    }


def measure(command: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every number of clients, without and with a common beginning."""
    found = {}
    with started(command, options.model, options.start) as (url, _):
        asyncio.run(load(url, 1, 1, "", 4, seed=0))  # what is made at the first request
        for clients in options.clients:
            for shared in COMMON_KINDS[options.common]:
                words = random.Random(clients)
                common = " ".join(words.choices(WORDS, k=COMMON)) + " " if shared else ""
                kind = f"{clients} clients{', 500 tokens in common' if shared else ''}"
                found[kind] = asyncio.run(
                    load(url, clients, options.each, common, options.tokens, seed=clients + shared)
                )
                print(f"  {kind}: {found[kind]}", flush=True)
    return found


async def crowd(url: str, count: int, tokens: int) -> Counter[str]:
    """What becomes of many clients at once: a tenth leave, a tenth do not read."""
    limits, outcomes = httpx.Limits(max_connections=None), Counter[str]()
    host, port = url.removeprefix("http://").split(":")
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:

        async def one(n: int) -> str:
            fields = {"prompt": f"number {n}", "max_tokens": tokens, "seed": n}
            if n % 10 == 1:
                body = json.dumps({**fields, "stream": True, "n": 4, "logprobs": 20}).encode()
                _, writer = await asyncio.open_connection(host, int(port), limit=1024)
                head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                stalled.append(writer)
                return "stalled"
            while True:
                asked = asyncio.ensure_future(client.post("/v1/completions", json=fields))
                if n % 10 == 2:
                    await asyncio.sleep(0.001 * n)
                    if not asked.done():
                        asked.cancel()
                        return "left"
                answer = await asked
                if answer.status_code != 429:
                    return "answered" if answer.status_code == 200 else f"status {answer.status_code}"
                outcomes["told to wait"] += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))

        stalled: list[asyncio.StreamWriter] = []
        outcomes.update(await asyncio.gather(*map(one, range(count))))
        for writer in stalled:
            writer.close()
        while "sequences_running" not in (figures := (await client.get("/metrics")).text) or _open(figures):
            await asyncio.sleep(0.2)
        outcomes["still open"] = _open(figures)
    return outcomes


def _open(figures: str) -> int:
    names = ("chainrule_sequences_running{", "chainrule_sequences_waiting{")
    return sum(int(line.split()[-1]) for line in figures.splitlines() if line.startswith(names))


def resident(process: int) -> int:
    """MiB of memory that a process has."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


async def memory(url: str, process: int, count: int) -> list[int]:
    """Memory after each tenth of many short requests, 32 at once."""
    found, waiting = [], asyncio.Semaphore(32)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:

        async def one(n: int) -> None:
            async with waiting:
                prompt = " ".join(random.Random(n).choices(WORDS, k=n % 60 + 1))
                (await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 4})).raise_for_status()

        for part in range(10):
            await asyncio.gather(*(one(n) for n in range(part * count // 10, (part + 1) * count // 10)))
            found.append(resident(process))
            print(f"  after {(part + 1) * count // 10} requests: {found[-1]} MiB", flush=True)
    return found


def tiny_model(folder: Path) -> Path:
    """A folder with a model of 2 layers on bytes, with random weights."""
    from chainrule.language_model import LanguageModel
    from chainrule.model.config import Config
    from chainrule.model.transformer import Transformer, initialise
    from chainrule.tokens.make import byte_tokenizer

    tokenizer = byte_tokenizer()
    model = Transformer(
        Config(
            vocabulary_size=tokenizer.vocabulary_size, context=512, width=32, layers=2, heads=2, key_value_heads=2,
            head_width=16, hidden=64,
        )
    )  # fmt: skip
    initialise(model, 0)
    LanguageModel(model.eval(), tokenizer, "qwen3").save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--ours", default="", metavar="OPTIONS", help="options of chainrule serve")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--common", choices=COMMON_KINDS, default="both", help="a beginning in common, or none")
    parser.add_argument("--each", type=int, default=2, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--start", type=float, default=120, help="seconds in which a server must answer")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights, in place of MODEL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.tiny:
            options.model = tiny_model(Path(folder))
        run(options)


def run(options: argparse.Namespace) -> None:
    """What was asked for."""
    print("chainrule")
    own = f"{OURS} {options.ours}"
    ours = measure(own, options) if options.clients else {}
    for each in options.peer:
        name, _, command = each.partition("=")
        print(name)
        theirs = measure(command, options)
        for kind, figures in ours.items():
            limit = f"{kind}, {options.each} requests each, {options.tokens} tokens an answer; {name}"
            for figure, unit in (("tokens_per_second", "tokens/s"), ("first_token", "seconds to the first token")):
                mine, peer = figures[figure], theirs[kind][figure]
                failed = f"; {theirs[kind]['failed']} of its answers failed" if theirs[kind]["failed"] else ""
                record("serve", mine, peer, round(mine / peer, 2) if peer else None, f"{unit}, {limit}{failed}")
    if options.many or options.memory:
        with started(own, options.model, options.start) as (url, process):
            if options.many:
                outcomes = asyncio.run(crowd(url, options.many, options.tokens))
                record("serve", dict(outcomes), None, None, f"{options.many} clients at once, by what became of them")
            if options.memory:
                found = asyncio.run(memory(url, process, options.memory))
                record("serve", found, None, None, f"MiB after each tenth of {options.memory} requests")


if __name__ == "__main__":
    main()
