"""`export`, and a GGUF wherever a model is wanted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file

import chainrule
import chainrule.exporting.export
from chainrule.cli import main
from chainrule.errors import ModelError
from chainrule.exporting.export import export_gguf, sample_texts
from chainrule.exporting.modelfile import modelfile
from chainrule.language_model import LanguageModel
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.transformer import Transformer, initialise
from chainrule.tokens import bytepair
from chainrule.tokens.gguf_metadata import tokenizer_metadata
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def language_model(tokenizer: Tokenizer | None = None, family: str = "qwen3", context: int = 64) -> LanguageModel:
    tokenizer = tokenizer or byte_tokenizer()
    return LanguageModel(random_model(family, tokenizer.vocabulary_size, context), tokenizer, family)


def chatting() -> LanguageModel:
    """One with a chat template and two ends."""
    files = dict(byte_tokenizer()._files)
    settings = json.loads(files["tokenizer_config.json"]) | {"chat_template": CHATML}
    spec = json.loads(files["tokenizer.json"])
    added = spec["added_tokens"][0]
    spec["added_tokens"] += [
        {**added, "id": 257 + number, "content": content}
        for number, content in enumerate(["<|im_start|>", "<|im_end|>"])
    ]
    files |= {"tokenizer.json": json.dumps(spec).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    tokenizer = Tokenizer(files, 256)
    return LanguageModel(random_model("qwen3", 259, 64), tokenizer, "qwen3", stop_tokens=(258, 256))


@pytest.mark.parametrize("name", ["byte", "characters", "byte pairs"])
def test_a_model_of_ours_is_the_same_from_its_gguf(name: str, tmp_path: Path) -> None:
    text = "It isn't 12345; naïve 日本語.\n\n  No?" * 9
    tokenizer = {
        "byte": byte_tokenizer,
        "characters": lambda: character_tokenizer([text]),
        "byte pairs": lambda: train_bpe([text], 290),
    }
    lm = language_model(tokenizer[name]())
    lm.save(tmp_path / "run")
    main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model.gguf"), "--type", "f32"])
    back = chainrule.load(tmp_path / "model.gguf")
    assert isinstance(back, LanguageModel)
    assert back.log_prob("It isn't 345.") == lm.log_prob("It isn't 345.")
    assert back.generate("It", temperature=0, max_tokens=20) == lm.generate("It", temperature=0, max_tokens=20)
    assert back.stop_tokens == lm.stop_tokens
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.Modelfile", "model.gguf", "run"]


def test_every_command_takes_a_gguf_and_a_folder_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = language_model(context=128)
    lm.save("run")
    (tmp_path / "folder").mkdir()
    main(["export", "run", "--out", "folder/model.gguf", "--type", "f32"])
    Path("text.txt").write_text("some text " * 100)
    Path("rows.csv").write_text("text,label\n" + "".join(f"row {n},{('good', 'bad')[n % 2]}\n" for n in range(40)))
    capsys.readouterr()
    main(["info", "folder", "--json"])
    assert json.loads(capsys.readouterr().out)["family"] == "qwen3"
    main(["score", "folder/model.gguf", "a text", "--json"])
    assert json.loads(capsys.readouterr().out)["log_prob"] == pytest.approx(lm.log_prob("a text"), abs=1e-4)
    main(["generate", "folder", "a", "--max-tokens", "3", "--json"])
    main(["evaluate", "folder", "text.txt", "--json"])
    main(["zero-shot", "folder", "rows.csv", "--text", "text", "--label", "label", "--json"])
    small = ["--steps", "1", "--batch-tokens", "128", "--compile", "off"]
    main(["pretrain", "text.txt", "--from", "folder/model.gguf", "--out", "more", *small])
    assert chainrule.load("more").family == "qwen3"
    task = ["rows.csv", "--text", "text", "--label", "label"]
    main(["finetune", "folder/model.gguf", *task, "--out", "head", "--train", "head", "--limit", "4"])
    assert chainrule.load_classifier("head").labels == ("bad", "good")
    main(["export", "head", "--to", "huggingface", "--out", "copy"])
    probabilities = [chainrule.load_classifier(name).predict_proba(["row 1", "row 2"]) for name in ("head", "copy")]
    np.testing.assert_array_equal(*probabilities)
    capsys.readouterr()
    (tmp_path / "folder" / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="2"):
        main(["info", "folder"])
    assert "wanted one GGUF file, got 2 (model.gguf, other.gguf); name one" in capsys.readouterr().err


def test_a_huggingface_folder_from_a_gguf_has_the_weights_of_the_run(tmp_path: Path) -> None:
    lm = language_model(family="llama")
    lm.model.bfloat16()
    lm.save(tmp_path / "run")
    main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model.gguf"), "--type", "bf16"])
    main(["export", str(tmp_path / "model.gguf"), "--to", "huggingface", "--out", str(tmp_path / "back")])
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("run", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert chainrule.load(tmp_path / "back").tokenizer.encode("é!") == lm.tokenizer.encode("é!")
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(tmp_path / "model.gguf"), "--to", "huggingface", "--out", str(tmp_path / "back")])


REFUSED: dict[str, tuple[list[str], str]] = {
    "a masked model": (["masked"], "wanted a model that generates text, got a masked one"),
    "an old pattern": (["old"], "tokenize the text again, and pretrain on that"),
    "biases that llama.cpp lacks": (["biases"], "wanted attention_bias False, which is what llama.cpp computes for"),
    "no model": (["run/nowhere"], "there is no such directory"),
    "a type of another form": (["run", "--to", "huggingface", "--type", "f16"], "--type: wanted --to gguf beside it"),
    "an unknown type": (["run", "--type", "q3"], "--type: wanted f32, f16, bf16, q8_0 or q4_0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_left(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    language_model().save("run")
    old = train_bpe(["some text of old"], 260, pattern=bytepair.FIRST)
    language_model(old).save("old")
    MaskedLanguageModel(random_model("bert", 258, 64), byte_tokenizer(mask=True), "bert").save("masked")
    config = chainrule.load("run").model.config
    biased = Transformer(replace(config, query_key_value_bias=True, attention_output_bias=True))
    initialise(biased, 0)
    LanguageModel(biased, byte_tokenizer(), "qwen3").save("biases")
    words, message = REFUSED[case]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["export", *words, "--out", "out.gguf"])
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and message in told.err, told.err
    assert not any(tmp_path.glob("*out*")) and not any(tmp_path.glob(".*"))


def test_a_file_that_is_read_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model(train_bpe(["some 12345 text " * 9], 270)).save(tmp_path / "run")
    right = tokenizer_metadata

    def wrong(*given: Any) -> dict[str, Any]:
        return {**right(*given), "tokenizer.ggml.merges": [], "tokenizer.ggml.pre": "gpt-2"}

    monkeypatch.setattr(chainrule.exporting.export, "tokenizer_metadata", wrong)
    with pytest.raises(ModelError, match="wanted a GGUF whose tokenizer gives the same ids, got others for"):
        export_gguf(tmp_path / "run", tmp_path / "model.gguf", "f32")
    monkeypatch.setattr(chainrule.exporting.export, "tokenizer_metadata", right)
    monkeypatch.setitem(chainrule.exporting.export.TOLERANCE, "f16", 1e-9)
    with pytest.raises(ModelError, match="wanted log-probabilities within 1e-09 of the model's for --type f16"):
        export_gguf(tmp_path / "run", tmp_path / "model.gguf", "f16")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_the_sample_has_nothing_that_a_vocabulary_of_characters_lacks() -> None:
    texts = list(sample_texts(character_tokenizer(["Helo wrd"])))
    assert texts[0] == "Hello world   olo" and len(texts) > 4


def test_a_modelfile_has_the_template_and_every_end() -> None:
    lm = chatting()
    lines = modelfile(lm, "model.gguf", adds_bos=False)
    assert lines.startswith(
        'FROM ./model.gguf\nTEMPLATE """{{ $before := "" }}{{ range .Messages }}{{ if eq .Role "system" }}'
    )
    assert lines.endswith('PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|bottom|>"\n')
    assert "<|im_start|>system\n{{ .Content }}" in lines
    assert '{{ else if eq $before "" }}<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n' in lines
    assert lines.count("{{ end }}") == lines.count("{{ if ") + lines.count("{{ range ")
    assert lines.split('"""')[1].endswith("{{ end }}<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_ollama_has_no_words_for_is_left_to_it() -> None:
    lm = chatting()
    lm.tokenizer._files["tokenizer_config.json"] = lm.tokenizer._files["tokenizer_config.json"].replace(
        b"+ message['content'] +", b"+ (message['content'] | length | string) +"
    )
    assert "TEMPLATE" not in modelfile(lm, "model.gguf", adds_bos=False)


def test_chat_and_ends_come_back_from_a_gguf(tmp_path: Path) -> None:
    lm = chatting()
    lm.save(tmp_path / "run")
    export_gguf(tmp_path / "run", tmp_path / "model.gguf", "f32")
    back = chainrule.load(tmp_path / "model.gguf")
    messages = [{"role": "user", "content": "hi <|im_end|>"}]
    assert isinstance(back, LanguageModel)
    assert back.chat.tokens(messages) == lm.chat.tokens(messages)
    assert set(back.stop_tokens) == {256, 258} and back.stop_tokens[0] == 258
