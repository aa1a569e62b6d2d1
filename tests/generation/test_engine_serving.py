"""What a server needs of the engine: prefixes known from before, memory that is bounded, faults that end one sequence
alone."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model
from test_engine import PROMPTS, SAMPLINGS, calls, run

from chainrule.generation import sequences
from chainrule.generation.engine import Engine
from chainrule.generation.sampling import Sampling
from chainrule.model import prefix_cache
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.transformer import Transformer

Make = Callable[..., Transformer]


@pytest.fixture(params=["qwen3", "mistral", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Make:
    return lambda **shape: random_model(request.param, **shape)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "BLOCK", 4)
    monkeypatch.setattr(sequences, "_AHEAD", 3)


def empty(model: Transformer, tokens: int) -> PrefixCache:
    config = model.config
    return PrefixCache(tokens, config.layers, config.key_value_heads, config.head_width, model.dtype, model.device)


def test_sequences_are_the_same_alone_in_any_batch_and_from_known_prefixes(make_model: Make) -> None:
    model, random = make_model(), Random(1)
    waiting = []
    for n in range(16):
        prompt = [*random.choice(PROMPTS), *random.choices(range(3), k=random.randint(0, 9))]
        waiting.append((prompt, random.choice(SAMPLINGS), {"seed": n, "max_tokens": random.randint(1, 12)}))
    alone = []
    for prompt, sampling, options in waiting:
        engine = Engine(model)
        engine.add(prompt, sampling, **options)
        alone.append([new.token for new in run(engine)[0]])
    for tokens, chunk, limit in ((400, None, None), (400, 3, 50), (24, 5, 30)):  # all is kept, and hardly anything
        engine = Engine(model, batch_size=4, prefill_chunk=chunk, cache_tokens=limit, known=empty(model, tokens))
        found: dict[int, list[int]] = {}
        for _ in range(2):  # the second time from the cache
            for prompt, sampling, options in waiting:
                engine.add(prompt, sampling, **options)
                for new in engine.step():
                    found.setdefault(new.id, []).append(new.token)
            while engine:
                for new in engine.step():
                    found.setdefault(new.id, []).append(new.token)
        assert [found[n] for n in range(32)] == alone * 2
        assert engine.known is not None and 0 < len(engine.known) <= tokens


def test_what_was_computed_before_is_not_computed_again() -> None:
    model = random_model("qwen3", context=64)
    engine = Engine(model, prefill_chunk=8, known=empty(model, 64))
    prompt = [0, *range(30)]
    engine.add(prompt, Sampling(0), max_tokens=6)
    (made,) = run(engine).values()
    answer = [new.token for new in made]
    with calls(model) as found:
        engine.add([*prompt, 7], Sampling(0), max_tokens=1)
        run(engine)
        engine.add([*prompt, *answer, 9], Sampling(0), max_tokens=1)  # the next message of a chat
        run(engine)
        engine.add(prompt[:12], Sampling(0), max_tokens=1)  # one token is always left to compute
        run(engine)
        engine.add([1, *prompt[1:]], Sampling(0), max_tokens=1)  # the same tokens behind another one
        run(engine)
    assert found == [32 - 28, 38 - 36, 12 - 8, 8, 8, 8, 7]


def test_blocks_used_least_recently_are_overwritten_first_and_never_those_that_others_follow() -> None:
    cache = PrefixCache(16, 1, 1, 1, torch.float32, torch.device("cpu"))
    keys = torch.arange(24.0).view(1, 1, 24, 1)

    def save(tokens: list[int]) -> None:
        cache.save(tokens, keys, -keys, torch.arange(len(tokens)))

    def known(tokens: list[int]) -> int:
        return cache.match(np.array(tokens, np.int32), len(tokens))

    a, b, c = [1] * 8, [1] * 4 + [2] * 4, [3] * 4
    for tokens in (a, b, c):
        save(tokens)
    assert len(cache) == 16 and (known(a), known(b), known(c)) == (8, 8, 4)
    save([4] * 4)  # takes the place of the end of a: of what b shares with it, b was used later
    assert (known(a), known(b), known(c)) == (4, 8, 4)
    save(list(range(100, 124)))  # longer than all there is
    assert known(list(range(100, 124))) == 16
    loaded = torch.zeros(1, 1, 24, 1)
    end = cache.load(np.arange(100, 124, dtype=np.int32), 2, 24, loaded, loaded.clone())
    assert loaded[0, 0, 2:end, 0].tolist() == list(range(2, end)) and not loaded[0, 0, :2].any()


def test_memory_stays_within_its_limit_and_the_youngest_waits_again(make_model: Make) -> None:
    model = make_model(context=64)
    sampling = Sampling(1.1, repetition_penalty=1.3)
    alone = Engine(model)
    for n in range(6):
        alone.add([0, n], sampling, seed=n, max_tokens=40)
    wanted = {id: [new.token for new in made] for id, made in run(alone).items()}
    engine = Engine(model, cache_tokens=90)
    for n in range(6):
        engine.add([0, n], sampling, seed=n, max_tokens=40)
    found: dict[int, list[int]] = {}
    most = []
    while engine:
        for new in engine.step():
            found.setdefault(new.id, []).append(new.token)
        rows, columns = engine._cache.capacity
        most.append(rows * columns)
    assert found == wanted
    assert max(most) <= 90


def test_the_rest_of_a_prompt_that_is_cancelled_is_not_processed(make_model: Make) -> None:
    model = make_model(context=64)
    engine = Engine(model, prefill_chunk=8)
    long = engine.add([0, *range(50)], Sampling(0), max_tokens=5)
    short = engine.add([9, 9], Sampling(0), max_tokens=2)
    with calls(model) as found:
        engine.step()
        engine.cancel(long)
        assert set(run(engine)) == {short}
    assert sum(found) == 8 + 2 + 1


def test_a_fault_ends_the_sequence_that_makes_it_and_no_other(make_model: Make) -> None:
    model = make_model()
    prompts, sampling = [[0, 5, 9], [0, 13, 2], [0, 7, 7, 1]], Sampling(1.2, repetition_penalty=1.2)
    wanted = Engine(model)
    for seed, prompt in enumerate(prompts):
        wanted.add(prompt, sampling, seed=seed, max_tokens=9)
    alone = {id: [new.token for new in made] for id, made in run(wanted).items()}
    engine = Engine(model, known=empty(model, 100))
    known: dict[int, Any] = {}
    for seed, prompt in enumerate(prompts):
        engine.add(prompt, sampling, seed=seed, max_tokens=9)
    for _ in range(3):
        for new in engine.step():
            known.setdefault(new.id, []).append(new.token)

    def fault(module: Transformer, positional: tuple, named: dict) -> None:
        if positional and (positional[0] == alone[1][2]).any():
            raise RuntimeError("a fault")

    hook = model.register_forward_pre_hook(fault, with_kwargs=True)
    faulty = {id for id, tokens in alone.items() if alone[1][2] in [*prompts[id], *tokens[:-1]]}
    failed: dict[int, Any] = {}
    while engine:
        try:
            for new in engine.step():
                known.setdefault(new.id, []).append(new.token)
        except RuntimeError:
            failed |= dict(engine.recover())
    hook.remove()
    assert set(failed) == faulty and 1 in faulty
    assert {id: known[id] for id in alone if id not in faulty} == {
        id: tokens for id, tokens in alone.items() if id not in faulty
    }


def test_the_most_probable_tokens_are_given_with_the_new_one(make_model: Make) -> None:
    engine = Engine(make_model())
    engine.add([0, 5], Sampling(0), max_tokens=4, top=3)
    engine.add([0, 5], Sampling(3.0), max_tokens=4)
    for id, made in run(engine).items():
        for new in made:
            assert len(new.best) == (3 if id == 0 else 0)
            if id == 0:
                assert new.best[0] == (new.token, new.log_prob), "bit for bit"
                assert [value for _, value in new.best] == sorted((value for _, value in new.best), reverse=True)
