"""Pieces of text are final: no character is split, no stop string shows, and nothing is lost."""

from collections.abc import Sequence

import pytest
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from chainrule.generation.sampling import Sampling
from chainrule.generation.text import Completion, Ending, TextStream, complete
from chainrule.tokens.make import byte_tokenizer, train_bpe

BYTES = byte_tokenizer()
BPE = train_bpe(["the cat sat on the mat, the end. né né 😀😀 日本語 日本"] * 20, 300)
TEXT = some.text(some.sampled_from("ab .né😀日本"), max_size=40)


def pieces(decode, tokens: Sequence[int], prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> list[str]:
    stream, found = TextStream(decode, prompt, stop), []
    for token in tokens:
        found.append(stream.push(token))
        if stream.stopped:
            break
    return [*found, stream.finish()]


@given(TEXT, TEXT)
def test_pieces_joined_are_the_text_and_no_piece_splits_a_character(prompt: str, text: str) -> None:
    for tokenizer in (BYTES, BPE):
        found = pieces(tokenizer.decode, tokenizer.encode(text), tokenizer.encode(prompt))
        assert "".join(found) == text
        assert not any("\ufffd" in piece for piece in found)


def test_a_character_is_given_out_with_its_last_byte() -> None:
    assert pieces(BYTES.decode, BYTES.encode("é😀a")) == ["", "é", "", "", "", "😀", "a", ""]


@given(some.binary(max_size=120))
def test_bytes_that_are_no_text_lose_nothing_either(content: bytes) -> None:
    assert "".join(pieces(BYTES.decode, list(content))) == BYTES.decode(list(content))


@given(some.lists(some.sampled_from([0xFF, 0x80, *"😀é".encode(), 0x41, 256]), max_size=120))
def test_broken_characters_in_a_long_row_lose_nothing(tokens: list[int]) -> None:
    assert "".join(pieces(BYTES.decode, tokens)) == BYTES.decode(tokens)


def test_what_is_incomplete_at_the_end_is_given_out_as_the_tokenizer_reads_it() -> None:
    assert pieces(BYTES.decode, BYTES.encode("a😀")[:-1]) == ["a", "", "", "", "\ufffd"]


def reference(text: str, stop: Sequence[str]) -> str:
    """Letter by letter: the first stop string to be complete ends the text, and of those the longest."""
    for end in range(len(text) + 1):
        complete = [len(one) for one in stop if text[:end].endswith(one)]
        if complete:
            return text[: end - max(complete)]
    return text


@given(some.text("abc😀", max_size=30), some.lists(some.text("abc😀", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_cuts_exactly_wherever_the_tokens_end(text: str, stop: list[str]) -> None:
    bpe = train_bpe(["abcabcaabbcc😀😀ab"], 275)
    for tokenizer in (BYTES, bpe):
        assert "".join(pieces(tokenizer.decode, tokenizer.encode(text), stop=stop)) == reference(text, stop)


def test_what_only_began_like_a_stop_string_is_given_out() -> None:
    assert pieces(BYTES.decode, BYTES.encode("x\n\ny\n"), stop=["\n\n\n"]) == ["x", "", "", "\n\ny", "", "\n"]


def test_nothing_is_given_out_after_a_stop_string() -> None:
    stream = TextStream(BPE.decode, [], ["cat"])
    text = "".join(map(stream.push, BPE.encode("the cat")))
    assert (text, stream.stopped, stream.finish()) == ("the ", True, "")


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(ValueError, match="stop: wanted strings of at least one character"):
        TextStream(BYTES.decode, [], ["a", ""])


def sentencepiece_like() -> Inner:
    """As Llama's: ▁ for a space, dropped where a text begins; bytes for what is not in the vocabulary."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁cat", "s", "é"]
    inner = Inner(models.BPE({name: id for id, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def id_of(inner: Inner, token: str) -> int:
    id = inner.token_to_id(token)
    assert id is not None
    return id


def test_a_tokenizer_that_drops_the_first_space_keeps_the_others() -> None:
    inner = sentencepiece_like()
    the, cat, s = (id_of(inner, name) for name in ("▁the", "▁cat", "s"))
    emoji = [id_of(inner, f"<0x{byte:02X}>") for byte in "😀".encode()]
    assert pieces(inner.decode, [the, cat, s, *emoji, cat]) == ["the", " cat", "s", "", "", "", "😀", " cat", ""]
    assert pieces(inner.decode, [cat, s], prompt=[the]) == [" cat", "s", ""]
    many = [the, cat, s, *emoji] * 50
    assert "".join(pieces(inner.decode, many)) == inner.decode(many)


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return BYTES.decode(tokens)

    for tokens in (BYTES.encode("the cat 😀 " * 100), [0xFF] * 1000, [0x80, 0xF0, 0x9F] * 300):
        assert "".join(pieces(decode, tokens)) == BYTES.decode(tokens)
    assert longest < 50


SPECIAL = {"<s>": 257, "<s>end": 258, "</s>": 259}  # left out of the text, as by a tokenizer's `decode`


def shown(tokens: Sequence[int]) -> str:
    return BYTES.decode([token for token in tokens if token < 256])


def stopped_by(stop: Sequence[str], tokens: Sequence[int]) -> tuple[str, bool, int]:
    """The text, whether a stop string ended it, and how many tokens that took."""
    stream, found = TextStream(shown, [], stop, SPECIAL), []
    for count, token in enumerate(tokens, 1):
        found.append(stream.push(token))
        if stream.stopped:
            return "".join(found), True, count
    return "".join([*found, stream.finish()]), False, len(tokens)


def test_a_stop_string_that_is_a_special_token_stops_on_the_token() -> None:
    assert stopped_by(["<s>"], [97, 98, 257, 99]) == ("ab", True, 3)
    assert stopped_by(["x", "</s>"], [97, 259]) == ("a", True, 2)
    assert stopped_by(["<s>"], BYTES.encode("a<s>b")) == ("a", True, 4), "or where letters spell it"
    assert stopped_by(["<s>"], [97, 259, 98]) == ("ab", False, 3), "another special token stops nothing"
    assert stopped_by(["<s>end"], [258, 97]) == ("", True, 1), "the longest spelling is the token"


def test_a_stop_string_may_have_special_tokens_in_it() -> None:
    assert stopped_by(["\n<s>user"], [97, 10, 257, *BYTES.encode("user"), 98]) == ("a", True, 7)
    assert stopped_by(["</s>\n"], [97, 259, 98, 259, 10]) == ("ab", True, 5)
    assert stopped_by(["\n<s>user"], [97, 10, 257, *BYTES.encode("use")]) == ("a\nuse", False, 6)


@given(some.text("ab<>😀é", max_size=40))
def test_a_special_token_of_a_stop_string_never_shows_and_changes_no_other_text(marked: str) -> None:
    tokens = [token for one in marked for token in ({"<": [257], ">": [259]}.get(one) or one.encode())]
    text, stopped, _ = stopped_by(["<s>ab</s>", "</s>b"], tokens)
    assert stopped == ("<ab>" in marked or ">b" in marked)
    assert text == reference(marked, ["<ab>", ">b"]).translate({ord("<"): None, ord(">"): None})


def test_generation_stops_on_the_special_token_that_a_stop_string_spells() -> None:
    tokenizer, model = byte_tokenizer(mask=True), random_model("gpt2", vocabulary_size=258, context=64)

    def made(stop: Sequence[str]) -> list[Completion]:
        asked = {"samples": 16, "ending": Ending(60, stop, ()), "seed": 0}
        last = {new.sequence: new.completion for new in complete(model, tokenizer, [[257]], Sampling(), **asked)}
        return [last[sequence] for sequence in sorted(last)]

    ends = 0
    for free, stopped in zip(made([]), made(["[MASK]"]), strict=True):
        end = free.tokens.index(256) if 256 in free.tokens else len(free.tokens)
        assert stopped.tokens == free.tokens[: end + 1]
        assert stopped.text.rstrip("\ufffd") == tokenizer.decode(free.tokens[:end]).rstrip("\ufffd")
        assert stopped.finish_reason == ("stop" if end < len(free.tokens) else "length")
        ends += end < len(free.tokens)
    assert 0 < ends < 16


def test_what_a_shell_hands_on_as_a_backslash_and_a_letter_is_the_character() -> None:
    from chainrule.commands.options import unescape

    assert unescape("a\\nb\\tc\\\\n\\x\\") == "a\nb\tc\\n\\x\\"
    assert unescape("\n") == "\n"
