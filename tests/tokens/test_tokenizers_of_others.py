"""Tokenizers as others make them: the ids that transformers gives on awkward text, and files kept byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from chainrule.tokens import bytepair
from chainrule.tokens.tokenizer import load_tokenizer

AWKWARD = [
    "",
    " ",
    "a",
    "Hello, world! It's 2024: don't  stop\n\n\tnow   ",
    "日本語のテキスト、中文文本。 한국어 문장 नमस्ते दुनिया Ελληνικά Привет שלום مرحبا",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 é ﬁ ½ ① \u200b\u00a0\u3000x",
    "spaces" + " " * 37 + "tabs\t\t\tand\r\nlines\r\r\n\n\n\n",
    "<s>text</s> <|endoftext|> [CLS] [MASK] [SEP] <unk> <pad> <|im_start|>system",
    "x" * 3000 + "12345678901234567890" * 9,
    "def f(x):\n    return x**2  # déjà\n",
]
SAMPLE = [*AWKWARD, "the quick brown fox; Tokenizers of others are copied byte for byte."] * 2


def gpt2() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return trained(inner, ["<|endoftext|>"])


def neox() -> tokenizers.Tokenizer:
    """GPT-NeoX: its own tokens for runs of spaces, which are no special ones; NFC."""
    inner = gpt2()
    inner.normalizer = normalizers.NFC()
    inner.add_tokens([AddedToken(" " * size, normalized=True) for size in (24, 8, 4, 2)])
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return inner


def split(pattern: str, bos: str) -> Callable[[], tokenizers.Tokenizer]:
    def make() -> tokenizers.Tokenizer:
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        if pattern is bytepair.QWEN2:
            inner.normalizer = normalizers.NFC()
        inner = trained(inner, [bos])
        inner.add_tokens(["<think>", "</think>"])  # Qwen3's, which are no special ones
        return inner

    return make


def sentence_pieces(modern: bool) -> Callable[[], tokenizers.Tokenizer]:
    """Llama 2's: a mark where a text begins, and bytes for what has no piece."""

    def make() -> tokenizers.Tokenizer:
        inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        if modern:
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        inner = trained(inner, ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)])
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
        return inner

    return make


def bert() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        SAMPLE, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return inner


def trained(inner: tokenizers.Tokenizer, special: list[str], more: list[str] = []) -> tokenizers.Tokenizer:  # noqa: B006
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(inner.decoder, decoders.ByteLevel) else []
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*special, *more], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(SAMPLE, trainer)
    if more:  # bytes are pieces, and no special tokens
        spec = json.loads(inner.to_str())
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
        inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
    return inner


KINDS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], dict[str, str]]] = {
    "gpt2": (gpt2, {"bos_token": "<|endoftext|>"}),
    "gpt_neox": (neox, {"bos_token": "<|endoftext|>"}),
    "llama 3": (split(bytepair.LLAMA3, "<|begin|>"), {"bos_token": "<|begin|>"}),
    "qwen": (split(bytepair.QWEN2, "<|endoftext|>"), {"eos_token": "<|endoftext|>"}),
    "llama 2": (sentence_pieces(False), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "mistral": (sentence_pieces(True), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "bert": (bert, {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"}),
}


@pytest.fixture(params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make, named = KINDS[request.param]
    (tmp_path / "theirs").mkdir()
    make().save(str(tmp_path / "theirs" / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**6, **named}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "theirs" / "special_tokens_map.json").write_text(json.dumps(named))
    return tmp_path / "theirs"


def test_the_ids_are_those_of_transformers_and_user_text_is_literal(directory: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    for text in AWKWARD:
        wanted = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == wanted, text
        assert not {token.id for token in ours.special.values()} & set(ours.encode(text)) or "[UNK]" in ours.special
        assert ours.decode(wanted) == theirs.decode(wanted, skip_special_tokens=True)
        spans = ours.spans(text)
        assert len(spans) == len(wanted) and all(0 <= start <= stop <= len(text) for start, stop in spans)
    assert [array.tolist() for array in ours.encode_batch(AWKWARD)] == [ours.encode(text) for text in AWKWARD]


def test_their_files_are_kept_byte_for_byte(directory: Path) -> None:
    load_tokenizer(directory).save(directory.parent / "again")
    for file in directory.iterdir():
        assert (directory.parent / "again" / file.name).read_bytes() == file.read_bytes()


def test_what_stands_behind_a_special_token_is_encoded_as_transformers_does(directory: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    (spelled, token), *_ = [(text, token) for text, token in ours.special.items() if text not in ("<unk>", "[UNK]")]
    for text in AWKWARD[1:7]:
        whole = theirs(f"some {spelled}{text}", add_special_tokens=False)["input_ids"]
        assert [*ours.encode("some "), token.id, *ours.encode_behind(text)] == whole, text
