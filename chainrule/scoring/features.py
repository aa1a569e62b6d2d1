"""The features of texts that a linear head reads: the hidden state at the last token. Knows no labels.

Shapes: N texts, D width.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.errors import DataError, OptionError
from chainrule.model.formats.classifier import without_output
from chainrule.model.padding import Tokens, by_length, padded
from chainrule.model.transformer import Transformer
from chainrule.tokens.tokenizer import Tokenizer

Longer = Literal["cut", "refuse"]  # what becomes of a text longer than the context


class Features:
    """Texts (N) to c_{T+1}, the hidden state at the last token, (N, D) in float32 on the CPU.

    `longer`: a text longer than the context loses its beginning (`cut` counts those) or raises DataError.
    `remember`: cache the features, for callers that ask for the same texts again.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, longer: Longer = "cut", remember: bool = False
    ) -> None:
        if longer not in ("cut", "refuse"):
            raise OptionError(f"longer: wanted cut or refuse, got {longer!r}")
        tokenizer.check_fits(model.config.vocabulary_size)
        self.model, self.tokenizer, self.longer = without_output(model), tokenizer, longer
        self.closing: list[int] = [] if model.config.causal else tokenizer.closing
        self.cut = 0
        self._known: dict[str, NDArray[np.float32]] | None = {} if remember else None

    @property
    def notes(self) -> list[str]:
        """Warnings about the texts so far: those that lost their beginning."""
        context = self.model.config.context
        lost = f"{self.cut} texts longer than the context of {context} tokens lost their beginning"
        return [lost] if self.cut else []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._known is None:
            return self._compute(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._compute(new), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else self._compute(texts)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that fit into the context."""
        return self.model.config.context - 1 - len(self.closing)

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """BOS and the text's tokens, an array per text; of a text longer than the context, its last tokens. A masked
        model's closing token comes after them."""
        found, limit = [], self.max_tokens
        for number, tokens in enumerate(self.tokenizer.encode_batch(texts)):
            if len(tokens) > limit:
                if self.longer == "refuse":
                    raise DataError(
                        f"text {number + 1}: wanted at most {limit} tokens (the context, less ⊥), got"
                        f" {len(tokens)}; shorten it, or let its beginning be cut"
                    )
                self.cut += 1
                tokens = tokens[len(tokens) - limit :]
            found.append(np.concatenate(([self.tokenizer.bos_id], tokens, self.closing)).astype(np.int64))
        return found

    def _compute(self, texts: Sequence[str]) -> NDArray[np.float32]:
        features: NDArray[np.float32] = last_features(self.model, self.tokens(texts)).numpy()
        return features


@torch.inference_mode()
def last_features(model: Transformer, documents: Sequence[Tokens], tokens_at_once: int | None = None) -> Tensor:
    """The hidden state at the last token of each document, (N, D) in their order, float32 on the CPU.

    Documents of similar length are computed together, at most `tokens_at_once` tokens with padding but at least one
    document; a document's features are the same as alone.
    """
    device = model.device
    found = torch.empty(len(documents), model.config.width)
    lengths = [len(document) for document in documents]
    for rows in by_length(lengths, tokens_at_once or machine.tokens_at_once("features", device)):
        found[rows] = model.summary(*padded([documents[row] for row in rows], device)).float().cpu()
    return found
