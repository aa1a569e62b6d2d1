"""What a masked language model predicts in the blanks of a text that it sees on both sides. Knows tokens.

Shapes: B sequences, T positions, M blanks, D width. Log-probabilities are in nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chainrule.machine import tokens_at_once
from chainrule.model.padding import by_length
from chainrule.model.transformer import Transformer
from chainrule.scoring.continuations import Scored
from chainrule.scoring.token_scores import Scores, score_tokens


class Blanks(NamedTuple):
    """A sequence with blanks, and the tokens that are scored in them."""

    tokens: Sequence[int]  # from BOS to the closing token; the mask token in the blanks
    positions: Sequence[int]  # of the blanks
    answers: Sequence[int]  # a token for each


def masked_at(tokens: Sequence[int], positions: Sequence[int], mask: int) -> Blanks:
    """A sequence with blanks at these positions, whose answers are the tokens that were there."""
    hidden = set(positions)
    masked = [mask if position in hidden else token for position, token in enumerate(tokens)]
    return Blanks(masked, positions, [tokens[position] for position in positions])


@torch.inference_mode()
def fill_blanks(model: Transformer, sequences: Sequence[Blanks], top: int = 0) -> list[Scores]:
    """Of each sequence log p of the answer in each blank given all other tokens, and the `top` most probable tokens.

    Those with the same tokens are computed once, those of like length together. Raises ChainruleError for a sequence
    longer than the context.
    """
    texts = list(dict.fromkeys(tuple(sequence.tokens) for sequence in sequences))
    with_text: dict[tuple[int, ...], list[int]] = {text: [] for text in texts}
    for number, sequence in enumerate(sequences):
        with_text[tuple(sequence.tokens)].append(number)
    found: dict[int, Scores] = {}
    for indices in by_length([len(text) for text in texts], tokens_at_once("scoring", model.device)):
        batch = [texts[index] for index in indices]
        features = _features(model, batch)  # (B, T, D)
        numbers = [(row, number) for row, text in enumerate(batch) for number in with_text[text]]
        at_blanks = torch.cat([features[row, list(sequences[number].positions)] for row, number in numbers])  # (M, D)
        answers = torch.tensor([answer for _, number in numbers for answer in sequences[number].answers])
        scores = score_tokens(model, at_blanks, answers, top)
        sizes = [len(sequences[number].positions) for _, number in numbers]
        for (_, number), *parts in zip(numbers, *(column.split(sizes) for column in scores), strict=True):
            found[number] = Scores(*parts)
    return [found[number] for number in range(len(sequences))]


def score_blanks(model: Transformer, sequences: Sequence[Blanks]) -> list[Scored]:
    """Score the answers in the blanks of each sequence together, in order; errors as `fill_blanks`."""
    found = zip(sequences, fill_blanks(model, sequences, top=1), strict=True)
    return [
        Scored(log_probs.sum().item(), len(sequence.answers), best[:, 0].tolist() == list(sequence.answers))
        for sequence, (log_probs, best, _) in found
    ]


def _features(model: Transformer, texts: Sequence[Sequence[int]]) -> Tensor:
    """φ (B, T, D), each text from column 0 on; the columns after its end are arbitrary."""
    device, longest = model.device, max(map(len, texts))
    padding = torch.tensor([longest - len(text) for text in texts], device=device)  # on the left
    tokens = torch.tensor([[0] * (longest - len(text)) + list(text) for text in texts], device=device)
    features = model.features(tokens, padding=padding if padding.any() else None)
    columns = (torch.arange(longest, device=device) + padding[:, None]).clamp(max=longest - 1)
    return features[torch.arange(len(texts), device=device)[:, None], columns]
