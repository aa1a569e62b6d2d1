"""`/v1/chat/completions`: messages answered by a model's chat template. Knows OpenAI's form of it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from chainrule.serving.answers import finite, new_id, now, token_text, usage
from chainrule.serving.completions import too_long
from chainrule.serving.fields import Fields
from chainrule.serving.generating import Generation, Piece, ScoredToken, generate
from chainrule.serving.kinds import Either, Flag, Form, ListOf, OneOf, Only, Text, Whole
from chainrule.serving.sampling_fields import COMMON, MOST_TOP, Asked, read_sampling
from chainrule.serving.served import Served, ServedModel
from chainrule.serving.streaming import Streamed

_MOST_MESSAGES = 2048
_PART = Form({"type": OneOf(("text",)), "text": Text()}, required=("type", "text"))
_CONTENT = 'a string, or a list of parts {"type": "text", "text": …}'
_MESSAGE = Form(
    {
        "role": OneOf(("system", "developer", "user", "assistant")),
        "content": Either((Text(), ListOf(_PART, 0, _MOST_MESSAGES, _CONTENT)), _CONTENT),
        "refusal": Only(),
        "name": Only(),
    },
    required=("role", "content"),
    wanted="an object with role and content",
)
FORM = Form(
    {
        **COMMON,
        "messages": ListOf(_MESSAGE, 1, _MOST_MESSAGES, f"a list of 1 to {_MOST_MESSAGES} messages"),
        "max_tokens": Whole(1, 2**31),
        "max_completion_tokens": Whole(1, 2**31),
        "logprobs": Flag(),
        "top_logprobs": Whole(0, MOST_TOP),
        # Fields of OpenAI's that are not supported, and the values of them that change nothing.
        "tools": Only(([],)),
        "tool_choice": Only(("none",)),
        "functions": Only(([],)),
        "response_format": Only(({"type": "text"},)),
        "modalities": Only((["text"],)),
        "store": Only((False,)),
        "metadata": Only(({},)),
        "parallel_tool_calls": Only((True, False)),
        "service_tier": Only(("auto", "default")),
    },
    required=("messages",),
)


@dataclass(frozen=True)
class Answers:
    """A request that was read."""

    model: ServedModel
    prompt: list[int]
    asked: Asked
    max_tokens: int
    logprobs: int | None
    seconds: float
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=now)

    def body(self, kind: str, choices: list[dict[str, Any]], used: dict[str, int] | None = None) -> dict[str, Any]:
        """An answer, or a part of one."""
        found = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
        }
        return found if used is None else {**found, "usage": used}


async def chat(served: Served, fields: Fields) -> dict[str, Any] | Response:
    """The answer to a request, or the stream of its parts."""
    request = await asyncio.to_thread(read, served, fields)
    if request.asked.stream:
        return Streamed(_chunks(request))
    pieces: dict[int, list[Piece]] = {index: [] for index in range(request.asked.samples)}
    async with aclosing(generate(request.model, _generation(request))) as made:
        async for piece in made:
            pieces[piece.sequence].append(piece)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(piece.text for piece in every), "refusal": None},
            "logprobs": _logprobs(request, [token for piece in every for token in piece.tokens]),
            "finish_reason": every[-1].finish_reason,
        }
        for index, every in pieces.items()
    ]
    made_tokens = sum(every[-1].made for every in pieces.values())
    return request.body("chat.completion", choices, usage(len(request.prompt), made_tokens))


def read(served: Served, fields: Fields) -> Answers:
    """The request's fields; RequestError for one that cannot be."""
    asked = read_sampling(fields)
    model = served.model(fields.text("model"))
    prompt = model.lm.chat.tokens(_messages(fields))
    context = model.lm.model.config.context
    if len(prompt) >= context:
        raise too_long(context, len(prompt), "messages")
    limits = [fields.integer(name, context) for name in ("max_tokens", "max_completion_tokens")]
    top = fields.integer("top_logprobs", 0)
    if top and not fields.flag("logprobs"):
        raise fields.error("top_logprobs", "logprobs: true beside it")
    logprobs = min(top, model.lm.model.config.vocabulary_size) if fields.flag("logprobs") else None
    return Answers(model, prompt, asked, min(limits), logprobs, served.seconds)


def _messages(fields: Fields) -> list[dict[str, str]]:
    found = []
    for each in fields.raw("messages"):
        role, content = each["role"], each["content"]
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content)
        found.append({"role": "system" if role == "developer" else role, "content": content})
    return found


def _generation(request: Answers) -> Generation:
    return Generation([request.prompt], request.asked, request.max_tokens, request.logprobs, request.seconds)


async def _chunks(request: Answers) -> AsyncGenerator[dict[str, Any], None]:
    count: dict[int, int] = {}
    async with aclosing(generate(request.model, _generation(request))) as made:
        async for piece in made:
            delta: dict[str, Any] = {} if piece.sequence in count else {"role": "assistant"}
            if piece.text or not count.get(piece.sequence):
                delta["content"] = piece.text
            count[piece.sequence] = piece.made
            choice = {
                "index": piece.sequence,
                "delta": delta,
                "logprobs": _logprobs(request, piece.tokens),
                "finish_reason": piece.finish_reason,
            }
            yield request.body("chat.completion.chunk", [choice])
    if request.asked.include_usage:
        used = usage(len(request.prompt), sum(count.values()))
        yield request.body("chat.completion.chunk", [], used)


def _logprobs(request: Answers, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
    if request.logprobs is None:
        return None

    def one(token: int, log_prob: float | None) -> dict[str, Any]:
        tokenizer = request.model.lm.tokenizer
        return {
            "token": token_text(tokenizer, token),
            "logprob": finite(log_prob or 0.0),
            "bytes": list(tokenizer.token_bytes(token)),
        }

    return {
        "content": [
            {**one(each.token, each.log_prob), "top_logprobs": [one(*best) for best in each.best]} for each in tokens
        ],
        "refusal": None,
    }
