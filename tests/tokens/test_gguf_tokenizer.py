"""A tokenizer written into a GGUF and rebuilt from it gives the same ids; what llama.cpp lacks is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from chainrule.errors import ModelError
from chainrule.storage.gguf_writer import write_gguf
from chainrule.tokens import bytepair
from chainrule.tokens.gguf_metadata import tokenizer_metadata
from chainrule.tokens.gguf_patterns import SPLITTINGS, name_of
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

AWKWARD = (
    *("", " ", "   ", "\n", "\n\n\n a", "\t\tb\r\n", " leading", "trailing ", "two  spaces", "Hello, world!"),
    *("12345 6 78.9", "I'll we'VE DON'T 's", "naïve café", "e\u0301 é", "日本語の文", "हिन्दी में", "العربية", "한국어"),
    *(
        "🚀👩\u200d🚀🏽",
        "ﬁ ½ Ⅷ ²",
        "x" * 50,
        "<|bottom|>",
        "<|im_start|>user",
        "<s></s>",
        "a\u00a0b\u3000c\u200b",
        "_a__b",
    ),
    *("▁a ▁", "<0x0A>", "C:\\path\\n", "{'a': [1, 2]}", "\u0000\u0001", "ÀÉ àé", "ß ſ K"),
)
LEARNED = [
    "The quick brown fox isn't 12345 lazy, isn't it?\n\n  naïve café 日本語 हिन्दी 🚀 <s> x = y;\n" * 4,
    " ".join(AWKWARD),
]


def back(tokenizer: Tokenizer, folder: Path, more: dict[str, Any] | None = None, size: int | None = None) -> Tokenizer:
    """What is read of what is written."""
    metadata = tokenizer_metadata(tokenizer, (tokenizer.bos_id,), size or tokenizer.vocabulary_size)
    write_gguf(folder / "model.gguf", {"general.architecture": "llama", **metadata, **(more or {})}, [])
    return load_tokenizer(folder / "model.gguf")


def same(one: Tokenizer, other: Tokenizer) -> None:
    for text in AWKWARD:
        ids = one.encode(text)
        assert other.encode(text) == ids, text
        assert other.decode(ids) == one.decode(ids), text


@pytest.mark.parametrize("pattern", [bytepair.LLAMA3, bytepair.QWEN2, bytepair.GPT2], ids=["llama3", "qwen2", "gpt2"])
def test_byte_pairs_come_back_with_their_pattern(pattern: str, tmp_path: Path) -> None:
    ours = train_bpe(LEARNED, 400, pattern=pattern)
    theirs = back(ours, tmp_path, size=410)
    same(ours, theirs)
    assert (theirs.bos_id, theirs.vocabulary_size) == (ours.bos_id, ours.vocabulary_size)
    assert theirs.token_texts([ours.bos_id]) == ours.token_texts([ours.bos_id])


def test_bytes_come_back(tmp_path: Path) -> None:
    same(byte_tokenizer(), back(byte_tokenizer(), tmp_path))


def test_characters_come_back_and_an_unseen_one_is_an_error_there_too(tmp_path: Path) -> None:
    ours = character_tokenizer(AWKWARD)
    theirs = back(ours, tmp_path)
    same(ours, theirs)
    assert theirs.is_table
    with pytest.raises(ModelError, match="is not among the"):
        theirs.encode("\U0001f9ff")


def test_a_new_byte_pair_tokenizer_has_a_pattern_that_llama_cpp_has() -> None:
    spec = json.loads(train_bpe(LEARNED, 300).definition)
    assert name_of(spec["pre_tokenizer"], nfc=False) == "llama-bpe"


def test_a_pattern_without_a_name_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenize the text again, and pretrain on that"):
        back(train_bpe(LEARNED, 300, pattern=bytepair.FIRST), tmp_path)


def test_an_unknown_pre_tokenizer_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wanted tokenizer\.ggml\.pre to be one of .*, got 'no-such'"):
        back(byte_tokenizer(), tmp_path, {"tokenizer.ggml.pre": "no-such"})
    with pytest.raises(ModelError, match=r"wanted tokenizer\.ggml\.model to be gpt2 .*, got 'bert'"):
        back(byte_tokenizer(), tmp_path, {"tokenizer.ggml.model": "bert"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.tokens", [1, 2], "to be a list of str"),
        ("tokenizer.ggml.tokens", [], "got none"),
        ("tokenizer.ggml.tokens", "abc", "to be a list, got 'abc'"),
        ("tokenizer.ggml.token_type", [1, 2], "an entry for each of 257 tokens, got 2"),
        ("tokenizer.ggml.merges", [1], "to be texts"),
        ("tokenizer.ggml.merges", ["a q"], "not a tokenizer that can be read"),
        ("tokenizer.ggml.bos_token_id", 257, "below 257"),
        ("tokenizer.ggml.bos_token_id", "a", "to be a whole number"),
        ("tokenizer.ggml.add_bos_token", 1, "to be true or false"),
        ("tokenizer.chat_template", 7, "to be a text"),
    ],
)
def test_metadata_of_a_wrong_kind_is_refused_in_one_line(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        back(byte_tokenizer(), tmp_path, {key: value})
    assert "\n" not in str(refused.value)


def sentencepiece(prefix: bool) -> Tokenizer:
    """One of Llama 2's kind: byte-pair encoding over characters, spaces as ▁, bytes for what is unknown."""
    inner = Inner(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Replace(" ", "▁")]
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.insert(0, normalizers.Prepend("▁"))
        back.append(decoders.Strip(" ", 1, 0))
    inner.normalizer = normalizers.Sequence(steps)
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(LEARNED, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    spec = json.loads(inner.to_str())
    spec["pre_tokenizer"], spec["added_tokens"] = None, spec["added_tokens"][:3]
    spec["decoder"] = json.loads(Inner.from_str(json.dumps(spec)).to_str())["decoder"]
    made = Inner.from_str(json.dumps(spec))
    made.decoder = decoders.Sequence(back)
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special[:3]])
    made.post_processor = None
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return Tokenizer(
        {"tokenizer.json": made.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}, 1
    )


@pytest.mark.parametrize("prefix", [True, False], ids=["a space in front", "none"])
def test_sentencepiece_comes_back(prefix: bool, tmp_path: Path) -> None:
    ours = sentencepiece(prefix)
    theirs = back(ours, tmp_path)
    same(ours, theirs)
    assert theirs.bos_id == 1 and theirs.encode("\U0001f9ff")[-1] != theirs.encode("\U0001f9fe")[-1]


def test_control_tokens_are_never_made_from_text_and_user_defined_ones_are_no_special_ones(tmp_path: Path) -> None:
    ours = byte_tokenizer()
    more = {
        "tokenizer.ggml.tokens": [*bytepair.byte_characters(), "<|bottom|>", "<|im_end|>", "<tool>", "[PAD259]"],
        "tokenizer.ggml.token_type": [*[1] * 256, 3, 3, 4, 5],
        "tokenizer.ggml.eos_token_id": 256,
    }
    theirs = back(ours, tmp_path, more)
    assert theirs.encode("<|im_end|>") == list(b"<|im_end|>")
    assert theirs.encode("a<tool>b") == [*b"a", 258, *b"b"]
    assert set(theirs.special) == {"<|bottom|>", "<|im_end|>"} and theirs.vocabulary_size == 259
    assert theirs.decode([97, 257, 258]) == "a<tool>"


def test_llama_3s_and_qwens_names_stand_for_the_patterns_that_we_train_with() -> None:
    for name, pattern in (("llama-bpe", bytepair.LLAMA3), ("qwen2", bytepair.QWEN2), ("gpt-2", bytepair.GPT2)):
        spec = json.loads(train_bpe(LEARNED, 300, pattern=pattern).definition)
        assert name_of(spec["pre_tokenizer"], SPLITTINGS[name].nfc) == name
