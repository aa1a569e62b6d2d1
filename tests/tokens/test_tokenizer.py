"""Text to tokens and back."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from chainrule.tokens.fast_encoding import LONGEST, WORTHWHILE
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

TEXT = "Once upon a time,  it's 15 o'clock:\n\n\twhere is the café? — 漢字 👩‍👩‍👧 <|bottom|>\r\n " * 3


@cache
def ours(kind: str) -> Tokenizer:
    if kind == "byte":
        return byte_tokenizer()
    return character_tokenizer([TEXT]) if kind == "char" else train_bpe([TEXT], 400)


every_kind = pytest.mark.parametrize("kind", ["byte", "char", "bpe"])


def texts_of(kind: str) -> st.SearchStrategy[str]:
    return st.text(alphabet=sorted(set(TEXT))) if kind == "char" else st.text()


@every_kind
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_decode_after_encode_is_identity(kind: str, data: st.DataObject):
    text = data.draw(texts_of(kind))
    tokens = ours(kind).encode(text)
    assert ours(kind).decode(tokens) == text
    assert ours(kind).bos_id not in tokens
    assert all(0 <= token < ours(kind).vocabulary_size for token in tokens)


@every_kind
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_fast_ways_give_the_ids_of_the_tokenizers_library(kind: str, data: st.DataObject):
    text = data.draw(texts_of(kind))
    assert (ours(kind)._fast.tiktoken is not None) == (
        kind == "bpe"
    )  # made: few characters alone would not be worth it
    plain = tokenizers.Tokenizer.from_str(ours(kind)._inner.to_str())
    plain.encode_special_tokens = True
    assert ours(kind)._spec["added_tokens"][0]["id"] == ours(kind).bos_id
    assert ours(kind).encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert [array.tolist() for array in ours(kind).encode_batch([text, TEXT])] == [
        ours(kind).encode(text),
        ours(kind).encode(TEXT),
    ]


def test_the_fast_way_is_made_once_it_saves_time_and_gives_the_same_ids():
    tokenizer = train_bpe([TEXT], 400)
    few = tokenizer.encode(TEXT)
    assert "tiktoken" not in vars(tokenizer._fast)
    many = tokenizer.encode_batch([TEXT] * (WORTHWHILE // len(TEXT) + 1))
    assert "tiktoken" in vars(tokenizer._fast)
    assert {tuple(ids.tolist()) for ids in many} == {tuple(few)}


def test_each_of_ours_has_a_fast_way():
    assert ours("byte").is_table and ours("char").is_table and not ours("bpe").is_table
    assert ours("bpe")._fast.tiktoken is not None


@every_kind
def test_bos_is_the_last_id_and_text_that_spells_it_stays_text(kind: str):
    tokenizer = ours(kind)
    assert tokenizer.bos_id == tokenizer.vocabulary_size - 1
    assert tokenizer.decode(tokenizer.encode("<|bottom|>")) == "<|bottom|>"
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("at"), tokenizer.bos_id]) == "at"


@every_kind
@pytest.mark.parametrize("model_type", [None, "qwen3", "gpt2", "llama", "bert"])
def test_transformers_gives_the_same_ids_with_bos_in_front(kind: str, model_type: str | None, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = ours(kind)
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    tokens = theirs(TEXT)["input_ids"]
    assert tokens == [tokenizer.bos_id, *tokenizer.encode(TEXT)]
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == tokenizer.encode(TEXT)
    assert theirs.decode(tokens, skip_special_tokens=True) == TEXT
    assert theirs.bos_token_id == theirs.eos_token_id == theirs.pad_token_id == tokenizer.bos_id
    batch = theirs(["a", "time"], padding=True)["input_ids"]
    assert batch[0][0] == tokenizer.bos_id and len(batch[0]) == len(batch[1]), "padded on the right"


@every_kind
def test_save_then_load_is_identity(kind: str, tmp_path: Path):
    ours(kind).save(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a" / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert (loaded.hash, loaded.bos_id, loaded.vocabulary_size) == (
            ours(kind).hash,
            ours(kind).bos_id,
            ours(kind).vocabulary_size,
        )
        assert loaded.encode(TEXT) == ours(kind).encode(TEXT)
    loaded.save(tmp_path / "b")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == files


def test_training_again_gives_the_same_tokenizer():
    assert train_bpe([TEXT, "more"], 350).hash == train_bpe([TEXT, "more"], 350).hash
    assert train_bpe([TEXT], 300).hash != train_bpe([TEXT], 301).hash


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    assert train_bpe([TEXT], 257).vocabulary_size == 257
    with pytest.raises(ValueError, match=r"at least 257.*got 256"):
        train_bpe([TEXT], 256)


def test_bytes_keep_their_value():
    assert ours("byte").encode("aé") == [97, 0xC3, 0xA9]
    assert ours("byte").bos_id == 256


def test_an_unseen_character_is_named_with_its_place():
    tokenizer = character_tokenizer(["abc\n"])
    assert tokenizer.vocabulary_size == 5
    with pytest.raises(ValueError, match=r"character 6 \(line 3\).*'é' \(U\+00E9\).*among the 4 characters"):
        tokenizer.encode("abc\n\nbé")
    for unseen in ("\0", "d", "\U0010ffff"):
        with pytest.raises(ValueError, match="vocabulary"):
            tokenizer.encode(unseen)
    with pytest.raises(ValueError, match="got none"):
        character_tokenizer([])


@every_kind
def test_a_lone_surrogate_is_no_text(kind: str):
    with pytest.raises(ValueError, match=r"U\+D800"):
        ours(kind).encode("a\ud800")


@pytest.mark.parametrize("make", [character_tokenizer, lambda texts: train_bpe(texts, 300)])
def test_no_tokenizer_is_made_of_a_lone_surrogate(make):
    with pytest.raises(ValueError, match=r"U\+D800 at character 1"):
        make(["a\ud800"])


@pytest.mark.parametrize("text", [" " * 600_000, "\n " * 300_000, "a" * 600_000, "a " * 300_000, "x\n" * 300_000])
def test_a_text_of_any_length_is_encoded(text: str):
    tokenizer = ours("bpe")
    assert len(text) > LONGEST
    tokens = tokenizer.encode(text)
    assert tokens == tokenizer._inner.encode(text, add_special_tokens=False).ids


def test_pieces_show_each_token_alone():
    byte = ours("byte")
    assert byte.token_texts([byte.bos_id, *byte.encode("aé\n")]) == ["⊥", "a", r"\xc3", r"\xa9", "\n"]
    assert "".join(ours("bpe").token_texts(ours("bpe").encode(" time's 15"))) == " time's 15"
    assert ours("char").token_texts(ours("char").encode("漢 字")) == ["漢", " ", "字"]
    assert byte.token_texts([1000]) == ["\ufffd"]


def test_incomplete_utf8_becomes_the_replacement_character():
    assert ours("byte").decode([97, 0xE2, 0x82]) == "a\ufffd"
    assert ours("byte").decode(np.array([97, 256, 98])) == "ab"


def foreign(directory: Path, *special: str, **settings: object) -> tokenizers.Tokenizer:
    """A tokenizer as others make them, in `directory`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.enable_truncation(2)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in settings.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return tokenizer


@pytest.mark.parametrize(
    ("bos", "settings"),
    [
        ("<s>", {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>"}, "config": {"bos_token_id": 257}}),
        ("<s>", {"tokenizer_config": {"bos_token": {"content": "<s>"}}}),
        ("<s>", {"special_tokens_map": {"bos_token": "<s>"}}),
        ("</s>", {"tokenizer_config": {"bos_token": None, "eos_token": "<s>"}, "config": {"bos_token_id": 257}}),
        ("</s>", {"tokenizer_config": {"eos_token": "</s>", "cls_token": "<s>"}}),
        ("</s>", {"config": {"eos_token_id": [257, 256]}}),
        ("<s>", {"tokenizer_config": {"cls_token": "<s>"}}),
    ],
)
def test_the_bos_of_others_is_the_one_they_name_else_the_configs_else_eos_else_cls(
    bos: str, settings: dict, tmp_path: Path
):
    inner = foreign(tmp_path, "<s>", "</s>", **settings)
    assert load_tokenizer(tmp_path).bos_id == inner.token_to_id(bos)


def test_a_lone_tokenizer_file_needs_one_special_token(tmp_path: Path):
    inner = foreign(tmp_path / "one", "<|endoftext|>")
    assert load_tokenizer(tmp_path / "one" / "tokenizer.json").bos_id == inner.token_to_id("<|endoftext|>")
    foreign(tmp_path / "two", "<a>", "<b>")
    with pytest.raises(ValueError, match="bos_token"):
        load_tokenizer(tmp_path / "two")


def test_files_of_others_are_copied_byte_for_byte(tmp_path: Path):
    foreign(tmp_path / "a", "<s>", tokenizer_config={"bos_token": "<s>", "extra": 1}, special_tokens_map={})
    (tmp_path / "a" / "vocab.json").write_text("{} ")
    (tmp_path / "a" / "weights.bin").write_text("none of ours")
    tokenizer = load_tokenizer(tmp_path / "a")
    assert len(tokenizer.encode("long text")) == 9, "their truncation is not ours"
    tokenizer.save(tmp_path / "b")
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_word_piece_tokenizer_goes_through_the_tokenizers_library(tmp_path: Path):
    inner = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "ab": 2, "##c": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[CLS]", "[UNK]"])
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"cls_token": "[CLS]"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("abc ab [CLS]") == [2, 3, 2, 0, 0, 0]
    assert [array.tolist() for array in tokenizer.encode_batch(["abc", "ab"])] == [[2, 3], [2]]
    assert tokenizer.token_texts([1, 2, 3, 0]) == ["⊥", "ab", "##c", "[UNK]"]
    assert tokenizer.cut("ab ab") == 0


def test_what_is_no_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a b")
    with pytest.raises(ValueError, match="got another file"):
        load_tokenizer(tmp_path / "merges.txt")
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
    ours("byte").save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_tokenizer(tmp_path)
