"""Tokenizers without tokenizer.json: the ids of transformers on awkward text, the same once saved, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from chainrule.errors import ModelError
from chainrule.tokens.tokenizer import load_tokenizer

AWKWARD = [
    "",
    " ",
    "Hello, world! It's 2024: don't  stop\n\n\tnow   ",
    "日本語のテキスト、中文文本。 한국어 문장 नमस्ते Ελληνικά Привет שלום",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 é ﬁ ½ ① \u200b\u00a0\u3000x",
    "spaces" + " " * 37 + "tabs\t\t\tand\r\nlines\r\r\n\n\n\n",
    "naïve CAFÉ ÀÉÎ WordPieces unaffable",
    "def f(x):\n    return x**2  # déjà\n",
]


def byte_pairs(directory: Path, special: list[str], **settings: Any) -> None:
    """vocab.json and merges.txt of a small vocabulary, as GPT-2's first files were."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(AWKWARD * 3, trainer)
    inner.model.save(str(directory))
    write(directory, **settings)


def word_pieces(directory: Path, **settings: Any) -> None:
    letters = sorted({letter for text in AWKWARD for letter in text + text.lower()} - set(" \n\t\r\u200b\u00a0\u3000"))
    pieces = [*letters, *(f"##{letter}" for letter in letters), "hello", "Hello", "world", "naive", "naïve", "##ffable"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (directory / "vocab.txt").write_text("\n".join([*special, *pieces]) + "\n", encoding="utf-8")
    write(directory, **settings)


def write(directory: Path, model_type: str, ids: dict[str, int] | None = None, **settings: Any) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, **(ids or {})}))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))


END, MARKS = "<|endoftext|>", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
OLD = {
    "gpt2, no settings": lambda path: byte_pairs(path, [END], model_type="gpt2", ids={"bos_token_id": 0}),
    "gpt2, a space in front": lambda path: byte_pairs(
        path, [END], model_type="gpt2", tokenizer_class="GPT2Tokenizer", add_prefix_space=True
    ),
    "opt": lambda path: byte_pairs(
        path, MARKS, model_type="opt", tokenizer_class="GPT2Tokenizer", add_bos_token=True, bos_token="</s>",
        eos_token="</s>", unk_token="</s>", pad_token="<pad>",
    ),
    "roberta": lambda path: byte_pairs(path, MARKS, model_type="roberta"),
    "roberta, fast": lambda path: byte_pairs(path, MARKS, model_type="roberta", tokenizer_class="RobertaTokenizerFast"),
    "qwen2": lambda path: byte_pairs(path, [END], model_type="qwen2", tokenizer_class="Qwen2Tokenizer"),
    "bert": lambda path: word_pieces(path, model_type="bert"),
    "bert, cased": lambda path: word_pieces(path, model_type="bert", do_lower_case=False),
    "bert, accents kept": lambda path: word_pieces(
        path, model_type="bert", strip_accents=False, tokenize_chinese_chars=False, tokenizer_class="BertTokenizer"
    ),
    "distilbert": lambda path: word_pieces(path, model_type="distilbert"),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_ids_are_those_of_transformers_before_and_after_saving(name: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    OLD[name](old)
    tokenizer, theirs = load_tokenizer(old), AutoTokenizer.from_pretrained(old)
    assert isinstance(theirs, transformers.PreTrainedTokenizerFast)
    tokenizer.save(new)
    again, there = load_tokenizer(new), AutoTokenizer.from_pretrained(new)
    for text in AWKWARD:
        wanted = theirs(text, add_special_tokens=False)["input_ids"]
        for ours in (tokenizer, again):
            assert list(ours.encode(text)) == wanted, text
            assert ours.decode(wanted) == theirs.decode(
                wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        assert there(text, add_special_tokens=False)["input_ids"] == wanted
        if tokenizer.closing:  # an encoder's, whose texts have their marks at both ends
            marked = [tokenizer.bos_id, *wanted, *tokenizer.closing]
            assert theirs(text)["input_ids"] == there(text)["input_ids"] == marked
    if "bert" in name:
        assert tokenizer.mask is not None and tokenizer.mask.id == theirs.mask_token_id


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"merges.txt": None}, "no tokenizer.json there, nor vocab.json and merges.txt of a tokenizer_class of GPT2"),
        (
            {"tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}'},
            "no tokenizer.json there, nor vocab.json and",
        ),
        (
            {"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}'},
            "no tokenizer.json there, nor vocab.txt of a",
        ),
        ({"vocab.json": "{"}, "wanted a vocabulary and merges of two parts a line, got others: "),
        ({"vocab.json": '["a"]'}, "wanted a vocabulary and merges of two parts a line, got others: "),
        ({"merges.txt": "a b c"}, "wanted a vocabulary and merges of two parts a line, got others: "),
        ({"merges.txt": "qq zz"}, "wanted a vocabulary and merges of two parts a line, got others: "),
        ({"tokenizer_config.json": '{"tokenizer_class": "RobertaTokenizer"}'}, "wanted '<s>', its cls_token, in the"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    damage: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    OLD["gpt2, no settings"](tmp_path)
    for name, content in damage.items():
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(ModelError) as error:
        load_tokenizer(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_word_pieces_without_an_unknown_token_or_in_other_bytes_are_refused(tmp_path: Path) -> None:
    OLD["bert"](tmp_path)
    for content, message in ((b"a\nb\n", "wanted a line [UNK]"), (b"\xff\xfe", "wanted UTF-8")):
        (tmp_path / "vocab.txt").write_bytes(content)
        with pytest.raises(ModelError) as error:
            load_tokenizer(tmp_path)
        assert message in str(error.value) and "\n" not in str(error.value)
