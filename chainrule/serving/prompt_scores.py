"""The log-probabilities of prompts that a client wants echoed, and of one token after them. Knows tokens."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.generation.sampling import Sampling, choose, random_numbers
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.prefixes import read_all
from chainrule.model.transformer import Transformer
from chainrule.scoring.token_scores import score_tokens

Best = list[tuple[int, float]]


@dataclass(frozen=True)
class PromptScores:
    """Of a prompt x_1..x_T: log p of x_2..x_T, and what is after x_T."""

    log_probs: list[float]  # T - 1
    best: list[Best]  # T - 1
    logits: Tensor  # u (1, V) after the last token

    def next(self, sampling: Sampling, seed: int, sample: int, top: int) -> tuple[int, float, Best]:
        """A token after the prompt, as the engine chooses it; its log p, and the most probable tokens."""
        (token,) = choose(self.logits, sampling, [random_numbers(seed, sample)]).tolist()
        total = self.logits[0].logsumexp(-1).cpu().double()
        best = self.logits[0].topk(max(1, top))
        values = (best.values.cpu().double() - total).tolist()
        return (
            token,
            (self.logits[0, token].cpu().double() - total).item(),
            list(zip(best.indices.tolist(), values, strict=True))[:top],
        )


def score_prompts(
    model: Transformer, prompts: Sequence[Sequence[int]], top: int, at_once: int, known: PrefixCache | None
) -> Generator[None, None, list[PromptScores]]:
    """Score every token of prompts but the first, at most `at_once` tokens of them between two yields.

    `top`: how many of the most probable tokens are wanted at each. What is computed is added to `known`.
    """
    found: dict[int, PromptScores] = {}
    # A long prompt is processed as its beginnings of one part, two, three …, with which it shares all it can.
    beginnings = [prompt[:end] for prompt in prompts for end in range(at_once, len(prompt), at_once)]
    lengths = [*map(len, prompts), *(len(prompt) for prompt in prompts for _ in range(at_once, len(prompt), at_once))]
    parts = read_all(model, [*prompts, *beginnings], at_once, None, known, lengths)
    while True:
        with torch.inference_mode():  # not around the yield: others have the thread then
            part = next(parts, None)
            if part is None:
                return [found[index] for index in range(len(prompts))]
            for index, columns in zip(part.sequences, part.columns, strict=True):
                if index < len(prompts):
                    found[index] = _scores(model, prompts[index], part.features, columns, top)
        yield


def _scores(
    model: Transformer, prompt: Sequence[int], features: Tensor, columns: NDArray[np.int64], top: int
) -> PromptScores:
    """Of one prompt, by the features at its columns."""
    own = features[torch.from_numpy(columns).to(features.device)]  # (T, D)
    scores = score_tokens(model, own[:-1], torch.tensor(list(prompt[1:]), dtype=torch.long), max(1, top))
    rows = zip(scores.best_tokens.tolist(), scores.best_log_probs.tolist(), strict=True)
    best = [list(zip(*row, strict=True))[:top] for row in rows]
    return PromptScores(scores.log_probs.tolist(), best, model.logits(own[-1:]).float())
