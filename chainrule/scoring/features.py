"""The features of texts that a linear head reads: the hidden state at the last token. Knows no labels.

Shapes: N texts, D width.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import machine
from chainrule.errors import DataError, OptionError
from chainrule.model.forest import common_beginning
from chainrule.model.formats.classifier import without_output
from chainrule.model.padding import Tokens, in_memory, padded
from chainrule.model.prefixes import read_all
from chainrule.model.transformer import Transformer
from chainrule.scoring.longer import Longer
from chainrule.tokens.tokenizer import Tokenizer

_LARGE = 0.25  # share of all tokens, from which on a common beginning is computed once

Text = str | tuple[str, str]  # a pair is read as two segments, where the tokenizer has these


class Features:
    """Texts (N) to c_{T+1}, the hidden state at the last token, (N, D) in float32 on the CPU.

    `longer`: a text longer than the context loses its beginning (`cut` counts those) or raises DataError.
    `remember`: cache the features, for callers that ask for the same texts again. `pairs`: texts are pairs, which
    `reads_pairs` allows.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        longer: Longer = "cut",
        remember: bool = False,
        pairs: bool = False,
    ) -> None:
        if longer not in ("cut", "refuse"):
            raise OptionError(f"--longer: wanted cut or refuse, got {longer!r}")
        tokenizer.check_fits(model.config.vocabulary_size)
        self.model, self.tokenizer, self.longer = without_output(model), tokenizer, longer
        self.closing: list[int] = [] if model.config.causal else tokenizer.closing
        self.between, second_segment = tokenizer.between if pairs else ([], False)
        self.pairs, self.segments = pairs, second_segment and model.config.segments > 1
        if self.segments:
            self.model.segment_separator = self.between[-1]
        self.cut = 0
        self._known: dict[Text, NDArray[np.float32]] | None = {} if remember else None

    @property
    def notes(self) -> list[str]:
        """Warnings about the texts so far: those that lost their beginning."""
        context = self.model.config.context
        lost = f"{self.cut} texts longer than the context of {context} tokens lost their beginning"
        return [lost] if self.cut else []

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        if self._known is None:
            return self._compute(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._compute(new), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else self._compute(texts)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text, or of both of a pair, that fit into the context."""
        return self.model.config.context - 1 - len(self.between) - len(self.closing)

    def lengths(self, texts: Sequence[Text]) -> list[int]:
        """How many tokens each text has, uncut; of a pair both together."""
        return [sum(map(len, parts)) for parts in self._encoded(texts)]

    def tokens(self, texts: Sequence[Text]) -> list[NDArray[np.int64]]:
        """BOS and the text's tokens, an array per text; of a text longer than the context, its last tokens. A masked
        model's closing token comes after them. Between the texts of a pair is what the tokenizer has there, and the
        longer one is cut first."""
        found, limit = [], self.max_tokens
        for number, parts in enumerate(self._encoded(texts)):
            length = sum(map(len, parts))
            if length > limit:
                if self.longer == "refuse":
                    raise DataError(
                        f"text {number + 1}: wanted at most {limit} tokens (the context, less ⊥), got"
                        f" {length}; shorten it, or let its beginning be cut"
                    )
                self.cut += 1
                kept = _kept([len(part) for part in parts], limit)
                parts = [part[len(part) - count :] for part, count in zip(parts, kept, strict=True)]
            between = [self.between] if len(parts) > 1 else []
            joined = [[self.tokenizer.bos_id], parts[0], *between, *parts[1:], self.closing]
            found.append(np.concatenate(joined).astype(np.int64))
        return found

    def _encoded(self, texts: Sequence[Text]) -> Iterator[list[Tokens]]:
        """The tokens of each text, or of the two of each pair."""
        together = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
        encoded = iter(self.tokenizer.encode_batch(together))
        for text in texts:
            yield [next(encoded) for _ in range(1 if isinstance(text, str) else len(text))]

    def _compute(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        features: NDArray[np.float32] = last_features(self.model, self.tokens(texts)).numpy()
        return features


def reads_pairs(model: Transformer, tokenizer: Tokenizer) -> bool:
    """Whether two texts are given to the model as a pair: a masked one whose tokenizer ends the first by a token."""
    return not model.config.causal and bool(tokenizer.between[0])


def _kept(lengths: Sequence[int], limit: int) -> list[int]:
    """How many tokens of each part are kept, `limit` in all; of two the longer one loses first, as in transformers'
    longest_first."""
    if len(lengths) == 1:
        return [limit]
    shorter, longer = sorted(lengths)
    longer = max(shorter, limit - shorter)
    if shorter + longer > limit:
        shorter, longer = limit // 2, limit - limit // 2
    return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]


@torch.inference_mode()
def last_features(
    model: Transformer, documents: Sequence[Tokens], tokens_at_once: int | None = None, *, share: bool = True
) -> Tensor:
    """The hidden state at the last token of each document, (N, D) in their order, float32 on the CPU.

    Documents of similar length are computed together, at most `tokens_at_once` tokens with padding but at least one
    document; a document's features are the same as alone. With `share`, a beginning that all of them have, that of a
    template, is computed once where it is a large part of a causal model's work.
    """
    device = model.device
    found = torch.empty(len(documents), model.config.width)
    lengths = [len(document) for document in documents]
    at_once = tokens_at_once or machine.tokens_at_once("features", device)
    if share and model.config.causal and _repeated(documents) > _LARGE * sum(lengths):
        for read in read_all(model, documents, at_once, [length - 1 for length in lengths]):
            last = torch.tensor([columns[-1] for columns in read.columns], device=device)
            found[read.sequences] = read.features[last].float().cpu()
        return found

    def computed(rows: list[int]) -> Tensor:
        made: Tensor = model.summary(*padded([documents[row] for row in rows], device)).float().cpu()
        return made

    for rows, part in in_memory(lengths, at_once, computed):
        found[rows] = part
    return found


def _repeated(documents: Sequence[Tokens]) -> int:
    """How many tokens of the documents belong to the beginning that all of them have, but for its first time."""
    common = list(documents[0]) if len(documents) > 1 else []
    for document in documents:
        common = common[: common_beginning(common, document)]
        if len(common) < 2:  # nothing, or BOS: looking on is not worth it
            return 0
    return len(common) * (len(documents) - 1)
