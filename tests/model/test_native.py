"""The compiled functions compute what torch computes, for each family, alone and in a batch."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPES, random_model

from chainrule.generation.engine import Engine
from chainrule.generation.sampling import Sampling
from chainrule.model.blocks import KINDS, dequantise, quantise
from chainrule.model.kv_cache import KVCache
from chainrule.model.layers import ACTIVATIONS
from chainrule.model.native import forward, library, operations, products
from chainrule.model.native.products import FEW, multiply
from chainrule.model.prefixes import empty_cache
from chainrule.model.rotary import Rope, rotate, rotation
from chainrule.model.transformer import Transformer

compiled = pytest.mark.skipif(library.library() is None, reason="there is no C++ compiler")
TOKENS = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(4))


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""
    monkeypatch.setattr(products, "library", lambda: None)


@torch.inference_mode()
def decoded(model: Transformer) -> tuple[torch.Tensor, KVCache]:
    """Hidden states of 12 tokens one by one after a prompt of 8."""
    cache = empty_cache(model, 20, len(TOKENS))
    model.features(TOKENS[:, :8], cache)
    steps = [model.features(TOKENS[:, t : t + 1], cache) for t in range(8, 20)]
    return torch.cat(steps, 1), cache


@compiled
@pytest.mark.parametrize("family", SHAPES)
def test_a_step_of_decoding_is_torchs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(family).eval()
    described = forward.NativeForward()._describe(model)
    assert (described is None) == (model.config.residual == "post")
    mine, cache = decoded(model)
    refuse(monkeypatch)
    theirs, their_cache = decoded(model)
    torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(cache.keys[..., :20, :], their_cache.keys[..., :20, :], atol=2e-5, rtol=2e-5)


@compiled
def test_a_step_in_bfloat16_is_float32s_within_its_precision() -> None:
    model = random_model("llama").eval()
    exact, _ = decoded(model)
    model.to(torch.bfloat16)
    rounded, _ = decoded(model)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()


@compiled
def test_a_number_that_is_none_stays_one_in_a_cache_of_bfloat16() -> None:
    model = random_model("qwen2").eval()
    model.compute_dtype = torch.bfloat16
    bias = model.get_parameter("blocks.0.attention.query_key_value.bias").detach()
    bias.view(torch.int32)[-1] = 0x7FFFFFFF  # rounded as a number it becomes -0
    _, cache = decoded(model)
    assert cache.values.dtype == torch.bfloat16
    assert cache.values[0, :, -1, 8:20, -1].isnan().all()


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_changed_in_place_are_seen_by_the_next_step(dtype: torch.dtype) -> None:
    model = random_model("qwen2").to(dtype).eval()
    decoded(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    changed, _ = decoded(model)
    described_anew, _ = decoded(deepcopy(model))
    torch.testing.assert_close(changed, described_anew, atol=0, rtol=0)


@compiled
def test_a_step_beyond_the_caches_capacity_is_refused() -> None:
    model = random_model("llama").eval()
    cache = empty_cache(model, 8, len(TOKENS))
    with torch.inference_mode():
        model.features(TOKENS[:, :8], cache)
        with pytest.raises(AssertionError, match="capacity"):
            model.features(TOKENS[:, 8:9], cache)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [32, 61, 96])
def test_products_of_few_rows_are_torchs_alone_and_in_a_batch(dtype: torch.dtype, inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(71, inputs, generator=generator).to(dtype)
    bias, x = torch.randn(71, generator=generator), torch.randn(FEW, inputs, generator=generator)
    with torch.inference_mode():
        together = multiply(x, weight, bias, few=True)
        alone = torch.cat([multiply(row[None], weight, bias, few=True) for row in x])
    torch.testing.assert_close(together, x @ weight.float().T + bias, atol=1e-4, rtol=0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@compiled
@pytest.mark.parametrize("inputs", [32, 40, 61, 576])
def test_products_in_bfloat16_are_those_of_the_rounded_numbers(inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(71, inputs, generator=generator).bfloat16()
    x = torch.randn(FEW, inputs, generator=generator)
    described = products.matrix(weight, rounded=True)
    assert described is not None
    for rows in (1, 4, 5, 6, 7, 16, FEW):
        with torch.inference_mode():
            found = products._few(x[:rows], described)
            exact = products._few(x[:rows].bfloat16().float(), described)
        # Of few rows, and where the processor has no products of bfloat16, activations are not rounded.
        plain, rounded = (each @ weight.float().T for each in (x[:rows], x[:rows].bfloat16().float()))
        assert torch.allclose(found, plain, atol=1e-4) or torch.allclose(found, rounded, atol=1e-4)
        torch.testing.assert_close(exact, rounded, atol=1e-4, rtol=1e-5)


@compiled
@pytest.mark.parametrize("width", [2, 15, 16, 61, 5000])
def test_the_best_tokens_and_the_sum_are_torchs(width: int) -> None:
    logits = 9 * torch.randn(6, width, generator=torch.Generator().manual_seed(width))
    logits[0, width // 2 :] = logits[0].max() + 1  # several are the greatest
    logits[1, 0], logits[2, width - 1] = -torch.inf, torch.inf
    logits[3, width - 1] = torch.nan
    logits[4, 0], logits[4, 1:] = 0, -torch.inf
    logits[5] = -torch.inf
    with torch.inference_mode():
        tokens, totals = operations.best(logits)
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(totals, logits.logsumexp(-1), atol=1e-5, rtol=1e-6, equal_nan=True)


@compiled
@pytest.mark.parametrize("kind", KINDS)
def test_products_with_blocks_are_those_with_the_dequantised_matrix(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = quantise(torch.randn(70, 64, generator=generator), kind)
    x, wide = torch.randn(40, 64, generator=generator), dequantise(blocks, kind)
    torch.testing.assert_close(products.widened(blocks, kind), wide, atol=1e-6, rtol=0)
    for rows in (1, 2, 3, 4, 7, 40):
        with torch.inference_mode():
            found = multiply(x[:rows], blocks, None, kind)
        torch.testing.assert_close(found, x[:rows] @ wide.T, atol=1e-4, rtol=0)


@compiled
def test_weights_that_are_replaced_or_changed_are_seen() -> None:
    model = random_model("qwen3").eval()
    before, _ = decoded(model)
    other = random_model("qwen3", seed=1).eval()
    model.load_state_dict(other.state_dict())
    changed, _ = decoded(model)
    model.load_state_dict({name: each.clone() for name, each in other.state_dict().items()}, assign=True)
    replaced, _ = decoded(model)
    wanted, _ = decoded(other)
    assert not torch.equal(before, wanted)
    assert torch.equal(changed, wanted) and torch.equal(replaced, wanted)


def greedy(model: Transformer, prompts: list[list[int]]) -> dict[int, list[int]]:
    engine, found = Engine(model), dict[int, list[int]]()
    for prompt in prompts:
        engine.add(prompt, Sampling(0.0), max_tokens=12)
    while engine:
        for new in engine.step():
            found.setdefault(new.id, []).append(new.token)
    return found


@compiled
@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3_text"])
def test_greedy_tokens_are_torchs_in_a_batch_of_unequal_prompts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(family).eval()
    prompts = [row[: 4 + 5 * number].tolist() for number, row in enumerate(TOKENS)]
    mine = greedy(model, prompts)
    refuse(monkeypatch)
    assert greedy(model, prompts) == mine


@pytest.mark.parametrize(("name", "value"), [("CHAINRULE_NATIVE", "0"), ("PATH", "")])
def test_without_a_compiler_or_when_told_there_is_no_library(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(name, value)
    assert library.library.__wrapped__() is None
    assert not (tmp_path / "cache").exists()


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "groups", "width", "queries", "keys"), [(9, 3, 64, 70, 70), (4, 4, 20, 7, 81)])
@pytest.mark.parametrize("masked", ["no", "all", "last", "same"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_attention_of_many_queries_is_torchs(
    heads: int, groups: int, width: int, queries: int, keys: int, masked: str, cap: float | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(queries)
    query, key, value = (
        torch.randn(2, rows, many, width, generator=generator).transpose(1, 2).to(dtype)
        for rows, many in ((queries, heads), (keys, groups), (keys, groups))
    )
    shape = {"no": None, "all": (2, 1, queries, keys), "last": (1, 1, queries, 5), "same": (2, 1, 1, keys)}[masked]
    mask = None if shape is None else torch.rand(shape, generator=generator) < 0.6
    whole = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if mask is not None:
        mask[..., -1 if shape == (1, 1, queries, 5) else 0] = True
        whole[..., keys - mask.shape[3] :] = mask[:1]
        whole = whole.repeat(2, 1, 1, 1)
        whole[..., keys - mask.shape[3] :] = mask
    causal = masked in ("no", "all")
    if causal:
        whole = whole & torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    wide_key, wide_value = (x.double().repeat_interleave(heads // groups, 1) for x in (key, value))
    scores = query.double() @ wide_key.mT * width**-0.5
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    wanted = torch.softmax(scores.masked_fill(~whole, -torch.inf), -1) @ wide_value
    with torch.inference_mode():
        found = operations.attend(query, key, value, causal, mask, cap)
        alone = operations.attend(query[1:], key[1:], value[1:], causal, None if mask is None else mask[-1:], cap)
        try:
            for threads in (2, 3):  # where queries are few, one or two take whole heads each; three share each head
                torch.set_num_threads(threads)
                assert torch.equal(operations.attend(query, key, value, causal, mask, cap), found)
        finally:
            torch.set_num_threads(1)
    assert found.dtype == dtype and torch.equal(alone, found[1:])
    torch.testing.assert_close(found.double(), wanted, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_gates_and_rotations_are_the_plain_ones(dtype: torch.dtype) -> None:
    generator, exact = torch.Generator().manual_seed(2), {"atol": 3e-6, "rtol": 1e-6}
    tolerance = exact if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    x = (3 * torch.randn(2, 7, 4, 38, generator=generator) + 1).to(dtype)
    gain, bias = torch.randn(38, generator=generator), torch.randn(38, generator=generator)
    positions = torch.arange(7)[None] + torch.tensor([[0], [3]])
    for layer in (True, False):
        wide = (x.double(), (38,), gain.double() + 1)
        wanted = F.layer_norm(*wide, bias.double(), 1e-5) if layer else F.rms_norm(*wide, 1e-5)
        found = operations.norm(x, gain, bias if layer else None, layer, 1e-5, 1.0)
        torch.testing.assert_close(found.double(), wanted, **tolerance)
    for name, activation in ACTIVATIONS.items():
        gated, up = x.double().chunk(2, -1)
        torch.testing.assert_close(operations.gate(x, name).double(), activation(gated) * up, **tolerance)
    for width in (38, 20):
        for several in (positions, positions[:1]):
            turn = rotation(several, 38, Rope(width=width), torch.float32)
            for part in (x, x[:, :, 1:3]):
                found = operations.rotate(part, turn)
                torch.testing.assert_close(found.float(), rotate(part.float(), turn), **tolerance)


REJECTED = "transformer.cpp:12:3: error: 'x' was not declared"


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        (REJECTED, ["made.failed"]),
        ("c++: error: unrecognized command-line option '-march=native'", ["made.failed"]),
        ("c++: fatal error: Killed signal terminated program cc1plus", []),
        ("transformer.cpp:12:3: internal compiler error: Segmentation fault", []),
        ("transformer.cpp:800:1: fatal error: error writing to /tmp/cc.s: No space left on device", []),
    ],
)
def test_only_a_compiler_that_rejects_the_source_is_remembered(says: str, kept: list[str], tmp_path: Path) -> None:
    path = tmp_path / "made.so"
    library._compile([sys.executable, "-c", f"import sys; sys.exit({says!r})"], None, path)
    assert [each.name for each in tmp_path.iterdir()] == kept
    assert not kept or says in path.with_suffix(".failed").read_text()


@compiled
def test_after_a_failure_that_passes_the_next_process_has_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_compile", lambda command, openmp, path: None)  # as one that was killed
    assert library.library.__wrapped__() is None
    asked: list[Path] = []
    monkeypatch.setattr(library, "_compile", lambda command, openmp, path: asked.append(path))
    assert library.library.__wrapped__() is None
    assert len(asked) == 1


def test_what_a_killed_process_left_is_removed_and_a_running_ones_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, other = (tmp_path / f"made.{library._host()}.{process}.x.tmp" for process in (dead.pid, os.getpid()))
    elsewhere = tmp_path / f"made.elsewhere.{dead.pid}.x.tmp"
    for path in (left, other, elsewhere):
        path.touch()
    library._compile([sys.executable, "-c", "import sys; sys.exit(1)"], None, tmp_path / "made.so")
    assert sorted(tmp_path.iterdir()) == sorted([other, elsewhere])


def test_the_values_of_blocks_are_those_of_the_package_gguf() -> None:
    quants = pytest.importorskip("gguf.quants")
    from gguf import GGMLQuantizationType

    weight = torch.randn(9, 96, generator=torch.Generator().manual_seed(1)) * 0.1
    weight[3] = 0
    for kind in KINDS:
        blocks, number = quantise(weight, kind), GGMLQuantizationType[kind]
        assert np.array_equal(blocks.numpy(), quants.quantize(weight.numpy(), number))
        assert np.array_equal(dequantise(blocks, kind).numpy(), quants.dequantize(blocks.numpy(), number))
