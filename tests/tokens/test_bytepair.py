"""tiktoken gives the ids of `tokenizers`, or is not used."""

import json
import re
import time
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from chainrule.tokens import bytepair
from chainrule.tokens.fast_encoding import SAFE_CUT

TEXT = (
    "It's the king's own word, we'll say; they've 15 ships, 2048 men and I'M NOT SURE 'twas 3.1415.\n\n"
    "def f(x):\n    return x  # über naïve café\r\n"
    "\tنص عربي और हिन्दी 漢字かな交じり文 👩‍👩‍👧 ﬁ ſ İ\u00a0\u3000\u2028end "
)
# What the patterns disagree about: case folding, kinds of white space and of digits, marks, control characters.
PARTS = [
    *"'sStTlLvVeErRmMdDſK ",
    "'ll",
    "'LL",
    "'re",
    "'ve",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\t",
    "\x0b",
    "\x1c",
    "\x1f",
    "\x85",
]
PARTS += [
    "\xa0",
    "\u180e",
    "\u200b",
    "\u2028",
    "\u3000",
    "ab",
    "15",
    "2048",
    "٣",
    "½",
    "Ⅷ",
    "中",
    "é",
    "e\u0301",
    "ि",
    "\u0300",
]
PARTS += ["...", "?!", "_", "-", "👩‍👩‍👧", "ﬁ", "İ", "\0", "\U0010ffff", "<|bottom|>", "\ufffd", "ﬆ", "ß"]
every_pattern = pytest.mark.parametrize("pattern", bytepair.PATTERNS, ids=["gpt2", "qwen2", "llama3", "ours"])
texts = st.one_of(st.text(), st.lists(st.sampled_from(PARTS), max_size=40).map("".join))


@cache
def trained(pattern: str, vocabulary_size: int = 700) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if pattern == bytepair.GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def spec(tokenizer: tokenizers.Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())


@cache
def encoding(pattern: str):
    return bytepair.tiktoken_encoding(spec(trained(pattern)))


def both(pattern: str, text: str) -> tuple[list[int], list[int]]:
    slow = trained(pattern).encode(text, add_special_tokens=False).ids
    return slow, encoding(pattern).encode_to_numpy(text, disallowed_special=()).tolist()


@every_pattern
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_tiktoken_gives_the_ids_of_tokenizers_for_any_text(pattern: str, text: str):
    slow, fast = both(pattern, text)
    assert fast == slow


@every_pattern
def test_tiktoken_gives_the_ids_of_tokenizers_for_every_code_point(pattern: str):
    assigned = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]  # and some that are not
    points = [chr(point) for point in assigned]
    for start in range(0, len(points), 1 << 16):
        slow, fast = both(pattern, "".join(f"a{point} " for point in points[start : start + (1 << 16)]))
        assert fast == slow


@every_pattern
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_at_a_safe_cut_the_ids_of_the_halves_are_those_of_the_whole(pattern: str, text: str):
    whole, _ = both(pattern, text)
    for match in SAFE_CUT.finditer(text):
        first, second = text[: match.end()], text[match.end() :]
        assert both(pattern, first)[0] + both(pattern, second)[0] == whole


@every_pattern
@given(text=texts)
def test_a_pattern_matches_all_of_a_text(pattern: str, text: str):
    assert encoding(pattern).decode(both(pattern, text)[1]) == text


def test_the_first_pattern_keeps_a_number_with_its_space_and_marks_with_their_letter():
    tokenizer = bytepair.train(["a 15 12345 हिन्दी?\n"], 256, bytepair.FIRST)
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a 15 12345 हिन्दी?\n")]
    assert [bytepair.token_bytes(piece).decode() for piece in pieces] == ["a", " 15", " 123", "45", " हिन्दी", "?", "\n"]


def test_token_bytes_undo_byte_characters():
    assert [bytepair.token_bytes(character) for character in bytepair.byte_characters()] == [
        bytes([byte]) for byte in range(256)
    ]


def merging(*pairs: str) -> dict:
    """The description of a tokenizer with `pairs` such as "a b" as its merges."""
    tokens = [*bytepair.byte_characters(), *dict.fromkeys(pair.replace(" ", "") for pair in pairs)]
    ids = {token: id for id, token in enumerate(tokens)}
    model = models.BPE(ids, [(one, other) for one, other in map(str.split, pairs)])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return spec(tokenizer)


def test_merges_in_order_are_given_to_tiktoken():
    assert bytepair.tiktoken_encoding(merging("a b", "ab c")) is not None


def test_where_tiktoken_would_differ_it_is_not_used():
    two_ways = merging("a b", "b c", "ab c", "a bc")
    never_made = merging("a b", "b c", "a bc")  # abc becomes ab, c: tiktoken would make it abc
    assert tokenizers.Tokenizer.from_str(json.dumps(never_made)).encode("abc").tokens == ["ab", "c"]
    late = merging("a b", "ab c")
    late["model"]["vocab"] |= {"ab": 257, "abc": 256}
    too_early = merging("a b", "ab c")
    too_early["model"]["merges"].reverse()
    for description in (two_ways, never_made, late, too_early):
        assert bytepair.tiktoken_encoding(description) is None


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"added_tokens": [{"id": 999, "content": "<think>", "special": False}]},
    ],
)
def test_what_changes_the_text_before_the_merges_keeps_tiktoken_away(change: dict):
    assert bytepair.tiktoken_encoding(merging("a b") | change) is None


@pytest.mark.parametrize("option", ["ignore_merges", "byte_fallback", "continuing_subword_prefix"])
def test_other_ways_of_merging_keep_tiktoken_away(option: str):
    description = merging("a b")
    description["model"][option] = "##" if option == "continuing_subword_prefix" else True
    assert bytepair.tiktoken_encoding(description) is None


def test_a_missing_byte_keeps_tiktoken_away():
    description = merging("a b")
    del description["model"]["vocab"]["Ġ"]
    assert bytepair.tiktoken_encoding(description) is None


@every_pattern
def test_the_installed_libraries_agree_and_to_find_it_out_is_quick(pattern: str):
    assert bytepair.libraries_agree(pattern)
    started = time.process_time()
    bytepair.libraries_agree.__wrapped__(pattern)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("letter", ["\U00031350", "\u1c89", "\U00013460", "\u0897", "\U0001d2c0"])
def test_where_one_library_does_not_know_a_character_yet_tiktoken_is_not_used(
    letter: str, monkeypatch: pytest.MonkeyPatch
):
    """As tokenizers 0.21.0, which knows no letter, digit or mark of Unicode 15 and later."""
    unknowing = re.sub(r"(?<!\^)\\p\{([LNM])\}", rf"(?:(?!{letter})\\p{{\1}})", bytepair.GPT2)
    split = bytepair.split_by
    monkeypatch.setattr(bytepair, "split_by", lambda pattern, prefix_space=False: split(unknowing, prefix_space))
    assert not bytepair.libraries_agree.__wrapped__(bytepair.GPT2)
    monkeypatch.setattr(bytepair, "libraries_agree", lambda pattern: False)
    assert bytepair.tiktoken_encoding(merging("a b")) is None
