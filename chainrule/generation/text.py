"""Text from generated tokens: whole characters as soon as they are final, stop strings, completions.
Knows no logits."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from chainrule.errors import OptionError
from chainrule.generation.engine import BATCH_SIZE, Engine
from chainrule.generation.sampling import Sampling
from chainrule.model.transformer import Transformer
from chainrule.tokens.tokenizer import Tokenizer

# A token is decoded together with a few before it: some tokenizers decode the first token of a text differently.
_BEFORE = 8
# At most so many tokens are decoded again with each new one: the cost of a token does not grow with the text.
_WINDOW = 32
_INCOMPLETE = "\ufffd"  # what bytes decode to that are not a whole character
# A special token that a stop string spells, as one character: a surrogate, which no decoded text contains.
_FIRST_SIGN, _SIGNS = 0xD800, re.compile("[\ud800-\udbff]")


@dataclass
class Completion:
    """What was generated after a prompt."""

    text: str  # without the prompt and without the stop string
    tokens: list[int]  # all but a stop token; those that spell a stop string are included
    log_prob: float  # of `tokens` given the prompt, under p itself (τ = 1); nats
    finish_reason: Literal["stop", "length"]


class NewText(NamedTuple):
    """What one token adds to a completion."""

    sequence: int  # sample s of prompt p is sequence p * samples + s
    text: str  # what became final: whole characters, often none
    completion: Completion  # all so far


@dataclass(frozen=True)
class Ending:
    """Where a completion ends; at the latest where the context is full."""

    max_tokens: int
    stop: Sequence[str]  # it ends before the first of these strings; one may spell special tokens
    stop_tokens: Collection[int]
    ended: Callable[[str], bool] | None = None  # whether a text so far is complete, asked after each token


def complete(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: int,
    ending: Ending,
    seed: int,
) -> Iterator[NewText]:
    """Continue each prompt (BOS included) `samples` times; yields at each new token. Raises what `Engine.add` does."""
    if samples < 1:
        raise OptionError(f"--samples: wanted at least 1, got {samples}")
    engine = Engine(model, batch_size=max(samples, BATCH_SIZE))  # so that a prompt's samples share its prefill
    special = {spelled: token.id for spelled, token in tokenizer.special.items()}
    made: list[tuple[Completion, TextStream]] = []  # by sequence, which is also the engine's id
    for prompt in prompts:
        for sample in range(samples):
            engine.add(
                prompt,
                sampling,
                seed=seed,
                sample=sample,
                max_tokens=ending.max_tokens,
                stop_tokens=ending.stop_tokens,
            )
            made.append((Completion("", [], 0.0, "length"), TextStream(tokenizer.decode, prompt, ending.stop, special)))
    while engine:
        for new in engine.step():
            completion, stream = made[new.id]
            text, finished = "", new.finish_reason
            if finished != "stop":
                completion.tokens.append(new.token)
                completion.log_prob += new.log_prob
                text = stream.push(new.token)
                if stream.stopped or (ending.ended is not None and ending.ended(completion.text + text)):
                    engine.cancel(new.id)
                    finished = "stop"
            if finished is not None:
                text += stream.finish()
                completion.finish_reason = "stop" if stream.stopped else finished
            completion.text += text
            yield NewText(new.id, text, completion)


class TextStream:
    """Decodes tokens one by one to text that is final: whole characters, and nothing that may begin a stop string.

    The text ends before the first stop string that is completed; `stopped` is then True. `special`: tokens that
    `decode` leaves out, by their spellings: a stop string that spells one is completed by the token, or by its
    characters.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        prompt: Sequence[int],
        stop: Sequence[str],
        special: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        if not all(stop):
            raise OptionError("--stop: wanted strings of at least one character, got an empty one; leave it out")
        self.stopped = False
        self._decode = decode
        spelled = sorted((one for one in special if any(one in each for each in stop)), key=len, reverse=True)
        signs = {one: chr(_FIRST_SIGN + number) for number, one in enumerate(spelled)}
        self._signs = {special[one]: sign for one, sign in signs.items()}
        self._stop = tuple(dict.fromkeys([*stop, *(_with_signs(each, signs) for each in stop)]))
        self._window = list(prompt[-_BEFORE:])
        self._given = len(decode(self._window))  # characters of the window's text that were returned
        self._broken = 0  # tokens since the text last ended with a whole character
        self._pending = ""  # may begin a stop string

    @property
    def pending(self) -> int:
        """How many characters so far are not final: they may begin a stop string."""
        return len(_SIGNS.sub("", self._pending))

    def push(self, token: int) -> str:
        """The text that becomes final with this token: often its own, sometimes none."""
        self._window.append(token)
        text = self._decode(self._window)
        self._broken = self._broken + 1 if text.endswith(_INCOMPLETE) else 0
        if not self._broken:
            final = len(text)
        elif self._broken < 4:
            final = self._given
        else:  # A character has at most four bytes: only the last U+FFFD can still become one, the others are final.
            final = max(self._given, len(text) - 1)
        piece, self._given = text[self._given : final], final
        if len(self._window) > _WINDOW:
            del self._window[:-_BEFORE]
            self._given = max(0, len(self._decode(self._window)) - (len(text) - final))
        return self._before_stop(piece + self._signs.get(token, ""))

    def finish(self) -> str:
        """The rest of the text, after the last token; none where a stop string ended it."""
        if self.stopped:
            return ""
        piece = self._before_stop(self._decode(self._window)[self._given :])
        return piece if self.stopped else piece + _SIGNS.sub("", self._pending)

    def _before_stop(self, piece: str) -> str:
        """The pending text and `piece`, up to a stop string or to what may begin one."""
        text = self._pending + piece
        found = [(text.find(stop) + len(stop), stop) for stop in self._stop if stop in text]
        if found:  # the first to end, then the longest: the same however the text is split into tokens
            end, stop = min(found, key=lambda each: (each[0], -len(each[1])))
            self.stopped, self._pending = True, ""
            return _SIGNS.sub("", text[: end - len(stop)])
        begun = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._pending = text[len(text) - begun :]
        return _SIGNS.sub("", text[: len(text) - begun])


def _with_signs(stop: str, signs: Mapping[str, str]) -> str:
    """A stop string with a sign for each special token that it spells, the longest first."""
    for spelled, sign in signs.items():
        stop = stop.replace(spelled, sign)
    return stop


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
