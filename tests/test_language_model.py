"""What a user holds: text in, numbers and text out, and one clear line where something is wrong."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import random_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import chainrule
from chainrule.generation.sampling import Sampling
from chainrule.language_model import LanguageModel
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.transformer import Transformer
from chainrule.scoring.features import Features
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe

BPE = train_bpe(["the cat sat on the mat, the end; né né 😀😀 日本語 日本"] * 20, 300)
PROMPTS = ["the cat", "", "né 😀", "a much longer prompt that"]


@pytest.fixture
def lm(make_model: Callable[..., Transformer], family: str) -> LanguageModel:
    return LanguageModel(make_model(vocabulary_size=300, context=64), BPE, family)


@pytest.fixture
def byte_lm(make_model: Callable[..., Transformer], family: str) -> LanguageModel:
    return LanguageModel(make_model(vocabulary_size=257, context=96), byte_tokenizer(), family)


@pytest.mark.parametrize("text", ["the cat sat on né 😀", "x", "the cat sat on the mat, " * 8])
def test_log_prob_is_the_sum_over_the_tokens_however_the_text_is_split(lm: LanguageModel, text: str) -> None:
    scores = lm.score(text, top=0)
    whole = lm.log_prob(text)
    assert whole == pytest.approx(sum(token.log_prob for token in scores), abs=1e-4)
    for end in range(0, len(text) + 1, 1 if len(text) < 30 else 5):
        rest = lm.score(text[end:], given=text[:end], top=0)
        given = scores[: len(scores) - len(rest)]
        assert whole == pytest.approx(
            sum(token.log_prob for token in given) + lm.log_prob(text[end:], given=text[:end]), abs=1e-4
        )
    assert lm.log_prob("", given=text) == 0


def test_log_prob_of_characters_is_log_prob_of_the_beginning_and_of_the_rest(make_model, family: str) -> None:
    lm = LanguageModel(make_model(vocabulary_size=11, context=64), character_tokenizer(["the cat né"]), family)
    for end in range(11):
        text, given = "the cat né"[end:], "the cat né"[:end]
        assert lm.log_prob("the cat né") == pytest.approx(lm.log_prob(given) + lm.log_prob(text, given=given), abs=1e-4)


def test_score_names_each_token_and_the_likeliest_in_its_place(lm: LanguageModel) -> None:
    text = "the cat sat"
    tokens = lm.score(text, top=3)
    assert "".join(token.text for token in tokens) == text
    for place, token in enumerate(tokens):
        before = "".join(token.text for token in tokens[:place])
        wanted = [(name, math.log(p)) for name, p in lm.next_token(before, top=3)]
        assert [name for name, _ in token.alternatives] == [name for name, _ in wanted]
        assert [p for _, p in token.alternatives] == pytest.approx([p for _, p in wanted], abs=1e-4)
        assert token.log_prob <= token.alternatives[0][1] + 1e-6


def test_next_token_is_a_probability_over_the_vocabulary(lm: LanguageModel) -> None:
    every = lm.next_token("the cat", top=10**6)
    assert len(every) == 300
    probabilities = [probability for _, probability in every]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)
    assert lm.next_token("the cat", top=2) == every[:2]
    assert len(lm.next_token("")) == 5


def test_features_are_what_the_logits_are_read_from(lm: LanguageModel) -> None:
    features = lm.features("the cat")
    assert features.shape == (len(BPE.encode("the cat")) + 1, lm.model.config.width)
    best = lm.model.logits(features[-1]).softmax(-1).max().item()
    assert lm.next_token("the cat", top=1)[0][1] == pytest.approx(best, abs=1e-5)
    weight = torch.zeros(lm.model.config.width, requires_grad=True)
    (features[-1] @ weight).backward()  # a head can be trained on them
    assert weight.grad is not None


def test_evaluate_is_the_mean_of_log_prob_over_tokens(lm: LanguageModel) -> None:
    texts = ["the cat sat on the mat", "né 😀", "", "the end; " * 40]
    evaluation = lm.evaluate(iter(texts))
    total = sum(lm.log_prob(text) for text in texts)
    assert evaluation.tokens == sum(len(BPE.encode(text)) for text in texts)
    assert evaluation.bytes == sum(len(text.encode()) for text in texts)
    assert evaluation.loss == pytest.approx(-total / evaluation.tokens, abs=1e-5)
    assert evaluation.perplexity == pytest.approx(math.exp(evaluation.loss))
    assert evaluation.bits_per_byte == pytest.approx(-total / math.log(2) / evaluation.bytes, abs=1e-5)
    assert lm.evaluate(texts[0]) == lm.evaluate(texts[:1])
    assert lm.evaluate(texts, stride=64).loss != evaluation.loss
    with pytest.raises(ValueError, match="evaluate: wanted text, got none"):
        lm.evaluate(["", ""])


def test_a_text_is_the_same_alone_and_in_a_batch_and_streamed(byte_lm: LanguageModel) -> None:
    for seed in range(2):
        together = byte_lm.completions(PROMPTS, samples=2, max_tokens=30, seed=seed)
        assert len({completion.text for completion in together}) == 8
        for place, prompt in enumerate(PROMPTS):
            assert (
                byte_lm.completions([prompt], samples=2, max_tokens=30, seed=seed)[1].text
                == together[2 * place + 1].text
            )
            alone = byte_lm.generate(prompt, max_tokens=30, seed=seed)
            assert alone == together[2 * place].text
            assert "".join(byte_lm.stream(prompt, max_tokens=30, seed=seed)) == alone


def test_more_prompts_than_one_batch_holds_are_continued_in_order(byte_lm: LanguageModel) -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    together = byte_lm.completions(prompts, max_tokens=3)
    assert len(together) == 40
    assert [byte_lm.generate(prompt, max_tokens=3) for prompt in prompts[30:36]] == [c.text for c in together[30:36]]


def test_a_completion_is_its_tokens_and_their_log_prob(byte_lm: LanguageModel) -> None:
    for prompt, completion in zip(PROMPTS, byte_lm.completions(PROMPTS, Sampling(0.7), max_tokens=30), strict=True):
        assert completion.text == byte_lm.tokenizer.decode(completion.tokens)
        assert completion.finish_reason == ("length" if len(completion.tokens) == 30 else "stop")
        tokens = [byte_lm.tokenizer.bos_id, *byte_lm.tokenizer.encode(prompt), *completion.tokens]
        with torch.no_grad():
            log_probs = byte_lm.model(torch.tensor([tokens]))[0].log_softmax(-1)
        first = len(tokens) - len(completion.tokens)
        wanted = sum(log_probs[t - 1, tokens[t]].item() for t in range(first, len(tokens)))
        assert completion.log_prob == pytest.approx(wanted, abs=1e-3)


def test_a_stop_string_ends_the_text_before_it(byte_lm: LanguageModel) -> None:
    whole = byte_lm.completions(["the cat"], Sampling(0.9), max_tokens=40, seed=5)[0]
    for number, start in enumerate(range(2, len(whole.text) - 3, 5)):
        stop = whole.text[start : start + 3]
        given = (stop, [stop], ["never this one", stop])[number % 3]
        cut = byte_lm.completions(["the cat"], Sampling(0.9), max_tokens=40, seed=5, stop=given)[0]
        assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
        assert cut.tokens == whole.tokens[: len(cut.tokens)]
        # Bytes that are no character are known to be none only when the next one comes.
        late = stop.endswith("\ufffd") or whole.text.endswith(stop)
        assert len(cut.tokens) < len(whole.tokens) or late


def test_a_stop_token_is_no_part_of_the_completion(byte_lm: LanguageModel) -> None:
    whole = byte_lm.completions(["the cat"], max_tokens=20)[0]
    byte_lm.stop_tokens = (whole.tokens[7], byte_lm.tokenizer.bos_id)
    cut = byte_lm.completions(["the cat"], max_tokens=20)[0]
    assert cut.finish_reason == "stop"
    assert cut.tokens == whole.tokens[: whole.tokens.index(whole.tokens[7])]


def test_generation_that_fills_the_context_ends_with_length(byte_lm: LanguageModel) -> None:
    byte_lm.stop_tokens = ()
    (completion,) = byte_lm.completions(["the cat"], max_tokens=1000)
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 96 - 1 - len("the cat")


def test_save_then_load_is_identity_and_transformers_generates_the_same(lm: LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path / "model")
    again = chainrule.load(tmp_path / "model", device="cpu")
    assert again.stop_tokens == (BPE.bos_id,)
    assert (again.family, again.device) == (lm.family, torch.device("cpu"))
    assert again.log_prob("the cat sat") == lm.log_prob("the cat sat")
    peer, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    theirs = peer.generate(**tokenizer("the cat", return_tensors="pt"), do_sample=False, max_new_tokens=30)
    ours = again.completions(["the cat"], Sampling(0), max_tokens=30)[0]
    assert ours.tokens == [
        token for token in theirs[0, 1 + len(BPE.encode("the cat")) :].tolist() if token != BPE.bos_id
    ]


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [(7, 3, (7,)), ([7, 8], 3, (7, 8)), (None, 3, (3,)), (None, [3, 4], (3, 4)), (None, None, (BPE.bos_id,))],
)
@pytest.mark.parametrize("null", [True, False])
def test_the_stop_tokens_are_those_of_generation_config(
    lm: LanguageModel, generation: object, config: object, wanted: tuple[int, ...], null: bool, tmp_path: Path
) -> None:
    lm.save(tmp_path)
    for name, ids in (("generation_config.json", generation), ("config.json", config)):
        fields = json.loads((tmp_path / name).read_text()) | {"eos_token_id": ids}
        said = {key: value for key, value in fields.items() if null or value is not None}  # null is as good as nothing
        (tmp_path / name).write_text(json.dumps(said))
    loaded = chainrule.load(tmp_path)
    assert loaded.stop_tokens == wanted
    loaded.save(tmp_path / "again")
    assert chainrule.load(tmp_path / "again").stop_tokens == wanted


@pytest.mark.parametrize("ids", ["</s>", 1.5, [3, None], True])
def test_a_stop_token_that_is_no_number_is_refused(ids: object, lm: LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ValueError, match=r"generation_config\.json: wanted eos_token_id to be a token's number"):
        chainrule.load(tmp_path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"generation_config\.json: wanted a JSON object"):
        chainrule.load(tmp_path)


def test_bfloat16_is_used_when_asked_for(lm: LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path)
    half = chainrule.load(tmp_path, device="cpu", dtype="bfloat16")
    assert half.features("the cat").dtype == torch.bfloat16
    assert half.log_prob("the cat sat") == pytest.approx(lm.log_prob("the cat sat"), rel=0.05)
    assert len(half.completions(["the cat"], samples=2, max_tokens=5)) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda lm: lm.next_token("the cat " * 50), "wanted at most 64 tokens"),
        (lambda lm: lm.features("the cat " * 50), "wanted at most 64 tokens"),
        (lambda lm: lm.generate("the cat " * 50), "prompt: wanted fewer than 64 tokens"),
        (lambda lm: lm.generate("the", temperature=-1), "temperature: wanted"),
        (lambda lm: lm.generate("the", max_tokens=0), "max-tokens: wanted at least 1"),
        (lambda lm: lm.generate("the", stop=""), "stop: wanted strings of at least one character"),
        (lambda lm: lm.completions(["the"], samples=0), "samples: wanted at least 1, got 0"),
        (lambda lm: lm.next_token("the", top=0), "top: wanted at least 1, got 0"),
        (lambda lm: lm.score("the", top=-1), "top: wanted at least 0, got -1"),
        (lambda lm: lm.evaluate(["the cat"], stride=0), "stride: wanted from 1 to 64"),
        (lambda lm: lm.log_prob("\ud800"), "lone surrogate"),
    ],
)
def test_a_mistake_is_one_line(lm: LanguageModel, wrong: Callable[[LanguageModel], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        wrong(lm)
    assert "\n" not in str(error.value)


def test_a_path_without_a_model_is_one_line(lm: LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path / "model")
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "model" / "config.json"):
        with pytest.raises(ValueError, match="wanted a model directory") as error:
            chainrule.load(path)
        assert "\n" not in str(error.value)
    (tmp_path / "model" / "generation_config.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"generation_config\.json: wanted a JSON object"):
        chainrule.load(tmp_path / "model")


def test_importing_chainrule_does_not_import_torch() -> None:
    check = "import sys, chainrule; print(chainrule.__version__, dir(chainrule)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert chainrule.LanguageModel is LanguageModel
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        chainrule.nonsense  # noqa: B018


def test_a_tokenizer_larger_than_the_embedding_is_refused(byte_lm: LanguageModel, tmp_path: Path) -> None:
    byte_lm.save(tmp_path)
    BPE.save(tmp_path)
    with pytest.raises(ValueError, match=f"at most 257 tokens, .*, got one of {BPE.vocabulary_size};"):
        chainrule.load(tmp_path)
    with pytest.raises(ValueError, match="at most 257 tokens"):
        Features(byte_lm.model, BPE)
    with pytest.raises(ValueError, match="at most 258 tokens"):
        MaskedLanguageModel(
            random_model("bert", vocabulary_size=258), train_bpe(["a mask"] * 9, 262, mask=True), "bert"
        )
