"""Steps of fixed shapes give the tokens of other steps; what they compute can be recorded and replayed.

No GPU is needed: what a CUDA graph would record is recorded here operation by operation, and done again on the same
tensors.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import SHAPES, random_model
from test_engine import PROMPTS, SAMPLINGS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from chainrule.generation import fixed_steps, sequences
from chainrule.generation.engine import Engine, NewToken
from chainrule.generation.fixed_steps import CudaGraphs, FixedSteps, Step
from chainrule.generation.sampling import Sampling
from chainrule.model import attention, layers, prefix_cache
from chainrule.model.batch_cache import BatchCache
from chainrule.model.config import LayerKind
from chainrule.model.formats.adapter import adapter_parts
from chainrule.model.native import products
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.prefixes import read_all
from chainrule.model.quantise import quantise_model
from chainrule.model.rotary import LongRope, Rope
from chainrule.model.transformer import Transformer
from chainrule.training.low_rank import LowRankMatrices

LONG_KINDS = (LayerKind(rope=Rope(scaling=LongRope((1.0, 1.1, 1.2, 1.3), (1.5, 2.0, 3.0, 5.0), 1.1, 16, 32))),)
SOME = ("qwen3", "gemma2", "gpt2", "mistral", "longrope")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short sequences see several buckets, and a cache that grows."""
    monkeypatch.setattr(fixed_steps, "_FEWEST_COLUMNS", 4)
    monkeypatch.setattr(sequences, "_AHEAD", 6)
    monkeypatch.setattr(prefix_cache, "BLOCK", 4)


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU: without the kernels that are a CPU's alone."""
    for module in (attention, layers):
        monkeypatch.setattr(module, "plain_cpu", lambda x: False)
    for module in (attention, layers, products):
        monkeypatch.setattr(module, "usable", lambda x: False)
    monkeypatch.setattr(products, "library", lambda: None)


def model_of(family: str) -> Transformer:
    return random_model("llama", layer_kinds=LONG_KINDS) if family == "longrope" else random_model(family)


def generated(model: Transformer, recorder: Any = None, fixed: bool = True, **options: Any) -> list[list[NewToken]]:
    """What each of ten sequences gets, which come one after another, of different lengths, some with samplings."""
    engine = Engine(model, **{"batch_size": 4, "fixed_shapes": fixed, **options})
    if recorder is not None:
        engine._fixed = FixedSteps(model, recorder)
    found: list[list[NewToken]] = [[] for _ in range(10)]
    added = 0
    while engine or added < 10:
        for _ in range(3 if added == 0 else 1):
            if added < 10:
                sampling = SAMPLINGS[added % len(SAMPLINGS)] if added > 4 else Sampling(0)
                prompt = [*PROMPTS[added % 5], *[added] * (added % 3)]
                engine.add(prompt, sampling, seed=added, max_tokens=(26, 9, 17, 2)[added % 4])
                added += 1
        for new in engine.step():
            found[new.id].append(new)
    return found


def check_same(found: Sequence[Sequence[NewToken]], wanted: Sequence[Sequence[NewToken]]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert [(new.token, new.finish_reason) for new in one] == [(new.token, new.finish_reason) for new in other]
        assert [new.log_prob for new in one] == pytest.approx([new.log_prob for new in other], abs=2e-5)


@pytest.mark.parametrize("family", [*SHAPES, "longrope"])
def test_sequences_that_join_and_leave_get_the_tokens_of_other_steps(family: str) -> None:
    model = model_of(family)
    check_same(generated(model), generated(model, fixed=False))


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"cache_tokens": 60}, {"prefill_chunk": 3}, {"known": True}])
def test_the_tokens_do_not_depend_on_the_batch_its_memory_or_known_prefixes(
    family: str, options: dict[str, Any]
) -> None:
    model, options = model_of(family), dict(options)
    wanted = generated(model)
    if "known" in options:
        config = model.config
        shape = (config.layers, config.key_value_heads, config.head_width)
        options["known"] = PrefixCache(200, *shape, torch.float32, model.device)
        generated(model, **options)
        assert len(options["known"]) > 0
    check_same(generated(model, **options), wanted)


class Operations(TorchDispatchMode):
    """Notes each operation with its arguments and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, found))
        return found

    def described(self) -> list[Any]:
        """All but the tensors' values: shapes, precisions, and numbers, which a recording would keep."""

        def plain(x: Any) -> Any:
            return (tuple(x.shape), x.stride(), str(x.dtype)) if isinstance(x, Tensor) else x

        return [(str(func), tree_leaves(tree_map(plain, (args, kwargs)))) for func, args, kwargs, _ in self.done]

    def replay(self) -> None:
        for func, args, kwargs, before in self.done:
            now = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


class OnCpu:
    """Does what `CudaGraphs` does, and counts it."""

    def __init__(self) -> None:
        self.warm_ups = self.recorded = self.replayed = 0

    def warm_up(self, step: Step) -> None:
        step()
        self.warm_ups += 1

    def record(self, step: Step) -> Step:
        operations = Operations()
        with operations:
            step()
        self.recorded += 1

        def replay() -> None:
            operations.replay()
            self.replayed += 1

        return replay


@pytest.mark.parametrize("family", [*SHAPES, "longrope"])
def test_recorded_steps_give_the_same_tokens_when_they_are_replayed(family: str, gpu_path: None) -> None:
    model, recorder = model_of(family), OnCpu()
    check_same(generated(model, recorder), generated(model, fixed=False))
    assert recorder.recorded > 1 and recorder.replayed > 2 * recorder.recorded, "several buckets, and each for long"


@pytest.mark.parametrize("family", SOME)
def test_the_steps_of_a_bucket_do_the_same_operations_on_the_same_shapes(
    family: str, gpu_path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: dict[tuple[int, int], list[Any]] = {}
    compute, lengths = FixedSteps._compute, set()

    def noted(steps: FixedSteps, bucket: Any, cache: BatchCache) -> None:
        with Operations() as operations:
            compute(steps, bucket, cache)
        described = operations.described()
        shapes = *cache.capacity, bucket.rows, bucket.columns  # strides are those of the cache
        assert done.setdefault(shapes, described) == described
        lengths.add(tuple(cache.lengths))

    monkeypatch.setattr(FixedSteps, "_compute", noted)
    generated(model_of(family))
    assert 1 < len(done) < len(lengths) / 2


@torch.inference_mode()
def test_rows_without_a_sequence_write_only_where_no_sequence_is(gpu_path: None) -> None:
    model = model_of("qwen3")
    config = model.config
    cache = BatchCache(config.layers, config.key_value_heads, config.head_width, torch.float32, model.device)
    cache.reserve(8, 12)
    for prompt in (PROMPTS[0], PROMPTS[3], [0, 8], [0, 1, 2], PROMPTS[0]):
        (part,) = read_all(model, [prompt], at_once=100)
        cache.join(1, part.cache, torch.from_numpy(part.columns[0]))
    keys, values, before = cache.keys.clone(), cache.values.clone(), cache.lengths
    steps = FixedSteps(model, None)
    features = steps.features([3] * 5, cache)
    assert features is not None and len(features) == 5 and list(steps._buckets) == [(6, 6)]
    assert cache.lengths == [length + 1 for length in before]
    written = (cache.keys != keys).any(-1) | (cache.values != values).any(-1)
    wanted = torch.zeros(8, 12, dtype=torch.bool)
    wanted[torch.arange(6), torch.tensor([*before, 0])] = True
    assert torch.equal(written, wanted[None, :, None].expand_as(written))


def test_a_step_is_recorded_anew_where_weights_or_cache_are_elsewhere(
    gpu_path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_steps, "_FEWEST_COLUMNS", 32)  # one bucket
    monkeypatch.setattr(sequences, "_AHEAD", 32)

    def tokens(change: Any, recorder: OnCpu | None) -> list[tuple[int, float]]:
        model = model_of("gpt2")
        engine = Engine(model)
        if recorder is not None:
            engine._fixed = FixedSteps(model, recorder)
        engine.add([0, 5, 9], Sampling(0), max_tokens=26)
        found = []
        for step in range(26):
            if step == 12:
                change(model, engine)
            found += engine.step()
        return [(new.token, round(new.log_prob, 3)) for new in found]

    def moved(model: Transformer, engine: Engine) -> None:
        model.get_parameter("blocks.0.mlp.up.weight").data = model.get_parameter("blocks.1.mlp.up.weight").detach() * 2

    def replaced(model: Transformer, engine: Engine) -> None:
        model.blocks[0].mlp = model.blocks[1].mlp

    def in_place(model: Transformer, engine: Engine) -> None:
        model.get_parameter("blocks.0.mlp.up.weight").data.mul_(2)

    def cache_moved(model: Transformer, engine: Engine) -> None:
        engine._cache.reserve(2, 31)
        engine._cache.keys, engine._cache.values = engine._cache.keys.clone(), engine._cache.values.clone()

    unchanged = tokens(lambda model, engine: None, None)
    for change, differs in ((moved, True), (replaced, True), (in_place, True), (cache_moved, False)):
        recorder, wanted = OnCpu(), tokens(change, None)
        assert (wanted != unchanged) is differs
        assert tokens(change, recorder) == wanted
        assert recorder.recorded == (1 if change is in_place else 2)
        again = change in (moved, replaced)  # found after a step that was replayed in vain
        assert recorder.warm_ups + recorder.replayed == 25 + again, "the first token is the prompt's"


def test_few_buckets_are_kept(gpu_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_steps, "_MOST", 2)
    model, recorder, most = model_of("qwen3"), OnCpu(), 0
    bucket_of = FixedSteps._bucket

    def noted(steps: FixedSteps, cache: BatchCache) -> Any:
        nonlocal most
        bucket = bucket_of(steps, cache)
        most = max(most, len(steps._buckets))
        return bucket

    monkeypatch.setattr(FixedSteps, "_bucket", noted)
    check_same(generated(model, recorder), generated(model, fixed=False))
    assert most == 2


def test_graphs_share_memory_and_a_failed_recording_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stand-ins for what is a GPU's: in which order they are used."""
    current, pools = ["mine"], list[Any]()

    class Stream:
        def __init__(self, device: Any = None) -> None: ...

        def wait_stream(self, other: Any) -> None:
            assert current == ["mine"]

    class Graph:
        pool = replay = lambda self: self

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        before, current[0] = current[0], "side"
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def recording(graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        pools.append(pool)
        before, current[0] = current[0], "recording"
        yield  # what fails leaves this stream the current one, as in torch
        current[0] = before

    for name, value in (("Stream", Stream), ("CUDAGraph", Graph), ("stream", on), ("graph", recording)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    fixed_steps._side_stream.cache_clear()
    graphs, done = CudaGraphs(torch.device("cuda")), list[str]()

    def step() -> None:
        done.append(current[0])

    graphs.warm_up(step)
    first: Any = graphs.record(step)
    second: Any = graphs.record(step)
    assert done == ["side", "recording", "recording"]
    with pytest.raises(ZeroDivisionError):
        graphs.record(lambda: done.append(str(1 // 0)))
    assert current == ["mine"]
    third: Any = graphs.record(step)
    assert pools == [None, first(), second(), second()]
    del first, second, third, pools[:]
    graphs.record(step)
    assert pools == [None], "no graph is there whose memory could be shared"
    fixed_steps._side_stream.cache_clear()


class Refusing(OnCpu):
    def record(self, step: Step) -> Step:
        self.recorded += 1
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def test_what_cannot_be_recorded_is_decoded_as_without_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("qwen3")
    wanted = generated(model, fixed=False)
    fixed_steps._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            recorder = Refusing()
            check_same(generated(model, recorder), wanted)
            assert recorder.recorded == 1 and recorder.replayed == 0 < recorder.warm_ups
    message = "decoding goes on without CUDA graphs: operation not permitted when stream is capturing"
    assert [record.getMessage() for record in caplog.records] == [message]


def test_a_model_with_hooks_is_not_recorded() -> None:
    model, recorder = model_of("qwen3"), OnCpu()
    called: list[int] = []
    model.blocks[1].register_forward_hook(lambda *_: called.append(1))
    wanted, count = generated(model, fixed=False), len(called)
    check_same(generated(model, recorder), wanted)
    assert recorder.recorded == 0 and len(called) == 2 * count


def adapted() -> Transformer:
    base = model_of("llama")
    model = LowRankMatrices(base, adapter_parts(base, "llama"), 4, seed=0).transformer
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["adapted", "converted", "quantised"])
def test_adapters_and_weights_in_blocks_are_recorded_where_nothing_is_kept_between_steps(
    kind: str, gpu_path: None
) -> None:
    model = adapted() if kind != "quantised" else random_model("llama", hidden=64)
    if kind == "quantised":
        quantise_model(model, "int8")
    if kind == "converted":  # frozen weights are wider than the activations, and converted once
        model.compute_dtype = torch.bfloat16
    recorder = OnCpu()
    found, wanted = generated(model, recorder), generated(model, fixed=False)
    assert (recorder.replayed > 0) is (kind != "converted")
    if kind != "converted":
        check_same(found, wanted)
