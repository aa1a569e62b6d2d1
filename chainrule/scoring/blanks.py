"""What a masked language model predicts in the blanks of a text that it sees on both sides. Knows tokens.

Log-probabilities are in nats.
"""

from collections.abc import Sequence

import torch

from chainrule.machine import tokens_at_once
from chainrule.model.padding import by_length
from chainrule.model.transformer import Transformer
from chainrule.scoring.continuations import Scored
from chainrule.scoring.token_scores import Scores, score_tokens
from chainrule.training.spans import Span, SpanBatch


def masked_at(tokens: Sequence[int], positions: Sequence[int], mask: int) -> Span:
    """A sequence, from BOS to its closing token, with blanks at these positions; its targets are what was there."""
    hidden = set(positions)
    masked = [mask if position in hidden else token for position, token in enumerate(tokens)]
    return Span(masked, positions, [tokens[position] for position in positions])


@torch.inference_mode()
def fill_blanks(model: Transformer, spans: Sequence[Span], top: int = 0) -> list[Scores]:
    """Of each sequence log p of the target in each blank given all other tokens, and the `top` most probable tokens.

    Those with the same tokens are computed once, those of like length together. Raises ChainruleError for a sequence
    longer than the context.
    """
    with_text: dict[tuple[int, ...], list[int]] = {}
    for number, span in enumerate(spans):
        with_text.setdefault(tuple(map(int, span.tokens)), []).append(number)
    alike = list(with_text.values())
    found: dict[int, Scores] = {}
    for indices in by_length([len(text) for text in with_text], tokens_at_once("scoring", model.device)):
        numbers = [number for index in indices for number in alike[index]]
        batch = SpanBatch([spans[number] for number in numbers], causal=False, device=model.device)
        scores = score_tokens(model, batch.features(model), batch.targets.cpu(), top, batch.states.cpu())
        sizes = [len(spans[number].targets) for number in numbers]
        for number, *parts in zip(numbers, *(column.split(sizes) for column in scores), strict=True):
            found[number] = Scores(*parts)
    return [found[number] for number in range(len(spans))]


def score_blanks(model: Transformer, spans: Sequence[Span]) -> list[Scored]:
    """Score the targets in the blanks of each sequence together, in order; errors as `fill_blanks`."""
    found = zip(spans, fill_blanks(model, spans, top=1), strict=True)
    return [
        Scored(log_probs.sum().item(), len(span.targets), best[:, 0].tolist() == list(span.targets))
        for span, (log_probs, best, _) in found
    ]
