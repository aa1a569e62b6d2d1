"""What a user holds of the other kind of language model (Devlin et al., 2019): it fills the blanks of a text that it
sees on both sides. Knows text; how things are computed is told elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.model.formats.checkpoint import save_model
from chainrule.model.transformer import Transformer
from chainrule.scoring.blanks import blanked, fill_blanks
from chainrule.scoring.documents import TokenScore, border
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.training.objectives import SpecialTokens, mask_windows, masked_token_loss

_TEXTS_AT_ONCE = 256  # in memory: those of a long text, each with one blank
_EVERY = 6  # a token so far apart is shown as the model would have it


@dataclass(frozen=True)
class MaskedEvaluation:
    """How well a masked model tells what stood in the blanks of texts; no perplexity, as no text has a probability."""

    tokens: int
    masked_tokens: int  # of them, in the fixed mask
    masked_loss: float  # the mean of -log p(token | all that is not masked) over these, in nats


class MaskedLanguageModel:
    """p(x_t | all tokens that are not masked). Made by `load`, or from its parts.

    A text is read as ⊥, its tokens, and what closes it in this model's tokenizer ([SEP] in BERT's).
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, family: str) -> None:
        tokenizer.check_fits(model.config.vocabulary_size)
        if tokenizer.mask is None and model.config.language_head:
            raise ModelError("model: wanted a tokenizer with a mask token for a masked language model, got one without")
        self.model, self.tokenizer, self.family = model, tokenizer, family
        self.stop_tokens: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def _mask(self) -> int:
        """The token of a blank; ModelError for an encoder that was saved without its head, which fills none."""
        self.model.config.check_language_head()
        assert self.tokenizer.mask is not None
        return self.tokenizer.mask.id

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each mask token that `text` spells the `top` most probable tokens in its place, with their probabilities.

        Raises ModelError for a text without a mask, or longer than the context.
        """
        mask = self._mask
        tokens = self._tokens(self.tokenizer.encode_blanks(text))
        places = [place for place, token in enumerate(tokens) if token == mask]
        if not places:
            spelled = self.tokenizer.named["mask_token"]
            raise ModelError(f"fill: wanted a text with {spelled} where a word is to be told, got {text[:40]!r}")
        (scores,) = fill_blanks(self.model, [blanked(tokens, places, mask)], top=self._top(top))
        best = zip(scores.best_tokens.tolist(), scores.best_log_probs.exp().tolist(), strict=True)
        return [list(zip(self.tokenizer.pieces(ids), values, strict=True)) for ids, values in best]

    def pseudo_log_prob(self, text: str, given: str = "") -> float:
        """Σ_t log p(x_t | all other tokens) in nats, each masked in turn (Salazar et al., 2020): no log-probability of
        the text, but comparable between texts under one model. `given` stands before it and is not scored.

        Raises ModelError for a text longer than the context.
        """
        return sum(token.log_prob for token in self.score(text, given, top=0))

    def score(self, text: str, given: str = "", top: int = 5) -> list[TokenScore]:
        """Each token of `text` given all others, with the `top` most probable ones in its place."""
        mask, encoded = self._mask, self.tokenizer.encode(given + text)
        tokens, first = self._tokens(encoded), 1 + border(self.tokenizer, given, encoded)
        asked = [blanked(tokens, [place], mask) for place in range(first, 1 + len(encoded))]
        pieces, found = self.tokenizer.pieces, []
        for start in range(0, len(asked), _TEXTS_AT_ONCE):
            part = asked[start : start + _TEXTS_AT_ONCE]
            for one, scores in zip(part, fill_blanks(self.model, part, top=self._top(top, least=0)), strict=True):
                best = zip(pieces(scores.best_tokens[0].tolist()), scores.best_log_probs[0].tolist(), strict=True)
                found.append(TokenScore(pieces(one.words)[0], float(scores.log_probs[0]), list(best)))
        return found

    @torch.no_grad()
    def evaluate(self, texts: str | Iterable[str], stride: int | None = None) -> MaskedEvaluation:
        """The masked loss under a mask that is always the same: 15 % of each window, as in pretraining.

        A text longer than the context is read in windows that do not overlap. Raises ModelError where there is no text,
        and for a `stride`, which only causal models have.
        """
        if stride is not None:
            raise ModelError("stride: wanted none for a masked model, whose windows do not overlap; leave it out")
        special = SpecialTokens(self.tokenizer.bottom, self.tokenizer.closing, self._mask)
        tokens, masked, total = 0, 0, 0.0
        documents = [texts] if isinstance(texts, str) else texts
        for number, window in enumerate(self._windows(documents)):
            rng = np.random.default_rng([number])
            batch = mask_windows(window[None], special, self.model.config.vocabulary_size, rng)
            if count := batch.targets.numel():
                total += float(masked_token_loss(self.model, batch.to(self.device))) * count
                masked += count
            tokens += len(window) - 2 - len(special.closing)
        if not masked:
            raise ModelError("evaluate: wanted text, got none (or empty ones only)")
        return MaskedEvaluation(tokens, masked, total / masked)

    def _windows(self, texts: Iterable[str]) -> Iterator[NDArray[np.int64]]:
        """Each text in windows of at most the context, with places for its ends, and one token more (see `blanks`)."""
        closing = self.tokenizer.closing
        room = self.model.config.context - 1 - len(closing)
        for text in texts:
            (tokens,) = self.tokenizer.encode_batch([text])
            for start in range(0, len(tokens), room):
                ends = [self.tokenizer.bottom] * (len(closing) + 1)
                yield np.concatenate(([self.tokenizer.bottom], tokens[start : start + room], ends)).astype(np.int64)

    @torch.no_grad()
    def features(self, text: str) -> Tensor:
        """φ_θ at ⊥, each of the text's T tokens, and what closes it, (T + 1 or more, D).

        Raises ModelError for a text longer than the context.
        """
        return self.model.features(torch.tensor([self._tokens(self.tokenizer.encode(text))], device=self.device))[0]

    def filled(self, tokens: Sequence[int]) -> str:
        """A text in which every sixth token is the most probable one there, in brackets: to be looked at."""
        read = self._tokens(tokens)
        places = list(range(1 + _EVERY // 2, 1 + len(tokens), _EVERY))
        if not places:
            return "".join(self.tokenizer.pieces(tokens))
        (scores,) = fill_blanks(self.model, [blanked(read, places, self._mask)], top=1)
        said = dict(zip(places, self.tokenizer.pieces(scores.best_tokens[:, 0].tolist()), strict=True))
        pieces = self.tokenizer.pieces(tokens)
        return "".join(
            f"{said[place][: -len(said[place].strip()) or None]}[{said[place].strip()}]" if place in said else piece
            for place, piece in enumerate(pieces, 1)
        )

    def save(self, directory: str | Path) -> None:
        """Write the model as a Hugging Face directory, which `load` and transformers read."""
        directory = Path(directory)
        self.tokenizer.save(directory)
        save_model(self.model, self.family, directory, self.tokenizer.bottom)

    def _tokens(self, encoded: Sequence[int]) -> list[int]:
        return [self.tokenizer.bottom, *encoded, *self.tokenizer.closing]

    def _top(self, top: int, least: int = 1) -> int:
        if top < least:
            raise ModelError(f"top: wanted at least {least}, got {top}")
        return min(top, self.model.config.vocabulary_size)

    # What only a causal model can do.

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises ModelError: a masked model says nothing of a text that it has not seen to its end."""
        raise ModelError(
            f"generate: wanted a model of the next token, got a masked one ({self.family}), in which every token sees"
            " those after it: it fills blanks and cannot go on from a text; use fill, or another model"
        )

    stream = completions = pieces = generate

    def log_prob(self, *_: Any, **__: Any) -> NoReturn:
        """Raises ModelError: the chain rule is not this model's."""
        raise ModelError(
            f"log_prob: wanted a model of the next token, got a masked one ({self.family}), for which the chain rule"
            " gives a text no probability; use pseudo_log_prob"
        )

    next_token = log_prob

    @property
    def chat(self) -> NoReturn:
        """Raises ModelError: there is nobody to chat with."""
        self.generate()
