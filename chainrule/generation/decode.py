"""Prefill, then one token at a time, for a batch of unequal prompts. Knows tokens, not text.

Shapes: B sequences still running, T positions, D width, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.generation.sampling import Sampling, choose, penalise_repetition, stream
from chainrule.model.kv_cache import Cache
from chainrule.model.prefixes import empty_cache, read_all, tokens_at_once
from chainrule.model.transformer import Transformer


@dataclass(frozen=True)
class Step:
    """One new token of every sequence still running."""

    sequences: list[int]  # which they are: sample s of prompt p is sequence p * len(samples) + s
    tokens: list[int]
    log_probs: list[float]  # log p(token | all before it) under p itself, with no τ, filter or penalty; nats
    finished: set[int]  # sequences that end here; the caller adds those it wants no more of


def prefill(model: Transformer, prompts: Sequence[Sequence[int]], capacity: int) -> tuple[Tensor, Cache]:
    """Read prompts of any lengths >= 1: φ (B, D) at the last token of each, and the cache (see `Cache`).

    What several prompts begin with is read once.
    """
    longest = max(map(len, prompts))
    cache = empty_cache(model, capacity, torch.tensor([longest - len(prompt) for prompt in prompts]))
    if len(prompts) == 1:
        device = cache.padding.device
        tokens, last = torch.tensor([list(prompts[0])], device=device), torch.tensor([[len(prompts[0]) - 1]])
        return model.features(tokens, cache, output_positions=last.to(device))[:, 0], cache
    features = cache.keys.new_empty(len(prompts), model.config.width)
    for part in read_all(model, prompts, tokens_at_once(model), [len(prompt) - 1 for prompt in prompts]):
        for prompt, columns in zip(part.sequences, part.columns, strict=True):
            features[prompt] = part.features[columns[-1]]
            cache.put(prompt, part.cache, columns)
    cache.length = longest
    return features, cache


@torch.inference_mode()
def decode(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: Sequence[int] = (0,),
    max_tokens: int,
    stop_tokens: Collection[int] = (),
    seed: int = 0,
) -> Iterator[Step]:
    """Continue every prompt (⊥ included) once for each of `samples`, until each sequence has ended.

    A sequence ends with a stop token, after `max_tokens`, when it fills the context, or when the caller adds it to a
    step's `finished`. What is drawn depends on (seed, sample) and the prompt alone: in float32 it is the same in any
    batch.

    Raises ChainruleError for a prompt that leaves no room in the context.
    """
    context, device = model.config.context, model.device
    if not prompts:
        return
    longest = max(map(len, prompts))
    if longest >= context:
        raise ChainruleError(
            f"prompt: wanted fewer than {context} tokens (the context; ⊥ is one), got {longest}; shorten it"
        )
    if max_tokens < 1:
        raise ChainruleError(f"max-tokens: wanted at least 1, got {max_tokens}")

    capacity = min(context, longest + max_tokens)
    features, cache = prefill(model, prompts, longest if len(samples) > 1 else capacity)
    prompt_of = [prompt for prompt in range(len(prompts)) for _ in samples]
    if len(samples) > 1:  # one prefill for all of them
        rows = torch.tensor(prompt_of, device=device)
        features, cache = features[rows], cache.branch(rows, capacity)
    sequences = list(range(len(prompt_of)))
    streams = [stream(seed, sample) for _ in prompts for sample in samples]
    ends = [min(max_tokens, context - len(prompts[prompt])) for prompt in prompt_of]  # by sequence: its last step
    penalty = sampling.repetition_penalty
    seen = _seen([prompts[prompt] for prompt in prompt_of], model) if penalty != 1 else None

    for step in range(1, max(ends) + 1):
        logits = model.logits(features).float()  # (B, V)
        adjusted = logits if seen is None else penalise_repetition(logits, seen, penalty)
        chosen = choose(adjusted, sampling, streams)[:, None]  # (B, 1)
        log_probs = logits.gather(1, chosen) - logits.logsumexp(-1, keepdim=True)
        tokens = chosen[:, 0].tolist()
        finished = {s for s, token in zip(sequences, tokens, strict=True) if token in stop_tokens or step == ends[s]}
        yield Step(sequences, tokens, log_probs[:, 0].tolist(), finished)

        if seen is not None:
            seen.scatter_(1, chosen, True)
        if finished:
            keep = [row for row, sequence in enumerate(sequences) if sequence not in finished]
            if not keep:
                return
            sequences, streams = [sequences[row] for row in keep], [streams[row] for row in keep]
            rows = torch.tensor(keep, device=device)
            chosen, cache, seen = chosen[rows], cache.branch(rows), None if seen is None else seen[rows]
        features = model.features(chosen, cache)[:, -1]


def _seen(prompts: Sequence[Sequence[int]], model: Transformer) -> Tensor:
    """(B, V): True for the tokens of each prompt."""
    seen = torch.zeros(len(prompts), model.config.vocabulary_size, dtype=torch.bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[list(prompt)] = True
    return seen.to(model.device)
