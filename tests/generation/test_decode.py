"""A text is the same alone and in a batch; greedy decoding is that of transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from chainrule.generation.decode import decode, prefill
from chainrule.generation.sampling import Sampling
from chainrule.model.formats.checkpoint import save_model
from chainrule.model.transformer import Transformer

Make = Callable[..., Transformer]
PROMPTS = [[0, 5, 9, 3, 44], [0], [0, 60, 2, 2, 2, 17, 31, 8, 8, 1, 40, 12], [0, 7, 7], [0, 5, 9, 3, 44]]


def collect(model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, **options) -> dict:
    """Sequence -> its tokens and log-probabilities."""
    found: dict[int, tuple[list[int], list[float]]] = {}
    for step in decode(model, prompts, sampling, **options):
        for sequence, token, log_prob in zip(step.sequences, step.tokens, step.log_probs, strict=True):
            tokens, log_probs = found.setdefault(sequence, ([], []))
            tokens.append(token)
            log_probs.append(log_prob)
    return found


@torch.no_grad()
def test_prefill_gives_each_of_unequal_prompts_the_logits_it_has_alone(make_model: Make) -> None:
    model = make_model()
    features, _ = prefill(model, PROMPTS, capacity=12)
    for row, prompt in zip(model.logits(features), PROMPTS, strict=True):
        torch.testing.assert_close(row, model(torch.tensor([prompt]))[0, -1], atol=1e-5, rtol=0)


def test_a_sequence_alone_or_in_a_batch_is_the_same(make_model: Make) -> None:
    model = make_model()
    for seed in range(4):
        # Up to the end of the context, which each prompt reaches at another step; some tokens stop it before.
        options = {"max_tokens": 100, "stop_tokens": {1, 2}, "seed": seed}
        together = collect(model, PROMPTS, Sampling(), **options)
        assert len({len(tokens) for tokens, _ in together.values()}) > 1
        for sequence, prompt in enumerate(PROMPTS):
            tokens, log_probs = collect(model, [prompt], Sampling(), **options)[0]
            assert together[sequence][0] == tokens
            assert together[sequence][1] == pytest.approx(log_probs, abs=1e-4)


def test_samples_from_one_prefill_are_the_samples_made_alone(make_model: Make) -> None:
    model, sampling = make_model(), Sampling(0.9, top_k=30, repetition_penalty=1.2)
    together = collect(model, PROMPTS[:3], sampling, samples=range(4), max_tokens=25, seed=3)
    assert len({tuple(tokens) for tokens, _ in together.values()}) == 12
    for sequence, (tokens, _) in together.items():
        prompt, sample = divmod(sequence, 4)
        alone = collect(model, [PROMPTS[prompt]], sampling, samples=[sample], max_tokens=25, seed=3)
        assert alone[0][0] == tokens


@torch.no_grad()
def test_log_probs_are_under_p_itself_whatever_the_sampling(make_model: Make) -> None:
    model = make_model()
    for sampling in (Sampling(), Sampling(0), Sampling(2.0, top_k=5, repetition_penalty=1.5), Sampling(0.3, min_p=0.1)):
        for sequence, (tokens, log_probs) in collect(model, PROMPTS, sampling, max_tokens=15).items():
            prompt = PROMPTS[sequence]
            all_log_probs = model(torch.tensor([prompt + tokens]))[0].log_softmax(-1)
            wanted = [all_log_probs[len(prompt) - 1 + t, token].item() for t, token in enumerate(tokens)]
            assert log_probs == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_greedy_transformers_token_for_token(
    make_model: Make, family: str, penalty: float, tmp_path: Path
) -> None:
    model = make_model()
    save_model(model, family, tmp_path, bos_id=0)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = collect(model, PROMPTS, Sampling(0, repetition_penalty=penalty), max_tokens=20, stop_tokens={60})
    for sequence, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        theirs = peer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),  # ⊥ is the padding token too: transformers would guess it away
            do_sample=False,
            max_new_tokens=20,
            repetition_penalty=penalty,
            eos_token_id=60,
        )
        assert ours[sequence][0] == theirs[0, len(prompt) :].tolist()


def test_a_sequence_ends_with_a_stop_token_with_max_tokens_or_with_the_context(make_model: Make) -> None:
    model = make_model(context=16)
    greedy, _ = collect(model, [[0, 5]], Sampling(0), max_tokens=100)[0]
    assert len(greedy) == 14  # ⊥ and x_1 before them: 16 in all
    assert len(collect(model, [[0, 5]], Sampling(0), max_tokens=3)[0][0]) == 3
    stopped, _ = collect(model, [[0, 5]], Sampling(0), max_tokens=100, stop_tokens={greedy[4]})[0]
    assert stopped == greedy[: greedy.index(greedy[4]) + 1]
    assert len(collect(model, [[0] * 15], Sampling(0), max_tokens=100)[0][0]) == 1


def test_the_caller_ends_a_sequence_and_the_others_go_on_unchanged(make_model: Make) -> None:
    model = make_model()
    wanted = collect(model, PROMPTS, Sampling(), max_tokens=10)
    found: dict[int, list[int]] = {sequence: [] for sequence in range(5)}
    for number, step in enumerate(decode(model, PROMPTS, Sampling(), max_tokens=10)):
        for sequence, token in zip(step.sequences, step.tokens, strict=True):
            found[sequence].append(token)
        step.finished.update(s for s in step.sequences if s == number)
    assert found == {s: tokens[: s + 1] for s, (tokens, _) in wanted.items()}


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([0] * 32, {"max_tokens": 1}, r"prompt: wanted fewer than 32 tokens \(the context; ⊥ is one\), got 32"),
        ([0] * 50, {"max_tokens": 1}, "prompt: wanted fewer than 32 tokens .* got 50"),
        ([0], {"max_tokens": 0}, "max-tokens: wanted at least 1, got 0"),
        ([0], {"max_tokens": 1, "seed": -1}, "seed: wanted"),
    ],
)
def test_what_cannot_be_continued_is_one_line(make_model: Make, prompt: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(make_model(), [[0], prompt], Sampling(), **options)


def test_no_prompts_are_no_steps(make_model: Make) -> None:
    assert list(decode(make_model(), [], Sampling(), max_tokens=5)) == []
