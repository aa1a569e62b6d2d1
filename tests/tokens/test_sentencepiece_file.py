"""Directories with a SentencePiece model alone: the package's own ids on awkward text, and transformers'."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from chainrule.errors import ModelError
from chainrule.tokens.tokenizer import load_tokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
transformers = pytest.importorskip("transformers")

AWKWARD = [
    "",
    "Hello, world! It's 2024: don't  stop\n\n\tnow",
    " a leading and   several   spaces",
    "日本語のテキスト、中文文本。 한국어 문장 नमस्ते Ελληνικά Привет שלום",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 é ½ ① \u00a0x",
    "spaces" + " " * 37 + "tabs\t\t\tand\nlines",
    "naïve CAFÉ ÀÉÎ unaffable 12345.67",
    "def f(x):\n    return x**2  # déjà\n",
    "<s>not special</s>",
]
LLAMA: dict[str, Any] = {
    "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "split_digits": True,
}  # fmt: skip
GEMMA: dict[str, Any] = {
    **LLAMA, "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3,
    "user_defined_symbols": ["<mask>", "\n\n", "    ", "▁▁▁▁▁"],
}  # fmt: skip
NORMALISED: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True}  # NFKC, and spaces that are one
UNIGRAM: dict[str, Any] = {"model_type": "unigram"}


def train(path: Path, size: int, **options: Any) -> Any:
    """A small model in a file, and the package that reads it."""
    made = io.BytesIO()
    words = [word * 3 for word in AWKWARD] + ["the owl sees a mouse and the night falls on the owl"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=made, vocab_size=size, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    path.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def described(directory: Path, model_type: str, **settings: Any) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("options", "model_type"), [(LLAMA, "llama"), (GEMMA, "gemma2"), (NORMALISED, "mistral")], ids=str
)
def test_a_byte_pair_model_has_its_own_ids_and_begins_with_its_bos(
    options: dict[str, Any], model_type: str, tmp_path: Path
) -> None:
    theirs = train(tmp_path / "tokenizer.model", 500, **options)
    described(tmp_path, model_type)
    ours = load_tokenizer(tmp_path)
    assert ours.bos_id == theirs.bos_id() and ours.bos == "<s>"
    ours.save(tmp_path / "saved")
    for tokenizer in (ours, load_tokenizer(tmp_path / "saved")):
        for text in AWKWARD:
            ids = tokenizer.encode(text)
            assert ids == theirs.encode(text), text
            assert tokenizer.decode(ids) == theirs.decode(ids), text


def test_transformers_gives_the_same_ids_of_what_is_saved(tmp_path: Path) -> None:
    theirs = train(tmp_path / "tokenizer.model", 500, **LLAMA)
    described(tmp_path, "llama", tokenizer_class="LlamaTokenizer", add_bos_token=True)
    load_tokenizer(tmp_path).save(tmp_path / "saved")
    there = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in AWKWARD[1:-1]:
        assert there(text)["input_ids"] == [theirs.bos_id(), *theirs.encode(text)], text


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "tokenizer.model"])
def test_xlm_robertas_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    train(tmp_path / name, 300, **UNIGRAM)
    described(tmp_path, "xlm-roberta", tokenizer_class="XLMRobertaTokenizer")
    ours = load_tokenizer(tmp_path)
    there = tmp_path / "there"
    there.mkdir()
    (there / "sentencepiece.bpe.model").write_bytes((tmp_path / name).read_bytes())
    described(there, "xlm-roberta", tokenizer_class="XLMRobertaTokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(there)
    assert (ours.bos_id, ours.closing) == (theirs.bos_token_id, [theirs.eos_token_id])
    assert ours.mask is not None and ours.mask.id == theirs.mask_token_id
    for text in AWKWARD[:-1]:
        assert [ours.bos_id, *ours.encode(text), *ours.closing] == theirs(text)["input_ids"], text


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ({**LLAMA, "user_defined_symbols": ["▁▁"]}, {}, "wanted user-defined tokens without spaces"),
        (b"", {}, "wanted a SentencePiece model, got a file that is cut or another"),
        (b"\xff" * 40, {}, "wanted a SentencePiece model, got a file that is cut or another"),
        (UNIGRAM, {"tokenizer_class": "T5Tokenizer"}, "wanted a byte-pair model, or XLM-RoBERTa's, got another"),
    ],
)
def test_what_is_no_such_model_is_refused_in_one_line(
    content: bytes | dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    described(tmp_path, "t5", **settings)
    if isinstance(content, dict):
        train(tmp_path / "tokenizer.model", 500, **content)
    else:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_tokenizer(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
