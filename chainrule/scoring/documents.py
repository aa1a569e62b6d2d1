"""log p of whole documents by the chain rule, token by token. Knows tokens, and text only where `given` ends.

Shapes: B windows, T tokens after ⊥, D width, N positions scored, V vocabulary. Log-probabilities are in nats.
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
from chainrule.model.padding import Tokens, by_length, padded
from chainrule.model.transformer import Transformer
from chainrule.tokens.tokenizer import Tokenizer

Document = Tokens

_TOKENS_AT_ONCE = 8192  # read by the model in one call
_TOKENS_IN_MEMORY = 16 * _TOKENS_AT_ONCE  # sorted by length before they are read, so that little of it is padding
_LOGITS_AT_ONCE = 2**24  # held in memory at once, whatever the vocabulary: 64 MiB of float32


class Scores(NamedTuple):
    """What a model thought of one document's tokens x_1..x_T; on the CPU."""

    log_probs: Tensor  # (T,) log p(x_t | x_0..x_{t-1})
    best_tokens: Tensor  # (T, top) the most probable ones in the place of x_t
    best_log_probs: Tensor  # (T, top)


class TokenScore(NamedTuple):
    """One factor of the chain rule, for a person."""

    text: str
    log_prob: float  # nats
    alternatives: list[tuple[str, float]]  # the most probable tokens in its place, and their log-probabilities


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
    """Reads x_start..x_{end-1}, and so predicts up to x_end; scores x_first..x_end."""

    start: int
    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def windows(T: int, context: int, stride: int | None = None) -> Iterator[Window]:
    """Windows that score each of x_1..x_T once; after the first, a window moves on by `stride` (half the context)."""
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
    """Scores of each document, in order. A document is x_0..x_T: its ⊥ stands in front, is given and not scored.

    A document longer than the context is read in `windows`; only the first of them begins with ⊥.
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
    for places in by_length([window.length for _, window in work], _TOKENS_AT_ONCE):
        batch = [work[place] for place in places]
        features, targets = _read(model, [(group[d], window) for d, window in batch])
        scores, start = predictions(model, features, targets, top), 0
        for d, window in batch:
            end = start + window.end + 1 - window.first
            for whole, part in zip(found[d], scores, strict=True):
                whole[window.first - 1 : window.end] = part[start:end]
            start = end
    return found


def _read(model: Transformer, parts: list[tuple[NDArray[np.int64], Window]]) -> tuple[Tensor, Tensor]:
    """φ (N, D) at the positions that predict what is scored, and what is scored there, (N,)."""
    device = model.device
    tokens, _ = padded([document[window.start : window.end] for document, window in parts], device)
    features = model.features(tokens)  # (B, T, D)
    scored = [
        row[window.first - 1 - window.start : window.length] for row, (_, window) in zip(features, parts, strict=True)
    ]
    targets = np.concatenate([document[window.first : window.end + 1] for document, window in parts])
    return torch.cat(scored), torch.from_numpy(targets).to(device)


def predictions(model: Transformer, features: Tensor, targets: Tensor, top: int) -> Scores:
    """log softmax(u) at the targets (N,) and at its `top` greatest, a part of the (N, V) logits at a time."""
    rows = max(1, _LOGITS_AT_ONCE // model.config.vocabulary_size)
    parts = []
    for start in range(0, len(features), rows):
        logits = model.logits(features[start : start + rows]).float()
        total = logits.logsumexp(-1, keepdim=True)
        chosen = logits.gather(1, targets[start : start + rows, None])
        best = logits.topk(top)
        parts.append(((chosen - total)[:, 0], best.indices, best.values - total))
    log_probs, tokens, best_log_probs = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return Scores(log_probs, tokens, best_log_probs)


def border(tokenizer: Tokenizer, given: str, tokens: Sequence[int]) -> int:
    """How many of `tokens`, those of a text that begins with `given`, lie wholly inside it; one that crosses does not.

    A text and its beginning share their first tokens: the search starts there, and goes on while what the tokens spell
    is a beginning of `given` (which it never is under a tokenizer that changes the text).
    """
    if not given:
        return 0  # even if the first token, a space that some tokenizers drop, spells nothing
    alone = tokenizer.encode(given)
    pairs = enumerate(zip(alone, tokens, strict=False))
    inside = next((place for place, (one, other) in pairs if one != other), min(len(alone), len(tokens)))
    for end in range(inside + 1, len(tokens) + 1):
        spelled = tokenizer.decode(tokens[:end])
        if given.startswith(spelled):
            inside = end
        elif len(spelled) > len(given) + 3:  # the first bytes of a character may read as up to three U+FFFD
            break
    return inside
