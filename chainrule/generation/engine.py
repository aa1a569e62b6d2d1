"""Generates tokens for sequences that join and leave a batch at any step. Knows tokens and their model, not text.

Shapes: B running sequences, D width, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chainrule.errors import ChainruleError, OptionError
from chainrule.generation.fixed_steps import CudaGraphs, FixedSteps
from chainrule.generation.prefill import Prefilled, prefill
from chainrule.generation.sampling import Sampling, random_numbers
from chainrule.generation.sequences import GrowingSequence, choose_tokens
from chainrule.machine import to_device
from chainrule.model.batch_cache import BatchCache
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.transformer import Transformer

BATCH_SIZE = 32  # sequences decoded together, by default


class NewToken(NamedTuple):
    """One more token of a sequence."""

    id: int  # the sequence's, as `add` returned it
    token: int
    log_prob: float  # log p(token | all before it) under p itself: no temperature, filter or penalty; nats
    finish_reason: Literal["stop", "length"] | None  # why the sequence ends with this token; None: it goes on
    best: tuple[tuple[int, float], ...] = ()  # the most probable tokens there, and their log p; as many as asked for


class Engine:
    """Continues sequences, each with its own sampling, random numbers and end.

    A sequence's tokens depend on its own arguments alone: in float32 they are the same whatever else is in the batch.

    `batch_size`: the most sequences decoded together. `cache_tokens`: the most tokens that their cache has memory for,
    None for no limit; a sequence alone runs whatever the limit. Others wait, and where those that run grow over it, the
    youngest waits again. `prefill_chunk`: process at most so many tokens of waiting prompts at each step, so that long
    ones do not delay the sequences that run; None processes the prompts of all that can join. Those that wait at the
    same time join sorted by their tokens, not in the order they came: each common prefix is processed once.
    `known`: prefixes of earlier sequences, which are not processed again. `fixed_shapes`: decode by steps whose shapes
    do not depend on how long the sequences are, on a GPU as CUDA graphs (`FixedSteps`); None: on a GPU alone.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        batch_size: int = BATCH_SIZE,
        cache_tokens: int | None = None,
        prefill_chunk: int | None = None,
        known: PrefixCache | None = None,
        fixed_shapes: bool | None = None,
    ) -> None:
        for name, value in (
            ("batch-size", batch_size), ("cache-tokens", cache_tokens), ("prefill-chunk", prefill_chunk),
        ):  # fmt: skip
            if value is not None and value < 1:
                raise OptionError(f"{name}: wanted at least 1, got {value}")
        self.model, self.batch_size = model, batch_size
        self.cache_tokens, self.prefill_chunk, self.known = cache_tokens, prefill_chunk, known
        gpu = model.device.type == "cuda"
        self._fixed: FixedSteps | None = None
        if gpu if fixed_shapes is None else fixed_shapes:
            self._fixed = FixedSteps(model, CudaGraphs(model.device) if gpu else None)
        self._added = 0
        self._running: list[GrowingSequence] = []  # in the order of the cache's rows
        self._cache = self._empty_cache()
        self._waiting: dict[int, GrowingSequence] = {}  # by id: their prompts are not being processed yet
        # Prompts being processed, with the sequences that wait for each of them; and those of the latest part.
        self._joining: dict[tuple[int, ...], list[GrowingSequence]] = {}
        self._parts: Iterator[list[Prefilled]] = iter(())
        self._prefilled: list[Prefilled] = []

    def __len__(self) -> int:
        """How many sequences run or wait."""
        return len(self._running) + len(self._waiting) + sum(map(len, self._joining.values()))

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting or self._joining)

    @property
    def running(self) -> int:
        """How many sequences are decoded together now."""
        return len(self._running)

    def add(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        seed: int = 0,
        sample: int = 0,
        max_tokens: int,
        stop_tokens: Collection[int] = (),
        top: int = 0,
    ) -> int:
        """A sequence that continues `prompt` (BOS included) from the next step on; its id, counted from 0.

        It ends with a stop token, after `max_tokens`, or where the context is full. Its random numbers are those of
        (seed, sample). Sequences with the same prompt share its prefill. `top`: of how many of the most probable tokens
        the log-probabilities are wanted with each new one.

        Raises ChainruleError for a prompt that fills the context, OptionError for a number out of range.
        """
        context = self.model.config.context
        assert prompt, "a prompt has a token, BOS at least"
        if len(prompt) >= context:
            raise ChainruleError(
                f"prompt: wanted fewer than {context} tokens (the context; BOS is one), got {len(prompt)}; shorten it"
            )
        if max_tokens < 1:
            raise OptionError(f"--max-tokens: wanted at least 1, got {max_tokens}")
        occurred = None
        if sampling.repetition_penalty != 1:
            occurred = torch.zeros(self.model.config.vocabulary_size, dtype=torch.bool)
            occurred[list(prompt)] = True
            occurred = occurred.to(self.model.device)
        id = self._added
        self._waiting[id] = GrowingSequence(
            id, tuple(prompt), sampling, (seed, sample), random_numbers(seed, sample), stop_tokens,
            min(max_tokens, context - len(prompt)), top, occurred=occurred,
        )  # fmt: skip
        self._added += 1
        return id

    @torch.inference_mode()
    def cancel(self, id: int) -> None:
        """End a sequence now; nothing happens where it has ended."""
        self._waiting.pop(id, None)
        for row, sequence in enumerate(self._running):
            if sequence.id == id:
                self._leave(row)
                return
        for prompt, sequences in self._joining.items():
            if any(sequence.id == id for sequence in sequences):
                self._set_joining(prompt, [sequence for sequence in sequences if sequence.id != id])
                return

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        """A token of each sequence that runs, and of each that joins. Empty where none does, while prompts are still
        being processed in chunks too."""
        features = []
        self._process_longer_anew()
        if self._running:
            self._grow()
            features.append(self._decode())
        features += self._join()
        if not features:
            return []
        tokens, log_probs, best = choose_tokens(self.model.next_logits(torch.cat(features)).float(), self._running)
        found = []
        for sequence, token, log_prob, most_probable in zip(self._running, tokens, log_probs, best, strict=True):
            sequence.tokens.append(token)
            if sequence.occurred is not None:
                sequence.occurred[token] = True
            ended: Literal["stop", "length"] | None = None
            if token in sequence.stop_tokens:
                ended = "stop"
            elif len(sequence.tokens) == sequence.max_tokens:
                ended = "length"
            found.append(NewToken(sequence.id, token, log_prob, ended, most_probable))
        for row in reversed(range(len(found))):  # so that the last row, which moves into a freed one, was judged
            if found[row].finish_reason is not None:
                self._leave(row)
        return found

    def _decode(self) -> Tensor:
        """φ (B, D) at the newest token of each sequence that runs."""
        newest = [sequence.tokens[-1] for sequence in self._running]
        features = None if self._fixed is None else self._fixed.features(newest, self._cache)
        if features is not None:
            return features
        return self.model.features(to_device(torch.tensor(newest)[:, None], self.model.device), self._cache)[:, -1]

    def _join(self) -> list[Tensor]:
        """Move sequences into the batch while there is room: φ at the end of their prompts, (count, D) each time."""
        features, processed = [], False
        while len(self._running) < self.batch_size:
            if not self._prefilled:
                if processed and self.prefill_chunk is not None:
                    break
                if not self._prefill():
                    break
                processed = True
                continue
            latest = self._prefilled[-1]
            sequences = self._joining.get(latest.prompt, [])
            joining = sequences[: self._room_for(sequences)]
            if sequences and not joining:
                break
            if joining:
                self._reserve(joining)
                self._cache.join(len(joining), latest.cache, latest.columns)
                self._running += joining
                features.append(latest.features.expand(len(joining), -1))
            self._set_joining(latest.prompt, sequences[len(joining) :])
            if len(joining) == len(sequences) and self._prefilled:
                self._prefilled.pop()
        return features

    def _prefill(self) -> bool:
        """Process the next part of the prompts that are to join; False where there is none."""
        if not self._joining:
            if not self._waiting:
                return False
            for sequence in self._waiting.values():
                self._joining.setdefault(sequence.text, []).append(sequence)
            self._waiting = {}
            self._parts = prefill(self.model, list(self._joining), self.prefill_chunk, self.known)
        self._prefilled = next(self._parts)[::-1]
        return True

    def _set_joining(self, prompt: tuple[int, ...], sequences: list[GrowingSequence]) -> None:
        """Which sequences still wait for a prompt. After the last, the cache of the prompts is forgotten."""
        if sequences:
            self._joining[prompt] = sequences
        elif self._joining.pop(prompt, None) is not None and all(prompt != each.prompt for each in self._prefilled):
            # Cancelled while it was being processed: the rest of it is not.
            done = {each.prompt for each in self._prefilled}
            left = [each for each in self._joining if each not in done]
            self._parts = prefill(self.model, left, self.prefill_chunk, self.known)
        if not self._joining:
            self._parts, self._prefilled = iter(()), []

    def _room_for(self, sequences: Sequence[GrowingSequence]) -> int:
        """How many of these sequences the batch and its cache have room for."""
        rows, columns = len(self._running), max((sequence.columns for sequence in self._running), default=0)
        for count, sequence in enumerate(sequences):
            columns = max(columns, sequence.columns)
            full = self.cache_tokens is not None and (rows + count + 1) * columns > self.cache_tokens
            if rows + count == self.batch_size or (full and rows + count > 0):
                return count
        return len(sequences)

    def _reserve(self, joining: Sequence[GrowingSequence]) -> None:
        """Make room in the cache, for those that will join later too: it is copied as seldom as possible."""
        rows, columns = self._cache.capacity
        needed_rows = len(self._running) + len(joining)
        needed_columns = max(sequence.columns for sequence in (*self._running, *joining))
        if rows >= needed_rows and columns >= needed_columns:
            return
        known = [*self._running, *(sequence for each in self._joining.values() for sequence in each)]
        known += self._waiting.values()
        if not self._running:
            self._cache = self._empty_cache()
        rows = min(self.batch_size, max(len(known), needed_rows if not self._running else 2 * needed_rows))
        columns = max(sequence.columns for sequence in known)
        if self.cache_tokens is not None and rows * columns > self.cache_tokens:
            columns = needed_columns
            rows = max(needed_rows, min(rows, self.cache_tokens // columns))
        self._cache.reserve(rows, columns)

    def _process_longer_anew(self) -> None:
        """Let sequences wait again whose next token makes them longer than the original context: from then on all of
        their tokens are rotated otherwise."""
        original = self.model.config.original_context
        if original is None:
            return
        for row in reversed(range(len(self._running))):
            if self._cache.lengths[row] == original:
                sequence = self._running[row]
                self._leave(row)
                self._waiting = {sequence.id: sequence, **self._waiting}

    def _grow(self) -> None:
        """Make room for another token of each sequence; where there is none, the youngest waits again."""
        while self._cache.length >= self._cache.capacity[1]:
            columns = max(sequence.columns for sequence in self._running)
            rows, most = len(self._running), self.cache_tokens
            if most is None or rows * columns <= most or rows == 1:
                wanted = self._cache.capacity[0]
                self._cache.reserve(wanted if most is None else max(rows, min(wanted, most // columns)), columns)
                return
            youngest = max(range(len(self._running)), key=lambda row: self._running[row].id)
            sequence = self._running[youngest]
            self._leave(youngest)
            self._waiting = {sequence.id: sequence, **self._waiting}

    @torch.inference_mode()
    def recover(self) -> list[tuple[int, Exception]]:
        """After `step` has raised: let all sequences wait again, but for those that make it raise when they are alone.

        These end; their ids and what they raise. The next step processes anew what the others have.
        """
        every = {sequence.id: sequence for sequence in self._running}
        every |= {sequence.id: sequence for sequences in self._joining.values() for sequence in sequences}
        every |= self._waiting
        self._running, self._waiting, self._joining = [], {}, {}
        self._parts, self._prefilled, self._cache = iter(()), [], self._empty_cache()
        if self.known is not None:
            self.known.clear()
        failed: list[tuple[int, Exception]] = []
        for id, sequence in sorted(every.items()):
            alone = Engine(self.model)
            alone._waiting[id] = sequence.again()
            try:
                alone.step()
            except Exception as error:
                failed.append((id, error))
            else:
                self._waiting[id] = sequence.again()
        return failed

    def _leave(self, row: int) -> None:
        """Free a sequence's row: the last one moves into it."""
        if self.known is not None:
            self._remember(row)
        self._cache.leave(row)
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last

    def _remember(self, row: int) -> None:
        """Keep what was generated, for prompts that begin with it."""
        assert self.known is not None
        length = self._cache.lengths[row]
        columns = torch.arange(length, device=self.model.device)
        original = self.model.config.original_context
        long = original is not None and length > original
        text = self._running[row].text[:length]
        self.known.save(text, self._cache.keys[:, row], self._cache.values[:, row], columns, long)

    def _empty_cache(self) -> BatchCache:
        model, config = self.model, self.model.config
        dtype = model.compute_dtype or model.dtype
        return BatchCache(config.layers, config.key_value_heads, config.head_width, dtype, model.device)
