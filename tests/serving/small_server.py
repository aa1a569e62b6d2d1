"""A server of small random models on a port of its own, and clients of it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from conftest import random_model

from chainrule.language_model import LanguageModel
from chainrule.serving.load import Limits, serve_model
from chainrule.serving.served import Served
from chainrule.serving.server import listen, make_server
from chainrule.tokens.make import train_bpe
from chainrule.tokens.tokenizer import load_tokenizer

PROMPT = "the owl sees"
TEXT = "the owl sees a mouse and the night falls over the old house, né? "
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{{ bos_token }}assistant:"
)
FAMILIES = ("qwen3", "mistral", "gpt2")


def language_model(family: str = "qwen3", context: int = 96) -> LanguageModel:
    """A random model with a small vocabulary of its own."""
    tokenizer = train_bpe([TEXT * 3], 300)
    return LanguageModel(random_model(family, vocabulary_size=300, context=context), tokenizer, family)


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    url: str
    served: Served
    server: uvicorn.Server

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=300)

    def post(self, path: str, **fields: object) -> httpx.Response:
        with self.client as client:
            return client.post(path, json=fields)

    def made(self, path: str, **fields: object) -> dict:
        """The answer, which must be one."""
        answer = self.post(path, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def running(served: Served, key: str | None = None) -> Iterator[Running]:
    """Serve while the block runs."""
    bound = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = make_server(served, key=key, grace=1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield Running(url, served, server)
    finally:
        server.should_exit = True
        thread.join()
        for each in served.threads.values():
            each.stop()


@contextmanager
def one(lm: LanguageModel, limits: Limits = Limits(batch=8)) -> Iterator[Running]:
    """Serve a model as "owl"."""
    with running(Served({"owl": serve_model("owl", lm, limits)})) as server:
        yield server


@contextmanager
def families(limits: Limits = Limits(batch=8, cache_tokens=600)) -> Iterator[Running]:
    """Serve a model of each of FAMILIES by its name."""
    with running(Served({family: serve_model(family, language_model(family), limits) for family in FAMILIES})) as found:
        yield found


def chatting(folder: Path) -> LanguageModel:
    """A model with a chat template, whose tokenizer's files are put into `folder`."""
    lm = language_model()
    lm.tokenizer.save(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    return LanguageModel(lm.model, load_tokenizer(folder), "qwen3")
