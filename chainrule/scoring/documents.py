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


@torch.inference_mode()
def score_documents(
    model: Transformer, documents: Iterable[Document], stride: int | None = None, top: int = 0
) -> Iterator[Scores]:
    """Scores of x_1..x_T of each document, in order. x_0, its BOS, is given and not scored.

    A document longer than the context is scored in `windows`; only the first of them begins with BOS.
    """
    group: list[NDArray[np.int64]] = []
    size = 0
    for document in documents:
        group.append(np.array(document, np.int64))
        size += len(document)
        if size >= _TOKENS_IN_MEMORY:
            yield from _score_group(model, group, stride, top)
            group, size = [], 0
    yield from _score_group(model, group, stride, top)


def _score_group(model: Transformer, group: list[NDArray[np.int64]], stride: int | None, top: int) -> list[Scores]:
    lengths = [len(document) - 1 for document in group]
    found = [Scores(torch.empty(T), torch.empty(T, top, dtype=torch.long), torch.empty(T, top)) for T in lengths]
    work = [(d, window) for d, T in enumerate(lengths) for window in windows(T, model.config.context, stride)]

    def scored(indices: list[int]) -> Scores:
        batch = [work[index] for index in indices]
        features, targets = _features(model, [(group[d], window) for d, window in batch])
        return score_tokens(model, features, targets, top)

    lengths = [window.length for _, window in work]
    for indices, scores in in_memory(lengths, tokens_at_once("scoring", model.device), scored):
        start = 0
        for d, window in (work[index] for index in indices):
            end = start + window.end + 1 - window.first
            for whole, part in zip(found[d], scores, strict=True):
                whole[window.first - 1 : window.end] = part[start:end]
            start = end
    return found


def _features(model: Transformer, parts: list[tuple[NDArray[np.int64], Window]]) -> tuple[Tensor, Tensor]:
    """φ (N, D) at the positions that predict a scored token, and these tokens, (N,)."""
    tokens, _ = padded([document[window.start : window.end] for document, window in parts], model.device)
    features = model.features(tokens)  # (B, T, D)
    scored = [
        row[window.first - 1 - window.start : window.length] for row, (_, window) in zip(features, parts, strict=True)
    ]
    targets = np.concatenate([document[window.first : window.end + 1] for document, window in parts])
    return torch.cat(scored), torch.from_numpy(targets)


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
