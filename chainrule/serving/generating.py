"""Text generated for a request: what arrives of its sequences, as pieces of text with their log-probabilities. Knows no
form of an answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal, NamedTuple

from chainrule.generation.engine import NewToken
from chainrule.generation.text import TextStream
from chainrule.serving.model_thread import EngineError, Wanted
from chainrule.serving.requests import RequestError
from chainrule.serving.sampling_fields import Asked
from chainrule.serving.served import ServedModel

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """What a request wants."""

    prompts: Sequence[Sequence[int]]
    asked: Asked
    max_tokens: int
    top: int | None  # how many of the most probable tokens are wanted with each one; None: no log-probabilities
    seconds: float  # the most that it may take


class ScoredToken(NamedTuple):
    """A token of a text."""

    token: int
    log_prob: float | None  # None for a token that nothing is before
    best: Sequence[tuple[int, float]]  # the most probable tokens there, and their log p
    start: int  # characters of the text before it


class Piece(NamedTuple):
    """What becomes final of one sequence at once."""

    sequence: int  # sample s of prompt p is sequence p * samples + s
    text: str
    tokens: list[ScoredToken]  # whose text begins in what is final
    finish_reason: Finish | None  # of the sequence's last piece
    made: int  # of the sequence's tokens so far, a stop token too


class _Sequence:
    """One sequence's tokens, to pieces."""

    def __init__(
        self, index: int, model: ServedModel, prompt: Sequence[int], stop: Sequence[str], scored: bool
    ) -> None:
        tokenizer = model.lm.tokenizer
        special = {spelled: token.id for spelled, token in tokenizer.special.items()}
        self._index, self._scored = index, scored
        self._stream = TextStream(tokenizer.decode, prompt, stop, special)
        self._final = 0  # characters that are final
        self._held: list[ScoredToken] = []  # whose text is not final yet
        self._count = 0

    def push(self, new: NewToken) -> Piece:
        self._count += 1
        text, finish = "", new.finish_reason
        if finish != "stop":
            if self._scored:
                start = self._final + self._stream.pending
                self._held.append(ScoredToken(new.token, new.log_prob, new.best, start))
            text = self._stream.push(new.token)
            if self._stream.stopped:
                finish = "stop"
        if finish is not None:
            text += self._stream.finish()
            finish = "stop" if self._stream.stopped else finish
        self._final += len(text)
        if finish is not None and not self._stream.stopped:
            ready, self._held = self._held, []
        else:
            ready = [each for each in self._held if each.start < self._final]
            self._held = [each for each in self._held if each.start >= self._final]
        return Piece(self._index, text, ready, finish, self._count)


async def generate(model: ServedModel, wanted: Generation) -> AsyncGenerator[Piece, None]:
    """The pieces of all sequences as they become final. Closed, or cancelled, it ends all that is not finished.

    Raises RequestError where the engine fails or the time is over, FullError where too many wait.
    """
    arrived: asyncio.Queue[tuple[int, NewToken | Exception]] = asyncio.Queue()
    every = list(product(wanted.prompts, range(wanted.asked.samples)))
    texts = [
        _Sequence(index, model, prompt, wanted.asked.stop, wanted.top is not None)
        for index, (prompt, _) in enumerate(every)
    ]
    started = model.thread.start(
        [
            Wanted(
                prompt,
                wanted.asked.sampling,
                wanted.asked.seed,
                sample,
                wanted.max_tokens,
                model.lm.stop_tokens,
                wanted.top or 0,
            )
            for prompt, sample in every
        ],
        [partial(_put, arrived, index) for index in range(len(every))],
    )
    left = set(range(len(every)))
    late = RequestError(
        f"the request took more than {wanted.seconds:g} seconds; ask for fewer tokens",
        status=504,
        type="timeout",
        headers={"x-should-retry": "false"},
    )
    limit = asyncio.get_running_loop().call_later(wanted.seconds, _put, arrived, 0, late)
    try:
        while left:
            index, new = await arrived.get()
            if new is late:
                raise late
            if index not in left:
                continue  # more tokens came while its stop string was found
            if isinstance(new, EngineError):
                raise RequestError(str(new), status=500, type="server_error")
            if isinstance(new, Exception):
                raise new
            piece = texts[index].push(new)
            if piece.finish_reason is not None:
                left.discard(index)
                model.thread.cancel([started[index]])
            if piece.text or piece.tokens or piece.finish_reason is not None:
                yield piece
    finally:
        limit.cancel()
        model.thread.counts.cancelled += len(left)
        model.thread.cancel(started)


def _put(arrived: "asyncio.Queue[tuple[int, NewToken | Exception]]", index: int, new: NewToken | Exception) -> None:
    arrived.put_nowait((index, new))
