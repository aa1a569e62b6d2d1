"""Text to tokens and back; owns ⊥, the token that begins every document. Knows no model and no corpus."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, processors

from chainrule.errors import ModelError
from chainrule.storage.files import atomic_write
from chainrule.storage.gguf import is_gguf
from chainrule.tokens import bytepair, tables, tokenizer_files
from chainrule.tokens.tokenizer_files import Completed, Special, with_settings

if TYPE_CHECKING:
    from tiktoken import Encoding

BOTTOM = "<|bottom|>"  # how ⊥ is spelled in our own tokenizer files
MASK = "[MASK]"  # how a blank is
# tiktoken's regular expressions overflow at about a million white spaces: it is never given more characters at once.
LONGEST = 250_000
# Proving that tiktoken gives the same ids takes about as long as it saves on so many characters.
WORTHWHILE = 1_000_000
# No match of bytepair.PATTERNS goes across the end of such a place, nor depends on what lies on the other side.
SAFE_CUT = re.compile(r"\S(?= )|\S\n(?=\S)")


class Tokenizer:
    """What a tokenizer.json describes, and its ⊥. Made by `load_tokenizer` and the functions below it.

    bottom: the id of ⊥, which `encode` never gives. vocabulary_size: the greatest id + 1, ⊥ included.
    special: what any of the files calls a special token, by its spelling, which in a text is text.
    control: these, and the tokens that the chat template writes: `encode` gives none of them.
    hash: SHA-256, in hex, of what determines the ids.
    """

    def __init__(self, files: dict[str, bytes], bottom: int, completed: Completed | None = None) -> None:
        """`files`: name -> bytes of some of FILES, tokenizer.json among them; `completed`: what they say together."""
        self._files = files
        self._inner, self.special, self.control, listed, self._changed = completed or tokenizer_files.complete(files)
        self.bottom = bottom
        told = json.dumps(sorted(listed.items())).encode() if listed else b""
        self.hash = hashlib.sha256(files["tokenizer.json"] + told + b"\n%d" % bottom).hexdigest()
        self._added = set(self._inner.get_added_tokens_decoder())
        self._hidden = {token.id for token in self.special.values()}
        self._encoded_so_far = 0  # characters
        self.vocabulary_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def definition(self) -> str:
        """A tokenizer.json that says alone what all the files say."""
        return str(self._inner.to_str()) if self._changed else self._files["tokenizer.json"].decode()

    @cached_property
    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.definition)
        return spec

    @cached_property
    def _forbidden(self) -> set[int]:
        """The control tokens that the model of some tokenizers would make of the text that spells them.

        One for what it has no token for is no answer to a spelling, and one of a single character is needed for it.
        """
        unknown = self._spec["model"].get("unk_token")
        spelled = (content for content in self.control if len(content) > 1 and content != unknown)
        return {self.control[content].id for content in spelled} - {self._spec["model"].get("unk_id")}

    # Three proven fast ways to encode; without any of them `tokenizers` does it.

    @cached_property
    def _characters(self) -> NDArray[np.uint32] | None:
        return tables.character_table(self._spec)

    @cached_property
    def _bytes(self) -> NDArray[np.uint32] | None:
        return tables.byte_table(self._spec)

    @cached_property
    def _tiktoken(self) -> Encoding | None:
        return bytepair.tiktoken_encoding(self._spec)

    @property
    def is_table(self) -> bool:
        """Whether each token is a character or a byte: then encoding is as fast as memory."""
        return self._characters is not None or self._bytes is not None

    def check_fits(self, vocabulary_size: int) -> None:
        """ModelError where a model of so many tokens, a row of its embedding matrix each, lacks some of these."""
        if self.vocabulary_size > vocabulary_size:
            raise ModelError(
                f"tokenizer: wanted one of at most {vocabulary_size} tokens, which the model's embedding has, got one"
                f" of {self.vocabulary_size}; they do not belong together: put the tokenizer's own model beside it"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without ⊥.

        Raises ModelError for a lone surrogate, and for a character that a character tokenizer has not.
        """
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Of each id that `encode` gives, the characters of `text` that it stands for: the first, and past the last."""
        _utf8(text)
        return self._encoded(text, self._inner)[1]

    def _encoded(self, text: str, inner: tokenizers.Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids by `tokenizers`, and their spans. Where its model makes a control token of what a text spells, the
        text is cut behind the first character of it."""
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
        """What `encode` gives, an array a text; the fast way for many."""
        if self._characters is not None:
            return [self._look_up(text, self._characters) for text in texts]
        encoded = [_utf8(text) for text in texts]  # for its error too: tiktoken would put U+FFFD for a surrogate
        if self._bytes is not None:
            return [self._bytes[np.frombuffer(text, np.uint8)] for text in encoded]
        fast = self._fast_after(sum(map(len, texts)))
        if fast is None:
            batch = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
            every = [encoding.ids for encoding in batch]
            for place, ids in enumerate(every):
                if not self._forbidden.isdisjoint(ids):
                    every[place] = self._encoded(texts[place], self._inner)[0]
            return [np.array(ids, np.uint32) for ids in every]
        return [self._merge(text, fast) for text in texts]

    def _fast_after(self, characters: int) -> Encoding | None:
        """tiktoken's encoding, once so much was encoded that it is worth making; the ids are the same."""
        self._encoded_so_far += characters
        made = "_tiktoken" in vars(self)
        return self._tiktoken if made or self._encoded_so_far > WORTHWHILE else None

    def _look_up(self, text: str, table: NDArray[np.uint32]) -> NDArray[np.uint32]:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids: NDArray[np.uint32] = table[np.minimum(points, len(table) - 1)]
        unseen = np.flatnonzero(ids == tables.UNSEEN)
        if len(unseen):
            raise UnseenCharacterError(text, int(unseen[0]), self.vocabulary_size - len(self.special))
        return ids

    def _merge(self, text: str, encoding: Encoding) -> NDArray[np.uint32]:
        parts, start = [], 0
        while len(text) - start > LONGEST:
            end = self.cut(text, start, start + LONGEST)
            if end == start:  # nothing but letters, or white spaces, ahead
                parts.append(np.array(self._inner.encode(text[start:], add_special_tokens=False).ids, np.uint32))
                return np.concatenate(parts)
            parts.append(encoding.encode_to_numpy(text[start:end], disallowed_special=()))
            start = end
        parts.append(encoding.encode_to_numpy(text[start:], disallowed_special=()))
        return np.concatenate(parts)

    def cut(self, text: str, start: int = 0, end: int | None = None) -> int:
        """The last place after `start`, up to `end`, where `text` can be encoded in two parts with the ids of the
        whole; `start` if none is known."""
        end = len(text) if end is None else end
        if self.is_table:
            return end
        if self._tiktoken is None:
            return start
        for width in (1000, end - start):  # almost always there is one near the end
            places = [match.end() for match in SAFE_CUT.finditer(text, max(start, end - width), end)]
            if places:
                return places[-1]
        return start

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; ⊥ and other special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        shown = [int(token) for token in tokens if token not in self._hidden]
        return self._inner.decode(shown, skip_special_tokens=False)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        r"""How each token reads alone, for display: bytes that are no whole character as \xe2, ⊥ as "⊥"."""
        return [self._piece(int(token)) for token in tokens]

    def _piece(self, token: int) -> str:
        text = "⊥" if token == self.bottom else self._inner.id_to_token(token)
        if text is None:
            return "\ufffd"
        if token in self._added or token == self.bottom:
            return text
        if isinstance(self._inner.decoder, tokenizers.decoders.ByteLevel):
            return bytepair.token_bytes(text).decode("utf-8", "backslashreplace")
        return text.replace("▁", " ")  # SentencePiece's space

    def join(self, pieces: Sequence[int | str]) -> list[int]:
        """The ids of special tokens and the texts between them."""
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else self.encode(piece) if not ids else self.encode_behind(piece)
        return ids

    def encode_behind(self, text: str) -> list[int]:
        """The ids of a text that stands behind a special token: some tokenizers mark where a whole text begins."""
        if self._behind is None:
            return self.encode(text)
        _utf8(text)
        return self._encoded(text, self._behind)[0]

    @cached_property
    def _behind(self) -> tokenizers.Tokenizer | None:
        """One that marks no beginning; None where this one does not, or marks that of each part."""
        spec = json.loads(self.definition)
        marks = [part for part in _parts(spec["pre_tokenizer"]) if part.get("prepend_scheme") == "first"]
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
        """The token that stands for a blank; only masked language models have one."""
        return self.special.get(self.named.get("mask_token", ""))

    @cached_property
    def closing(self) -> list[int]:
        """What transformers puts behind a text in this tokenizer's files: [SEP] in BERT's, often nothing."""
        inner = tokenizers.Tokenizer.from_str(self.definition)
        inner.no_truncation()
        inner.no_padding()
        for probe in ("a", *inner.get_vocab(with_added_tokens=False)):
            try:
                text, whole = inner.encode(probe, add_special_tokens=False).ids, inner.encode(probe).ids
            except Exception:  # tokenizers raises nothing narrower for what a vocabulary of characters lacks
                continue
            if text:
                start = next(place for place in range(len(whole)) if whole[place : place + len(text)] == text)
                return list(whole[start + len(text) :])
        return []

    def encode_blanks(self, text: str) -> list[int]:
        """The ids of `text`, in which each spelling of the mask is one; ModelError for a tokenizer that has none."""
        if self.mask is None:
            raise ModelError("wanted a tokenizer with a mask token, got one without: it is no masked language model's")
        parts = text.split(self.named["mask_token"])
        if self.mask.lstrip:
            parts = [part.rstrip() for part in parts[:-1]] + parts[-1:]
        if self.mask.rstrip:
            parts = parts[:1] + [part.lstrip() for part in parts[1:]]
        pieces: list[int | str] = [parts[0]]
        for part in parts[1:]:
            pieces += [self.mask.id, part]
        return self.join([piece for piece in pieces if piece != ""])

    @cached_property
    def named(self) -> dict[str, str]:
        """Special tokens by what tokenizer_config.json, or special_tokens_map.json, calls them: bos_token, …"""
        return tokenizer_files.named(self._files)

    @property
    def chat_template(self) -> str | None:
        """The jinja template by which the model's messages are written; of several the default one."""
        return tokenizer_files.chat_templates(self._files).get("default")

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into `directory`, where transformers.AutoTokenizer finds them."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            with atomic_write(directory / name) as beside:
                beside.write_bytes(content)


class UnseenCharacterError(ModelError):
    """A character that a character tokenizer has not. `offset`: where, in characters from 0; `reason`: all the rest."""

    def __init__(self, text: str, offset: int, known: int) -> None:
        self.offset = offset
        self.reason = (
            f"{text[offset]!r} (U+{ord(text[offset]):04X}) is not among the {known} characters of the vocabulary:"
            " take it out, or make a tokenizer of text that has it"
        )
        line = text.count("\n", 0, offset) + 1
        super().__init__(f"character {offset} (line {line}) of the text: {self.reason}")


def _parts(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """Of a `pre_tokenizer` of tokenizer.json: itself, or what it is a sequence of."""
    if pre_tokenizer is None:
        return []
    parts: list[dict[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return parts


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"wanted Unicode text, got the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}:"
            " take it out, or read the text with its right encoding"
        ) from None


def _unicode(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        _utf8(text)
        yield text


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a directory (a run of ours, or any in the Hugging Face layout), of a tokenizer.json or a GGUF.

    ⊥ is the tokenizer's bos, else the bos of config.json, else eos, else cls, else its only special token.
    """
    directory = path.parent if path.name == "tokenizer.json" else path
    if path.is_file() and directory == path and not is_gguf(path):
        raise ModelError(f"{path}: wanted a directory with tokenizer.json, or that file: got another file")
    return Tokenizer(*tokenizer_files.read(directory))


def _ours(inner: tokenizers.Tokenizer, mask: bool) -> Tokenizer:
    """`inner` with ⊥ as its last id, in front of every text that transformers encodes; with a mask, right before it."""
    if mask:  # for " cat", not for "cat" behind a space
        inner.add_special_tokens([AddedToken(MASK, special=True, normalized=False, lstrip=True)])
    inner.add_special_tokens([AddedToken(BOTTOM, special=True, normalized=False)])
    bottom = inner.get_vocab_size() - 1
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOTTOM} $A", pair=f"{BOTTOM} $A {BOTTOM} $B", special_tokens=[(BOTTOM, bottom)]
    )
    others = {"mask_token": MASK, "cls_token": BOTTOM} if mask else {}
    files = with_settings({"tokenizer.json": inner.to_str(pretty=True).encode()}, BOTTOM, mask, **others)
    return Tokenizer(files, bottom)


def byte_tokenizer(mask: bool = False) -> Tokenizer:
    """One token a byte of UTF-8: 0 .. 255, and ⊥ = 256; with a mask 256 and ⊥ = 257."""
    return _ours(tables.single_bytes(), mask)


def character_tokenizer(texts: Iterable[str], mask: bool = False) -> Tokenizer:
    """One token for each character that `texts` have, in the order of their code points, and then ⊥."""
    seen = np.zeros(0x110000, bool)
    for text in _unicode(texts):
        seen[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
    if not seen.any():
        raise ModelError("wanted text to take the characters from, got none: give some")
    return _ours(tables.characters(map(chr, np.flatnonzero(seen))), mask)


def train_bpe(
    texts: Iterable[str], vocabulary_size: int, mask: bool = False, *, pattern: str = bytepair.LLAMA3
) -> Tokenizer:
    """Byte-level BPE with `vocabulary_size` ids: 256 bytes, ⊥, and merges (fewer, if `texts` have no more to merge).

    `pattern` is the regular expression that cuts a text into the pieces whose inside may be merged.
    """
    if vocabulary_size < 257 + mask:
        raise ModelError(
            f"wanted a vocabulary of at least {257 + mask} (256 bytes, ⊥{', a mask' * mask}), got {vocabulary_size}:"
            " raise it"
        )
    return _ours(bytepair.train(_unicode(texts), vocabulary_size - 1 - mask, pattern), mask)
