"""log p of whole documents by the chain rule, token by token. Knows tokens, and text only in `given_tokens`.

Shapes: B windows, T tokens after BOS, D width, N scored positions. Log-probabilities are in nats.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.machine import tokens_at_once
from chainrule.model.padding import Tokens, in_memory, padded
from chainrule.model.transformer import Transformer
from chainrule.scoring.token_scores import Scores, score_tokens
from chainrule.tokens.tokenizer import Tokenizer

Document = Tokens

_TOKENS_IN_MEMORY = 2**17  # of documents that are sorted by length before they are batched, to have little padding


class TokenScore(NamedTuple):
    """One factor of the chain rule, for display."""

    text: str
    log_prob: float  # nats
    alternatives: list[tuple[str, float]]  # the most probable tokens at its position, and their log-probabilities


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts texts."""

    tokens: int
    bytes: int  # of the texts in UTF-8
    loss: float  # equation 14.8: the mean of -log p over the tokens, in nats

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, as the loss is not."""
        return self.loss * self.tokens / self.bytes / math.log(2)


@dataclass(frozen=True)
class Window:
    """Processes x_start..x_{end-1}, which predict up to x_end; scores x_first..x_end."""

    start: int
    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def windows(T: int, context: int, stride: int | None = None) -> Iterator[Window]:
    """Windows that score each of x_1..x_T once. A window begins `stride` (half the context) after the one before."""
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ChainruleError(f"stride: wanted from 1 to {context} tokens (the context), got {stride}")
    start, first = 0, 1
    while first <= T:
        end = min(start + context, T)
        yield Window(start, first, end)
        start, first = start + stride, end + 1


@dataclass(frozen=True)
class Section:
    """Tokens of a document and the windows of it, relative to these tokens, in which some are scored."""

    tokens: NDArray[np.int64]
    windows: Sequence[Window]

    @property
    def first(self) -> int:
        """The first token that is scored."""
        return self.windows[0].first if self.windows else 1

    @property
    def scored(self) -> int:
        """How many tokens are."""
        return self.windows[-1].end + 1 - self.first if self.windows else 0


def sections(document: Document, context: int, stride: int | None = None, most: int = 2**62) -> Iterator[Section]:
    """A document of x_0..x_T cut between windows into sections of about `most` tokens; each of x_1..x_T is scored in
    one of them, and given the same tokens as in the whole document."""
    tokens, some = np.asarray(document, np.int64), list[Window]()
    for window in windows(len(tokens) - 1, context, stride):
        if some and window.end - some[0].start > most:
            yield _section(tokens, some)
            some = []
        some.append(window)
    yield _section(tokens, some)


def _section(tokens: NDArray[np.int64], some: Sequence[Window]) -> Section:
    begin = some[0].start if some else 0
    moved = [Window(window.start - begin, window.first - begin, window.end - begin) for window in some]
    return Section(tokens[begin : some[-1].end + 1] if some else tokens, moved)


def score_documents(
    model: Transformer, documents: Iterable[Document], stride: int | None = None, top: int = 0
) -> Iterator[Scores]:
    """Scores of x_1..x_T of each document, in order. x_0, its BOS, is given and not scored.

    A document longer than the context is scored in `windows`; only the first of them begins with BOS.
    """
    whole = (section for document in documents for section in sections(document, model.config.context, stride))
    for group in grouped(whole):
        yield from score_sections(model, group, top)


def grouped(sections: Iterable[Section]) -> Iterator[list[Section]]:
    """Sections in lists of about 131,072 tokens, which are scored together."""
    group: list[Section] = []
    size = 0
    for section in sections:
        group.append(section)
        size += len(section.tokens)
        if size >= _TOKENS_IN_MEMORY:
            yield group
            group, size = [], 0
    yield group


@torch.inference_mode()
def score_sections(model: Transformer, group: Sequence[Section], top: int = 0) -> list[Scores]:
    """Scores of the tokens that are scored in each section."""
    lengths = [section.scored for section in group]
    found = [Scores(torch.empty(T), torch.empty(T, top, dtype=torch.long), torch.empty(T, top)) for T in lengths]
    work = [(number, window) for number, section in enumerate(group) for window in section.windows]

    def scored(indices: list[int]) -> Scores:
        batch = [work[index] for index in indices]
        features, targets = _features(model, [(group[number].tokens, window) for number, window in batch])
        return score_tokens(model, features, targets, top)

    read = [window.length for _, window in work]
    for indices, scores in in_memory(read, tokens_at_once("scoring", model.device), scored):
        start = 0
        for number, window in (work[index] for index in indices):
            end, first = start + window.end + 1 - window.first, group[number].first
            for whole, part in zip(found[number], scores, strict=True):
                whole[window.first - first : window.end + 1 - first] = part[start:end]
            start = end
    return found


def _features(model: Transformer, parts: list[tuple[NDArray[np.int64], Window]]) -> tuple[Tensor, Tensor]:
    """φ (N, D) at the positions that predict a scored token, and these tokens, (N,)."""
    read = [document[window.start : window.end + _more(model, window)] for document, window in parts]
    tokens, last = padded(read, model.device)
    features = model(tokens, output="features", last=last)  # (B, T, D)
    scored = [
        row[window.first - 1 - window.start : window.length] for row, (_, window) in zip(features, parts, strict=True)
    ]
    targets = np.concatenate([document[window.first : window.end + 1] for document, window in parts])
    return torch.cat(scored), torch.from_numpy(targets)


def _more(model: Transformer, window: Window) -> int:
    """1 where the token after a window, which is only predicted, makes the text longer than a LongRope's original
    context: it is processed too, so that the text has the factors of its length."""
    original = model.config.original_context
    return int(original is not None and window.length == original < model.config.context)


def given_tokens(tokenizer: Tokenizer, given: str, tokens: Sequence[int]) -> int:
    """How many of a text's `tokens` lie wholly inside its beginning `given`; one that crosses its end does not.

    A text and its beginning have their first tokens in common: the search starts there, and goes on while the decoded
    tokens are a beginning of `given` (which they never are under a tokenizer that changes the text).
    """
    if not given:
        return 0  # even if the first token, a space that some tokenizers drop, decodes to nothing
    alone = tokenizer.encode(given)
    pairs = enumerate(zip(alone, tokens, strict=False))
    inside = next((index for index, (one, other) in pairs if one != other), min(len(alone), len(tokens)))
    for end in range(inside + 1, len(tokens) + 1):
        decoded = tokenizer.decode(tokens[:end])
        if given.startswith(decoded):
            inside = end
        elif len(decoded) > len(given) + 3:  # the first bytes of a character may decode to up to three U+FFFD
            break
    return inside
