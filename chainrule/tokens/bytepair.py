"""Byte-level byte-pair encoding: its training, and whether tiktoken gives exactly the ids of `tokenizers`.
Knows merges and patterns, no special tokens and no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from tiktoken import Encoding

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# That of the runs of chainrule's first version; llama.cpp has no name for it, so they cannot become GGUF files.
FIRST = (
    r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Each of these matches every character (so tiktoken drops none), depends on nothing before a match, and never matches a
# character other than white space together with a space after it (so `Tokenizer.cut` is safe).
PATTERNS = (GPT2, QWEN2, LLAMA3, FIRST)


@cache
def byte_characters() -> tuple[str, ...]:
    """The printable character that stands for each byte 0 .. 255 in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    character = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return tuple(character[byte] for byte in range(256))


@cache
def _byte_values() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def token_bytes(token: str) -> bytes:
    """The bytes of a `token` of a byte-level vocabulary."""
    return bytes(_byte_values()[character] for character in token)


def train(texts: Iterable[str], vocabulary_size: int, pattern: str = LLAMA3) -> Tokenizer:
    """All 256 bytes and the most frequent merges in `texts`, at most `vocabulary_size` ids in all.

    No token goes beyond a match of the regular expression `pattern`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_by(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return tokenizer


def split_by(pattern: str, prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Splits into the matches of `pattern`, their bytes as characters; with a space in front, where a text has none."""
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_of])


def keeps_text(spec: dict[str, Any]) -> bool:
    """Whether the model of the tokenizer.json `spec` gets the text unchanged: no normalizer, no added token in text."""
    return spec["normalizer"] is None and all(token["special"] for token in spec["added_tokens"])


def _pattern(pre_tokenizer: Any) -> str | None:
    """The one of PATTERNS that a `pre_tokenizer` of tokenizer.json splits by; None for any other."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern in PATTERNS:
            return str(pattern)
    return None


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a BPE `model` of tokenizer.json: pairs, in earlier files two tokens with a space between."""
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]


def each_is_itself(ids: dict[str, int], merges: list[tuple[str, str]]) -> bool:
    """Whether the merges make each token of the bytes that it is spelled with."""
    encoded = Tokenizer(models.BPE(vocab=ids, merges=merges)).encode_batch(list(ids))
    return all(encoding.ids == [id] for id, encoding in zip(ids.values(), encoded, strict=True))


def _ranks(model: dict[str, Any], added: set[str]) -> dict[bytes, int] | None:
    """bytes -> id of a BPE `model` of tokenizer.json, if merging by the least id equals merging by its merges; or None.

    tiktoken merges any two neighbours whose bytes together are a token, the least id first. That is the same if every
    token has one merge, of two earlier tokens, ids rise in merge order, and each token's bytes alone encode to it: then
    the last two neighbours with its bytes are always the two parts of its merge.
    """
    others = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(option) for option in others):
        return None
    ids: dict[str, int] = {token: id for token, id in model["vocab"].items() if token not in added}
    merges = merges_of(model)
    made, last = set(byte_characters()), -1
    for left, right in merges:
        product = left + right
        if product in made or left not in made or right not in made or ids.get(product, -1) <= last:
            return None
        made.add(product)
        last = ids[product]
    if made != set(ids) or not each_is_itself(ids, merges):
        return None
    return {token_bytes(token): id for token, id in ids.items()}


def tiktoken_encoding(spec: dict[str, Any]) -> Encoding | None:
    """tiktoken's encoding that gives, for every Unicode text, the ids of the tokenizer.json `spec`; None if unsure."""
    pattern = _pattern(spec["pre_tokenizer"])
    if pattern is None or not keeps_text(spec):
        return None
    ranks = _ranks(spec["model"], {token["content"] for token in spec["added_tokens"]})
    if ranks is None or not libraries_agree(pattern):
        return None
    from tiktoken import Encoding

    return Encoding("chainrule", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


# Characters that patterns and versions of Unicode treat differently: white space, case, marks and digits; then some of
# the letters, digits and marks that Unicode 14, 15, 15.1, 16 and 17 added.
AWKWARD = (
    "sSkKſİﬁßéℵ中½³Ⅷ٣\u0301\u093f\u0900\0_?👩\u200d\ufffd\U0010ffff"
    "\t\r\x0b\x1c\x85\xa0\u180e\u200b\u2028\u3000"
    "\U00010570\U0001e290\U00016a70\U00016ac0\u0898"
    "\u0cf3\u0ece\U00010efd\U00011f04\U00011f50\U00011f00\U0001d2c0\U0001e030\U0001e4d0\U00031350\U0002ebf0"
    "\u0897\u1c89\ua7cb\U000105c0\U00010d40\U00010d69\U00011380\U000116d0\U00013460\U00016d40\U0001ccf0\U0001e5d0"
    "\u1acf\ua7ce\U00010940\U00011db0\U00011de0\U00016ea0\U000323b0"
)


@cache
def libraries_agree(pattern: str) -> bool:
    """Whether the installed tiktoken and tokenizers split AWKWARD alike. Each has its own table of Unicode, and a
    character that is a letter in only one of them is split from its word in the other.

    A vocabulary that merges whatever precedes a character with its first byte shows where they split.
    """
    before, first = ("a", "1", ".", byte_characters()[ord(" ")]), sorted({one.encode()[0] for one in AWKWARD})
    merges = [(left, byte_characters()[byte]) for left in before for byte in first]
    ids = {token: id for id, token in enumerate([*byte_characters(), *map("".join, merges)])}
    from tiktoken import Encoding

    ranks = {token_bytes(token): id for token, id in ids.items()}
    fast = Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    slow = Tokenizer(models.BPE(ids, merges))
    slow.pre_tokenizer = split_by(pattern)
    text = "".join(f"a{one} {one}1{one}.{one}\n{one}\n'{one}" for one in AWKWARD)
    return bool(fast.encode_to_numpy(text, disallowed_special=()).tolist() == slow.encode(text).ids)
