"""`/v1/completions`: prompts continued, or only scored. Knows OpenAI's form of it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from chainrule.generation.text import TextStream
from chainrule.serving.answers import finite, new_id, now, token_text, usage
from chainrule.serving.fields import Fields
from chainrule.serving.generating import Generation, Piece, ScoredToken, generate
from chainrule.serving.kinds import Flag, Form, Only, Whole, texts_or_tokens, unsupported
from chainrule.serving.prompt_scores import PromptScores
from chainrule.serving.requests import RequestError
from chainrule.serving.sampling_fields import COMMON, MOST_SAMPLES, MOST_TOP, Asked, read_sampling
from chainrule.serving.served import Served, ServedModel
from chainrule.serving.streaming import Streamed

_MAX_TOKENS = 16  # OpenAI's default
_MOST_PROMPTS = 1024
FORM = Form(
    {
        **COMMON,
        "prompt": texts_or_tokens(_MOST_PROMPTS),
        "max_tokens": Whole(0, 2**31),
        "echo": Flag(),
        "logprobs": Whole(0, MOST_TOP),
        "best_of": Whole(1, MOST_SAMPLES),  # as n
        "suffix": Only(("",)),
    },
    required=("prompt",),
)


@dataclass(frozen=True)
class Completions:
    """A request that was read."""

    model: ServedModel
    prompts: list[list[int]]
    texts: list[str]  # of the prompts, as they are echoed
    asked: Asked
    max_tokens: int
    echo: bool
    logprobs: int | None
    seconds: float
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=now)

    def body(self, choices: list[dict[str, Any]], used: dict[str, int] | None = None) -> dict[str, Any]:
        """An answer, or a part of one."""
        found = {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
        }
        return found if used is None else {**found, "usage": used}

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


async def completions(served: Served, fields: Fields) -> dict[str, Any] | Response:
    """The answer to a request, or the stream of its parts."""
    request = await asyncio.to_thread(read, served, fields)  # a long text takes its time to become tokens
    if request.asked.stream:
        return Streamed(_chunks(request))
    pieces: dict[int, list[Piece]] = {index: [] for index in range(len(request.prompts) * request.asked.samples)}
    async with aclosing(_pieces(request)) as made:
        async for piece in made:
            pieces[piece.sequence].append(piece)
    choices = [
        _choice(
            request,
            index,
            "".join(piece.text for piece in every),
            [token for piece in every for token in piece.tokens],
            every[-1].finish_reason,
        )
        for index, every in pieces.items()
    ]
    made_tokens = sum(every[-1].made for every in pieces.values())
    return request.body(choices, usage(request.prompt_tokens, made_tokens))


def read(served: Served, fields: Fields) -> Completions:
    """The request's fields; RequestError for one that cannot be."""
    asked, echo = read_sampling(fields), fields.flag("echo")
    if fields.integer("best_of", asked.samples) != asked.samples:
        raise unsupported("best_of", "only n completions are made; leave it out")
    model = served.model(fields.text("model"))
    prompts, texts = _prompts(model, fields)
    max_tokens = fields.integer("max_tokens", _MAX_TOKENS)
    context = model.lm.model.config.context
    longest = max(map(len, prompts))
    if longest > context - (not echo or max_tokens > 1 or asked.sampling.repetition_penalty != 1) * (max_tokens > 0):
        raise too_long(context, longest)
    if not echo and max_tokens == 0:
        raise fields.error("max_tokens", "at least 1, or echo: true")
    logprobs = fields.integer("logprobs")
    if logprobs is not None:
        logprobs = min(logprobs, model.lm.model.config.vocabulary_size)
    return Completions(model, prompts, texts, asked, max_tokens, echo, logprobs, served.seconds)


def too_long(context: int, length: int, field: str = "prompt") -> RequestError:
    """The error for a prompt that leaves no room for a token."""
    return RequestError(
        f"This model's maximum context length is {context} tokens, of which one is for the answer, but the prompt has"
        f" {length}; shorten it",
        field,
        code="context_length_exceeded",
    )


def _prompts(model: ServedModel, fields: Fields) -> tuple[list[list[int]], list[str]]:
    """The prompts' tokens and texts: BOS is put in front of text, and tokens are used as they are."""
    lm, prompts, texts = model.lm, [], []
    for each in each_given(fields.raw("prompt")):
        if isinstance(each, str):
            prompts.append([lm.tokenizer.bos_id, *lm.tokenizer.encode(each)])
            texts.append(each)
        else:
            prompts.append(known_tokens(each, lm.model.config.vocabulary_size, fields, "prompt"))
            texts.append(lm.tokenizer.decode(each))
    return prompts, texts


def each_given(given: Any) -> list[str | list[int]]:
    """The texts and lists of tokens of a field that is one or has many."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def known_tokens(given: Sequence[int], vocabulary_size: int, fields: Fields, name: str) -> list[int]:
    """The tokens of a field; RequestError for one that the model does not have."""
    if max(given) >= vocabulary_size:
        raise fields.error(name, f"text, or tokens from 0 to {vocabulary_size - 1}")
    return list(given)


async def _pieces(request: Completions) -> AsyncGenerator[Piece, None]:
    """What is made for the request; with `echo` the prompts first."""
    if request.echo and request.logprobs is not None:
        async for piece in _echoed(request):
            yield piece
        return
    if request.echo:
        for index in range(len(request.prompts) * request.asked.samples):
            ends = request.max_tokens == 0
            yield Piece(index, request.texts[index // request.asked.samples], [], "length" if ends else None, 0)
    if request.max_tokens:
        async with aclosing(generate(request.model, _generation(request))) as made:
            async for piece in made:
                yield piece


def _generation(request: Completions) -> Generation:
    return Generation(request.prompts, request.asked, request.max_tokens, request.logprobs, request.seconds)


async def _echoed(request: Completions) -> AsyncGenerator[Piece, None]:
    """The prompts with their log-probabilities, then what is made. A single token after each is chosen at once from the
    logits at its end, without the engine."""
    lm, asked, top = request.model.lm, request.asked, request.logprobs or 0
    scores = await request.model.score(request.prompts, top)
    alone = request.max_tokens == 1 and asked.sampling.repetition_penalty == 1
    for number, (prompt, text, scored) in enumerate(zip(request.prompts, request.texts, scores, strict=True)):
        tokens = _prompt_tokens(request, prompt, scored)
        for sample in range(asked.samples):
            index = number * asked.samples + sample
            if alone:
                token, log_prob, best = scored.next(asked.sampling, asked.seed, sample, top)
                ends = token in lm.stop_tokens
                stream = TextStream(lm.tokenizer.decode, prompt, asked.stop)
                more = "" if ends else stream.push(token) + stream.finish()
                last = ScoredToken(token, log_prob, best, len(text))
                finish = "stop" if ends or stream.stopped else "length"
                yield Piece(index, text + more, [*tokens, last], finish, 1)  # type: ignore[arg-type]
            else:
                yield Piece(index, text, tokens, None if request.max_tokens else "length", 0)
    if request.max_tokens and not alone:
        async with aclosing(generate(request.model, _generation(request))) as made:
            async for piece in made:
                length = len(request.texts[piece.sequence // asked.samples])
                yield piece._replace(tokens=[each._replace(start=each.start + length) for each in piece.tokens])


def _prompt_tokens(request: Completions, prompt: Sequence[int], scores: PromptScores) -> list[ScoredToken]:
    """The prompt's tokens: the first has no log-probability."""
    stream, start, found = TextStream(request.model.lm.tokenizer.decode, (), ()), 0, []
    for token, log_prob, best in zip(prompt, [None, *scores.log_probs], [[], *scores.best], strict=True):
        found.append(ScoredToken(token, log_prob, best, start))
        start += len(stream.push(token))
    return found


async def _chunks(request: Completions) -> AsyncGenerator[dict[str, Any], None]:
    count: dict[int, int] = {}
    async with aclosing(_pieces(request)) as made:
        async for piece in made:
            count[piece.sequence] = piece.made
            yield request.body([_choice(request, *piece[:4])])
    if request.asked.include_usage:
        yield request.body([], usage(request.prompt_tokens, sum(count.values())))


def _choice(
    request: Completions, index: int, text: str, tokens: Sequence[ScoredToken], finish: str | None
) -> dict[str, Any]:
    scored = None if request.logprobs is None else _logprobs(request, tokens)
    return {"index": index, "text": text, "logprobs": scored, "finish_reason": finish}


def _logprobs(request: Completions, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """OpenAI's older form of log-probabilities: the most probable tokens, and the one that is there."""
    tokenizer, tops = request.model.lm.tokenizer, []
    texts = [token_text(tokenizer, each.token) for each in tokens]
    for text, each in zip(texts, tokens, strict=True):
        top: dict[str, float] = {}
        for token, value in each.best:  # the most probable first: it keeps its place where two are spelled alike
            top.setdefault(token_text(tokenizer, token), finite(value))
        if each.log_prob is not None:
            top.setdefault(text, finite(each.log_prob))
        tops.append(top or None)
    return {
        "tokens": texts,
        "token_logprobs": [None if each.log_prob is None else finite(each.log_prob) for each in tokens],
        "top_logprobs": tops,
        "text_offset": [each.start for each in tokens],
    }
