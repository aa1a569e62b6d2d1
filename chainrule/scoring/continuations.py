"""log p(continuation | context) of many pairs, common prefixes computed once. Knows tokens, and text in `pair_of`.

Shapes: N hidden states that predict, M tokens predicted by them, D width. Log-probabilities are in nats.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import ChainruleError, OptionError
from chainrule.machine import tokens_at_once
from chainrule.model.prefixes import Part, read_all
from chainrule.model.transformer import Transformer
from chainrule.scoring.documents import given_tokens
from chainrule.scoring.token_scores import score_tokens, states_at_once
from chainrule.tokens.tokenizer import Tokenizer


class Pair(NamedTuple):
    """A context and a continuation, of which log p(continuation | context) is wanted."""

    context: Sequence[int]  # BOS first
    continuation: Sequence[int]


class Scored(NamedTuple):
    """How probable a continuation is."""

    log_prob: float  # of all its tokens together, nats
    tokens: int
    greedy: bool  # each is the most probable token at its position


def pair_of(tokenizer: Tokenizer, before: str, continuation: str, head: Sequence[int] = ()) -> Pair:
    """The two texts tokenized as one; a token that crosses their border belongs to the continuation.

    `head`: the tokens in front of them, of which the last is a special one; by default BOS. Raises ChainruleError for a
    continuation without tokens.
    """
    tokens = (tokenizer.encode_behind if head else tokenizer.encode)(before + continuation)
    inside = given_tokens(tokenizer, before, tokens)
    if inside == len(tokens):
        raise ChainruleError(f"continuation: wanted text of at least one token, got {continuation!r}")
    return Pair([*(head or [tokenizer.bos_id]), *tokens[:inside]], tokens[inside:])


@torch.inference_mode()
def score_continuations(
    model: Transformer, pairs: Sequence[Pair], *, tokens_in_memory: int | None = None
) -> list[Scored]:
    """Score each pair, in order; common prefixes of several contexts and continuations are computed once.

    `tokens_in_memory`: how many new tokens one call of the model processes, by default what suits the device; keys and
    values are kept for them and for one sequence. A single sequence is processed whole, whatever the limit.

    Raises ChainruleError for a pair with an empty part, or one longer than the context (its last token is not
    processed).
    """
    if tokens_in_memory is not None and tokens_in_memory < 1:
        raise OptionError(f"tokens-in-memory: wanted at least 1, got {tokens_in_memory}")
    for pair in pairs:
        _check(pair, model.config.context)
    totals, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
    sequences = [[*context, *continuation[:-1]] for context, continuation in pairs]
    first = [len(context) - 1 for context, _ in pairs]  # what predicts the continuation's first token
    parts = read_all(model, sequences, tokens_in_memory or tokens_at_once("prefill", model.device), first)
    for wanted in _merged((_predictions(part, pairs) for part in parts), states_at_once(model)):
        targets, indices = torch.from_numpy(wanted.targets), torch.from_numpy(wanted.indices)
        scores = score_tokens(model, wanted.features, targets, top=1, indices=indices)
        np.add.at(totals, wanted.pairs, scores.log_probs.numpy())
        np.logical_and.at(greedy, wanted.pairs, (scores.best_tokens[:, 0] == targets).numpy())
    return [
        Scored(float(total), len(pair.continuation), bool(each))
        for pair, total, each in zip(pairs, totals, greedy, strict=True)
    ]


def _check(pair: Pair, context: int) -> None:
    if not pair.context or not pair.continuation:
        raise ChainruleError(
            "pair: wanted at least one token of context (BOS) and one of continuation,"
            f" got {len(pair.context)} and {len(pair.continuation)}"
        )
    length = len(pair.context) + len(pair.continuation) - 1
    if length > context:
        raise ChainruleError(
            f"prompt: wanted at most {context} tokens with its answer (the context; the last one is not read),"
            f" got {length}; shorten it or give fewer examples"
        )


class _Predictions(NamedTuple):
    """Which tokens are to be scored by which hidden states."""

    features: Tensor  # (N, D), each once
    indices: NDArray[np.int64]  # (M,) the hidden state that predicts each token
    targets: NDArray[np.int64]  # (M,) the tokens
    pairs: NDArray[np.int64]  # (M,) the pair that each belongs to


def _predictions(part: Part, pairs: Sequence[Pair]) -> _Predictions:
    """Those of the pairs of this part: a token is predicted by the hidden state of the one before it."""
    answers = [pairs[sequence].continuation for sequence in part.sequences]
    columns = [columns[-len(answer) :] for columns, answer in zip(part.columns, answers, strict=True)]
    wanted, indices = np.unique(np.concatenate(columns), return_inverse=True)
    features = part.features[torch.from_numpy(wanted).to(part.features.device)]
    pair_of_each = np.repeat(part.sequences, [len(answer) for answer in answers])
    return _Predictions(features, indices, np.concatenate(answers), pair_of_each)


def _merged(parts: Iterator[_Predictions], states: int) -> Iterator[_Predictions]:
    """Parts of at least so many hidden states each: the output matrix, the largest of all, is then read less often."""
    pending: list[_Predictions] = []
    size = 0
    for part in parts:
        pending.append(part._replace(indices=part.indices + size))
        size += len(part.features)
        if size >= states:
            yield _concatenated(pending)
            pending, size = [], 0
    if pending:
        yield _concatenated(pending)


def _concatenated(parts: list[_Predictions]) -> _Predictions:
    features, *others = zip(*parts, strict=True)
    return _Predictions(torch.cat(features), *(np.concatenate(other) for other in others))
