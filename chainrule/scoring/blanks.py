"""What a masked language model expects in the blanks of a text that it sees on both sides. Knows tokens.

Shapes: B sequences, T positions, M blanks, D width. Log-probabilities are in nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chainrule.model.padding import by_length
from chainrule.model.transformer import Transformer
from chainrule.scoring.continuations import Scored
from chainrule.scoring.documents import Scores, predictions

_TOKENS_AT_ONCE = 8192  # read by the model in one call, padding counted


class Blanked(NamedTuple):
    """A sequence with blanks, and what might stand in them."""

    tokens: Sequence[int]  # from ⊥ to the closing token; the mask in its blanks
    places: Sequence[int]
    words: Sequence[int]  # as many


def blanked(tokens: Sequence[int], places: Sequence[int], mask: int) -> Blanked:
    """A sequence whose tokens in these places are to be told."""
    hidden = set(places)
    read = [mask if place in hidden else token for place, token in enumerate(tokens)]
    return Blanked(read, places, [tokens[place] for place in places])


@torch.inference_mode()
def fill_blanks(model: Transformer, asked: Sequence[Blanked], top: int = 0) -> list[Scores]:
    """Of each sequence log p of the word in each blank given all that is no blank, and the `top` most probable ones.

    Those with the same tokens are read once, those of like length together. Raises ChainruleError for a sequence longer
    than the context.
    """
    texts = list(dict.fromkeys(tuple(one.tokens) for one in asked))
    asking: dict[tuple[int, ...], list[int]] = {text: [] for text in texts}
    for number, one in enumerate(asked):
        asking[tuple(one.tokens)].append(number)
    found: dict[int, Scores] = {}
    for rows in by_length([len(text) for text in texts], _TOKENS_AT_ONCE):
        batch = [texts[row] for row in rows]
        features = _read(model, batch)  # (B, T, D)
        numbers = [(row, number) for row, text in enumerate(batch) for number in asking[text]]
        wanted = torch.cat([features[row, list(asked[number].places)] for row, number in numbers])  # (M, D)
        words = torch.tensor([word for _, number in numbers for word in asked[number].words], device=wanted.device)
        scores = predictions(model, wanted, words, top)
        sizes = [len(asked[number].places) for _, number in numbers]
        for (_, number), *parts in zip(numbers, *(column.split(sizes) for column in scores), strict=True):
            found[number] = Scores(*parts)
    return [found[number] for number in range(len(asked))]


def score_blanks(model: Transformer, asked: Sequence[Blanked]) -> list[Scored]:
    """Score the words that might stand in the blanks of each sequence together, in order; errors as `fill_blanks`."""
    found = zip(asked, fill_blanks(model, asked, top=1), strict=True)
    return [
        Scored(log_probs.double().sum().item(), len(one.words), best[:, 0].tolist() == list(one.words))
        for one, (log_probs, best, _) in found
    ]


def _read(model: Transformer, texts: Sequence[Sequence[int]]) -> Tensor:
    """φ (B, T, D); what stands behind a sequence means nothing."""
    device, longest = model.device, max(map(len, texts))
    padding = torch.tensor([longest - len(text) for text in texts], device=device)  # in front, as the model counts it
    tokens = torch.tensor([[0] * (longest - len(text)) + list(text) for text in texts], device=device)
    features = model.features(tokens, padding=padding if padding.any() else None)
    columns = (torch.arange(longest, device=device) + padding[:, None]).clamp(max=longest - 1)
    return features[torch.arange(len(texts), device=device)[:, None], columns]
