"""A masked language model (Devlin et al., 2019): a tokenizer and an encoder that predicts tokens from both sides.
Knows text; computes by scoring/ and the masked objective."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.errors import ModelError
from chainrule.model.formats.checkpoint import save_model
from chainrule.model.transformer import Transformer
from chainrule.scoring.blanks import fill_blanks, masked_at
from chainrule.scoring.documents import TokenScore, given_tokens
from chainrule.scoring.evaluation import Sums, TextPiece, added_up
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.training.objectives import SpecialTokens, mask_windows, masked_token_loss

_WINDOWS_OF_A_PIECE = 64  # that a worker evaluates at once
_SEQUENCES_IN_MEMORY = 256  # copies of a text, each with another token masked
_SHOWN_EVERY = 6  # tokens: `filled` shows the model's prediction of one in so many


@dataclass(frozen=True)
class MaskedEvaluation:
    """How well a masked model predicts masked tokens of texts; no perplexity, as it gives no text a probability."""

    tokens: int
    masked_tokens: int  # of them, in a fixed random mask
    masked_loss: float  # the mean of -log p(token | all that is not masked) over these, in nats


class MaskedLanguageModel:
    """p(x_t | all tokens that are not masked). Made by `load`, or from a model and a tokenizer.

    A text becomes BOS, its tokens, and the tokenizer's closing tokens ([SEP] in BERT's).
    """

    path: str | None = None  # both as in `LanguageModel`
    quantize: str = "none"

    def __init__(self, model: Transformer, tokenizer: Tokenizer, family: str) -> None:
        tokenizer.check_fits(model.config.vocabulary_size)
        if tokenizer.mask is None and model.config.language_head:
            raise ModelError("model: wanted a tokenizer with a mask token for a masked language model, got one without")
        self.model, self.tokenizer, self.family = model, tokenizer, family
        self.stop_tokens: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def _mask(self) -> int:
        """The mask token; ModelError for an encoder that was saved without its head, which predicts none."""
        self.model.config.check_language_head()
        assert self.tokenizer.mask is not None
        return self.tokenizer.mask.id

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each mask token in `text` the `top` most probable tokens at its position, with their probabilities.

        Raises ModelError for a text without a mask, or longer than the context.
        """
        mask = self._mask
        tokens = self._tokens(self.tokenizer.encode_blanks(text))
        positions = [position for position, token in enumerate(tokens) if token == mask]
        if not positions:
            spelled = self.tokenizer.named["mask_token"]
            raise ModelError(f"fill: wanted a text with {spelled} where a token is to be predicted, got {text[:40]!r}")
        (scores,) = fill_blanks(self.model, [masked_at(tokens, positions, mask)], top=self._top(top))
        best = zip(scores.best_tokens.tolist(), scores.best_log_probs.exp().tolist(), strict=True)
        return [list(zip(self.tokenizer.token_texts(ids), values, strict=True)) for ids, values in best]

    def pseudo_log_prob(self, text: str, given: str = "") -> float:
        """Σ_t log p(x_t | all other tokens) in nats, each masked in turn (Salazar et al., 2020). Not the text's
        log-probability, but comparable between texts under one model. `given` precedes the text and is not scored.

        Raises ModelError for a text longer than the context.
        """
        return sum(token.log_prob for token in self.score(text, given, top=0))

    def score(self, text: str, given: str = "", top: int = 5) -> list[TokenScore]:
        """Each token of `text` given all others, with the `top` most probable ones at its position."""
        mask, encoded = self._mask, self.tokenizer.encode(given + text)
        tokens, first = self._tokens(encoded), 1 + given_tokens(self.tokenizer, given, encoded)
        sequences = [masked_at(tokens, [position], mask) for position in range(first, 1 + len(encoded))]
        texts, found = self.tokenizer.token_texts, []
        for start in range(0, len(sequences), _SEQUENCES_IN_MEMORY):
            part = sequences[start : start + _SEQUENCES_IN_MEMORY]
            for one, scores in zip(part, fill_blanks(self.model, part, top=self._top(top, least=0)), strict=True):
                best = zip(texts(scores.best_tokens[0].tolist()), scores.best_log_probs[0].tolist(), strict=True)
                found.append(TokenScore(texts(one.targets)[0], float(scores.log_probs[0]), list(best)))
        return found

    def log_probs(self, texts: Sequence[str], given: str = "") -> list[tuple[float, int]]:
        """`pseudo_log_prob` of each text, and of how many tokens."""
        found = []
        for text in texts:
            tokens = self.score(text, given, top=0)
            found.append((sum(token.log_prob for token in tokens), len(tokens)))
        return found

    def evaluate(self, texts: str | Iterable[str], stride: int | None = None) -> MaskedEvaluation:
        """The masked loss under a fixed random mask: 15 % of each window, as in pretraining.

        A text longer than the context is cut into windows that do not overlap. Raises ModelError where there is no
        text, and for a `stride`, which only causal models have.
        """
        return self.evaluated(map(self.evaluate_piece, self.text_pieces(texts, stride)))

    def text_pieces(self, texts: str | Iterable[str], stride: int | None = None) -> Iterator[TextPiece]:
        """The texts in pieces that can be evaluated apart: some numbered windows each."""
        if stride is not None:
            raise ModelError("stride: wanted none for a masked model, whose windows do not overlap; leave it out")
        numbered = enumerate(self._windows([texts] if isinstance(texts, str) else texts))
        while some := tuple(islice(numbered, _WINDOWS_OF_A_PIECE)):
            yield TextPiece(0, windows=some)

    @torch.no_grad()
    def evaluate_piece(self, piece: TextPiece) -> Sums:
        """The summed loss of each window's masked tokens, which depend on the window's number."""
        special = SpecialTokens(self.tokenizer.bos_id, self.tokenizer.closing, self._mask)
        tokens, masked, nats = 0, 0, list[float]()
        for number, window in piece.windows:
            rng = np.random.default_rng([number])
            batch = mask_windows(window[None], special, self.model.config.vocabulary_size, rng)
            if count := batch.targets.numel():
                nats.append(float(masked_token_loss(self.model, batch.to(self.device))) * count)
                masked += count
            tokens += len(window) - 2 - len(special.closing)
        return Sums(tokens, masked, piece.bytes, nats)

    def evaluated(self, found: Iterable[Any]) -> MaskedEvaluation:
        """The evaluation of all pieces, of which `found` has the sums, in order; errors as in `evaluate`."""
        sums = added_up(found)
        if not sums.scored:
            raise ModelError("evaluate: wanted text, got none (or empty ones only)")
        return MaskedEvaluation(sums.tokens, sums.scored, sums.nats[0] / sums.scored)

    def _windows(self, texts: Iterable[str]) -> Iterator[NDArray[np.int64]]:
        """Each text in windows of at most the context, with positions for BOS and the closing tokens, and one token
        more, as the masked objective takes them."""
        closing = self.tokenizer.closing
        most = self.model.config.context - 1 - len(closing)
        for text in texts:
            (tokens,) = self.tokenizer.encode_batch([text])
            for start in range(0, len(tokens), most):
                ends = [self.tokenizer.bos_id] * (len(closing) + 1)
                yield np.concatenate(([self.tokenizer.bos_id], tokens[start : start + most], ends)).astype(np.int64)

    @torch.no_grad()
    def features(self, text: str) -> Tensor:
        """Final hidden states, φ_θ, at BOS, each of the text's T tokens, and the closing tokens, (T + 1 or more, D).

        Raises ModelError for a text longer than the context.
        """
        return self.model.features(torch.tensor([self._tokens(self.tokenizer.encode(text))], device=self.device))[0]

    def filled(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` with the model's prediction of every sixth, masked, in brackets; to show progress."""
        texts = self.tokenizer.token_texts(tokens)
        positions = range(1 + _SHOWN_EVERY // 2, 1 + len(tokens), _SHOWN_EVERY)
        if positions:
            blanks = masked_at(self._tokens(tokens), positions, self._mask)
            (scores,) = fill_blanks(self.model, [blanks], top=1)
            predicted = self.tokenizer.token_texts(scores.best_tokens[:, 0].tolist())
            for position, text in zip(positions, predicted, strict=True):
                word = text.strip()
                texts[position - 1] = f"{text[: -len(word) or None]}[{word}]"
        return "".join(texts)

    def save(self, directory: str | Path) -> None:
        """Write the model as a Hugging Face directory, which `load` and transformers read."""
        directory = Path(directory)
        self.tokenizer.save(directory)
        save_model(self.model, self.family, directory, self.tokenizer.bos_id)

    def _tokens(self, encoded: Sequence[int]) -> list[int]:
        return [self.tokenizer.bos_id, *encoded, *self.tokenizer.closing]

    def _top(self, top: int, least: int = 1) -> int:
        if top < least:
            raise ModelError(f"top: wanted at least {least}, got {top}")
        return min(top, self.model.config.vocabulary_size)
