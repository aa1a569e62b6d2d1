"""A sequence's tokens are the same alone and in any batch; greedy decoding is that of transformers; nothing is computed
twice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chainrule.generation.engine import Engine, NewToken
from chainrule.generation.sampling import Sampling
from chainrule.model.batch_cache import BatchCache
from chainrule.model.formats.checkpoint import save_model
from chainrule.model.transformer import Transformer

Make = Callable[..., Transformer]
PROMPTS = [[0, 5, 9, 3, 44], [0], [0, 60, 2, 2, 2, 17, 31, 8, 8, 1, 40, 12], [0, 7, 7], [0, 5, 9, 3, 44]]
SAMPLINGS = (
    *(Sampling(), Sampling(0), Sampling(0.8, top_k=9), Sampling(1.3, repetition_penalty=1.4), Sampling(top_p=0.7)),
    Sampling(0, repetition_penalty=1.2),
)

ALONE: dict[str, list[list[NewToken]]] = {}  # family -> what each of some sequences is alone


def run(engine: Engine) -> dict[int, list[NewToken]]:
    """All tokens of each sequence, by its id."""
    found: dict[int, list[NewToken]] = {}
    while engine:
        for new in engine.step():
            found.setdefault(new.id, []).append(new)
    return found


def collect(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    samples: Sequence[int] = (0,),
    **options,
) -> dict[int, tuple[list[int], list[float]]]:
    """Sequence -> its tokens and log-probabilities."""
    engine = Engine(model)
    for prompt in prompts:
        for sample in samples:
            engine.add(prompt, sampling, sample=sample, **options)
    return {id: ([new.token for new in found], [new.log_prob for new in found]) for id, found in run(engine).items()}


@contextmanager
def calls(model: Transformer) -> Iterator[list[int]]:
    """How many tokens each call of the model processes."""
    found: list[int] = []

    def record(module: Transformer, positional: tuple, named: dict) -> None:
        if positional:  # else hidden states, to logits
            found.append(positional[0].numel())

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    yield found
    hook.remove()


@pytest.mark.parametrize("limits", [{}, {"batch_size": 3}, {"cache_tokens": 60}, {"prefill_chunk": 3}])
def test_sequences_that_join_and_leave_at_any_step_are_each_what_they_are_alone(
    make_model: Make, family: str, limits: dict[str, int]
) -> None:
    model, random = make_model(), Random(0)
    waiting: list[tuple[list[int], Sampling, dict[str, Any]]] = []
    for n in range(24):
        beginning = random.choice(PROMPTS)[: random.randint(1, 12)]
        prompt = [*beginning, *random.choices(range(61), k=random.randint(0, 9))]
        # Of seed 22 a draw lies 6e-8 from the border of two tokens, less than float32 rounds to in a batch.
        options = {"seed": 100 + n, "sample": n % 3, "max_tokens": random.randint(1, 30), "stop_tokens": {1, 2}}
        waiting.append((prompt, random.choice(SAMPLINGS), options))
    if family not in ALONE:  # the same whatever the limits
        for prompt, sampling, options in waiting:
            engine = Engine(model)
            engine.add(prompt, sampling, **options)
            ALONE.setdefault(family, []).append(run(engine)[0])
    alone = ALONE[family]
    engine, cancelled = Engine(model, **limits), set()
    found: dict[int, list[NewToken]] = {n: [] for n in range(24)}
    added = most = 0
    while engine or added < 24:
        while added < 24 and random.random() < 0.5:
            prompt, sampling, options = waiting[added]
            assert engine.add(prompt, sampling, **options) == added
            added += 1
        if added and random.random() < 0.15:
            cancelled.add(random.randrange(added))
            for n in cancelled:  # those that have ended, waited or run
                engine.cancel(n)
        step = engine.step()
        most = max(most, len(step))
        for new in step:
            found[new.id].append(new)
    for n, tokens in found.items():
        wanted = alone[n][: len(tokens)] if n in cancelled else alone[n]
        assert [(new.token, new.finish_reason) for new in tokens] == [(new.token, new.finish_reason) for new in wanted]
        assert [new.log_prob for new in tokens] == pytest.approx([new.log_prob for new in wanted], abs=1e-4)
    assert most <= limits.get("batch_size", 24) and most > 1


def test_samples_of_a_prompt_are_the_samples_made_alone(make_model: Make) -> None:
    model, sampling = make_model(), Sampling(0.9, top_k=30, repetition_penalty=1.2)
    together = collect(model, PROMPTS[:3], sampling, samples=range(4), max_tokens=25, seed=3)
    assert len({tuple(tokens) for tokens, _ in together.values()}) == 12
    for sequence, (tokens, _) in together.items():
        prompt, sample = divmod(sequence, 4)
        alone = collect(model, [PROMPTS[prompt]], sampling, samples=[sample], max_tokens=25, seed=3)
        assert alone[0][0] == tokens


def test_a_prompt_is_processed_once_for_all_its_samples_and_each_step_is_one_call(make_model: Make) -> None:
    model = make_model()
    for samples in (1, 64):
        with calls(model) as found:
            engine = Engine(model, batch_size=64)
            for sample in range(samples):
                engine.add(PROMPTS[2], Sampling(), sample=sample, max_tokens=10)
            run(engine)
        assert found == [12] + [samples] * 9


def test_a_common_prefix_is_processed_once_however_many_prompts_wait_for_a_place(make_model: Make) -> None:
    model = make_model()
    with calls(model) as found:
        engine = Engine(model, batch_size=4)
        for n in range(40):
            engine.add([*PROMPTS[2], n], Sampling(0), max_tokens=2 + n % 2)
        run(engine)
    assert found[0] == 12 + 40 and max(found[1:]) <= 4, "all prompts in one call, however many run together"
    assert sum(found[1:]) == 40 + 20, "and all generated tokens but each sequence's last"


def test_a_long_prompt_is_processed_in_chunks_while_others_go_on(make_model: Make) -> None:
    model = make_model(context=64)
    engine = Engine(model, prefill_chunk=8)
    first = engine.add([0, 4], Sampling(0), max_tokens=20)
    assert [new.id for new in engine.step()] == [first]
    long = engine.add([0, *range(40)], Sampling(0), max_tokens=5)
    with calls(model) as found:
        for _ in range(5):
            assert [new.id for new in engine.step()] == [first]
        assert [new.id for new in engine.step()] == [first, long]
    assert found == [1, 8] * 5 + [1, 1]


def test_the_cache_is_copied_when_it_grows_and_at_no_step(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    grown: list[tuple[int, int]] = []
    reserve = BatchCache.reserve

    def noted(cache: BatchCache, rows: int, length: int) -> None:
        grown.append((rows, length))
        reserve(cache, rows, length)

    monkeypatch.setattr(BatchCache, "reserve", noted)
    engine = Engine(model)
    for prompt in PROMPTS:
        engine.add(prompt, Sampling(), max_tokens=20)
    for _ in range(5):
        engine.step()
    assert grown == [(5, 31)], "for all that wait"
    for n in range(20):  # each joins alone
        engine.add([0, n], Sampling(), max_tokens=20, seed=n)
        engine.step()
    run(engine)
    assert len(grown) <= 4, "the number of rows doubles"


def test_a_sequence_that_ends_frees_its_row(make_model: Make) -> None:
    engine = Engine(make_model(), batch_size=2)
    ids = [engine.add(prompt, Sampling(0), max_tokens=n) for prompt, n in zip(PROMPTS, (5, 2, 2, 2, 2), strict=True)]
    steps = []
    while engine:
        steps.append(sorted(new.id for new in engine.step()))
    assert sum(step.count(ids[0]) for step in steps) == 5 and set().union(*steps) == set(ids)
    assert [len(step) for step in steps[:-2]] == [2] * (len(steps) - 2), "no row is empty while a sequence waits"


def test_a_waiting_sequence_that_is_cancelled_never_runs_and_an_unknown_one_is_nothing(make_model: Make) -> None:
    model = make_model()
    engine = Engine(model, batch_size=1, prefill_chunk=2)
    for prompt in PROMPTS[2:]:
        engine.add(prompt, Sampling(0), max_tokens=3)
    engine.step()
    engine.cancel(0)
    engine.cancel(0)
    engine.cancel(99)
    assert len(engine) == 2
    assert set(run(engine)) == {1, 2}
    engine.add(PROMPTS[0], Sampling(0), max_tokens=3)
    engine.cancel(3)
    assert not engine and engine.step() == []


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


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([0] * 32, {"max_tokens": 1}, r"prompt: wanted fewer than 32 tokens \(the context; BOS is one\), got 32"),
        ([0] * 50, {"max_tokens": 1}, "prompt: wanted fewer than 32 tokens .* got 50"),
        ([0], {"max_tokens": 0}, "--max-tokens: wanted at least 1, got 0"),
        ([0], {"max_tokens": 1, "seed": -1}, "seed: wanted"),
    ],
)
def test_what_cannot_be_continued_is_one_line(make_model: Make, prompt: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(make_model(), [[0], prompt], Sampling(), **options)


def test_limits_out_of_range_are_refused(make_model: Make) -> None:
    for name in ("batch_size", "cache_tokens", "prefill_chunk"):
        with pytest.raises(ValueError, match=f"{name.replace('_', '-')}: wanted at least 1, got 0"):
            Engine(make_model(), **{name: 0})


def test_no_sequences_are_no_tokens(make_model: Make) -> None:
    assert Engine(make_model()).step() == []
