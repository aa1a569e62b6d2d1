"""Text to tokens and back, and the token that begins every document (BOS). Knows no model and no corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from chainrule.errors import ModelError
from chainrule.storage.files import atomic_write
from chainrule.storage.gguf import is_gguf
from chainrule.tokens import bytepair, settings, tokenizer_files
from chainrule.tokens.added_tokens import Completed, Special, complete
from chainrule.tokens.bos import pair_surroundings, surroundings
from chainrule.tokens.fast_encoding import FastEncoding
from chainrule.tokens.tables import utf8


class Tokenizer:
    """What a tokenizer.json describes, and the token that begins a document (BOS). Made by `load_tokenizer`, and by the
    functions of `chainrule.tokens.make`.

    bos_id: BOS, which `encode` never gives; bos_reason: why it is this one. vocabulary_size: the greatest id + 1.
    special: what any of the files calls a special token, by its spelling, which in a text is text.
    control: these, and the tokens that the chat template writes: `encode` gives none of them.
    hash: SHA-256, in hex, of what determines the ids.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        bos_id: int,
        completed: Completed | None = None,
        bos_reason: str = "the tokenizer puts it in front of a text",
    ) -> None:
        """`files`: name -> bytes of some of FILES, tokenizer.json among them; `completed`: what they say together."""
        self._files = files
        self._inner, self.special, self.control, listed, self._changed = completed or complete(files)
        self.bos_id, self.bos_reason = bos_id, bos_reason
        self._hashed = files["tokenizer.json"] + (json.dumps(sorted(listed.items())).encode() if listed else b"")
        self.hash = self._hash_with(bos_id)
        self._added = set(self._inner.get_added_tokens_decoder())
        self._hidden = {token.id for token in self.special.values()}
        self.vocabulary_size = _greatest_id(self._inner) + 1

    @property
    def bos(self) -> str:
        """How BOS is spelled in the tokenizer's files."""
        return str(self._inner.id_to_token(self.bos_id))

    def _hash_with(self, bos_id: int) -> str:
        return hashlib.sha256(self._hashed + b"\n%d" % bos_id).hexdigest()

    def with_hash(self, hash: str) -> Tokenizer:
        """This tokenizer with the special token as BOS that gives this hash; itself where none does. For data that was
        tokenized with another BOS, by --bos or by an earlier version's choice."""
        ids = [] if self.hash == hash else [token.id for token in self.special.values()]
        found = next((id for id in ids if self._hash_with(id) == hash), None)
        return self if found is None else Tokenizer(self._files, found, bos_reason="the data was tokenized with it")

    @property
    def definition(self) -> str:
        """A tokenizer.json that contains what all the files say."""
        return str(self._inner.to_str()) if self._changed else self._files["tokenizer.json"].decode()

    @cached_property
    def _spec(self) -> dict[str, Any]:
        absent: dict[str, Any] = {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}  # in some files
        return {**absent, **json.loads(self.definition)}

    @cached_property
    def _forbidden(self) -> set[int]:
        """The control tokens that `encode` must not give, though some tokenizers' models give them for their spelling.

        Not the unknown token, which is right for unknown text, nor tokens of one character, which that text needs.
        """
        unknown = self._spec["model"].get("unk_token")
        spelled = (content for content in self.control if len(content) > 1 and content != unknown)
        return {self.control[content].id for content in spelled} - {self._spec["model"].get("unk_id")}

    @cached_property
    def _fast(self) -> FastEncoding:
        return FastEncoding(self._spec, self._inner, self.vocabulary_size - len(self.special))

    @property
    def is_table(self) -> bool:
        """Whether each token is a character or a byte: encoding is then a table look-up."""
        return self._fast.is_table

    def check_fits(self, vocabulary_size: int) -> None:
        """ModelError where a model's vocabulary, the rows of its embedding matrix, is smaller than the tokenizer's."""
        if self.vocabulary_size > vocabulary_size:
            raise ModelError(
                f"tokenizer: wanted one of at most {vocabulary_size} tokens, which the model's embedding has, got one"
                f" of {self.vocabulary_size}; they do not belong together: put the tokenizer's own model beside it"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS.

        Raises ModelError for a lone surrogate, and for a character that is not in a character tokenizer's vocabulary.
        """
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """For each id that `encode` gives, the range of characters of `text` it stands for: first, and last + 1."""
        utf8(text)
        return self._encoded(text, self._inner)[1]

    def _encoded(self, text: str, inner: tokenizers.Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids by `tokenizers`, and their spans. Where they contain a control token that the text spells, the text
        is split after the first character of the spelling."""
        encoding = inner.encode(text, add_special_tokens=False)
        ids, spans = encoding.ids, encoding.offsets
        if self._forbidden.isdisjoint(ids):
            return ids, spans
        forbidden = (span for id, span in zip(ids, spans, strict=True) if id in self._forbidden)
        cut = next((start + 1 for start, end in forbidden if end - start > 1), None)
        if cut is None:
            return ids, spans
        before, after = self._encoded(text[:cut], inner), self._encoded(text[cut:], self._behind or inner)
        return before[0] + after[0], before[1] + [(start + cut, end + cut) for start, end in after[1]]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """What `encode` gives, as an array for each text; faster for many texts."""
        fast = self._fast.encode(texts)
        if fast is not None:
            return fast
        batch = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        every = [encoding.ids for encoding in batch]
        for index, ids in enumerate(every):
            if not self._forbidden.isdisjoint(ids):
                every[index] = self._encoded(texts[index], self._inner)[0]
        return [np.array(ids, np.uint32) for ids in every]

    def cut(self, text: str) -> int:
        """The last index at which `text` can be split and encoded in two parts without changing its ids; 0 if none is
        known."""
        return self._fast.cut(text, 0, len(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, without BOS and other special tokens; bytes that are not UTF-8 become U+FFFD."""
        shown = [int(token) for token in tokens if token not in self._hidden]
        return self._inner.decode(shown, skip_special_tokens=False)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        r"""The text of each token alone, for display: bytes that are no whole character as \xe2, BOS as "⊥"."""
        return [self._token_text(int(token)) for token in tokens]

    def _token_text(self, token: int) -> str:
        text = "⊥" if token == self.bos_id else self._inner.id_to_token(token)
        if text is None:
            return "\ufffd"
        if token in self._added or token == self.bos_id:
            return text
        if isinstance(self._inner.decoder, tokenizers.decoders.ByteLevel):
            return bytepair.token_bytes(text).decode("utf-8", "backslashreplace")
        return text.replace("▁", " ")  # SentencePiece's space

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token alone: of a character's first token some of its bytes, of BOS its spelling."""
        text = self._inner.id_to_token(token)
        if (
            text is not None
            and token not in self._added
            and isinstance(self._inner.decoder, tokenizers.decoders.ByteLevel)
        ):
            return bytepair.token_bytes(text)
        return ("" if text is None else text if token in self._added else text.replace("▁", " ")).encode()

    def join(self, parts: Sequence[int | str]) -> list[int]:
        """The ids of special tokens and the texts between them."""
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self.encode(part) if not ids else self.encode_behind(part)
        return ids

    def encode_behind(self, text: str) -> list[int]:
        """The ids of a text after a special token: some tokenizers mark the beginning of a whole text."""
        if self._behind is None:
            return self.encode(text)
        utf8(text)
        return self._encoded(text, self._behind)[0]

    @cached_property
    def _behind(self) -> tokenizers.Tokenizer | None:
        """A tokenizer that marks no beginning; None where this one marks none, or that of each part."""
        spec = json.loads(self.definition)
        marks = [part for part in _parts(spec.get("pre_tokenizer")) if part.get("prepend_scheme") == "first"]
        if not marks:
            return None
        for part in marks:
            part["prepend_scheme"] = "never"
        inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        return inner

    @cached_property
    def mask(self) -> Special | None:
        """The mask token; only the tokenizers of masked language models have one."""
        return self.special.get(self.named.get("mask_token", ""))

    @cached_property
    def front(self) -> list[int]:
        """What transformers puts in front of a text in this tokenizer's files: often nothing."""
        return surroundings(self._inner)[0]

    @cached_property
    def closing(self) -> list[int]:
        """What transformers puts behind a text in this tokenizer's files: [SEP] in BERT's, often nothing."""
        return surroundings(self._inner)[1]

    @cached_property
    def between(self) -> tuple[list[int], bool]:
        """What stands between the two texts of a pair ([SEP] in BERT's files), and whether the second is another
        segment; nothing where the files do not tell a pair from one text."""
        return pair_surroundings(self._inner)

    def encode_blanks(self, text: str) -> list[int]:
        """The ids of `text`, with the mask token for each of its spellings; ModelError for a tokenizer without one."""
        if self.mask is None:
            raise ModelError("wanted a tokenizer with a mask token, got one without: it is no masked language model's")
        parts = text.split(self.named["mask_token"])
        if self.mask.lstrip:
            parts = [part.rstrip() for part in parts[:-1]] + parts[-1:]
        if self.mask.rstrip:
            parts = parts[:1] + [part.lstrip() for part in parts[1:]]
        between: list[int | str] = [parts[0]]
        for part in parts[1:]:
            between += [self.mask.id, part]
        return self.join([each for each in between if each != ""])

    @cached_property
    def named(self) -> dict[str, str]:
        """Special tokens by what tokenizer_config.json, or special_tokens_map.json, calls them: bos_token, …"""
        return settings.named(self._files)

    @property
    def chat_template(self) -> str | None:
        """The jinja template by which the model's messages are written; of several the default one."""
        return settings.chat_templates(self._files).get("default")

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into `directory`, where transformers.AutoTokenizer finds them."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            with atomic_write(directory / name) as beside:
                beside.write_bytes(content)


def _greatest_id(inner: tokenizers.Tokenizer) -> int:
    """Asked for, a vocabulary is copied: not where its tokens have all ids from 0 on, as most have."""
    size: int = inner.get_vocab_size(with_added_tokens=True)
    if size and None not in list(map(inner.id_to_token, range(size))):
        return size - 1
    return max(inner.get_vocab(with_added_tokens=True).values())


def _parts(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """A `pre_tokenizer` of tokenizer.json, or the parts of a sequence."""
    if pre_tokenizer is None:
        return []
    parts: list[dict[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return parts


def load_tokenizer(path: Path, bos: str | None = None) -> Tokenizer:
    """The tokenizer of a directory (a run of ours, or any in the Hugging Face layout), of a tokenizer.json or a GGUF.

    BOS is the token `bos`, or what `chainrule.tokens.bos` finds. Raises ModelError for a directory without a tokenizer,
    with files that disagree or that name no BOS, and for a `bos` that is no token.
    """
    directory = path.parent if path.name == "tokenizer.json" else path
    if path.is_file() and directory == path and not is_gguf(path):
        raise ModelError(f"{path}: wanted a directory with tokenizer.json, or that file: got another file")
    files, chosen, completed = tokenizer_files.read(directory, bos)
    return Tokenizer(files, chosen.id, completed, chosen.reason)
