"""The token that begins a document in models of others: what their tokenizer puts in front of a text, else what
separated documents in pretraining, never a mark of a chat's turns; and greedy text is then that of transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from conftest import random_model
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

import chainrule
from chainrule.cli import main
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.tokens import bytepair
from chainrule.tokens.tokenizer import load_tokenizer

SAMPLE = ["the cat sat on the mat, and the dog on the cat."] * 3
CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']}}{% endfor %}"


def byte_level(*special: str) -> tokenizers.Tokenizer:
    inner = bytepair.train(SAMPLE, 280)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return inner


def llama2() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*special, *fallback], show_progress=False)
    inner.train_from_iterator(SAMPLE, trainer)
    spec = json.loads(inner.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
    inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner


# Family, tokenizer, tokenizer_config.json, the BOS that is right, and a part of the reason.
OTHERS: dict[str, tuple[str, Callable[[], tokenizers.Tokenizer], dict[str, Any], str, str]] = {
    "SmolLM2": (
        "llama",
        lambda: byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML},
        "<|endoftext|>",
        "separated documents",
    ),
    "GPT-2": (
        "gpt2",
        lambda: byte_level("<|endoftext|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        "<|endoftext|>",
        "separated documents",
    ),
    "Llama 2": ("llama", llama2, {"bos_token": "<s>", "eos_token": "</s>"}, "<s>", "puts it in front"),
}


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str]:
    """A small random model of others: its directory, its BOS and a part of the reason."""
    family, make, settings, bos, reason = OTHERS[request.param]
    directory = tmp_path / "other"
    directory.mkdir()
    make().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **settings})
    )
    tokenizer = load_tokenizer(directory)
    model = random_model(family, vocabulary_size=tokenizer.vocabulary_size, context=64)
    LanguageModel(model, tokenizer, family, []).save(directory)
    return directory, bos, reason


def test_greedy_text_is_that_of_transformers_after_what_begins_a_document(other: tuple[Path, str, str]) -> None:
    directory, bos, _ = other
    lm, peer = chainrule.load(directory), AutoModelForCausalLM.from_pretrained(directory)
    theirs = AutoTokenizer.from_pretrained(directory)
    for text in ("the cat", "a dog sat on", ""):
        ids = theirs(text)["input_ids"]  # with what the tokenizer puts in front
        if ids[:1] != [theirs.convert_tokens_to_ids(bos)]:
            ids = [theirs.convert_tokens_to_ids(bos), *ids]
        made = peer.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
        assert lm.completions([text], Sampling(0), max_tokens=12)[0].tokens == made[0, len(ids) :].tolist()


def test_info_shows_the_token_that_begins_a_document_and_why(
    other: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, bos, reason = other
    main(["info", str(directory), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["bos"] == bos and reason in found["bos_reason"]
    assert found["bos_id"] == load_tokenizer(directory).bos_id


def test_another_token_can_be_put_in_front_and_what_is_saved_keeps_it(
    other: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _, _ = other
    plain, lm = chainrule.load(directory), chainrule.load(directory, bos="t")
    id = lm.tokenizer.bos_id
    assert id == plain.tokenizer.encode("t")[-1] != plain.tokenizer.bos_id
    assert lm.log_prob("he cat") != plain.log_prob("he cat") and lm.tokenizer.hash != plain.tokenizer.hash
    lm.save(tmp_path / "saved")
    assert chainrule.load(tmp_path / "saved").tokenizer.bos_id == id
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("he")["input_ids"][0] == id
    main(["score", str(directory), "he cat", "--bos", "t", "--json"])
    assert json.loads(capsys.readouterr().out)["log_prob"] == pytest.approx(lm.log_prob("he cat"), abs=1e-4)
    with pytest.raises(SystemExit, match="2"):
        main(["generate", str(directory), "the", "--bos", "<|no such token|>"])
    assert "--bos: wanted a token of this model's vocabulary, got '<|no such token|>'" in capsys.readouterr().err


def test_a_mark_of_a_chats_turns_never_begins_a_document(tmp_path: Path) -> None:
    def made(name: str, *special: str, config: dict[str, Any] | None = None, **settings: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        byte_level(*special).save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        (directory / "config.json").write_text(json.dumps(config or {}))
        return directory

    marks = "<|im_start|>", "<|im_end|>"
    only = made("only", *marks, bos_token="<|im_start|>", eos_token="<|im_end|>")
    with pytest.raises(ValueError, match=r"names no token that begins a document: give --bos TOKEN"):
        load_tokenizer(only)
    assert load_tokenizer(only, "<|im_end|>").bos == "<|im_end|>"
    end = made("end", *marks, "</s>", bos_token="<|im_start|>", eos_token="</s>")
    assert load_tokenizer(end).bos == "</s>"
    written = made("written", "<|a|>", "<b>", bos_token="<|a|>", eos_token="<b>", chat_template="{{ '<|a|>' }}")
    assert load_tokenizer(written).bos == "<b>"
    id = byte_level("<b>", *marks).token_to_id("<b>")
    elsewhere = made("elsewhere", "<b>", *marks, config={"bos_token_id": id}, bos_token="<|im_start|>")
    tokenizer = load_tokenizer(elsewhere)
    assert tokenizer.bos == "<b>" and tokenizer.bos_reason == "bos_token_id in config.json"
    tokenizer.save(tmp_path / "saved")  # without config.json, whose tokens its own files do not name
    assert load_tokenizer(tmp_path / "saved").bos == "<b>"


def test_a_run_and_shards_of_an_earlier_version_keep_the_bos_they_were_made_with(tmp_path: Path) -> None:
    byte_level("<|endoftext|>", "<|im_start|>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    now = load_tokenizer(tmp_path)
    assert now.bos == "<|endoftext|>"
    id = now.special["<|im_start|>"].id
    earlier = now.with_hash(now._hash_with(id))
    assert earlier.bos == "<|im_start|>" and earlier.hash == now._hash_with(id)
    assert now.with_hash("another") is now.with_hash(now.hash) is now
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": id}))
    assert load_tokenizer(tmp_path).bos == "<|endoftext|>"
    (tmp_path / "run.toml").write_text("")
    assert load_tokenizer(tmp_path).bos == "<|im_start|>"
