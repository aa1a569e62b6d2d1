"""log p(continuation | context) of many pairs, what they share read once. Knows tokens, and text in `pair_of`.

Shapes: N positions that predict, M tokens predicted there, D width, V vocabulary. Log-probabilities are in nats.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.model.prefixes import Part, read_all, tokens_at_once
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import border
from chainrule.tokens.tokenizer import Tokenizer

_LOGITS_AT_ONCE = 2**24  # held in memory at once, whatever the vocabulary: 64 MiB of float32


class Pair(NamedTuple):
    """What is asked: log p(continuation | context)."""

    context: Sequence[int]  # ⊥ first
    continuation: Sequence[int]


class Scored(NamedTuple):
    """What a model thought of a continuation."""

    log_prob: float  # of all its tokens together, nats
    tokens: int
    greedy: bool  # each was the most probable token in its place


def pair_of(tokenizer: Tokenizer, before: str, continuation: str, head: Sequence[int] = ()) -> Pair:
    """The two texts tokenized as one; a token that crosses their border belongs to the continuation.

    `head`: special tokens that stand in front of them, and what stands before these; by default ⊥. Raises
    ChainruleError for a continuation without tokens.
    """
    tokens = (tokenizer.encode_behind if head else tokenizer.encode)(before + continuation)
    inside = border(tokenizer, before, tokens)
    if inside == len(tokens):
        raise ChainruleError(f"continuation: wanted text of at least one token, got {continuation!r}")
    return Pair([*(head or [tokenizer.bottom]), *tokens[:inside]], tokens[inside:])


@torch.inference_mode()
def score_continuations(
    model: Transformer, pairs: Sequence[Pair], *, tokens_in_memory: int | None = None
) -> list[Scored]:
    """Score each pair, in order; what several contexts and continuations begin with is read once.

    `tokens_in_memory`: how many new tokens are read at once, by default what suits the device; keys and values are held
    for them and for one sequence. A single sequence is read whole, whatever the limit.

    Raises ChainruleError for a pair with an empty part, or one longer than the context (its last token is not read).
    """
    if tokens_in_memory is not None and tokens_in_memory < 1:
        raise ChainruleError(f"tokens-in-memory: wanted at least 1, got {tokens_in_memory}")
    for pair in pairs:
        _check(pair, model.config.context)
    totals, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
    sequences = [[*context, *continuation[:-1]] for context, continuation in pairs]
    first = [len(context) - 1 for context, _ in pairs]  # what predicts the continuation's first token
    parts = read_all(model, sequences, tokens_in_memory or tokens_at_once(model), first)
    for asked in _together((_asked(part, pairs) for part in parts), _rows_at_once(model)):
        log_probs, best = _predictions(model, asked)
        np.add.at(totals, asked.pairs, log_probs)
        np.logical_and.at(greedy, asked.pairs, best)
    return [
        Scored(float(total), len(pair.continuation), bool(each))
        for pair, total, each in zip(pairs, totals, greedy, strict=True)
    ]


def _check(pair: Pair, context: int) -> None:
    if not pair.context or not pair.continuation:
        raise ChainruleError(
            "pair: wanted at least one token of context (⊥) and one of continuation,"
            f" got {len(pair.context)} and {len(pair.continuation)}"
        )
    length = len(pair.context) + len(pair.continuation) - 1
    if length > context:
        raise ChainruleError(
            f"prompt: wanted at most {context} tokens with its answer (the context; the last one is not read),"
            f" got {length}; shorten it or give fewer examples"
        )


class _Asked(NamedTuple):
    """Which predictions are wanted of which features."""

    features: Tensor  # (N, D), each once
    rows: NDArray[np.int64]  # (M,) which of them predicts
    targets: NDArray[np.int64]  # (M,) what
    pairs: NDArray[np.int64]  # (M,) for whom


def _asked(part: Part, pairs: Sequence[Pair]) -> _Asked:
    """What the pairs of this part ask: a token is predicted where the one before it was read."""
    answers = [pairs[sequence].continuation for sequence in part.sequences]
    places = [columns[-len(answer) :] for columns, answer in zip(part.columns, answers, strict=True)]
    wanted, rows = np.unique(np.concatenate(places), return_inverse=True)
    features = part.features[torch.from_numpy(wanted).to(part.features.device)]
    return _Asked(features, rows, np.concatenate(answers), np.repeat(part.sequences, [len(a) for a in answers]))


def _together(asked: Iterator[_Asked], rows_at_once: int) -> Iterator[_Asked]:
    """Join what few features are asked: the output matrix, the largest of all, is then read less often."""
    held: list[_Asked] = []
    size = 0
    for each in asked:
        held.append(each._replace(rows=each.rows + size))
        size += len(each.features)
        if size >= rows_at_once:
            yield _joined(held)
            held, size = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[_Asked]) -> _Asked:
    features, *others = zip(*held, strict=True)
    return _Asked(torch.cat(features), *(np.concatenate(other) for other in others))


def _rows_at_once(model: Transformer) -> int:
    return max(1, _LOGITS_AT_ONCE // model.config.vocabulary_size)


def _predictions(model: Transformer, asked: _Asked) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """log softmax(u) (M,) of the targets, and whether they are the most probable; so many logits at a time."""
    log_probs, best = np.empty(len(asked.rows)), np.empty(len(asked.rows), bool)
    at_once = _rows_at_once(model)
    for start in range(0, len(asked.features), at_once):
        logits = model.logits(asked.features[start : start + at_once]).float()  # (N, V)
        here = np.flatnonzero((asked.rows >= start) & (asked.rows < start + at_once))
        rows, targets = (torch.from_numpy(x[here]).to(logits.device) for x in (asked.rows - start, asked.targets))
        log_probs[here] = (logits[rows, targets].double() - logits.logsumexp(-1)[rows]).cpu().numpy()
        best[here] = (logits.argmax(-1)[rows] == targets).cpu().numpy()
    return log_probs, best
