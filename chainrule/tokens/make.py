"""Makes tokenizers from text: byte-pair encoding, one token a character, one token a byte. Knows no model."""

from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from tokenizers import AddedToken, processors

from chainrule.errors import ModelError
from chainrule.tokens import bytepair, tables
from chainrule.tokens.tables import utf8
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.tokens.tokenizer_files import with_settings

BOS_TOKEN = "<|bottom|>"  # in our own tokenizer files
MASK = "[MASK]"


def byte_tokenizer(mask: bool = False) -> Tokenizer:
    """A token for each UTF-8 byte: 0 .. 255, and BOS = 256; with a mask, it is 256 and BOS = 257."""
    return _ours(tables.single_bytes(), mask)


def character_tokenizer(texts: Iterable[str], mask: bool = False) -> Tokenizer:
    """A token for each character of `texts`, in the order of their code points, then BOS."""
    seen = np.zeros(0x110000, bool)
    for text in _checked(texts):
        seen[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
    if not seen.any():
        raise ModelError("wanted text to take the characters from, got none: give some")
    return _ours(tables.characters(map(chr, np.flatnonzero(seen))), mask)


def train_bpe(
    texts: Iterable[str], vocabulary_size: int, mask: bool = False, *, pattern: str = bytepair.LLAMA3
) -> Tokenizer:
    """Byte-level BPE with `vocabulary_size` ids: 256 bytes, BOS, and merges (fewer, if `texts` have no more to merge).

    `pattern` is the regular expression that splits a text; merges stay inside its matches.
    """
    if vocabulary_size < 257 + mask:
        raise ModelError(
            f"wanted a vocabulary of at least {257 + mask} (256 bytes, BOS{', a mask' * mask}), got {vocabulary_size}:"
            " raise it"
        )
    return _ours(bytepair.train(_checked(texts), vocabulary_size - 1 - mask, pattern), mask)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        utf8(text)  # for its error
        yield text


def _ours(inner: tokenizers.Tokenizer, mask: bool) -> Tokenizer:
    """`inner` with BOS as its last id, in front of every text that transformers encodes; the mask is the id before."""
    if mask:  # lstrip: it stands for " cat", not for "cat" after a space
        inner.add_special_tokens([AddedToken(MASK, special=True, normalized=False, lstrip=True)])
    inner.add_special_tokens([AddedToken(BOS_TOKEN, special=True, normalized=False)])
    bos_id = inner.get_vocab_size() - 1
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A", pair=f"{BOS_TOKEN} $A {BOS_TOKEN} $B", special_tokens=[(BOS_TOKEN, bos_id)]
    )
    others = {"mask_token": MASK, "cls_token": BOS_TOKEN} if mask else {}
    files = with_settings({"tokenizer.json": inner.to_str(pretty=True).encode()}, BOS_TOKEN, mask, **others)
    return Tokenizer(files, bos_id)
